package telemetry

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"sync/atomic"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/stdout/stdouttrace"
	//lint:ignore SA1019 existing Configurations name Zipkin collectors; OTLP is what new ones should use
	"go.opentelemetry.io/otel/exporters/zipkin"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	oteltrace "go.opentelemetry.io/otel/trace"

	"github.com/proa-io/proa/fault"
)

// TracingOptions say which calls are traced and where spans go. Without an
// exporter nothing is sampled.
type TracingOptions struct {
	Service      Service
	SamplingRate float64 // 0 to 1, of traces that did not come sampled

	Stdout    io.Writer // spans as JSON; nil for none
	ZipkinURL string    // Zipkin's API v2, with the path; "" for none
	OTLP      *OTLP     // nil for none

	// Log is told when a collector takes nothing; may be nil.
	Log *slog.Logger
}

// Tracing decides which calls are sampled and exports their spans in the
// background. It is safe for concurrent use.
type Tracing struct{ now atomic.Pointer[pipeline] }

// pipeline is what Replace replaces.
type pipeline struct {
	provider *sdktrace.TracerProvider // nil without an exporter
	tracer   oteltrace.Tracer
	rate     float64
}

// NewTracing returns a Tracing. It does not wait for any collector.
func NewTracing(ctx context.Context, o TracingOptions) (*Tracing, error) {
	exporters, err := exportersOf(o)
	if err != nil {
		return nil, err
	}
	t := &Tracing{}
	if len(exporters) == 0 {
		t.now.Store(&pipeline{})
		return t, nil
	}
	about, err := o.Service.resource(ctx)
	if err != nil {
		return nil, err
	}
	opts := []sdktrace.TracerProviderOption{
		sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.AlwaysSample())), // Begin decides
		sdktrace.WithResource(about),
	}
	for _, e := range exporters {
		opts = append(opts, sdktrace.WithBatcher(e))
	}
	p := &pipeline{provider: sdktrace.NewTracerProvider(opts...), rate: o.SamplingRate}
	p.tracer = p.provider.Tracer(scope, oteltrace.WithInstrumentationVersion(o.Service.Version))
	t.now.Store(p)
	return t, nil
}

// scope is the instrumentation scope of all signals.
const scope = "github.com/proa-io/proa"

func exportersOf(o TracingOptions) ([]sdktrace.SpanExporter, error) {
	var out []sdktrace.SpanExporter
	add := func(to string, open func(context.Context) (sdktrace.SpanExporter, error)) {
		out = append(out, &spanSink{lazy[sdktrace.SpanExporter]{open: open, report: newReporter(o.Log, "traces", to)}})
	}
	if o.Stdout != nil {
		e, err := stdouttrace.New(stdouttrace.WithWriter(o.Stdout))
		if err != nil {
			return nil, err
		}
		add("stdout", func(context.Context) (sdktrace.SpanExporter, error) { return e, nil })
	}
	if o.ZipkinURL != "" {
		e, err := zipkin.New(o.ZipkinURL)
		if err != nil {
			return nil, fmt.Errorf("zipkin exporter: %w", err)
		}
		add(o.ZipkinURL, func(context.Context) (sdktrace.SpanExporter, error) { return e, nil })
	}
	if o.OTLP != nil {
		add(o.OTLP.address(tracesPath), o.OTLP.spans)
	}
	return out, nil
}

// Replace makes t sample and export as other does from now on, which is of no
// other use any more. Spans that were begun before go where t sent them; the
// Tracing it returns stands for that, and must be shut down once they have
// ended.
func (t *Tracing) Replace(other *Tracing) (former *Tracing) {
	former = &Tracing{}
	former.now.Store(t.now.Swap(other.now.Load()))
	return former
}

// Enabled reports whether spans go anywhere.
func (t *Tracing) Enabled() bool { return t != nil && t.now.Load().enabled() }

func (p *pipeline) enabled() bool { return p != nil && p.provider != nil }

// Begin returns the trace context of a call that came with the given
// traceparent and tracestate fields: theirs, or that of a new trace, sampled
// or not as the rate says.
func (t *Tracing) Begin(traceparent, tracestate string) TraceContext {
	if traceparent != "" {
		if tc, ok := ParseTraceparent(traceparent); ok {
			tc.State = tracestate
			return tc
		}
	}
	rate := 0.0
	if t.Enabled() {
		rate = t.now.Load().rate
	}
	return NewTrace(rate > 0 && (rate >= 1 || rand.Float64() < rate)) //nolint:gosec // sampling
}

// Span is a span that is being recorded; the zero value records nothing.
type Span struct{ span oteltrace.Span }

// Start begins a span below the trace context of ctx if that is sampled, and
// returns a context with the span's own trace context. If not, it returns ctx
// and a Span that records nothing, at the cost of one look-up.
func (t *Tracing) Start(ctx context.Context, name string, attributes ...attribute.KeyValue) (context.Context, Span) {
	if t == nil {
		return ctx, Span{}
	}
	now := t.now.Load()
	if !now.enabled() {
		return ctx, Span{}
	}
	tc, ok := TraceFrom(ctx)
	if !ok || !tc.Sampled() {
		return ctx, Span{}
	}
	state, err := oteltrace.ParseTraceState(tc.State)
	if err != nil {
		state = oteltrace.TraceState{}
	}
	parent := oteltrace.ContextWithRemoteSpanContext(ctx, oteltrace.NewSpanContext(oteltrace.SpanContextConfig{
		TraceID: tc.TraceID, SpanID: tc.SpanID, TraceFlags: oteltrace.TraceFlags(tc.Flags), TraceState: state, Remote: true,
	}))
	_, span := now.tracer.Start(parent, name, oteltrace.WithAttributes(attributes...))
	tc.SpanID = span.SpanContext().SpanID()
	return WithTrace(ctx, tc), Span{span}
}

// End ends the span with how the call ended.
func (s Span) End(err error) {
	if s.span == nil {
		return
	}
	if err != nil {
		s.span.SetStatus(codes.Error, fault.Message(err))
		s.span.SetAttributes(attribute.String("proa.code", fault.CodeOf(err).String()))
	}
	s.span.End()
}

// Shutdown exports what is left.
func (t *Tracing) Shutdown(ctx context.Context) error {
	if !t.Enabled() {
		return nil
	}
	return t.now.Load().provider.Shutdown(ctx)
}
