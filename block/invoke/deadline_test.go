package invoke_test

import (
	"context"
	"io"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/proa-io/proa/block/invoke"
	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/mesh/discovery"
	"github.com/proa-io/proa/mesh/proxy"
	"github.com/proa-io/proa/policy"
)

// asking is an exchange with nobody on the other side.
type asking struct {
	proxy.Exchange
	ctx     context.Context //nolint:containedctx // an exchange has one
	request proxy.Request
	status  int
	header  proxy.Header
}

func (a *asking) Request() *proxy.Request         { return &a.request }
func (a *asking) Context() context.Context        { return a.ctx }
func (a *asking) Flush() error                    { return nil }
func (a *asking) Write(p []byte) (int, error)     { return len(p), nil }
func (a *asking) Trailer(proxy.Header) error      { return nil }
func (a *asking) Interim(int, proxy.Header) error { return nil }
func (a *asking) Abort()                          {}
func (a *asking) Respond(s int, h proxy.Header, _ int64) error {
	a.status, a.header = s, slices.Clone(h)
	return nil
}

func askingGRPC(ctx context.Context, fields ...proxy.Field) *asking {
	h := proxy.Header{{Name: "content-type", Value: "application/grpc"}, {Name: "te", Value: "trailers"}}
	return &asking{ctx: ctx, request: proxy.Request{Method: "POST", Target: "/pkg.Service/Method", Header: append(h, fields...)}}
}

// sidecars answers requests to any sidecar, and notes what they said of time.
type sidecars struct {
	answer   func(attempt int) (took time.Duration, status string, err error)
	timeouts []string
}

func (s *sidecars) RoundTrip(ctx context.Context, r *proxy.Request, _ proxy.RoundTripOptions) (*proxy.Response, error) {
	s.timeouts = append(s.timeouts, r.Header.Get("grpc-timeout"))
	took, status, err := s.answer(len(s.timeouts))
	select {
	case <-time.After(took):
	case <-ctx.Done():
		return nil, fault.Wrap(ctx.Err(), fault.CodeOf(ctx.Err()), "wait")
	}
	if err != nil {
		return nil, err
	}
	h := proxy.Header{{Name: "content-type", Value: "application/grpc"}, {Name: "grpc-status", Value: status}}
	return &proxy.Response{Status: 200, Header: h, Body: io.NopCloser(proxy.NoBody{})}, nil
}

// front returns a sidecar that finds three of "back".
func front(t *testing.T, peers *sidecars, p policy.Chain) *invoke.Service {
	t.Helper()
	return invoke.New(invoke.Options{
		AppID: "front", Namespace: "default", Host: "127.0.0.1", Chains: chains{p},
		Directory: directory(t, discovery.Static{"back": {{Address: "10.0.0.1:1"}, {Address: "10.0.0.2:1"}, {Address: "10.0.0.3:1"}}}),
		Peer:      func(discovery.Service, discovery.Endpoint) proxy.RoundTripper { return peers },
	})
}

func TestACalleeIsToldHowMuchTimeIsLeft(t *testing.T) {
	busy := func(took time.Duration) func(int) (time.Duration, string, error) {
		return func(n int) (time.Duration, string, error) {
			if n < 3 {
				return took, "14", nil
			}
			return 0, "0", nil
		}
	}
	gone := func(n int) (time.Duration, string, error) {
		if n < 3 {
			return 2 * time.Second, "", proxy.MarkUnsent(fault.New(fault.Unavailable, "nobody listens"))
		}
		return 0, "0", nil
	}
	retry := policy.Retry{Max: 5, Delay: time.Second}.Policy
	timeout := func(d time.Duration) policy.Policy { return policy.Timeout(d, nil) }
	for _, tc := range []struct {
		name    string
		timeout string // of the caller
		answer  func(int) (time.Duration, string, error)
		policy  policy.Chain
		want    []string
		status  string // of gRPC; empty for an error
	}{
		{"by another try", "10S", busy(time.Second), policy.Chain{retry}, []string{"10S", "8000000u", "6000000u"}, "0"},
		{"by another instance", "10S", gone, nil, []string{"10S", "8000000u", "6000000u"}, "0"},
		{"when there is no bound", "", busy(time.Second), policy.Chain{retry}, []string{"", "", ""}, "0"},
		{"by a shorter timeout of a policy", "10S", busy(time.Second), policy.Chain{retry, timeout(3 * time.Second)},
			[]string{"3000000u", "3000000u", "3000000u"}, "0"},
		{"by a timeout that is longer in the beginning", "7S", busy(2 * time.Second), policy.Chain{retry, timeout(3 * time.Second)},
			[]string{"3000000u", "3000000u", "1000000u"}, "0"},
		{"by a timeout of a policy alone", "", busy(time.Second), policy.Chain{retry, timeout(3 * time.Second)},
			[]string{"3000000u", "3000000u", "3000000u"}, "0"},
		{"by one that is longer than the caller's", "2S", busy(0), policy.Chain{timeout(time.Minute)}, []string{"2S"}, "14"},
		{"but not in the place of what makes no sense", "soon", busy(time.Second), policy.Chain{retry, timeout(3 * time.Second)},
			[]string{"soon", "soon", "soon"}, "0"},
		{"and none is called when there is none for a wait", "3500m", busy(time.Second), policy.Chain{retry}, []string{"3500m", "1500000u"}, "14"},
		{"and no other instance when nothing is left", "3S", gone, policy.Chain{retry}, []string{"3S", "1000000u"}, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				peers := &sidecars{answer: tc.answer}
				s := front(t, peers, tc.policy)
				ex := askingGRPC(t.Context())
				if tc.timeout != "" {
					ex.request.Header.Add("grpc-timeout", tc.timeout)
				}
				_, err := s.Forward(ex, "back", "/pkg.Service/Method")
				if got := ex.header.Get("grpc-status"); got != tc.status || (err != nil) != (tc.status == "") {
					t.Errorf("status %q, %v; want %q", got, err, tc.status)
				}
				if !slices.Equal(peers.timeouts, tc.want) {
					t.Errorf("the callee was told %q, want %q", peers.timeouts, tc.want)
				}
				if got := ex.request.Header.Get("grpc-timeout"); got != tc.timeout {
					t.Errorf("the caller's own request says %q now", got)
				}
			})
		})
	}
}

func TestTheLastOfSeveralTimeoutsCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peers := &sidecars{answer: func(n int) (time.Duration, string, error) { return time.Second, []string{"14", "0"}[n-1], nil }}
		s := front(t, peers, policy.Chain{policy.Retry{Max: 1, Delay: time.Second}.Policy})
		ex := askingGRPC(t.Context(), proxy.Field{Name: "grpc-timeout", Value: "1H"}, proxy.Field{Name: "Grpc-Timeout", Value: "9S"})
		if _, err := s.Forward(ex, "back", "/x"); err != nil {
			t.Fatal(err)
		}
		if want := []string{"1H", "7000000u"}; !slices.Equal(peers.timeouts, want) {
			t.Errorf("the callee was told %q, want %q", peers.timeouts, want)
		}
	})
}

func TestATimeoutMeansNothingInWhatIsNotGRPC(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peers := &sidecars{answer: func(n int) (time.Duration, string, error) {
			if n == 1 {
				return 0, "", fault.New(fault.Unavailable, "broken")
			}
			return 0, "0", nil
		}}
		s := front(t, peers, policy.Chain{policy.Retry{Max: 1, Delay: time.Minute}.Policy, policy.Timeout(time.Second, nil)})
		ex := askingGRPC(t.Context(), proxy.Field{Name: "grpc-timeout", Value: "1S"})
		ex.request.Header.Set("content-type", "text/plain")
		if _, err := s.Forward(ex, "back", "/x"); err != nil {
			t.Fatal(err)
		}
		if want := []string{"1S", "1S"}; !slices.Equal(peers.timeouts, want) {
			t.Errorf("the callee was told %q, want %q", peers.timeouts, want)
		}
	})
}

// still answers every request at once with the same answer.
type still struct{ resp proxy.Response }

func (s *still) RoundTrip(context.Context, *proxy.Request, proxy.RoundTripOptions) (*proxy.Response, error) {
	return &s.resp, nil
}

func TestATimeoutThatIsPassedOnAllocatesNothing(t *testing.T) {
	if raceEnabled() {
		t.Skip("the race detector makes pools forget")
	}
	to := &still{proxy.Response{Status: 200, Header: proxy.Header{{Name: "content-type", Value: "application/grpc"}}, Body: io.NopCloser(proxy.NoBody{})}}
	s := invoke.New(invoke.Options{
		AppID: "front", Namespace: "default", Host: "127.0.0.1", Chains: policy.None{}, Directory: directory(t, discovery.Static{"back": {{Address: "10.0.0.1:1"}}}),
		Peer: func(discovery.Service, discovery.Endpoint) proxy.RoundTripper { return to },
	})
	count := func(fields ...proxy.Field) float64 {
		ex := askingGRPC(t.Context(), fields...)
		return testing.AllocsPerRun(100, func() { _, _ = s.Forward(ex, "back", "/x") })
	}
	with, without := count(proxy.Field{Name: "grpc-timeout", Value: "10S"}), count(proxy.Field{Name: "x-whatever", Value: "10S"})
	if with > without {
		t.Errorf("%v allocations with a timeout, %v without", with, without)
	}
}

func TestTheRouteTellsOfOtherInstancesAndOfEarlierFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peers := &sidecars{answer: func(n int) (time.Duration, string, error) {
			switch n {
			case 1:
				return 0, "", proxy.MarkUnsent(fault.New(fault.Unavailable, "nobody listens"))
			case 2:
				return 0, "14", nil
			case 3:
				return 0, "", fault.New(fault.Unavailable, "it took another turn").WithReason("test.reason")
			}
			return 0, "0", nil
		}}
		p, err := front(t, peers, policy.Chain{policy.Retry{Max: 3}.Policy}).Forward(askingGRPC(t.Context()), "back", "/x")
		if err != nil {
			t.Fatal(err)
		}
		p.Route.Upstream = p.Route.Upstream[:len("10.0.0.")] // whose turn it was is another matter
		if want := (proxy.Route{Target: "back", Upstream: "10.0.0.", Attempts: 4, Retried: "unavailable,grpc_14,test.reason"}); p.Route != want {
			t.Errorf("the route is %+v, want %+v", p.Route, want)
		}
	})
}
