package invoke

import (
	"context"
	"errors"
	"io"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/mesh/proxy"
	"github.com/proa-io/proa/policy"
	"github.com/proa-io/proa/telemetry"
)

// Forward carries the exchange to the application id, asking for path, which
// is a path and an optional query in the form they have on the wire, and
// answers it. An error means that nothing has been answered, so that the
// dialect can; nil means that the exchange is over, well or not, and the
// Progress tells how far its answer got.
func (s *Service) Forward(ex proxy.Exchange, id, path string) (proxy.Progress, error) {
	r, err := s.route(id)
	if err != nil {
		return proxy.Progress{}, err
	}
	t := &r.target
	in := ex.Request()
	f := s.takeForward(ex, t)
	s.outgoing(&f.request, in, t, path)
	if a, ok := ex.(Rehosted); ok && a.Authority() != "" {
		f.request.Authority = a.Authority()
	}
	f.body.keep(in)
	f.route.Target = t.id
	ctx := s.begin(ex.Context(), in.Header)
	if err := s.known(ctx, t); err != nil {
		return proxy.Progress{}, err
	}
	f.call = policy.Call{Key: path, Bytes: int(max(0, in.ContentLength)), Idempotent: idempotent(in.Method), Deadline: callerDeadline(in.Header)}
	err = s.bound(id, &r).Run(ctx, &f.call, f.onAttempt)
	progress := f.progress
	progress.Route = f.route
	s.putForward(f)
	if err == nil {
		return progress, nil
	}
	if held, ok := errors.AsType[*answer](err); ok {
		return held.write(ex, progress.Route)
	}
	if progress.HeadSent {
		s.opt.Log.DebugContext(ctx, "an invocation broke off after its answer had begun", "target", t.id, "bytes", progress.Bytes, "error", err)
		return progress, nil
	}
	return progress, err
}

// Rehosted is an exchange that wants its target to be asked with another host name.
type Rehosted interface {
	// Authority returns the host name; "" for that of the target.
	Authority() string
}

// known makes sure that a target exists before it gets policies and metrics
// of its own.
func (s *Service) known(ctx context.Context, t *target) error {
	if t.endpoint != nil || t.self {
		return nil
	}
	_, err := s.opt.Directory.Lookup(ctx, t.service)
	return err
}

// begin puts the trace context into ctx when somebody will want it. Whether the
// trace is recorded has been decided by who took the request.
func (s *Service) begin(ctx context.Context, h proxy.Header) context.Context {
	if !s.opt.Tracing.Enabled() {
		return ctx
	}
	tc, ok := telemetry.ParseTraceparent(h.Get(fieldTraceparent))
	if !ok {
		return telemetry.WithTrace(ctx, telemetry.NewTrace(false))
	}
	tc.State = h.Get(fieldTracestate)
	return telemetry.WithTrace(ctx, tc)
}

// idempotent reports whether RFC 9110, section 9.2.2, allows to repeat a
// request with the method when it is not known whether it was carried out.
func idempotent(method string) bool {
	switch method {
	case "GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE":
		return true
	}
	return false
}

// outgoing builds the request to send, in the memory of out and its Header. Its
// Body is set for each attempt.
func (s *Service) outgoing(out, in *proxy.Request, t *target, path string) {
	if !strings.HasPrefix(path, "/") {
		path = "/" + path
	}
	h := slices.Grow(out.Header[:0], len(in.Header)+8)
	*out = proxy.Request{
		Method: in.Method, Scheme: "http", Authority: in.Authority, Target: path,
		ContentLength: in.ContentLength, Trailer: in.Trailer, Upgrade: in.Upgrade,
	}
	for _, f := range in.Header {
		if !ours(f.Name) {
			h = append(h, f)
		}
	}
	if t.endpoint != nil {
		s.toEndpoint(out, t.endpoint)
		out.Header = append(h, t.endpoint.Header...)
		return
	}
	out.Authority = t.service.AppID
	out.Header = append(h,
		proxy.Field{Name: FieldCalleeAppID, Value: t.service.AppID},
		proxy.Field{Name: FieldDestination, Value: t.service.AppID},
		proxy.Field{Name: FieldCallerAppID, Value: s.opt.AppID},
		proxy.Field{Name: FieldCallerNS, Value: s.opt.Namespace},
		proxy.Field{Name: fieldForwardedFor, Value: s.opt.Host},
		proxy.Field{Name: "x-forwarded-host", Value: s.opt.Host},
		proxy.Field{Name: "forwarded", Value: s.forwarded},
	)
}

// toEndpoint points a request to an address outside.
func (s *Service) toEndpoint(out *proxy.Request, e *Endpoint) {
	out.Scheme, out.Authority = e.Base.Scheme, e.Base.Host
	if prefix := strings.TrimSuffix((&url.URL{Path: e.Base.Path, RawPath: e.Base.RawPath}).EscapedPath(), "/"); prefix != "" {
		out.Target = prefix + out.Target
	}
}

// ours reports whether a field is for the sidecar, or is not the caller's to
// set: what says who calls must not be claimed, and tokens go no further.
func ours(name string) bool {
	if len(name) < len(fieldFault) { // the shortest
		return false
	}
	if first := name[0] | 0x20; first != 'd' && first != 'p' {
		return false
	}
	if proxy.IsProxyAuth(name) {
		return true
	}
	for _, own := range [...]string{FieldCalleeAppID, FieldDestination, FieldCallerAppID, FieldCallerNS, FieldTarget, fieldAPIToken,
		fieldFault, fieldFaultReason, fieldFaultAfter, fieldFaultUnsent} {
		if proxy.SameName(name, own) {
			return true
		}
	}
	return false
}

// forward is one invocation through Forward, over all its attempts. It is used
// again by later ones: who carries out a request keeps nothing of it when it has
// failed or the answer's Body is closed (see proxy.RoundTripper).
type forward struct {
	sending

	service  *Service
	ex       proxy.Exchange
	body     replay
	own      policy.Call // through the limit on what the application asks of itself
	progress proxy.Progress

	// The methods as functions.
	onAttempt, onExchange func(context.Context) error
	onInterim             func(int, proxy.Header)
}

func (s *Service) takeForward(ex proxy.Exchange, t *target) *forward {
	f, _ := s.forwards.Get().(*forward)
	if f == nil {
		f = &forward{}
		f.onAttempt, f.onExchange, f.onInterim = f.attempt, f.exchange, f.interim
	}
	f.service, f.ex, f.target = s, ex, *t
	f.way.call, f.way.ex = &f.call, ex
	return f
}

// maxReusedFields bounds the fields of a request whose memory is kept.
const maxReusedFields = 64

// putForward takes f back, of which nothing is used any more.
func (s *Service) putForward(f *forward) {
	h := f.request.Header
	clear(h)
	if cap(h) > maxReusedFields {
		h = nil
	}
	*f = forward{body: f.body.emptied(), onAttempt: f.onAttempt, onExchange: f.onExchange, onInterim: f.onInterim}
	f.request.Header = h[:0]
	s.forwards.Put(f)
}

func (f *forward) attempt(ctx context.Context) error {
	if f.target.self && f.service.own != nil {
		f.own = policy.Call{Caller: f.service.opt.AppID, Key: f.call.Key}
		return f.service.own.Run(ctx, &f.own, f.onExchange)
	}
	return f.exchange(ctx)
}

func (f *forward) exchange(ctx context.Context) error {
	f.request.Body = f.body.next(f.call.Again != nil && f.call.Again.Whatever)
	setTrace(ctx, &f.request)
	asked := f.service.asked(&f.target)
	defer f.way.over()
	resp, err := f.service.send(ctx, &f.sending, proxy.RoundTripOptions{Interim: f.onInterim})
	if err != nil {
		f.call.Unsent = proxy.Unsent(err)
		f.call.Committed = f.call.Committed || !f.call.Unsent && !f.body.again()
		return err
	}
	asked.headed(resp)
	if held, ok := f.hold(resp); ok {
		asked.answered(held.status, held.grpcStatus)
		f.way.answered(held.status, held.grpcStatus, held.header)
		f.last = held
		return held
	}
	f.call.Committed = true
	f.progress, err = f.service.relay.Relay(f.ex, resp)
	asked.answered(f.progress.Status, grpcCode(f.progress.GRPCStatus))
	switch {
	case err == nil:
		f.way.answered(f.progress.Status, grpcCode(f.progress.GRPCStatus), nil)
	case !errors.Is(err, proxy.ErrClientGone):
		f.way.broke()
	}
	if errors.Is(err, proxy.ErrClientGone) {
		return fault.Wrap(err, fault.Canceled, "invoke %q", f.target.id)
	}
	return err
}

// interim passes informational responses on; a client that got one can still
// be answered by another attempt.
func (f *forward) interim(status int, h proxy.Header) {
	_ = f.ex.Interim(status, h) // a broken client shows when it is answered
}

// setTrace replaces the trace context by that of the span the call is in.
func setTrace(ctx context.Context, r *proxy.Request) {
	if tc, ok := telemetry.TraceFrom(ctx); ok {
		r.Header.Set(fieldTraceparent, tc.Traceparent())
		if tc.State != "" {
			r.Header.Set(fieldTracestate, tc.State)
		}
	}
}

// maxHeld bounds the content of a failure that is held back for the retry
// policy to decide.
const maxHeld = 64 << 10

// hold keeps a failure the application answered with, when it is small, so that
// it counts as a failure and can be tried again. Everything else is for the
// client as it is.
func (f *forward) hold(resp *proxy.Response) (*answer, bool) {
	grpcStatus := -1
	if isGRPC(resp.Header) {
		text := resp.Header.Get("grpc-status") // Trailers-Only: nothing but a status
		if text == "" || text == "0" {
			return nil, false
		}
		n, err := strconv.Atoi(text)
		if err != nil || n == 0 {
			return nil, false
		}
		grpcStatus = n
	}
	if !failed(&f.call, resp.Status, grpcStatus) || resp.Upgraded != nil || resp.ContentLength > maxHeld || isStream(resp.Header) {
		return nil, false
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxHeld))
	if err != nil || len(body) == maxHeld && resp.ContentLength < 0 {
		resp.Body = &resumed{ReadCloser: resp.Body, read: body, err: err}
		return nil, false
	}
	proxy.StripProxyAuth(resp)
	held := &answer{target: f.target.id, status: resp.Status, grpcStatus: grpcStatus, length: resp.ContentLength, body: body}
	held.header = append(held.header, resp.Header...)
	if resp.Trailer != nil {
		held.trailer = append(held.trailer, *resp.Trailer...)
	}
	resp.Body.Close()
	f.call.Committed = f.call.Committed || !f.body.again()
	return held, true
}

// failed reports whether an answer is a failure for the policies: trouble at the
// application, or what a retry policy names.
func failed(c *policy.Call, status, grpcStatus int) bool {
	if grpcStatus >= 0 {
		return true
	}
	if c.Again != nil && c.Again.HTTP != nil && c.Again.HTTP(status) {
		return true
	}
	return status >= 500 || status == 429
}

// isStream reports whether a client reads an answer while it comes.
func isStream(h proxy.Header) bool {
	return strings.HasPrefix(h.Get("content-type"), "text/event-stream")
}

// resumed is the body of an answer of which some has been read.
type resumed struct {
	io.ReadCloser
	read []byte
	err  error // after read
}

// Read implements io.Reader.
func (r *resumed) Read(p []byte) (int, error) {
	if len(r.read) > 0 {
		n := copy(p, r.read)
		r.read = r.read[n:]
		return n, nil
	}
	if r.err != nil {
		return 0, r.err
	}
	return r.ReadCloser.Read(p)
}

// answer is a failure the application answered with. It is an error for the
// policies and, in the end, the answer.
type answer struct {
	target     string
	status     int
	grpcStatus int // -1 for none
	length     int64
	header     proxy.Header
	body       []byte
	trailer    proxy.Header
}

// Error says what the application answered.
func (a *answer) Error() string {
	if a.grpcStatus >= 0 {
		return "invoke \"" + a.target + "\": the application answered with gRPC status " + strconv.Itoa(a.grpcStatus)
	}
	return "invoke \"" + a.target + "\": the application answered with HTTP status " + strconv.Itoa(a.status)
}

// HTTPStatus returns the status, or 0 for a gRPC call.
func (a *answer) HTTPStatus() int {
	if a.grpcStatus >= 0 {
		return 0
	}
	return a.status
}

// GRPCStatusCode returns the gRPC status, or -1.
func (a *answer) GRPCStatusCode() int { return a.grpcStatus }

// As gives the answer a fault code, for policies that look at codes.
func (a *answer) As(target any) bool {
	fe, ok := target.(**fault.Error)
	if !ok {
		return false
	}
	*fe = fault.New(a.code(), "%s", a.Error())
	return true
}

func (a *answer) code() fault.Code {
	switch {
	case a.grpcStatus == 14, a.status == 502, a.status == 503:
		return fault.Unavailable
	case a.grpcStatus == 8, a.status == 429:
		return fault.ResourceExhausted
	case a.grpcStatus == 4, a.status == 504:
		return fault.DeadlineExceeded
	case a.grpcStatus == 12, a.status == 501:
		return fault.Unimplemented
	case a.grpcStatus >= 0 && a.grpcStatus != 2 && a.grpcStatus != 13 && a.grpcStatus != 15, a.grpcStatus < 0 && a.status < 500:
		return fault.FailedPrecondition // what the caller did, not trouble at the target
	}
	return fault.Internal
}

func (a *answer) write(ex proxy.Exchange, route proxy.Route) (proxy.Progress, error) {
	length := a.length
	if length < 0 && len(a.trailer) == 0 {
		length = int64(len(a.body))
	}
	if err := ex.Respond(a.status, a.header, length); err != nil {
		return proxy.Progress{Route: route}, nil //nolint:nilerr // the client is gone: there is nobody to tell
	}
	p := proxy.Progress{HeadSent: true, Status: a.status, Bytes: int64(len(a.body)), Route: route}
	if a.grpcStatus >= 0 {
		p.GRPCStatus = strconv.Itoa(a.grpcStatus)
	}
	if len(a.body) > 0 {
		_, _ = ex.Write(a.body) // as above
	}
	if len(a.trailer) > 0 {
		_ = ex.Trailer(a.trailer) // as above
	}
	return p, nil
}
