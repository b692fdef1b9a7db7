package invoke_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/proa-io/proa/block/invoke"
	"github.com/proa-io/proa/mesh/proxy"
	"github.com/proa-io/proa/policy"
	"github.com/proa-io/proa/telemetry"
)

// quiet is an exchange that takes an answer without keeping it.
type quiet struct {
	request proxy.Request
	status  int
}

func (q *quiet) Request() *proxy.Request                           { return &q.request }
func (q *quiet) Context() context.Context                          { return context.Background() }
func (q *quiet) Interim(int, proxy.Header) error                   { return nil }
func (q *quiet) Respond(status int, _ proxy.Header, _ int64) error { q.status = status; return nil }
func (q *quiet) Write(p []byte) (int, error)                       { return len(p), nil }
func (q *quiet) Flush() error                                      { return nil }
func (q *quiet) Trailer(proxy.Header) error                        { return nil }
func (q *quiet) Upgrade(proxy.Header) (io.ReadWriteCloser, error)  { panic("not asked for") }
func (q *quiet) Remote() netip.AddrPort                            { return netip.AddrPort{} }
func (q *quiet) TLS() *tls.ConnectionState                         { return nil }
func (q *quiet) Abort()                                            { q.status = -1 }

// answers is a RoundTripper with always the same response.
type answers struct {
	header, trailer proxy.Header
	response        proxy.Response
}

func (a *answers) RoundTrip(context.Context, *proxy.Request, proxy.RoundTripOptions) (*proxy.Response, error) {
	a.response = proxy.Response{Status: 200, Header: a.header, Trailer: &a.trailer, Body: proxy.NoBody{}}
	return &a.response, nil
}

// raceEnabled reports whether the race detector is on, under which pools forget.
func raceEnabled() bool {
	info, ok := debug.ReadBuildInfo()
	return ok && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"})
}

// Around a call there are all policies that a sidecar has. Only the context with
// the deadline of the timeout costs memory.
func TestAnInvocationAllocatesLittle(t *testing.T) {
	if raceEnabled() {
		t.Skip("the race detector makes pools forget")
	}
	metrics := telemetry.NewMetrics("shop", "default")
	log := slog.New(slog.DiscardHandler)
	chain := policy.Chain{
		policy.Recover(log), policy.Metrics(metrics), policy.Log(log), policy.Retry{Max: 3, Budget: policy.NewBudget(0.2, 10)}.Policy,
		policy.NewBreakers(10, policy.BreakerOptions{}).Policy, policy.Timeout(time.Minute, nil),
	}
	grpc := proxy.Header{{Name: "content-type", Value: "application/grpc"}}
	app := &answers{header: grpc, trailer: proxy.Header{{Name: "grpc-status", Value: "0"}}}
	s := invoke.New(invoke.Options{
		AppID: "shop", Namespace: "default", Host: "127.0.0.1", Chains: chains{chain}, Inbound: chain, Metrics: metrics,
		App:       &invoke.App{GRPC: app, Limit: policy.NewBulkhead(10, 0).Policy},
		Directory: directory(t, nil),
	})
	ex := &quiet{request: proxy.Request{Method: "POST", Target: "/shop.Cart/Add", Header: append(slices.Clip(grpc),
		proxy.Field{Name: "te", Value: "trailers"}, proxy.Field{Name: invoke.FieldCalleeAppID, Value: "shop"})}}
	for _, test := range []struct {
		name string
		call func()
		most float64
	}{
		{"asked for", func() { _, _ = s.Forward(ex, "shop", ex.request.Target) }, 1},
		{"received", func() { s.Receive(ex) }, 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			if n := testing.AllocsPerRun(1000, test.call); n > test.most {
				t.Errorf("%v allocations, want %v at most", n, test.most)
			}
			if ex.status != 200 {
				t.Errorf("status %d", ex.status)
			}
		})
	}
}

// What belongs to a request is used again for the next one, and nothing of it
// may show there: not its fields, not its content, also when it is repeated.
func TestInvocationsDoNotSeeEachOther(t *testing.T) {
	var failed sync.Map
	m := start(t, options{
		policy: policy.Chain{policy.Retry{Max: 2}.Policy, policy.Timeout(time.Minute, nil)},
		app: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			b, _ := io.ReadAll(r.Body)
			if _, again := failed.LoadOrStore(r.Header.Get("x-own"), true); !again && len(b)%3 == 0 {
				w.WriteHeader(503)
				return
			}
			w.Header().Set("x-own", r.Header.Get("x-own"))
			extra := 0
			for name, values := range r.Header {
				if strings.HasPrefix(name, "X-Extra") && values[0] == r.Header.Get("x-own") {
					extra++
				} else if strings.HasPrefix(name, "X-Extra") {
					extra = 100
				}
			}
			fmt.Fprintf(w, "%d %d %s", extra, len(b), b)
		}),
	})
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			for j := range 50 {
				own := fmt.Sprint(i, "-", j)
				body := strings.Repeat(own, j*i%70)
				extra := j % 5
				req, err := http.NewRequestWithContext(t.Context(), "POST", "http://"+m.http+"/", strings.NewReader(body))
				if err != nil {
					t.Error(err)
					return
				}
				req.Header.Set("dapr-app-id", "back")
				req.Header.Set("x-own", own)
				for k := range extra {
					req.Header.Set(fmt.Sprint("x-extra-", k), own)
				}
				resp, err := http.DefaultClient.Do(req)
				if err != nil {
					t.Error(err)
					return
				}
				got, err := io.ReadAll(resp.Body)
				_ = resp.Body.Close()
				want := fmt.Sprint(extra, " ", len(body), " ", body)
				if err != nil || resp.Header.Get("x-own") != own || string(got) != want {
					t.Errorf("request %s with %d bytes got %q of %q, %v", own, len(body), got, resp.Header.Get("x-own"), err)
					return
				}
			}
		})
	}
	all.Wait()
	http.DefaultClient.CloseIdleConnections()
}
