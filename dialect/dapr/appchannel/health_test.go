package appchannel_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/emptypb"

	rtv1 "github.com/proa-io/proa/api/gen/dapr/proto/runtime/v1"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/dialect/dapr/appchannel"
	"github.com/proa-io/proa/mesh/proxy"
)

func TestHealthIsReportedWhenItChanges(t *testing.T) {
	// What each probe meets: o is well, x an error, r a refusal, s silence.
	for _, tc := range []struct {
		probes, want string
		warnings     int
	}{
		{"oooo", "0:well", 0},
		{"xxxxxo", "5:well", 1},
		{"oxxoxxo", "0:well", 0},
		{"oxxxxo", "0:well 3:ill 5:well", 1},
		{"oxrso", "0:well 3:ill 4:well", 1},
		{"osssoxxxxxxx", "0:well 3:ill 4:well 7:ill", 2},
	} {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			began, n := time.Now(), -1
			log := &logged{}
			c := appchannel.New(appchannel.Options{
				Address: "app:80", Log: log.logger(), Health: appchannel.Health{Interval: 10 * time.Second, Timeout: time.Second},
				Transport: transport(func(ctx context.Context, r *proxy.Request) (*proxy.Response, error) {
					if n++; n >= len(tc.probes) {
						cancel()
						return answer(200), nil
					}
					if due := time.Duration(n) * 10 * time.Second; time.Since(began) != due || r.Method != "GET" || r.Target != "/healthz" {
						t.Errorf("probe %d is %s %s at %v", n, r.Method, r.Target, time.Since(began))
					}
					switch tc.probes[n] {
					case 'x':
						return answer(500), nil
					case 'r':
						return nil, errors.New("refused")
					case 's':
						<-ctx.Done()
						return nil, ctx.Err()
					}
					return answer(204), nil
				}),
			})
			var got []string
			if err := c.RunHealth(ctx, func(healthy bool) {
				got = append(got, fmt.Sprint(n, map[bool]string{true: ":well", false: ":ill"}[healthy]))
			}); err != nil {
				t.Error(err)
			}
			if s := strings.Join(got, " "); s != tc.want {
				t.Errorf("%s: reports are %q, want %q", tc.probes, s, tc.want)
			}
			if n := strings.Count(log.String(), "the application is not well"); n != tc.warnings {
				t.Errorf("%s: %d warnings, want %d", tc.probes, n, tc.warnings)
			}
		})
	}
}

// healthApp says that it is well, or has no such method.
type healthApp struct {
	rtv1.UnimplementedAppCallbackHealthCheckServer
	ill atomic.Bool
}

func (a *healthApp) HealthCheck(context.Context, *emptypb.Empty) (*rtv1.HealthCheckResponse, error) {
	if a.ill.Load() {
		return nil, errors.New("ill")
	}
	return &rtv1.HealthCheckResponse{}, nil
}

// runHealth runs RunHealth beside the test and returns its reports and how to
// end it.
func runHealth(t *testing.T, c *appchannel.Channel) (reports <-chan bool, stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	out, done := make(chan bool), make(chan error, 1)
	go func() {
		done <- c.RunHealth(ctx, func(healthy bool) {
			select {
			case out <- healthy:
			case <-ctx.Done():
			}
		})
	}()
	return out, func() {
		t.Helper()
		cancel()
		if err := <-done; err != nil {
			t.Errorf("RunHealth = %v", err)
		}
	}
}

func TestTheHealthOfRealApplicationsIsProbed(t *testing.T) {
	checkLeaks(t)
	quick := func(o *appchannel.Options) {
		o.Health = appchannel.Health{Path: "well", Interval: 5 * time.Millisecond, Timeout: time.Second, Threshold: 2}
		o.Token = component.NewSecret("s3cret")
	}
	a := &healthApp{}
	g := serveGRPC(t, func(s grpc.ServiceRegistrar) { rtv1.RegisterAppCallbackHealthCheckServer(s, a) })
	reports, stop := runHealth(t, g.channel(t, quick))
	for _, ill := range []bool{false, true, false} {
		a.ill.Store(ill)
		if well := <-reports; well == ill {
			t.Errorf("the gRPC application is reported to be well: %v", well)
		}
	}
	stop()
	h := newHTTPApp(t)
	h.answer("GET /well", 204, "")
	reports, stop = runHealth(t, h.channel(t, quick))
	if !<-reports {
		t.Error("the HTTP application is reported to be ill")
	}
	stop()
	if r := h.last(t); r.header.Get("Dapr-Api-Token") != "s3cret" {
		t.Errorf("the application got %+v", r)
	}
}
