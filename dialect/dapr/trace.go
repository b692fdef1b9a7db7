package dapr

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/proa-io/proa/telemetry"
)

// The names of the fields of a trace (W3C Trace Context; W3C Baggage).
const (
	TraceParent = "traceparent"
	TraceState  = "tracestate"
	Baggage     = "baggage"
)

// TraceFields are the fields of a request that tell what trace it belongs to,
// as they came; empty for those that did not come.
type TraceFields struct{ Parent, State, Baggage string }

// Begin returns a context for the call that came with f: with the trace of f,
// or with a new one when none came and it is to be recorded. Where neither is
// so it returns ctx, at no cost. It reports whether the call is to be recorded.
func (f TraceFields) Begin(ctx context.Context, t *telemetry.Tracing) (context.Context, bool) {
	came, ok := telemetry.ParseTraceparent(f.Parent)
	if ok {
		came.State = f.State
	}
	if t.Enabled() {
		came = t.Decide(came)
		ok = came.IsValid()
	}
	if !ok {
		return ctx, false
	}
	return telemetry.WithTrace(ctx, came), came.Sampled() && t.Enabled()
}

// Current returns the trace fields of the call whose context is ctx, for what
// it sends on: those of f unless ctx has a trace of its own.
func (f TraceFields) Current(ctx context.Context) (parent, state string) {
	tc, ok := telemetry.TraceFrom(ctx)
	if !ok {
		return "", ""
	}
	if came, ok := telemetry.ParseTraceparent(f.Parent); ok && came.TraceID == tc.TraceID && came.SpanID == tc.SpanID && came.Flags == tc.Flags {
		return f.Parent, f.State
	}
	return tc.Traceparent(), tc.State
}

// Bounds of a baggage (W3C Baggage, section 3.3.2).
const (
	maxBaggage        = 8192
	maxBaggageMembers = 180
)

// CheckBaggage reports whether a baggage field, several of them joined by
// commas, has the form that W3C Baggage, section 3.3.1, gives it.
func CheckBaggage(text string) error {
	if len(text) > maxBaggage {
		return fmt.Errorf("invalid baggage header: it has %d bytes; the most is %d", len(text), maxBaggage)
	}
	members := 0
	for member := range strings.SplitSeq(text, ",") {
		if members++; members > maxBaggageMembers {
			return fmt.Errorf("invalid baggage header: it has more than %d members", maxBaggageMembers)
		}
		if err := checkMember(member); err != nil {
			return fmt.Errorf("invalid baggage header: member %d %w", members, err)
		}
	}
	return nil
}

func checkMember(member string) error {
	pair, properties, some := strings.Cut(member, ";")
	key, value, ok := strings.Cut(pair, "=")
	switch {
	case !ok:
		return errors.New(`wants "key=value"`)
	case !IsToken(trimOWS(key)):
		return errors.New("has a key that is not a token")
	case !isBaggageValue(trimOWS(value)):
		return errors.New("has a value with characters that must be percent-encoded")
	}
	if !some {
		return nil
	}
	for property := range strings.SplitSeq(properties, ";") {
		key, value, _ := strings.Cut(property, "=")
		if !IsToken(trimOWS(key)) || !isBaggageValue(trimOWS(value)) {
			return errors.New("has a property that is not one")
		}
	}
	return nil
}

func trimOWS(s string) string { return strings.Trim(s, " \t") }

// IsToken reports whether s is a token (RFC 9110, section 5.6.2), as the name of
// a header field must be.
func IsToken(s string) bool {
	for i := range len(s) {
		c := s[i]
		if c <= ' ' || c >= 0x7f || strings.IndexByte(`"(),/:;<=>?@[\]{}`, c) >= 0 {
			return false
		}
	}
	return s != ""
}

func isBaggageValue(s string) bool {
	for i := range len(s) {
		c := s[i]
		if c <= ' ' || c >= 0x7f || c == '"' || c == ',' || c == ';' || c == '\\' {
			return false
		}
	}
	return true
}
