package memcached

import (
	"bufio"
	"strings"
	"testing"

	"github.com/proa-io/proa/fault"
)

func read(text string) (reply, error) {
	return readReply(bufio.NewReaderSize(strings.NewReader(text), bufferBytes))
}

func TestReplies(t *testing.T) {
	for _, tc := range []struct {
		text string
		want reply
	}{
		{"HD\r\n", reply{status: statusDone, ttl: -1}},
		{"HD c17 t30 f0 b\r\n", reply{status: statusDone, cas: "17", ttl: 30}},
		{"EN\r\n", reply{status: statusMiss, ttl: -1}},
		{"VA 0 c1 t-1\r\n\r\n", reply{status: statusValue, cas: "1", ttl: -1}},
		{"VA 4 c1 t0 W Z X\r\n\r\n\r\n\r\n", reply{status: statusValue, value: []byte("\r\n\r\n"), cas: "1"}},
	} {
		got, err := read(tc.text)
		if err != nil || got.status != tc.want.status || string(got.value) != string(tc.want.value) || got.cas != tc.want.cas || got.ttl != tc.want.ttl {
			t.Errorf("%q is read as %+v, %v; want %+v", tc.text, got, err, tc.want)
		}
	}
}

func TestRepliesThatMakeNoSenseEndTheConnection(t *testing.T) {
	for _, text := range []string{
		"", "\n", "\r\n", "HD", "HD\n", "OK\r\n", "VA\r\n", "VA x\r\n", "VA -1\r\n", "VA 3\r\nab\r\n", "VA 1\r\nabc\r\n", "VA 999999999999\r\n",
		"VA 18446744073709551616\r\n", "HD tx\r\n", "HD t-2\r\n", "HD t\r\n", strings.Repeat("a", 2*bufferBytes),
	} {
		if r, err := read(text); err == nil {
			t.Errorf("%.40q is read as %+v", text, r)
		}
	}
}

func TestErrorsOfTheServerAreNamed(t *testing.T) {
	for _, tc := range []struct {
		text string
		code fault.Code
		goes bool // on with the connection
	}{
		{"SERVER_ERROR object too large for cache\r\n", fault.InvalidArgument, true},
		{"SERVER_ERROR out of memory storing object\r\n", fault.ResourceExhausted, true},
		{"SERVER_ERROR too many open connections\r\n", fault.Unavailable, false},
		{"CLIENT_ERROR bad command line format\r\n", fault.Internal, false},
		{"ERROR\r\n", fault.Unimplemented, false},
	} {
		r, err := read(tc.text)
		if !fault.Is(r.err, tc.code) || (err == nil) != tc.goes {
			t.Errorf("%q: %v, connection %v; want %v", tc.text, r.err, err, tc.code)
		}
	}
}

func FuzzReplies(f *testing.F) {
	for _, text := range []string{
		"HD c17 t30\r\n", "VA 3 c1 t-1 f0\r\nabc\r\nEN\r\n", "EN\r\nNS\r\nEX\r\nNF\r\nMN\r\n", "VA 134217729\r\n", "VA 134217728\r\n",
		"SERVER_ERROR object too large for cache\r\nHD\r\n", "CLIENT_ERROR\r\n", "ERROR\r\n", "HD \x00\r\n", "HD  c  t\r\n",
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		r := bufio.NewReaderSize(strings.NewReader(text), bufferBytes)
		for {
			got, err := readReply(r)
			if err != nil {
				return
			}
			if len(got.value) > len(text) || got.ttl < -1 {
				t.Fatalf("%q is read as %+v", text, got)
			}
		}
	})
}

func FuzzKeys(f *testing.F) {
	f.Add("app||k")
	f.Add("a b")
	f.Add(strings.Repeat("ü ", 100))
	f.Fuzz(func(t *testing.T, key string) {
		if key == "" {
			return
		}
		token := newToken(key)
		if !plain(token.text) || token.text == "" {
			t.Errorf("the token of %q is no key: %q", key, token.text)
		}
	})
}
