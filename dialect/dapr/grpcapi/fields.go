package grpcapi

import (
	"context"
	"encoding/base64"
	"strings"

	"google.golang.org/grpc/metadata"

	"github.com/proa-io/proa/block/invoke"
	"github.com/proa-io/proa/dialect/dapr"
	"github.com/proa-io/proa/mesh/proxy"
	"github.com/proa-io/proa/mesh/rpc"
	"github.com/proa-io/proa/telemetry"
)

// traceBinary is the metadata entry that older SDKs send instead of a
// traceparent (OpenCensus, "BinaryEncoding").
const traceBinary = "grpc-trace-bin"

// traceFields reads what trace a call belongs to.
func traceFields(h proxy.Header) (f dapr.TraceFields) {
	binary := ""
	for i := range h {
		name, value := h[i].Name, h[i].Value
		switch len(name) {
		case len(dapr.TraceParent):
			if f.Parent == "" && proxy.SameName(name, dapr.TraceParent) {
				f.Parent = value
			}
		case len(dapr.TraceState):
			if f.State == "" && proxy.SameName(name, dapr.TraceState) {
				f.State = value
			}
		case len(dapr.Baggage):
			if proxy.SameName(name, dapr.Baggage) {
				if f.Baggage != "" {
					value = f.Baggage + "," + value
				}
				f.Baggage = value
			}
		case len(traceBinary):
			if proxy.SameName(name, traceBinary) {
				binary = value
			}
		}
	}
	if f.Parent == "" && binary != "" {
		f.Parent = parentOf(binary)
	}
	return f
}

// parentOf returns the traceparent for a grpc-trace-bin entry: version 0, then
// field 0 with 16 bytes, field 1 with 8 and field 2 with 1. It is empty for
// anything else.
func parentOf(binary string) string {
	b, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(binary, "="))
	if err != nil || len(b) != 29 || b[0] != 0 || b[1] != 0 || b[18] != 1 || b[27] != 2 {
		return ""
	}
	tc := telemetry.TraceContext{TraceID: [16]byte(b[2:18]), SpanID: [8]byte(b[19:27]), Flags: b[28]}
	return tc.Traceparent()
}

// ofSidecar reports whether a metadata entry of a call is for the sidecar or
// belongs to the protocol, and so not for those behind it.
func ofSidecar(name string) bool {
	switch name {
	case dapr.TokenHeader, invoke.FieldTarget, invoke.FieldCalleeAppID,
		"content-type", "te", "user-agent", "content-length", "host":
		return true
	}
	return strings.HasPrefix(name, "grpc-") || strings.HasPrefix(name, ":")
}

// setHeader adds metadata to the head of the response. A value that a field
// cannot have is made to fit, and an entry whose name cannot be one left out.
func setHeader(ctx context.Context, md metadata.MD) {
	clean := make(metadata.MD, len(md))
	for name, values := range md {
		if name = strings.ToLower(name); !validKey(name) {
			continue
		}
		for _, v := range values {
			if !strings.HasSuffix(name, "-bin") {
				v = strings.Map(visible, v)
			}
			clean[name] = append(clean[name], v)
		}
	}
	_ = rpc.SetHeader(ctx, clean) // it fails only outside of a call and after its answer
}

// validKey reports whether metadata can have the name (gRPC over HTTP2,
// "Header-Name").
func validKey(name string) bool {
	for i := range len(name) {
		c := name[i]
		if !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' || c == '_' || c == '.') {
			return false
		}
	}
	return name != ""
}

// visible maps what metadata cannot hold ("ASCII-Value") to something it can.
func visible(r rune) rune {
	switch {
	case r < ' ':
		return ' '
	case r > '~':
		return '?'
	}
	return r
}
