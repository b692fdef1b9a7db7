package rpc

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/mesh/proxy"
)

func TestEveryFaultHasACode(t *testing.T) {
	for _, c := range fault.Codes() {
		got := CodeOf(c)
		if (got == codes.Unknown) != (c == fault.Unknown) {
			t.Errorf("%v maps to %v", c, got)
		}
	}
}

func TestTimeoutsKeepTheirMeaning(t *testing.T) {
	for _, tc := range []struct {
		d    time.Duration
		text string
	}{
		{-1, "0n"}, {0, "0n"}, {1, "1n"}, {time.Second, "1000000u"}, {time.Minute, "60000000u"},
		{99_999_999, "99999999n"}, {100_000_000, "100000u"}, {100_000_001, "100001u"},
		{time.Hour, "3600000m"}, {10_000 * time.Hour, "36000000S"}, {1<<63 - 1, "2562048H"},
	} {
		if got := EncodeTimeout(tc.d); got != tc.text {
			t.Errorf("%v is %s, want %s", tc.d, got, tc.text)
		}
	}
	for _, bad := range []string{"", "S", "1", "1x", "+1S", "-1S", "1_0S", "123456789S", " 1S", "1.5S"} {
		if d, ok := DecodeTimeout(bad); ok {
			t.Errorf("%q is taken for %v", bad, d)
		}
	}
	if d, ok := DecodeTimeout("99999999H"); !ok || d != 1<<63-1 {
		t.Errorf("a very long timeout is %v", d)
	}
}

func FuzzTimeout(f *testing.F) {
	f.Add(int64(1500), "15S")
	f.Fuzz(func(t *testing.T, n int64, text string) {
		if d, ok := DecodeTimeout(text); ok && d < 0 {
			t.Errorf("%q is %v", text, d)
		}
		d := time.Duration(max(n, 0))
		back, ok := DecodeTimeout(EncodeTimeout(d))
		if !ok || back < d || float64(back-d) > float64(d)*1e-3+1e6 && back != 1<<63-1 {
			t.Errorf("%v became %v", d, back)
		}
	})
}

func FuzzMessageText(f *testing.F) {
	f.Add("100 % Ünïcode\n")
	f.Add("%4")
	f.Add("%zz%41")
	f.Fuzz(func(t *testing.T, s string) {
		encoded := EncodeMessage(s)
		for i := range len(encoded) {
			if encoded[i] < ' ' || encoded[i] > '~' {
				t.Fatalf("%q encodes to %q", s, encoded)
			}
		}
		if got := DecodeMessage(encoded); got != s {
			t.Errorf("%q became %q", s, got)
		}
		DecodeMessage(s) // must not panic
	})
}

func FuzzStatus(f *testing.F) {
	f.Add("3", "no%20", "CAMSAm5v")
	f.Add("0", "", "=")
	f.Fuzz(func(t *testing.T, code, text, details string) {
		st, ok := StatusOf(proxy.Header{{Name: fieldStatus, Value: code}, {Name: fieldMessage, Value: text}, {Name: fieldDetails, Value: details}})
		if !ok {
			if code != "" {
				t.Fatal("there is a status and it is not seen")
			}
			return
		}
		again, ok := StatusOf(StatusFields(st))
		if !ok || again.Code() != st.Code() {
			t.Errorf("%v became %v", st, again)
		}
	})
}

// slices splits content into reads of the sizes that cuts gives.
type pieces struct {
	b    []byte
	cuts []byte
}

func (p *pieces) Read(b []byte) (int, error) {
	if len(p.b) == 0 {
		return 0, io.EOF
	}
	n := 1
	if len(p.cuts) > 0 {
		n, p.cuts = int(p.cuts[0]), p.cuts[1:]
	}
	n = copy(b, p.b[:min(n, len(p.b))])
	p.b = p.b[n:]
	if len(p.b) == 0 && n > 0 && len(p.cuts)%2 == 0 {
		return n, io.EOF // with the last bytes, as readers may
	}
	return n, nil
}

// plainMessages is what messageReader must find, written in the plain way.
func plainMessages(b []byte, most int) (out [][]byte, whole bool) {
	for len(b) > 0 {
		if len(b) < prefixLen || b[0] != 0 {
			return out, false
		}
		n := binary.BigEndian.Uint32(b[1:])
		if uint64(n) > uint64(most) || len(b) < prefixLen+int(n) {
			return out, false
		}
		out = append(out, b[prefixLen:prefixLen+n])
		b = b[prefixLen+n:]
	}
	return out, true
}

func FuzzMessageReader(f *testing.F) {
	long := append([]byte{0, 0, 0, 0x20, 0}, bytes.Repeat([]byte("x"), 0x2000)...)
	f.Add([]byte("\x00\x00\x00\x00\x02ab\x00\x00\x00\x00\x00"), []byte{1, 0, 7})
	f.Add(append(long, long...), []byte{255, 255, 255})
	f.Add([]byte("\x01\x00\x00\x00\x01a"), []byte{255})
	f.Add([]byte("\x00\xff\xff\xff\xff"), []byte{5})
	f.Fuzz(func(t *testing.T, content, cuts []byte) {
		const most = 9000
		want, whole := plainMessages(content, most)
		r := messageReader{body: &pieces{content, cuts}, max: most, pools: &pools{}}
		defer r.release()
		for i := 0; ; i++ {
			m, err := r.next()
			switch {
			case err == io.EOF:
				if i != len(want) || !whole {
					t.Fatalf("it ended well after %d messages of %d; whole %t", i, len(want), whole)
				}
				return
			case err != nil:
				if whole || i != len(want) {
					t.Fatalf("message %d of %d: %v", i, len(want), err)
				}
				return
			case i >= len(want) || !bytes.Equal(m, want[i]):
				t.Fatalf("message %d of %d is %q", i, len(want), m)
			}
		}
	})
}

func FuzzInflate(f *testing.F) {
	f.Add([]byte("\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff\x4a\x04\x04\x00\x00\xff\xff\x43\xbe\xb7\xe8\x01\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, content []byte) {
		r := messageReader{encoding: "gzip", max: 100, pools: &pools{}}
		if m, err := r.inflate(content); err == nil && len(m) > r.max {
			t.Errorf("a message of %d bytes came out", len(m))
		}
	})
}

func TestABodyThatBreaksIsNotOver(t *testing.T) {
	broken := fault.Wrap(io.EOF, fault.Unavailable, "the connection broke") // as the engine reports it
	for _, content := range []string{"", "\x00\x00\x00\x00\x01a"} {
		r := messageReader{body: io.MultiReader(strings.NewReader(content), failing{broken}), max: 10, pools: &pools{}}
		_, err := r.next()
		if err == nil {
			err = r.end()
		}
		if !errors.Is(err, broken) {
			t.Errorf("after %q: %v", content, err)
		}
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

func TestALengthDoesNotCostMemoryBeforeTheContentComes(t *testing.T) {
	r := messageReader{body: strings.NewReader("\x00\x00\x3f\xff\xff" + "few"), max: DefaultMaxMessage, pools: &pools{}}
	if _, err := r.next(); status.Code(err) != codes.Internal {
		t.Fatal(err)
	}
	if n := cap(r.buf.b); n > 4*firstBuffer {
		t.Errorf("8 bytes arrived, and the buffer has %d", n)
	}
}

func TestALargeMessageDoesNotCostForTheRestOfTheStream(t *testing.T) {
	large := append([]byte{0, 0, 0x10, 0, 0}, make([]byte, 1<<20)...)
	r := messageReader{body: io.MultiReader(bytes.NewReader(large), strings.NewReader("\x00\x00\x00\x00\x01a")), max: DefaultMaxMessage, pools: &pools{}}
	for _, want := range []int{1 << 20, 1} {
		if m, err := r.next(); err != nil || len(m) != want {
			t.Fatalf("%d bytes, %v", len(m), err)
		}
	}
	if n := cap(r.buf.b); n > keepBuffer {
		t.Errorf("the buffer still has %d bytes", n)
	}
}

func TestMetadataKeepsItsValues(t *testing.T) {
	md := metadata.MD{"a": {"1", "2"}, "b-bin": {"\x00\xff", "", "padd"}, "grpc-status": {"1"}, ":path": {"/"}}
	got := Metadata(AppendMetadata(nil, md))
	if len(got) != 2 || strings.Join(got["a"], ",") != "1,2" || strings.Join(got["b-bin"], ",") != "\x00\xff,,padd" {
		t.Errorf("got %q", got)
	}
	got = Metadata(proxy.Header{{Name: "X-Bin", Value: "AA==, AQI,!"}, {Name: "User-Agent", Value: "me"}, {Name: "te", Value: "trailers"}})
	if strings.Join(got["x-bin"], "|") != "\x00|\x01\x02" || got["user-agent"][0] != "me" || got["te"] != nil {
		t.Errorf("got %q", got)
	}
}
