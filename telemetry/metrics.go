// Package telemetry measures and traces what the process does: counters and
// histograms that are bound before the first call, trace context that costs
// nothing unless a call is sampled, and the logger.
//
// Nothing here is global: the composition root makes one of each and hands
// them down.
package telemetry

import (
	"context"
	"errors"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/proa-io/proa/fault"
)

// Metrics holds the metrics of one process. It is safe for concurrent use.
type Metrics struct {
	registry *prometheus.Registry
	calls    *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	retries  *prometheus.CounterVec
	breaker  *prometheus.GaugeVec
	ready    *prometheus.GaugeVec
	reloads  *prometheus.CounterVec
	reloadOK prometheus.Gauge
}

// NewMetrics returns empty metrics; every one of them carries the labels
// app_id and namespace.
func NewMetrics(appID, namespace string) *Metrics {
	constant := prometheus.Labels{"app_id": appID, "namespace": namespace}
	call := []string{"block", "component", "op", "direction"}
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		calls: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "proa_calls_total", Help: "Calls that crossed the waist, by how they ended.", ConstLabels: constant,
		}, append(call, "code")),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "proa_call_seconds", Help: "How long calls took, retries included.", ConstLabels: constant,
			Buckets: []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
		}, call),
		retries: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "proa_call_retries_total", Help: "Tries after the first.", ConstLabels: constant,
		}, call),
		breaker: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "proa_circuit_breaker_state", Help: "0 closed, 1 half-open, 2 open.", ConstLabels: constant,
		}, []string{"target"}),
		ready: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "proa_component_ready", Help: "1 when the component is open.", ConstLabels: constant,
		}, []string{"component", "type"}),
		reloads: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "proa_reloads_total", Help: "Changes of the resources, by what came of them: applied or refused.", ConstLabels: constant,
		}, []string{"result"}),
		reloadOK: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "proa_reload_ok", Help: "0 when the resources as they are now were refused, so that former ones serve.", ConstLabels: constant,
		}),
	}
	m.reloadOK.Set(1)
	m.registry.MustRegister(m.calls, m.seconds, m.retries, m.breaker, m.ready, m.reloads, m.reloadOK,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// Registry returns the registry, for collectors of other parts.
func (m *Metrics) Registry() *prometheus.Registry { return m.registry }

// CallStats are the metrics of one operation, looked up once.
type CallStats struct {
	seconds prometheus.Observer
	retries prometheus.Counter
	codes   [32]prometheus.Counter // by fault code; 0 stands for success
}

// Call returns the metrics of an operation. A nil *Metrics returns nil.
func (m *Metrics) Call(block, component, op string, inbound bool) *CallStats {
	if m == nil {
		return nil
	}
	direction := "outbound"
	if inbound {
		direction = "inbound"
	}
	s := &CallStats{
		seconds: m.seconds.WithLabelValues(block, component, op, direction),
		retries: m.retries.WithLabelValues(block, component, op, direction),
	}
	s.codes[0] = m.calls.WithLabelValues(block, component, op, direction, "ok")
	for _, code := range fault.Codes() {
		s.codes[int(code)+1] = m.calls.WithLabelValues(block, component, op, direction, code.String())
	}
	return s
}

// Observe counts one call that took d and ended with err after attempts tries.
func (s *CallStats) Observe(d time.Duration, err error, attempts int) {
	s.seconds.Observe(d.Seconds())
	if attempts > 1 {
		s.retries.Add(float64(attempts - 1))
	}
	if err == nil {
		s.codes[0].Inc()
		return
	}
	s.codes[int(fault.CodeOf(err))+1].Inc()
}

// BreakerState records the state of a circuit breaker.
func (m *Metrics) BreakerState(target string, state float64) {
	if m != nil {
		m.breaker.WithLabelValues(target).Set(state)
	}
}

// ComponentReady records whether a component is open.
func (m *Metrics) ComponentReady(component, typ string, ready bool) {
	if m == nil {
		return
	}
	v := 0.0
	if ready {
		v = 1
	}
	m.ready.WithLabelValues(component, typ).Set(v)
}

// ComponentGone forgets a component that no longer exists.
func (m *Metrics) ComponentGone(component, typ string) {
	if m != nil {
		m.ready.DeleteLabelValues(component, typ)
	}
}

// Reloaded counts a change of the resources and records whether those that are
// there now are in use.
func (m *Metrics) Reloaded(result string, ok bool) {
	if m == nil {
		return
	}
	m.reloads.WithLabelValues(result).Inc()
	v := 0.0
	if ok {
		v = 1
	}
	m.reloadOK.Set(v)
}

// Handler serves the metrics in the text format of Prometheus.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
}

// Serve answers GET / and GET /metrics on l until ctx ends.
func (m *Metrics) Serve(ctx context.Context, l net.Listener) error {
	mux := http.NewServeMux()
	mux.Handle("GET /{$}", m.Handler())
	mux.Handle("GET /metrics", m.Handler())
	return ServeHTTP(ctx, l, mux)
}

// ServeHTTP serves h on l until ctx ends, then lets requests under way finish
// for up to two seconds. It is for pages that people and scrapers read, not
// for the data path.
func ServeHTTP(ctx context.Context, l net.Listener, h http.Handler) error {
	srv := &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second, MaxHeaderBytes: 64 << 10}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l) }()
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	err := srv.Shutdown(drain)
	if err != nil {
		err = srv.Close()
	}
	if served := <-served; !errors.Is(served, http.ErrServerClosed) {
		return served
	}
	return err
}
