package http2

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/http2/hpack"
)

func TestTheStaticTableIsThatOfTheRFC(t *testing.T) {
	var got []hpack.HeaderField
	dec := hpack.NewDecoder(dynamicTableSize, func(f hpack.HeaderField) { got = append(got, f) })
	for i := range staticFields {
		if _, err := dec.Write([]byte{0x80 | byte(i+1)}); err != nil {
			t.Fatal(err)
		}
		if want := staticTable[i]; got[i].Name != want.Name || got[i].Value != want.Value {
			t.Errorf("field %d is %v, want %v", i+1, want, got[i])
		}
		if i := staticName(staticTable[i].Name); staticTable[i-1].Name != got[len(got)-1].Name || i > len(got) {
			t.Errorf("the name %q has the index %d", got[len(got)-1].Name, i)
		}
	}
}

// encoderPair is an encoder, and the decoder of golang.org/x/net that reads it.
type encoderPair struct {
	enc  encoder
	dec  *hpack.Decoder
	want []hpack.HeaderField
	got  []hpack.HeaderField
}

func newEncoderPair() *encoderPair {
	p := &encoderPair{enc: encoder{most: dynamicTableSize}}
	p.dec = hpack.NewDecoder(dynamicTableSize, func(f hpack.HeaderField) { p.got = append(p.got, f) })
	return p
}

// block sends the fields, and fails when something else comes out, or the encoder
// does not know afterwards what it has just sent.
func (p *encoderPair) block(t *testing.T, fields ...[2]string) {
	t.Helper()
	p.want, p.got = p.want[:0], p.got[:0]
	out := p.enc.begin(nil)
	for _, f := range fields {
		out = p.enc.field(out, f[0], f[1])
		p.want = append(p.want, hpack.HeaderField{Name: f[0], Value: f[1]})
		fits := len(f[0])+len(f[1])+fieldOverhead <= p.enc.most
		if pseudo := f[0][0] == ':'; p.enc.knows(f[0], f[1]) != (fits && !pseudo) {
			t.Fatalf("known: %v, after the field %q was sent with a table of %d", !fits, f, p.enc.most)
		}
	}
	if _, err := p.dec.Write(out); err != nil {
		t.Fatalf("decode %x: %v", out, err)
	}
	if err := p.dec.Close(); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(p.got, p.want) {
		t.Fatalf("got %v, want %v", p.got, p.want)
	}
	if p.enc.size > p.enc.most || len(p.enc.ring) > maxTableFields {
		t.Fatalf("the table has %d bytes of %d, and room for %d fields", p.enc.size, p.enc.most, len(p.enc.ring))
	}
}

func TestWhatIsEncodedDecodesToTheSame(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	names := []string{":path", ":authority", "accept", "user-agent", "x", "x-custom", "content-type", strings.Repeat("long", 50)}
	p := newEncoderPair()
	for range 3000 {
		if rnd.IntN(20) == 0 {
			for range 1 + rnd.IntN(3) {
				p.enc.resize([]int{0, 31, 33, 100, 1000, dynamicTableSize}[rnd.IntN(6)])
			}
		}
		var fields [][2]string
		for range rnd.IntN(12) {
			value := fmt.Sprint(rnd.IntN(40))
			switch rnd.IntN(10) {
			case 0:
				value = ""
			case 1:
				value = strings.Repeat(value, 150)
			}
			fields = append(fields, [2]string{names[rnd.IntN(len(names))], value})
		}
		p.block(t, fields...)
	}
}

func TestAFieldThatWasSentTakesAByte(t *testing.T) {
	p := newEncoderPair()
	fields := [][2]string{{"content-type", "application/grpc"}, {"x-own", "value"}, {":authority", "shop"}}
	p.block(t, fields...)
	var out []byte
	for _, f := range fields {
		out = p.enc.field(out, f[0], f[1])
	}
	if len(out) != len(fields) {
		t.Errorf("%d fields take %d bytes", len(fields), len(out))
	}
	if n := testing.AllocsPerRun(100, func() { out = p.enc.field(out[:0], "x-own", "value") }); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

func FuzzEncoder(f *testing.F) {
	f.Add("\x00\x10a\x00b\x00a\x00b\x00")
	f.Add("\xff\x00\xff\x20x\x00y\x00\xff\xff:path\x00/a\x00x\x00y\x00")
	f.Fuzz(func(t *testing.T, script string) {
		p := newEncoderPair()
		for script != "" {
			if script[0] == 0xff && len(script) > 1 {
				p.enc.resize(int(script[1]) * 17 % (dynamicTableSize + 1))
				script = script[2:]
				continue
			}
			name, rest, _ := strings.Cut(script, "\x00")
			value, rest, _ := strings.Cut(rest, "\x00")
			if script = rest; name != "" {
				p.block(t, [2]string{name, value}, [2]string{name, value + "2"}, [2]string{name, value})
			}
		}
	})
}
