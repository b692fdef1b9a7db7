package telemetry

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"

	"go.opentelemetry.io/contrib/bridges/otelslog"
	promotel "go.opentelemetry.io/contrib/bridges/prometheus"
	"go.opentelemetry.io/otel/log"
	"go.opentelemetry.io/otel/log/embedded"
	sdklog "go.opentelemetry.io/otel/sdk/log"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	oteltrace "go.opentelemetry.io/otel/trace"
)

// ExportOptions say which signals besides traces are sent to collectors.
type ExportOptions struct {
	Service Service
	// Metrics is where metrics are sent, as often as
	// OTEL_METRIC_EXPORT_INTERVAL says; nil for nowhere.
	Metrics *OTLP
	// Registry holds the metrics; needed with Metrics.
	Registry *Metrics
	Logs     *OTLP // nil for nowhere

	// Log is told when a collector takes nothing; may be nil. What it is told is
	// not exported.
	Log *slog.Logger
}

// Export sends metrics and log lines to collectors in the background. Nothing
// waits for a collector: what it does not take in time is dropped. It is safe
// for concurrent use.
type Export struct{ now atomic.Pointer[exports] }

// exports is what Replace replaces.
type exports struct {
	metrics *sdkmetric.MeterProvider // nil for none
	logs    *sdklog.LoggerProvider   // nil for none
	logger  log.Logger               // of logs
}

// NewExport returns an Export. It does not wait for any collector.
func NewExport(ctx context.Context, o ExportOptions) (*Export, error) {
	e, now := &Export{}, &exports{}
	e.now.Store(now)
	if o.Metrics == nil && o.Logs == nil {
		return e, nil
	}
	about, err := o.Service.resource(ctx)
	if err != nil {
		return nil, err
	}
	if o.Metrics != nil {
		sink := &metricSink{lazy[sdkmetric.Exporter]{open: o.Metrics.metrics, report: newReporter(o.Log, "metrics", o.Metrics.address(metricsPath))}}
		bridge := promotel.NewMetricProducer(promotel.WithGatherer(o.Registry.Registry()))
		reader := sdkmetric.NewPeriodicReader(sink, sdkmetric.WithProducer(bridge))
		now.metrics = sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader), sdkmetric.WithResource(about))
	}
	if o.Logs != nil {
		sink := &logSink{lazy[sdklog.Exporter]{open: o.Logs.logs, report: newReporter(o.Log, "logs", o.Logs.address(logsPath))}}
		now.logs = sdklog.NewLoggerProvider(sdklog.WithProcessor(sdklog.NewBatchProcessor(sink)), sdklog.WithResource(about))
		now.logger = now.logs.Logger(scope, log.WithInstrumentationVersion(o.Service.Version))
	}
	return e, nil
}

// Replace makes e send what other would, which is of no other use any more. The
// Export it returns stands for what e did before, and must be shut down.
func (e *Export) Replace(other *Export) (former *Export) {
	former = &Export{}
	former.now.Store(e.now.Swap(other.now.Load()))
	return former
}

// Shutdown sends what is left. It returns when that is done, or ctx ends.
func (e *Export) Shutdown(ctx context.Context) error {
	if e == nil {
		return nil
	}
	now := e.now.Load()
	var errs []error
	if now.metrics != nil {
		errs = append(errs, now.metrics.Shutdown(ctx))
	}
	if now.logs != nil {
		errs = append(errs, now.logs.Shutdown(ctx))
	}
	return errors.Join(errs...)
}

// Log returns a logger that writes what to does; that adds the trace and the
// span of the call that a line is about, when its context has one; and that
// sends lines to the collector of e, from to's level on.
func (e *Export) Log(to *slog.Logger) *slog.Logger {
	sent := otelslog.NewHandler(scope, otelslog.WithLoggerProvider(lines{of: e}))
	return slog.New(&tee{own: to.Handler(), sent: sent, to: e})
}

// tee hands a record to two handlers.
type tee struct {
	own, sent slog.Handler
	to        *Export
}

// Enabled implements slog.Handler.
func (t *tee) Enabled(ctx context.Context, level slog.Level) bool { return t.own.Enabled(ctx, level) }

// Handle implements slog.Handler.
func (t *tee) Handle(ctx context.Context, r slog.Record) error {
	if t.to.now.Load().logs != nil {
		_ = t.sent.Handle(ctx, r) // it only puts it into a queue
	}
	if tc, ok := TraceFrom(ctx); ok && tc.IsValid() {
		r = r.Clone()
		id := tc.Traceparent()
		r.AddAttrs(slog.String("trace_id", id[3:35]), slog.String("span_id", id[36:52]))
	}
	return t.own.Handle(ctx, r)
}

// WithAttrs implements slog.Handler.
func (t *tee) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &tee{own: t.own.WithAttrs(attrs), sent: t.sent.WithAttrs(attrs), to: t.to}
}

// WithGroup implements slog.Handler.
func (t *tee) WithGroup(name string) slog.Handler {
	return &tee{own: t.own.WithGroup(name), sent: t.sent.WithGroup(name), to: t.to}
}

// lines is the provider of loggers that send to what an Export has at the
// time.
type lines struct {
	embedded.LoggerProvider
	of *Export
}

// Logger implements log.LoggerProvider.
func (p lines) Logger(string, ...log.LoggerOption) log.Logger { return liner{of: p.of} }

type liner struct {
	embedded.Logger
	of *Export
}

// Emit implements log.Logger.
func (l liner) Emit(ctx context.Context, r log.Record) {
	if to := l.of.now.Load().logger; to != nil {
		to.Emit(withSpanContext(ctx), r)
	}
}

// Enabled implements log.Logger.
func (l liner) Enabled(ctx context.Context, p log.EnabledParameters) bool {
	to := l.of.now.Load().logger
	return to != nil && to.Enabled(ctx, p)
}

// withSpanContext makes the trace of ctx known to the SDK.
func withSpanContext(ctx context.Context) context.Context {
	tc, ok := TraceFrom(ctx)
	if !ok {
		return ctx
	}
	return oteltrace.ContextWithSpanContext(ctx, oteltrace.NewSpanContext(oteltrace.SpanContextConfig{
		TraceID: tc.TraceID, SpanID: tc.SpanID, TraceFlags: oteltrace.TraceFlags(tc.Flags),
	}))
}
