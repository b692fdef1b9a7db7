package telemetry

import (
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/exporters/stdout/stdouttrace"
	//lint:ignore SA1019 existing Configurations name Zipkin collectors; OTLP is what new ones should use
	"go.opentelemetry.io/otel/exporters/zipkin"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	oteltrace "go.opentelemetry.io/otel/trace"

	"github.com/proa-io/proa/fault"
)

// TraceContext is the W3C trace context of a call: which trace it belongs to,
// and which span caused it. It is a plain value; the zero value belongs to no
// trace.
type TraceContext struct {
	TraceID [16]byte
	SpanID  [8]byte
	Flags   byte   // bit 0: sampled
	State   string // tracestate, as it came
}

// ParseTraceparent reads a traceparent field (W3C Trace Context, section 3.2).
// Any future version that begins like version 00 is accepted, as the
// specification asks.
func ParseTraceparent(s string) (TraceContext, bool) {
	var t TraceContext
	if len(s) < 55 || s[2] != '-' || s[35] != '-' || s[52] != '-' {
		return t, false
	}
	var version, flags [1]byte
	if !unhex(version[:], s[0:2]) || version[0] == 0xff || len(s) > 55 && (version[0] == 0 || s[55] != '-') {
		return t, false
	}
	if !unhex(t.TraceID[:], s[3:35]) || !unhex(t.SpanID[:], s[36:52]) || !unhex(flags[:], s[53:55]) {
		return TraceContext{}, false
	}
	t.Flags = flags[0]
	if t.TraceID == [16]byte{} || t.SpanID == [8]byte{} {
		return TraceContext{}, false
	}
	return t, true
}

// unhex decodes lower-case hexadecimal only, as the specification demands.
func unhex(dst []byte, s string) bool {
	for i := range dst {
		hi, lo := hexDigit(s[2*i]), hexDigit(s[2*i+1])
		if hi > 15 || lo > 15 {
			return false
		}
		dst[i] = hi<<4 | lo
	}
	return true
}

func hexDigit(c byte) byte {
	switch {
	case '0' <= c && c <= '9':
		return c - '0'
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10
	}
	return 0xff
}

// NewTrace starts a trace with random ids.
func NewTrace(sampled bool) TraceContext {
	var t TraceContext
	for t.TraceID == [16]byte{} {
		putUint64(t.TraceID[:8], rand.Uint64()) //nolint:gosec // ids need no secrecy
		putUint64(t.TraceID[8:], rand.Uint64()) //nolint:gosec // ids need no secrecy
	}
	for t.SpanID == [8]byte{} {
		putUint64(t.SpanID[:], rand.Uint64()) //nolint:gosec // ids need no secrecy
	}
	if sampled {
		t.Flags = 1
	}
	return t
}

func putUint64(b []byte, v uint64) {
	for i := range 8 {
		b[i] = byte(v >> (8 * i))
	}
}

// IsValid reports whether t belongs to a trace.
func (t TraceContext) IsValid() bool { return t.TraceID != [16]byte{} }

// Sampled reports whether the trace is recorded.
func (t TraceContext) Sampled() bool { return t.Flags&1 != 0 }

// Traceparent returns t in the form of the traceparent field.
func (t TraceContext) Traceparent() string {
	var b [55]byte
	copy(b[:], "00-")
	hex.Encode(b[3:35], t.TraceID[:])
	b[35] = '-'
	hex.Encode(b[36:52], t.SpanID[:])
	b[52] = '-'
	hex.Encode(b[53:], []byte{t.Flags})
	return string(b[:])
}

type traceKey struct{}

// WithTrace returns a context that carries t.
func WithTrace(ctx context.Context, t TraceContext) context.Context {
	return context.WithValue(ctx, traceKey{}, t)
}

// TraceFrom returns the trace context that ctx carries.
func TraceFrom(ctx context.Context) (TraceContext, bool) {
	t, ok := ctx.Value(traceKey{}).(TraceContext)
	return t, ok
}

// TracingOptions say which calls are traced and where spans go. Without an
// exporter nothing is sampled that did not come sampled.
type TracingOptions struct {
	AppID        string
	Namespace    string
	SamplingRate float64 // 0 to 1, for traces that begin here

	Stdout io.Writer // spans as JSON; nil for none

	ZipkinURL string

	OTLPProtocol string // "grpc" or "http"
	OTLPEndpoint string // "host:port", or a URL
	OTLPInsecure bool
	OTLPHeaders  map[string]string
	OTLPTimeout  time.Duration
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
	exporters, err := exportersOf(ctx, o)
	if err != nil {
		return nil, err
	}
	t := &Tracing{}
	if len(exporters) == 0 {
		t.now.Store(&pipeline{})
		return t, nil
	}
	opts := []sdktrace.TracerProviderOption{
		sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.AlwaysSample())), // start decides
		sdktrace.WithResource(resource.NewSchemaless(
			attribute.String("service.name", o.AppID), attribute.String("service.namespace", o.Namespace))),
	}
	for _, e := range exporters {
		opts = append(opts, sdktrace.WithBatcher(e))
	}
	p := &pipeline{provider: sdktrace.NewTracerProvider(opts...), rate: o.SamplingRate}
	p.tracer = p.provider.Tracer("github.com/proa-io/proa")
	t.now.Store(p)
	return t, nil
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

func exportersOf(ctx context.Context, o TracingOptions) ([]sdktrace.SpanExporter, error) {
	var out []sdktrace.SpanExporter
	add := func(e sdktrace.SpanExporter, err error) error {
		if err == nil {
			out = append(out, e)
		}
		return err
	}
	if o.Stdout != nil {
		if err := add(stdouttrace.New(stdouttrace.WithWriter(o.Stdout))); err != nil {
			return nil, err
		}
	}
	if o.ZipkinURL != "" {
		if err := add(zipkin.New(o.ZipkinURL)); err != nil {
			return nil, fmt.Errorf("zipkin exporter: %w", err)
		}
	}
	if o.OTLPEndpoint != "" {
		var err error
		if strings.HasPrefix(o.OTLPProtocol, "http") {
			err = add(otlpHTTP(ctx, o))
		} else {
			err = add(otlpGRPC(ctx, o))
		}
		if err != nil {
			return nil, fmt.Errorf("otlp exporter: %w", err)
		}
	}
	return out, nil
}

func otlpHTTP(ctx context.Context, o TracingOptions) (sdktrace.SpanExporter, error) {
	opts := []otlptracehttp.Option{otlptracehttp.WithHeaders(o.OTLPHeaders)}
	if u, err := url.Parse(o.OTLPEndpoint); err == nil && u.Host != "" && strings.HasPrefix(u.Scheme, "http") {
		if u.Path == "" || u.Path == "/" {
			u.Path = "/v1/traces"
		}
		opts = append(opts, otlptracehttp.WithEndpointURL(u.String()))
	} else {
		opts = append(opts, otlptracehttp.WithEndpoint(o.OTLPEndpoint))
		if o.OTLPInsecure {
			opts = append(opts, otlptracehttp.WithInsecure())
		}
	}
	if o.OTLPTimeout > 0 {
		opts = append(opts, otlptracehttp.WithTimeout(o.OTLPTimeout))
	}
	return otlptracehttp.New(ctx, opts...)
}

func otlpGRPC(ctx context.Context, o TracingOptions) (sdktrace.SpanExporter, error) {
	opts := []otlptracegrpc.Option{otlptracegrpc.WithHeaders(o.OTLPHeaders)}
	if strings.Contains(o.OTLPEndpoint, "://") {
		opts = append(opts, otlptracegrpc.WithEndpointURL(o.OTLPEndpoint))
	} else {
		opts = append(opts, otlptracegrpc.WithEndpoint(o.OTLPEndpoint))
		if o.OTLPInsecure {
			opts = append(opts, otlptracegrpc.WithInsecure())
		}
	}
	if o.OTLPTimeout > 0 {
		opts = append(opts, otlptracegrpc.WithTimeout(o.OTLPTimeout))
	}
	return otlptracegrpc.New(ctx, opts...)
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
