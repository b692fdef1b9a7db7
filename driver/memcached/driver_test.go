package memcached

import (
	"bufio"
	"context"
	"fmt"
	"hash/crc32"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/proa-io/proa/block/state"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/internal/faultnet"
	"github.com/proa-io/proa/internal/leak"
	"github.com/proa-io/proa/internal/testserver"
)

func put(t *testing.T, s *State, key, value string) {
	t.Helper()
	if _, err := s.Put(t.Context(), key, []byte(value), state.PutOptions{}); err != nil {
		t.Fatalf("Put: %v", err)
	}
}

func wantValue(t *testing.T, s *State, key, want string) {
	t.Helper()
	item, found, err := s.Get(t.Context(), key, state.GetOptions{})
	if err != nil || !found || string(item.Value) != want {
		t.Fatalf("Get = %q, %v, %v; want %q", item.Value, found, err, want)
	}
}

// raw speaks the classic text protocol to a server, as other clients do, and
// returns what it answers up to a line that ends with last.
func raw(t *testing.T, addr, request, last string) string {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write([]byte(request)); err != nil {
		t.Fatal(err)
	}
	r, answer := bufio.NewReader(c), ""
	for !strings.HasSuffix(answer, last+"\r\n") {
		line, err := r.ReadString('\n')
		if err != nil {
			t.Fatalf("%q, then %v", answer, err)
		}
		answer += line
	}
	return answer
}

func TestItemsAreThoseOfTheTextProtocol(t *testing.T) {
	addr := shared.Get(t).Addr()
	s := empty(t, addr)
	defer s.Close()
	put(t, s, "app||k", "value")
	if got, want := raw(t, addr, "get app||k\r\n", "END"), "VALUE app||k 0 5\r\nvalue\r\nEND\r\n"; got != want {
		t.Errorf("stored %q, want %q", got, want)
	}
	raw(t, addr, "set app||other 0 0 3\r\nabc\r\n", "STORED")
	wantValue(t, s, "app||other", "abc")
	item, _, err := s.Get(t.Context(), "app||other", state.GetOptions{})
	if err != nil || item.ETag == "" {
		t.Errorf("an item of another client has etag %q, %v", item.ETag, err)
	}
}

func TestTokensOfKeys(t *testing.T) {
	for _, tc := range []struct {
		key, text string
		binary    bool
	}{
		{"app||k", "app||k", false},
		{"grüße", "grüße", false},
		{strings.Repeat("a", 250), strings.Repeat("a", 250), false},
		{"a b", "YSBi", true},
		{"a\x7f", "YX8=", true},
		{"\n", "Cg==", true},
		// As sha256sum prints them.
		{strings.Repeat("a", 251), "proa-sha256-772f911dd9d6692897188d0b03f718fb5fbd02020d0fce1374f1354a31205024", false},
		{strings.Repeat("a", 186) + " ", "proa-sha256-8a8ba0bff227834e28677332ee234b0e2f1e6c5ad73469664e0ecfbb4758b934", false},
	} {
		got := newToken(tc.key)
		if got.text != tc.text || got.binary != tc.binary {
			t.Errorf("token of %q = %+v, want %q", tc.key, got, tc.text)
		}
	}
	if a, b := newToken(strings.Repeat("a", 300)), newToken(strings.Repeat("a", 301)); a == b {
		t.Error("two long keys have one token")
	}
}

func TestKeysAreSpreadByCRC32(t *testing.T) {
	addrs := []string{shared.Get(t).Addr(), testserver.Memcached(t).Addr(), testserver.Memcached(t).Addr()}
	s := empty(t, addrs...)
	defer s.Close()
	var keys []string
	for i := range 30 {
		key := fmt.Sprint("key-", i)
		keys = append(keys, key)
		put(t, s, key, fmt.Sprint(i))
		home := addrs[crc32.ChecksumIEEE([]byte(key))%3]
		if got := raw(t, home, "get "+key+"\r\n", "END"); !strings.HasPrefix(got, "VALUE "+key) {
			t.Errorf("%s is not on the server that CRC-32 names", key)
		}
	}
	for i, r := range s.BulkGet(t.Context(), keys, state.GetOptions{}) {
		if r.Err != nil || string(r.Item.Value) != fmt.Sprint(i) {
			t.Errorf("BulkGet of %s = %+v", keys[i], r)
		}
	}
}

func TestAValueThatIsTooLargeIsInvalid(t *testing.T) {
	s := empty(t, shared.Get(t).Addr())
	defer s.Close()
	_, err := s.Put(t.Context(), "k", make([]byte, 3<<20), state.PutOptions{})
	if !fault.Is(err, fault.InvalidArgument) || !strings.Contains(fault.Message(err), "larger than this memcached takes") {
		t.Errorf("Put of 3 MiB: %v, want invalid_argument", err)
	}
	put(t, s, "k", "small")
	results := s.BulkPut(t.Context(), []state.PutOp{{Key: "a", Value: []byte("1")}, {Key: "b", Value: make([]byte, 3<<20)}, {Key: "c", Value: []byte("3")}})
	for i, code := range []fault.Code{fault.Unknown, fault.InvalidArgument, fault.Unknown} {
		if err := results[i].Err; (err != nil) != (code != fault.Unknown) || err != nil && !fault.Is(err, code) {
			t.Errorf("item %d of a bulk write: %v", i, err)
		}
	}
	wantValue(t, s, "a", "1")
	wantValue(t, s, "c", "3")
}

func TestAFullServerIsResourceExhausted(t *testing.T) {
	srv := testserver.Memcached(t, "-M", "-m", "2")
	s := empty(t, srv.Addr())
	defer s.Close()
	var err error
	for i := 0; err == nil && i < 200; i++ {
		_, err = s.Put(t.Context(), fmt.Sprint("k", i), make([]byte, 100_000), state.PutOptions{})
	}
	if !fault.Is(err, fault.ResourceExhausted) {
		t.Errorf("Put to a full server: %v, want resource_exhausted", err)
	}
	wantValue(t, s, "k0", string(make([]byte, 100_000)))
}

func TestATTLBeyondWhatMemcachedCountsIsInvalid(t *testing.T) {
	s := empty(t, shared.Get(t).Addr())
	defer s.Close()
	_, err := s.Put(t.Context(), "k", nil, state.PutOptions{TTL: 60 * 365 * 24 * time.Hour})
	if !fault.Is(err, fault.InvalidArgument) || fault.ReasonOf(err) != state.ReasonBadTTL {
		t.Errorf("Put with a TTL of 60 years: %v", err)
	}
}

// A CAS of 0 would mean no condition to memcached.
func TestETagsAreComparedAsTheyAreWritten(t *testing.T) {
	s := empty(t, shared.Get(t).Addr())
	defer s.Close()
	put(t, s, "k", "v")
	item, _, err := s.Get(t.Context(), "k", state.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, etag := range []string{"0", "00", "0" + item.ETag} {
		if _, err := s.Put(t.Context(), "k", []byte("w"), state.PutOptions{ETag: etag}); fault.ReasonOf(err) != state.ReasonETagMismatch {
			t.Errorf("Put with etag %q: %v, want a mismatch", etag, err)
		}
	}
	wantValue(t, s, "k", "v")
}

// answering runs a server that answers every line with text.
func answering(t *testing.T, text string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				for r := bufio.NewReader(c); ; {
					if _, err := r.ReadString('\n'); err != nil {
						return
					}
					if _, err := c.Write([]byte(text)); err != nil {
						return
					}
				}
			})
		}
	})
	t.Cleanup(func() { _ = l.Close(); wg.Wait() })
	return l.Addr().String()
}

func TestServersThatDoNotSpeakTheProtocolAreRefused(t *testing.T) {
	for _, tc := range []struct {
		name, answer string
		want         fault.Code
	}{
		{"an old memcached", "ERROR\r\n", fault.Unimplemented},
		{"something else", "HTTP/1.1 400 Bad Request\r\n", fault.Internal},
		{"a memcached in trouble", "SERVER_ERROR out of order\r\n", fault.Unavailable},
		{"an endless line", strings.Repeat("x", 100_000), fault.Internal},
	} {
		s, err := openState(t.Context(), answering(t, tc.answer))
		if err == nil {
			_ = s.Close()
		}
		if !fault.Is(err, tc.want) {
			t.Errorf("%s: %v, want %v", tc.name, err, tc.want)
		}
	}
}

func TestASilentServerIsUnavailableAfterTheTimeout(t *testing.T) {
	cfg := defaults()
	cfg.Hosts, cfg.Timeout = []string{answering(t, "")}, component.Millis(50*time.Millisecond)
	_, err := OpenState(t.Context(), cfg, component.Env{})
	if !fault.Is(err, fault.Unavailable) || !strings.Contains(fault.Message(err), "within 50ms") {
		t.Errorf("OpenState = %v, want unavailable", err)
	}
}

func TestARestartCostsOneCall(t *testing.T) {
	srv := testserver.Memcached(t)
	s := empty(t, srv.Addr())
	defer s.Close()
	var wg sync.WaitGroup
	for i := range 20 { // leaves several idle connections
		wg.Go(func() { put(t, s, fmt.Sprint("k", i), "v") })
	}
	wg.Wait()
	srv.Kill()
	srv.Restart()
	failed := 0
	for range 20 {
		if _, _, err := s.Get(t.Context(), "k", state.GetOptions{}); err != nil {
			if !fault.Is(err, fault.Unavailable) {
				t.Errorf("Get after a restart: %v", err)
			}
			failed++
		}
	}
	if failed > 1 {
		t.Errorf("%d calls failed after a restart, want at most one", failed)
	}
}

func TestMoreCallersThanConnectionsTakeTurns(t *testing.T) {
	s := empty(t, shared.Get(t).Addr())
	defer s.Close()
	var wg sync.WaitGroup
	for i := range 2 * maxOpen {
		wg.Go(func() {
			for j := range 5 {
				key := fmt.Sprint("k", i, "-", j)
				if _, err := s.Put(t.Context(), key, []byte(key), state.PutOptions{}); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	srv := s.servers[0]
	srv.mu.Lock()
	defer srv.mu.Unlock()
	if len(srv.all) > srv.maxIdle || len(srv.idle) != len(srv.all) {
		t.Errorf("%d connections are open, %d of them idle; want at most %d, all idle", len(srv.all), len(srv.idle), srv.maxIdle)
	}
}

func TestCallersBeyondTheLastConnectionCanGiveUp(t *testing.T) {
	p := faultnet.New(t, shared.Get(t).Addr())
	s := empty(t, p.Addr())
	defer s.Close()
	p.Stall()
	var wg sync.WaitGroup
	for range 2 * maxOpen {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			defer cancel()
			if _, _, err := s.Get(ctx, "k", state.GetOptions{}); !fault.Is(err, fault.DeadlineExceeded) {
				t.Errorf("Get = %v, want deadline_exceeded", err)
			}
		})
	}
	wg.Wait()
}

func TestUnixSockets(t *testing.T) {
	proxy := faultnet.NewUnix(t, shared.Get(t).Addr())
	s := empty(t, proxy.Addr())
	defer s.Close()
	put(t, s, "k", "v")
	wantValue(t, s, "k", "v")
}

func TestCloseLeavesNothingRunning(t *testing.T) {
	addr := shared.Get(t).Addr()
	leak.Check(t)
	s := empty(t, addr)
	put(t, s, "k", "v")
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

func TestSettings(t *testing.T) {
	for _, tc := range []struct{ name, value, want string }{
		{"hosts", " , ", `"hosts": wants host:port`},
		{"hosts", ":11211", `"hosts": wants host:port`},
		{"maxIdleConnections", "-1", `"maxIdleConnections": must not be negative`},
		{"timeout", "0", `"timeout": wants a time above 0`},
		{"hosts", "localhost, other:1, /run/memcached.sock, ::1", ""},
		{"timeout", "500", ""},
		{"timeout", "2s", ""},
	} {
		settings := component.Settings{{Name: tc.name, Value: tc.value}}
		if tc.name != "hosts" {
			settings = append(settings, component.Setting{Name: "hosts", Value: "localhost"})
		}
		err := Specs()[0].Check(settings)
		if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s=%s: %v, want %q", tc.name, tc.value, err, tc.want)
		}
	}
	if err := Specs()[0].Check(nil); err == nil || !strings.Contains(err.Error(), `"hosts": is required`) {
		t.Errorf("without hosts: %v", err)
	}
}
