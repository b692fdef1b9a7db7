package runtime

import (
	"cmp"
	"io"
	"strconv"
	"sync"
	"time"

	"github.com/proa-io/proa/block/invoke"
	"github.com/proa-io/proa/dialect/dapr/grpcapi"
	"github.com/proa-io/proa/dialect/dapr/httpapi"
	"github.com/proa-io/proa/mesh/proxy"
	"github.com/proa-io/proa/mesh/rpc"
	"github.com/proa-io/proa/resource"
	"github.com/proa-io/proa/telemetry"
)

// Directions of a request in the access log.
const (
	directionAPI      = "api"
	directionOutbound = "outbound"
	directionInbound  = "inbound"
)

// The fields by which block/invoke tells another sidecar why a request failed.
const (
	faultField       = "proa-fault"
	faultReasonField = "proa-fault-reason"
)

// noGRPC is the gRPC status of what is no gRPC call.
const noGRPC = -1

// accessLogTo says where the access log goes: what the flag says, or else the
// Configuration.
func (rt *Runtime) accessLogTo(c *resource.Configuration) string {
	if rt.cfg.AccessLog != "" {
		return rt.cfg.AccessLog
	}
	if l := c.Spec.Logging; l != nil && l.AccessLog != nil && (l.AccessLog.Enabled == nil || *l.AccessLog.Enabled) {
		return cmp.Or(l.AccessLog.Path, "stdout")
	}
	return "off"
}

// openAccessLog opens where the access log goes.
func (rt *Runtime) openAccessLog(c *resource.Configuration) (*telemetry.AccessFile, error) {
	f, err := telemetry.OpenAccessFile(rt.accessLogTo(c))
	if err != nil && rt.cfg.AccessLog == "" {
		return nil, &resource.Error{
			Pos: c.Spec.Logging.AccessLog.Pos, Resource: "Configuration " + c.Metadata.Name, Field: "spec.logging.accessLog", Problem: err.Error(),
		}
	}
	return f, err
}

// logHTTPAccess puts a request of the HTTP API into the access log.
func (rt *Runtime) logHTTPAccess(c *httpapi.Call) {
	a := telemetry.Access{
		Time: time.Now().Add(-c.Duration), Direction: directionAPI, Method: c.Method, Path: rt.metrics.PathTemplate(c.Path), Target: c.Target,
		Status: c.Status, GRPCStatus: noGRPC, Received: c.Received, Sent: c.Sent, Duration: c.Duration,
		TraceParent: c.TraceParent, Failure: c.Failure, Upstream: c.Passed.Upstream, Attempts: c.Passed.Attempts, Retried: c.Passed.Retried,
	}
	if c.Target != "" {
		a.Direction = directionOutbound
	}
	rt.access.Add(a)
}

// logGRPCAccess puts a call of the gRPC API into the access log.
func (rt *Runtime) logGRPCAccess(c *grpcapi.Call) {
	a := telemetry.Access{
		Time: time.Now().Add(-c.Duration), Direction: directionAPI, Method: "gRPC", Path: c.Method, Target: c.Passed.Target,
		GRPCStatus: int(c.Code), Received: int64(c.Received), Sent: int64(c.Sent), Duration: c.Duration, TraceParent: c.TraceParent,
		Upstream: c.Passed.Upstream, Attempts: c.Passed.Attempts, Retried: c.Passed.Retried,
	}
	if a.Target != "" {
		a.Direction = directionOutbound
	}
	rt.access.Add(a)
}

// logInbound returns next, with its requests in the access log while that is on.
func (rt *Runtime) logInbound(next proxy.Handler) proxy.Handler {
	var pool sync.Pool
	return func(ex proxy.Exchange) {
		if !rt.access.Enabled() {
			next(ex)
			return
		}
		w, ok := pool.Get().(*witnessed)
		if !ok {
			w = &witnessed{}
		}
		began, r := time.Now(), ex.Request()
		*w = witnessed{Exchange: ex, grpc: noGRPC}
		a := telemetry.Access{
			Time: began, Direction: directionInbound, Method: r.Method, Target: rt.cfg.AppID, Received: r.ContentLength,
			TraceParent: r.Header.Get("traceparent"),
		}
		isGRPC, path := rpc.IsGRPC(r.Header), r.Path()
		defer func() {
			a.Caller, a.Duration = r.Header.Get(invoke.FieldCallerAppID), time.Since(began) // whom the connection proved it to be
			a.Path = rt.metrics.PathTemplate(path)
			a.Status, a.Sent, a.Failure, a.GRPCStatus = w.status, w.sent, w.failure, w.grpc
			a.Upstream, a.Attempts = w.passed.Upstream, w.passed.Attempts
			if isGRPC {
				a.Method, a.Path, a.Status = "gRPC", path, 0
			}
			rt.access.Add(a)
			*w = witnessed{}
			pool.Put(w)
		}()
		next(w)
	}
}

// witnessed is an exchange that notes how it was answered.
type witnessed struct {
	proxy.Exchange
	status, grpc int
	sent         int64
	failure      string
	passed       proxy.Route
}

var (
	_ proxy.Aborter  = (*witnessed)(nil)
	_ invoke.Witness = (*witnessed)(nil)
)

// Passed implements invoke.Witness.
func (w *witnessed) Passed(r proxy.Route) { w.passed = r }

// Respond implements proxy.Exchange.
func (w *witnessed) Respond(status int, h proxy.Header, length int64) error {
	w.status = status
	w.note(h)
	if w.failure = h.Get(faultReasonField); w.failure == "" {
		w.failure = h.Get(faultField)
	}
	return w.Exchange.Respond(status, h, length)
}

// Trailer implements proxy.Exchange.
func (w *witnessed) Trailer(h proxy.Header) error {
	w.note(h)
	return w.Exchange.Trailer(h)
}

// note takes the status of a gRPC call from its trailer.
func (w *witnessed) note(h proxy.Header) {
	if text := h.Get("grpc-status"); text != "" {
		if n, err := strconv.Atoi(text); err == nil {
			w.grpc = n
		}
	}
}

// Write implements proxy.Exchange.
func (w *witnessed) Write(p []byte) (int, error) {
	n, err := w.Exchange.Write(p)
	w.sent += int64(n)
	return n, err
}

// Upgrade implements proxy.Exchange.
func (w *witnessed) Upgrade(h proxy.Header) (io.ReadWriteCloser, error) {
	s, err := w.Exchange.Upgrade(h)
	if err == nil {
		w.status = 101
	}
	return s, err
}

// AbortWith implements proxy.Aborter.
func (w *witnessed) AbortWith(cause error) {
	w.failure = "aborted"
	proxy.Abort(w.Exchange, cause)
}
