package invoke

import (
	"cmp"
	"context"
	"errors"
	"io"
	"strconv"
	"time"

	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/mesh/proxy"
	"github.com/proa-io/proa/policy"
	"github.com/proa-io/proa/telemetry"
)

// Receive takes an exchange from another sidecar and carries it to the
// application beside. It is a proxy.Handler; every exchange is answered, a
// failure of this sidecar in a form that the other one understands.
func (s *Service) Receive(ex proxy.Exchange) {
	in := ex.Request()
	if callee := in.Header.Get(FieldCalleeAppID); callee != s.opt.AppID {
		err := fault.New(fault.Unavailable, "this is the sidecar of application %q, not of %q", s.opt.AppID, callee).
			WithReason(ReasonMisdirected)
		writeFault(ex, err, true)
		return
	}
	verb := in.Method
	if isGRPC(in.Header) {
		verb = ""
	}
	if verb == "CONNECT" {
		s.receiveTunnel(ex)
		return
	}
	caller, ok := s.admit(ex, in.Path(), verb)
	if !ok {
		return
	}
	s.received(caller.AppID)
	ctx := ex.Context()
	if s.opt.Tracing.Enabled() {
		ctx = telemetry.WithTrace(ctx, s.opt.Tracing.Begin(in.Header.Get(fieldTraceparent), in.Header.Get(fieldTracestate)))
	}
	r := s.takeReception(ex)
	r.call = policy.Call{
		Caller: caller.AppID, Key: in.Path(), Bytes: int(max(0, in.ContentLength)), Idempotent: idempotent(in.Method),
	}
	began := time.Now()
	err := s.inbound.Run(ctx, &r.call, r.onAttempt)
	progress, unsent := r.progress, r.unsent
	if w, ok := ex.(Witness); ok {
		w.Passed(r.route)
	}
	s.putReception(r)
	if err != nil && !progress.HeadSent {
		writeFault(ex, err, unsent)
		return
	}
	s.replied(caller.AppID, progress)
	if verb == "" {
		s.measureGRPC(in.Target, progress, time.Since(began))
	}
}

// reception is one request from another sidecar. It is used again, as forward is.
type reception struct {
	sending

	service  *Service
	ex       proxy.Exchange
	progress proxy.Progress
	unsent   bool

	// The methods as functions.
	onAttempt func(context.Context) error
	onInterim func(int, proxy.Header)
}

func (s *Service) takeReception(ex proxy.Exchange) *reception {
	r, _ := s.receptions.Get().(*reception)
	if r == nil {
		r = &reception{}
		r.onAttempt, r.onInterim = r.attempt, r.interim
	}
	r.service, r.ex = s, ex
	return r
}

// putReception takes r back, of which nothing is used any more.
func (s *Service) putReception(r *reception) {
	*r = reception{onAttempt: r.onAttempt, onInterim: r.onInterim}
	s.receptions.Put(r)
}

// attempt passes the request on to the application.
func (r *reception) attempt(ctx context.Context) error {
	r.request = *r.ex.Request()
	r.request.Scheme = "http"
	setTrace(ctx, &r.request)
	resp, err := r.service.local(ctx, &r.sending, proxy.RoundTripOptions{Interim: r.onInterim})
	if err != nil {
		r.unsent = proxy.Unsent(err)
		return err
	}
	r.call.Committed = true
	r.progress, err = r.service.relay.Relay(r.ex, resp)
	if errors.Is(err, proxy.ErrClientGone) {
		return fault.Wrap(err, fault.Canceled, "answer %q", r.call.Caller)
	}
	return err
}

func (r *reception) interim(status int, h proxy.Header) { _ = r.ex.Interim(status, h) }

// admit asks the access rules. Who is not let in has been answered.
func (s *Service) admit(ex proxy.Exchange, path, verb string) (c Caller, ok bool) {
	rules, caller := s.access.Load(), s.caller(ex)
	said, err := rules.check(caller, path, verb)
	s.measureAccess(rules, said, cmp.Or(caller.Namespace, defaultNamespace), caller.AppID)
	if err != nil {
		writeFault(ex, err, true)
		return Caller{}, false
	}
	return caller, true
}

// caller returns who invokes: who the connection proves it is, or else who it
// says it is. The application is told the same.
func (s *Service) caller(ex proxy.Exchange) Caller {
	in := ex.Request()
	if s.opt.Caller != nil {
		if c, ok := s.opt.Caller(ex); ok {
			in.Header.Set(FieldCallerAppID, c.AppID)
			in.Header.Set(FieldCallerNS, c.Namespace)
			return c
		}
	}
	return Caller{Namespace: in.Header.Get(FieldCallerNS), AppID: in.Header.Get(FieldCallerAppID)}
}

// statusOfFault is what a sidecar that does not know the field sees.
const statusOfFault = 502

// maxFaultText bounds the text of a failure between sidecars.
const maxFaultText = 4 << 10

// writeFault answers another sidecar with an error.
func writeFault(ex proxy.Exchange, err error, unsent bool) {
	text := fault.Message(err)
	if fault.CodeOf(err) == fault.Unknown {
		text = err.Error()
	}
	text = text[:min(len(text), maxFaultText)]
	h := proxy.Header{
		{Name: "content-type", Value: "text/plain; charset=utf-8"},
		{Name: fieldFault, Value: fault.CodeOf(err).String()},
	}
	if r := fault.ReasonOf(err); r != "" {
		h.Add(fieldFaultReason, string(r))
	}
	if after := fault.RetryAfterOf(err); after > 0 {
		h.Add(fieldFaultAfter, strconv.FormatInt(int64((after+time.Millisecond-1)/time.Millisecond), 10))
	}
	if unsent {
		h.Add(fieldFaultUnsent, "1")
	}
	if ex.Respond(statusOfFault, h, int64(len(text))) == nil {
		_, _ = ex.Write([]byte(text)) // the peer is gone if this fails
	}
}

// readFault turns the answer of writeFault into the error again.
func readFault(code string, resp *proxy.Response) error {
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxFaultText))
	if err != nil {
		text = []byte("the other sidecar failed and its explanation broke off")
	}
	return faultFrom(code, resp.Header, text)
}

// FaultOf returns the error that another sidecar has answered with; nil if the
// answer is that of its application.
func FaultOf(resp *proxy.Response, body []byte) error {
	if code := resp.Header.Get(fieldFault); code != "" {
		return faultFrom(code, resp.Header, body)
	}
	return nil
}

func faultFrom(code string, h proxy.Header, text []byte) error {
	c := fault.Internal
	for _, known := range fault.Codes() {
		if known.String() == code {
			c = known
		}
	}
	f := fault.New(c, "%s", text).WithReason(fault.Reason(h.Get(fieldFaultReason)))
	if n, err := strconv.ParseInt(h.Get(fieldFaultAfter), 10, 32); err == nil && n > 0 {
		f = f.WithRetryAfter(time.Duration(n) * time.Millisecond)
	}
	var out error = f
	if h.Get(fieldFaultUnsent) == "1" {
		out = proxy.MarkUnsent(out)
	}
	return out
}
