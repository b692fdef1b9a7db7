package runtime

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/resource"
	"github.com/proa-io/proa/telemetry"
)

// defaultSamplingRate is the share of calls that are traced when nobody says.
const defaultSamplingRate = 0.0001

// signals are what leaves the process to be looked at: spans, and, where they
// are sent to a collector, metrics and log lines.
type signals struct {
	tracing *telemetry.Tracing
	export  *telemetry.Export
	headers []*headers // for the collectors
}

// sectionsOfSignals is the digest of what a Configuration says of signals.
func sectionsOfSignals(c *resource.Configuration) string {
	return c.Section("tracing") + " " + c.Section("logging") + " " + c.Section("metrics") + " " + c.Section("metric")
}

// newSignals makes what the Configuration asks for, and the environment
// variables of OpenTelemetry where the Configuration leaves it open. Secrets are
// looked up when something is sent for the first time.
func (rt *Runtime) newSignals(ctx context.Context, conf *resource.Configuration) (s signals, err error) {
	env, err := telemetry.ReadEnvironment(os.Getenv)
	if err != nil {
		return s, err
	}
	service := telemetry.Service{Name: rt.cfg.AppID, Namespace: rt.cfg.Namespace, Version: rt.cfg.Version}
	traces := telemetry.TracingOptions{Service: service, OTLP: env.Traces, ParentBased: env.ParentBased, ZipkinURL: env.Zipkin, Log: rt.local}
	others := telemetry.ExportOptions{Service: service, Metrics: env.Metrics, Registry: rt.metrics, Logs: env.Logs, Log: rt.local}
	if env.Console {
		traces.Stdout = os.Stdout
	}
	if !env.Disabled {
		if s.headers, err = rt.configured(conf, &traces, &others); err != nil {
			return s, err
		}
	}
	traces.SamplingRate = conf.SamplingRate(impliedRate(env, conf))
	if s.tracing, err = telemetry.NewTracing(ctx, traces); err != nil {
		return s, err
	}
	s.export, err = telemetry.NewExport(ctx, others)
	return s, err
}

// impliedRate is the share of calls that are traced when the Configuration does
// not say: all of them when variables alone send spans somewhere.
func impliedRate(env telemetry.Environment, conf *resource.Configuration) float64 {
	switch named := conf.Spec.Tracing != nil && conf.Spec.Tracing.Otel != nil; {
	case env.SamplingRate >= 0:
		return env.SamplingRate
	case !named && (env.Traces != nil || env.Zipkin != "" || env.Console):
		return 1
	}
	return defaultSamplingRate
}

// configured adds what the Configuration asks for.
func (rt *Runtime) configured(conf *resource.Configuration, traces *telemetry.TracingOptions, others *telemetry.ExportOptions) (all []*headers, err error) {
	var shared *resource.Otel
	collector := func(signal string, o *resource.Otel) *telemetry.OTLP {
		if o.EndpointAddress == "" && shared != nil {
			o = shared
		}
		out, problem := collectorOf(signal, o)
		if err = errors.Join(err, problem); problem == nil && len(o.Headers) > 0 {
			h := &headers{rt: rt, of: o}
			out.Headers, all = h.get, append(all, h)
		}
		return out
	}
	if t := conf.Spec.Tracing; t != nil {
		if t.Stdout {
			traces.Stdout = os.Stdout
		}
		if t.Zipkin != nil {
			traces.ZipkinURL = t.Zipkin.EndpointAddress
		}
		if shared = t.Otel; shared != nil {
			traces.OTLP = collector("TRACES", shared)
		}
	}
	if m := conf.MetricSettings(); m != nil && m.Otel != nil {
		others.Metrics = collector("METRICS", m.Otel)
	}
	if l := conf.Spec.Logging; l != nil && l.Otel != nil {
		others.Logs = collector("LOGS", l.Otel)
	}
	return all, err
}

// collectorOf returns the collector that o names, or else that of the
// environment variables for the signal.
func collectorOf(signal string, o *resource.Otel) (*telemetry.OTLP, error) {
	out := &telemetry.OTLP{HTTP: o.Protocol == "http", Timeout: o.Timeout.Std()}
	if o.EndpointAddress != "" {
		out.URL, _ = resource.CollectorURL(o.EndpointAddress, o.IsSecure == nil || *o.IsSecure) // it was checked
		return out, nil
	}
	env, err := telemetry.ReadCollector(signal, os.Getenv)
	if err != nil {
		return nil, err
	}
	out.URL, out.Whole = env.URL, env.Whole
	out.HTTP = out.HTTP || o.Protocol == "" && env.HTTP
	return out, nil
}

// headers are those for a collector, which may be in a secret store: they are
// looked up while that is open, and kept.
type headers struct {
	rt *Runtime
	of *resource.Otel

	mu    sync.Mutex
	known map[string]string
}

// get returns the headers.
func (h *headers) get(ctx context.Context) (map[string]string, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.known != nil {
		return h.known, nil
	}
	if h.rt.table.Load() == nil { // a slow start: what is measured meanwhile is sent later
		return nil, fault.New(fault.Unavailable, "the secret stores are not there yet")
	}
	t := h.rt.pinned()
	defer t.release()
	fields, err := h.of.HeaderFields(ctx, h.rt.cfg.identity(), t.lookupSecret)
	if err != nil {
		return nil, err
	}
	h.known = make(map[string]string, len(fields))
	for _, f := range fields {
		h.known[f.Name] = f.Value
	}
	return h.known, nil
}

// warm looks the headers up. What fails is tried again, and said, when something
// is sent.
func (s signals) warm(ctx context.Context) {
	for _, h := range s.headers {
		_, _ = h.get(ctx)
	}
}

// endFormer bounds how long signals that were replaced may take to send what is
// left.
const endFormer = 10 * time.Second

// endSignals sends what is left of signals that were replaced, and says so when
// that fails. Once ctx has ended it takes no longer than a moment.
func (rt *Runtime) endSignals(ctx context.Context, s signals) {
	bound, cancel := context.WithTimeout(context.WithoutCancel(ctx), endFormer)
	defer cancel()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(lastMoment, cancel) })()
	if err := s.end(bound); err != nil {
		rt.local.Warn("the last spans, metrics or log lines were not sent to the former collector", "error", err)
	}
}

// replace makes s what other is, and returns what s was.
func (s signals) replace(other signals) (former signals) {
	return signals{tracing: s.tracing.Replace(other.tracing), export: s.export.Replace(other.export)}
}

// end sends what is left.
func (s signals) end(ctx context.Context) error {
	return errors.Join(s.tracing.Shutdown(ctx), s.export.Shutdown(ctx))
}

// runSignals sends what is left once everything else has stopped: within the
// grace period, but it gets a moment in any case.
func (rt *Runtime) runSignals(ctx context.Context) error {
	rt.signals.warm(ctx)
	<-ctx.Done()
	drain, cancel := Draining(ctx, lastMoment)
	defer cancel()
	if err := rt.signals.end(drain); err != nil {
		return fmt.Errorf("the last spans, metrics or log lines were not sent: %w", err)
	}
	return nil
}

// prepareSignals makes signals that go nowhere, and lets the log lines of the
// process pass them.
func (rt *Runtime) prepareSignals(ctx context.Context) (err error) {
	if rt.signals.tracing, err = telemetry.NewTracing(ctx, telemetry.TracingOptions{}); err != nil {
		return err
	}
	if rt.signals.export, err = telemetry.NewExport(ctx, telemetry.ExportOptions{}); err != nil {
		return err
	}
	rt.local = rt.cfg.Log
	rt.cfg.Log = rt.signals.export.Log(rt.local)
	return nil
}
