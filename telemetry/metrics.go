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
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Metrics holds the metrics of one process, under the names that Dapr gives
// them and, for what Dapr has no name for, under names that begin with "proa_";
// see Descriptions. It is safe for concurrent use. A nil *Metrics measures
// nothing.
type Metrics struct {
	appID, namespace string
	registry         *prometheus.Registry
	now              atomic.Pointer[generation]
	configuring      sync.Mutex
}

// NewMetrics returns empty metrics of an application, with the default
// settings.
func NewMetrics(appID, namespace string) *Metrics {
	m := &Metrics{appID: appID, namespace: namespace, registry: prometheus.NewRegistry()}
	g, err := newGeneration(m, DefaultMetricSettings())
	if err != nil {
		panic(err) // the default settings are well-formed; the tests say so
	}
	m.now.Store(g)
	g.set(reloadOK, 1, values{})
	m.registry.MustRegister(present{m},
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// present collects what the settings of the moment measure.
type present struct{ m *Metrics }

// Describe implements prometheus.Collector. It names nothing, since what is
// collected changes with the settings.
func (p present) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (p present) Collect(ch chan<- prometheus.Metric) { p.m.now.Load().collect(ch) }

// Configure takes settings into use. Counters and gauges keep their values as
// far as their labels stay what they are; histograms, and the counters that go
// with them, begin anew.
func (m *Metrics) Configure(s MetricSettings) error {
	if m == nil {
		return nil
	}
	m.configuring.Lock()
	defer m.configuring.Unlock()
	g, err := newGeneration(m, s)
	if err != nil {
		return err
	}
	g.carry(m.now.Load())
	m.now.Store(g)
	return nil
}

// Enabled reports whether anything is measured.
func (m *Metrics) Enabled() bool { return m != nil && !m.now.Load().settings.Disabled }

// Registry returns the registry that has all metrics, whatever the settings
// are.
func (m *Metrics) Registry() *prometheus.Registry { return m.registry }

// number is 1 for true.
func number(yes bool) int64 {
	if yes {
		return 1
	}
	return 0
}

// ComponentReady records whether a component is open.
func (m *Metrics) ComponentReady(component, typ string, ready bool) {
	if m == nil {
		return
	}
	m.now.Load().set(componentReady, number(ready), values{component, typ})
}

// ComponentGone forgets a component that no longer exists.
func (m *Metrics) ComponentGone(component, typ string) {
	if m != nil {
		m.now.Load().vectors[componentReady].forget(values{component, typ})
	}
}

// ComponentLoaded counts a component that was declared and could be built.
func (m *Metrics) ComponentLoaded() {
	if m != nil {
		m.now.Load().count(componentLoaded, 1, values{})
	}
}

// ComponentOpened counts an attempt to open a component; a nil error stands
// for success.
func (m *Metrics) ComponentOpened(component, typ string, err error) {
	switch {
	case m == nil:
	case err == nil:
		m.now.Load().count(componentInit, 1, values{typ})
	default:
		m.now.Load().count(componentInitFail, 1, values{typ, "init", component})
	}
}

// Reloaded counts a change of the resources and records whether those that are
// there now are in use.
func (m *Metrics) Reloaded(result string, ok bool) {
	if m == nil {
		return
	}
	g := m.now.Load()
	g.count(reloads, 1, values{result})
	g.set(reloadOK, number(ok), values{})
}

// IdentityEnds records when the certificate of this sidecar ends, and when the
// last authority does that it trusts.
func (m *Metrics) IdentityEnds(leaf, roots time.Time) {
	if m == nil {
		return
	}
	g := m.now.Load()
	g.set(identityExpiry, leaf.Unix(), values{"leaf"})
	g.set(identityExpiry, roots.Unix(), values{"root"})
}

// IdentityRotated counts another certificate of this sidecar or, with roots, a
// change of the authorities that it trusts.
func (m *Metrics) IdentityRotated(roots bool) {
	switch {
	case m == nil:
	case roots:
		m.now.Load().count(identityRotations, 1, values{"root"})
	default:
		m.now.Load().count(identityRotations, 1, values{"leaf"})
	}
}

// IdentityFailed counts a failure to renew the certificate of this sidecar.
func (m *Metrics) IdentityFailed() {
	if m != nil {
		m.now.Load().count(identityFailures, 1, values{})
	}
}

// ErrorCode counts an error that a caller of the API was told of, by its code
// and the part of the API that the code belongs to. It counts only when the
// settings ask for it.
func (m *Metrics) ErrorCode(code, category string) {
	if m == nil {
		return
	}
	if g := m.now.Load(); g.settings.RecordErrorCodes {
		g.count(errorCodes, 1, values{code, category})
	}
}

// accessDropped counts lines of the access log that were dropped.
func (m *Metrics) accessDropped(n int) {
	if m != nil {
		m.now.Load().count(accessLogDropped, int64(n), values{})
	}
}

// apiCallDropped counts a call of the API that is not in the log.
func (m *Metrics) apiCallDropped() {
	if m != nil {
		m.now.Load().count(apiLogDropped, 1, values{})
	}
}

// PathTemplate returns a path of a request without what differs from call to
// call, as metrics show it: that of a template, or without the keys of states,
// names of secrets and ids of actors and workflows.
func (m *Metrics) PathTemplate(path string) string {
	if m != nil {
		if g := m.now.Load(); g.paths != nil {
			if found := g.pathLabel(path); found != "" {
				return found
			}
		}
	}
	return generalPath(path)
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
