package telemetry

import (
	"context"
	"encoding/hex"
	"math/rand/v2"
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

// newTraceID returns a random one.
func newTraceID() (id [16]byte) {
	for id == [16]byte{} {
		putUint64(id[:8], rand.Uint64()) //nolint:gosec // ids need no secrecy
		putUint64(id[8:], rand.Uint64()) //nolint:gosec // ids need no secrecy
	}
	return id
}

// NewTrace starts a trace with random ids.
func NewTrace(sampled bool) TraceContext {
	t := TraceContext{TraceID: newTraceID()}
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
	return &traced{ctx, t}
}

// traced is a context with a trace: one value, where context.WithValue needs
// one more for what it holds.
type traced struct {
	context.Context //nolint:containedctx // it is one
	trace           TraceContext
}

// Value implements context.Context.
func (c *traced) Value(key any) any {
	if _, ok := key.(traceKey); ok {
		return &c.trace
	}
	return c.Context.Value(key)
}

// TraceFrom returns the trace context that ctx carries.
func TraceFrom(ctx context.Context) (TraceContext, bool) {
	t, ok := ctx.Value(traceKey{}).(*TraceContext)
	if !ok {
		return TraceContext{}, false
	}
	return *t, true
}
