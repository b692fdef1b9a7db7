package appchannel

import (
	"context"
	"encoding/base64"
	"strings"

	"github.com/proa-io/proa/dialect/dapr"
	"github.com/proa-io/proa/mesh/proxy"
	"github.com/proa-io/proa/telemetry"
)

// Header fields of callbacks.
const (
	fieldContentType = "content-type"
	fieldAppID       = "dapr-app-id"
	fieldPubSubName  = "pubsubname"

	typeJSON = "application/json"
)

// appendTrace appends the fields of the trace that a call belongs to: that of
// ctx or, where ctx has none, the given one if it is one.
func appendTrace(ctx context.Context, h proxy.Header, parent, state string) proxy.Header {
	if tc, ok := telemetry.TraceFrom(ctx); ok {
		parent, state = tc.Traceparent(), tc.State
	} else if _, ok := telemetry.ParseTraceparent(parent); !ok {
		return h
	}
	h = append(h, proxy.Field{Name: dapr.TraceParent, Value: parent})
	if state != "" && isPlain(state) {
		h = append(h, proxy.Field{Name: dapr.TraceState, Value: state})
	}
	return h
}

// appendMetadata appends the metadata of a message as header fields: names in
// lower case, reserved ones with the prefix "dapr-". Left out is what would
// describe the call instead of the message, and what cannot be a field.
func appendMetadata(h proxy.Header, metadata map[string]string, grpc bool) proxy.Header {
	for name, value := range metadata {
		name = strings.ToLower(name)
		if isOurs(name) {
			continue
		}
		if name, ok := fieldName(name); ok {
			h = appendField(h, name, value, grpc)
		}
	}
	return h
}

// appendField appends a field whose name is a token, with a value that the
// protocol can carry.
func appendField(h proxy.Header, name, value string, grpc bool) proxy.Header {
	binary := strings.HasSuffix(name, "-bin")
	switch {
	case grpc && (!isMetadataName(name) || isGRPCField(name)), !grpc && binary:
		return h
	case binary:
		value = base64.RawStdEncoding.EncodeToString([]byte(value))
	case grpc:
		value = printable(value)
	default:
		value = oneLine(value)
	}
	return append(h, proxy.Field{Name: name, Value: value})
}

// fieldName returns the field that a metadata entry travels in; false when it
// cannot travel.
func fieldName(name string) (string, bool) {
	switch {
	case strings.HasPrefix(name, "grpc-"):
		name = "dapr-" + name
	case strings.HasPrefix(name, ":"):
		name = "dapr-" + name[1:]
	}
	return name, dapr.IsToken(name)
}

// isOurs reports whether a field, in lower case, is the sidecar's to set, or
// belongs to the connection or to the representation that the message was
// published in.
func isOurs(name string) bool {
	switch name {
	case dapr.TokenHeader, dapr.TraceParent, dapr.TraceState, "grpc-trace-bin", fieldPubSubName, "destination-app-id",
		"accept-encoding", "expect", "host", "http2-settings", "connection", "keep-alive", "te", "trailer",
		"transfer-encoding", "upgrade", "proxy-connection", "proxy-authenticate", "proxy-authorization":
		return true
	}
	return strings.HasPrefix(name, "content-")
}

// isGRPCField reports whether a field has a meaning in the gRPC protocol that
// metadata must not take.
func isGRPCField(name string) bool { return name == "user-agent" || strings.HasPrefix(name, "grpc-") }

// isMetadataName reports whether s can name gRPC metadata.
func isMetadataName(s string) bool {
	for i := range len(s) {
		c := s[i]
		if !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' || c == '_' || c == '.') {
			return false
		}
	}
	return s != ""
}

// isPlain reports whether s has no control character.
func isPlain(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}

// oneLine returns s with blanks for control characters, and without blanks
// around.
func oneLine(s string) string {
	if !isPlain(s) {
		b := []byte(s)
		for i, c := range b {
			if c < ' ' || c == 0x7f {
				b[i] = ' '
			}
		}
		s = string(b)
	}
	return strings.Trim(s, " \t")
}

// printable returns s with question marks for what gRPC metadata cannot carry.
func printable(s string) string {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c >= 0x7f {
			s = strings.Map(func(r rune) rune {
				if r < ' ' || r >= 0x7f {
					return '?'
				}
				return r
			}, s)
			break
		}
	}
	return strings.Trim(s, " ")
}

// targetOf returns the request target of a route: a path and an optional
// query. What a target cannot hold is percent-encoded.
func targetOf(route string) string {
	if len(route) > 0 && route[0] == '/' && (len(route) == 1 || route[1] != '/') && isTarget(route) {
		return route
	}
	route = "/" + strings.TrimLeft(route, "/")
	if isTarget(route) {
		return route
	}
	const digits = "0123456789ABCDEF"
	b := make([]byte, 0, len(route)+16)
	for i := range len(route) {
		if c := route[i]; isTargetChar(c) {
			b = append(b, c)
		} else {
			b = append(b, '%', digits[c>>4], digits[c&15])
		}
	}
	return string(b)
}

func isTarget(s string) bool {
	for i := range len(s) {
		if !isTargetChar(s[i]) {
			return false
		}
	}
	return true
}

func isTargetChar(c byte) bool { return c > ' ' && c < 0x7f && c != '#' }
