package telemetry

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"strings"
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
	// ParentBased leaves traces alone that came not sampled.
	ParentBased bool

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
	// Traces are recorded whose ids end in less than bound; parentBased tells
	// that what came with another trace is recorded as that says.
	bound       uint64
	parentBased bool
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
	p := &pipeline{provider: sdktrace.NewTracerProvider(opts...), bound: bound(o.SamplingRate), parentBased: o.ParentBased}
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

// Decide returns came, the trace context that a call came with, or zero for
// none, as it is to go on: recorded or not.
//
// What came recorded stays so. Anything else is recorded as the rate says, for
// many clients send a trace context that is never recorded; the decision
// depends on nothing but the id of the trace, so that all sidecars with one rate
// decide alike. Where OTEL_TRACES_SAMPLER asks for it, what came not recorded
// stays so too. A call that came with none and is not to be recorded gets none;
// one that is to be recorded gets an id, and no span until Start is called.
func (t *Tracing) Decide(came TraceContext) TraceContext {
	if came.Sampled() || t == nil {
		return came
	}
	now := t.now.Load()
	if !now.enabled() || now.bound == 0 || came.IsValid() && now.parentBased {
		return came
	}
	decided := came
	if !came.IsValid() {
		decided.TraceID = newTraceID()
	}
	if binary.BigEndian.Uint64(decided.TraceID[8:])>>1 >= now.bound {
		return came
	}
	decided.Flags |= 1
	return decided
}

// bound returns what the last 63 bits of the ids of traces that are recorded at
// a rate are smaller than.
func bound(rate float64) uint64 {
	if rate >= 1 {
		return 1 << 63
	}
	return uint64(max(rate, 0) * (1 << 63))
}

// Begin returns the trace context of a call that came with the given
// traceparent and tracestate fields, as Decide says, or one of its own that is
// not recorded.
func (t *Tracing) Begin(traceparent, tracestate string) TraceContext {
	came, ok := ParseTraceparent(traceparent)
	if ok {
		came.State = tracestate
	}
	if decided := t.Decide(came); decided.IsValid() {
		return decided
	}
	return NewTrace(false)
}

// Kind says which end of a call a span stands for.
type Kind byte

// The kinds of spans.
const (
	Internal Kind = iota
	Client        // of a call that leaves for another process
	Server        // of a call that came from another process
)

// SpanInfo is what is known of a span when it begins.
type SpanInfo struct {
	Name string
	Kind Kind
	// Attributes are names and values, one after the other. Empty values are
	// left out.
	Attributes []string
}

// Span is a span that is being recorded; the zero value records nothing.
type Span struct{ span oteltrace.Span }

// Recording reports whether the span records anything.
func (s Span) Recording() bool { return s.span != nil }

// Rename gives the span another name.
func (s Span) Rename(name string) {
	if s.span != nil {
		s.span.SetName(strings.ToValidUTF8(name, "\uFFFD"))
	}
}

// Set adds attributes: names and values, one after the other. Empty values are
// left out.
func (s Span) Set(attributes ...string) {
	if s.span != nil {
		s.span.SetAttributes(textAttributes(attributes)...)
	}
}

func textAttributes(list []string) []attribute.KeyValue {
	out := make([]attribute.KeyValue, 0, len(list)/2)
	for i := 0; i+1 < len(list); i += 2 {
		if list[i+1] != "" {
			out = append(out, attribute.String(list[i], strings.ToValidUTF8(list[i+1], "\uFFFD")))
		}
	}
	return out
}

// Records reports whether a span that is started with ctx records anything.
func (t *Tracing) Records(ctx context.Context) bool {
	if !t.Enabled() {
		return false
	}
	tc, ok := TraceFrom(ctx)
	return ok && tc.Sampled()
}

// StartSpan begins a span below the trace context of ctx if that is recorded,
// and returns a context with the span's own trace context. If not, it returns
// ctx and a Span that records nothing. Who calls it for each call asks Records
// first, so that i costs nothing in vain.
func (t *Tracing) StartSpan(ctx context.Context, i SpanInfo) (context.Context, Span) {
	return t.start(ctx, strings.ToValidUTF8(i.Name, "\uFFFD"), i.Kind, textAttributes(i.Attributes))
}

// Start is StartSpan for an internal span whose attributes are at hand.
func (t *Tracing) Start(ctx context.Context, name string, attributes ...attribute.KeyValue) (context.Context, Span) {
	return t.start(ctx, name, Internal, attributes)
}

func (t *Tracing) start(ctx context.Context, name string, kind Kind, attributes []attribute.KeyValue) (context.Context, Span) {
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
	_, span := now.tracer.Start(parent, name, oteltrace.WithSpanKind(kindOf(kind)), oteltrace.WithAttributes(attributes...))
	tc.SpanID = span.SpanContext().SpanID()
	return WithTrace(ctx, tc), Span{span}
}

func kindOf(k Kind) oteltrace.SpanKind {
	switch k {
	case Client:
		return oteltrace.SpanKindClient
	case Server:
		return oteltrace.SpanKindServer
	}
	return oteltrace.SpanKindInternal
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

// Fail marks the span as failed, with a text that holds no secret.
func (s Span) Fail(text string) {
	if s.span != nil {
		s.span.SetStatus(codes.Error, strings.ToValidUTF8(text, "\uFFFD"))
	}
}

// Shutdown exports what is left.
func (t *Tracing) Shutdown(ctx context.Context) error {
	if !t.Enabled() {
		return nil
	}
	return t.now.Load().provider.Shutdown(ctx)
}
