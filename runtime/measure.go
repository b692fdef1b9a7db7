package runtime

import (
	"context"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/proa-io/proa/mesh/proxy"
	"github.com/proa-io/proa/mesh/rpc"
	"github.com/proa-io/proa/resource"
	"github.com/proa-io/proa/telemetry"
)

// metricSettings returns what a Configuration says of metrics.
func metricSettings(c *resource.Configuration) telemetry.MetricSettings {
	out := telemetry.DefaultMetricSettings()
	s := c.MetricSettings()
	if s == nil {
		return out
	}
	out.Disabled = s.Enabled != nil && !*s.Enabled
	out.RecordErrorCodes = s.RecordErrorCodes != nil && *s.RecordErrorCodes
	if len(s.LatencyDistributionBuckets) > 0 {
		out.LatencyBuckets = s.LatencyDistributionBuckets
	}
	if h := s.HTTP; h != nil {
		out.IncreasedCardinality = h.IncreasedCardinality == nil || *h.IncreasedCardinality
		out.ExcludeVerbs = h.ExcludeVerbs != nil && *h.ExcludeVerbs
		out.PathMatching = h.PathMatching
	}
	for _, r := range s.Rules {
		for _, l := range r.Labels {
			out.Rules = append(out.Rules, telemetry.MetricRule{Metric: r.Name, Label: l.Name, Replace: l.Regex})
		}
	}
	return out
}

// checkMetrics refuses settings that can never work.
func checkMetrics(c *resource.Configuration) error {
	err := telemetry.CheckMetricSettings(metricSettings(c))
	if err == nil {
		return nil
	}
	out := &resource.Error{Pos: c.MetricSettings().Pos, Resource: "Configuration " + c.Metadata.Name, Field: "spec.metric", Problem: err.Error()}
	if c.Spec.Metrics != nil {
		out.Field = "spec.metrics"
	}
	return out
}

// measure takes what a Configuration says of metrics into use. It has been
// checked.
func (rt *Runtime) measure(c *resource.Configuration) {
	s := metricSettings(c)
	for _, r := range s.Rules {
		if !telemetry.HasMetric(r.Metric, r.Label) {
			rt.cfg.Log.Warn("a rule for metrics has no effect: there is no such metric, or its label is not one that can be rewritten",
				"metric", r.Metric, "label", r.Label)
		}
	}
	if err := rt.metrics.Configure(s); err != nil {
		rt.cfg.Log.Error("the settings of metrics are not taken into use", "error", err)
		return
	}
	rt.metricsPort.wake()
}

// metricsPort serves metrics as long as they are on.
type metricsPort struct {
	rt      *Runtime
	changed chan struct{} // has room for one

	mu       sync.Mutex
	listener net.Listener // nil while it is closed
}

func newMetricsPort(rt *Runtime) *metricsPort {
	return &metricsPort{rt: rt, changed: make(chan struct{}, 1)}
}

func (p *metricsPort) wake() {
	select {
	case p.changed <- struct{}{}:
	default: // a change that run has not looked at covers this one
	}
}

// port returns where metrics are served; 0 for nowhere.
func (p *metricsPort) port() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.listener == nil {
		return 0
	}
	return portOf(p.listener)
}

func (p *metricsPort) use(l net.Listener) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.listener = l
}

// run serves until ctx ends, opening and closing the port as the settings
// change.
func (p *metricsPort) run(ctx context.Context) error {
	for {
		p.mu.Lock()
		l := p.listener
		p.mu.Unlock()
		if l == nil && p.rt.metrics.Enabled() {
			l = p.open()
		}
		if err := p.serve(ctx, l); err != nil || ctx.Err() != nil {
			return err
		}
		p.use(nil)
	}
}

// open opens the port that was closed so far.
func (p *metricsPort) open() net.Listener {
	cfg := &p.rt.cfg
	l, err := listenOn("metrics", "--metrics-port", cfg.MetricsListenAddress, cfg.MetricsPort)
	if err != nil {
		cfg.Log.Error("metrics are not served", "error", err)
		return nil
	}
	p.use(l)
	cfg.Log.Info("metrics are served", "port", portOf(l))
	return l
}

// serve serves on l, if it is not nil, until ctx ends or metrics are turned on
// or off.
func (p *metricsPort) serve(ctx context.Context, l net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		defer cancel()
		for {
			select {
			case <-p.changed:
				if p.rt.metrics.Enabled() != (l != nil) {
					return
				}
			case <-ctx.Done():
				return
			}
		}
	})
	if l == nil {
		<-ctx.Done()
		return nil
	}
	err := p.rt.metrics.Serve(ctx, l)
	cancel()
	return err
}

// measuredApp is the transport to the application, measured: its HTTP requests.
// gRPC calls are measured by who makes them, for their end does not show here.
type measuredApp struct {
	rt *Runtime
	to proxy.RoundTripper
}

// RoundTrip implements proxy.RoundTripper.
func (a *measuredApp) RoundTrip(ctx context.Context, r *proxy.Request, o proxy.RoundTripOptions) (*proxy.Response, error) {
	m := a.rt.metrics
	if !m.Enabled() || rpc.IsGRPC(r.Header) {
		return a.to.RoundTrip(ctx, r, o)
	}
	began := time.Now()
	method, path, sent := r.Method, r.Path(), r.ContentLength
	resp, err := a.to.RoundTrip(ctx, r, o)
	status, received := http.StatusInternalServerError, int64(0)
	if err == nil {
		status, received = resp.Status, resp.ContentLength
	}
	if h := &a.rt.cfg.AppHealth; h.Enabled && method == "GET" && path == h.Path {
		m.HTTPProbed(status, time.Since(began))
		return resp, err
	}
	m.HTTPCalled(telemetry.HTTPRequest{
		Method: method, Path: path, Status: status, Received: received, Sent: sent, Duration: time.Since(began),
	})
	return resp, err
}
