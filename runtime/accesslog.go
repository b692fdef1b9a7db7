package runtime

import (
	"io"
	"strconv"
	"sync"
	"time"

	"github.com/proa-io/proa/block/invoke"
	"github.com/proa-io/proa/dialect/dapr/grpcapi"
	"github.com/proa-io/proa/dialect/dapr/httpapi"
	"github.com/proa-io/proa/mesh/proxy"
	"github.com/proa-io/proa/mesh/rpc"
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

// logHTTPAccess puts a request of the HTTP API into the access log.
func (rt *Runtime) logHTTPAccess(c *httpapi.Call) {
	a := telemetry.Access{
		Time: time.Now().Add(-c.Duration), Direction: directionAPI, Method: c.Method, Path: rt.metrics.PathTemplate(c.Path), Target: c.Target,
		Status: c.Status, GRPCStatus: noGRPC, Received: c.Received, Sent: c.Sent, Duration: c.Duration,
		TraceParent: c.TraceParent, Failure: c.Failure,
	}
	if c.Target != "" {
		a.Direction = directionOutbound
	}
	rt.access.Add(a)
}

// logGRPCAccess puts a call of the gRPC API into the access log.
func (rt *Runtime) logGRPCAccess(c *grpcapi.Call) {
	a := telemetry.Access{
		Time: time.Now().Add(-c.Duration), Direction: directionAPI, Method: "gRPC", Path: c.Method, Target: c.Target,
		GRPCStatus: int(c.Code), Received: int64(c.Received), Sent: int64(c.Sent), Duration: c.Duration, TraceParent: c.TraceParent,
	}
	if c.Forwarded {
		a.Direction = directionOutbound
	}
	rt.access.Add(a)
}

// logInbound returns next, with its requests in the access log if there is one.
func (rt *Runtime) logInbound(next proxy.Handler) proxy.Handler {
	if rt.access == nil {
		return next
	}
	var pool sync.Pool
	return func(ex proxy.Exchange) {
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
}

var _ proxy.Aborter = (*witnessed)(nil)

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
