package route

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/internal/coroutine"
	"github.com/proa-io/proa/mesh/proxy"
	"github.com/proa-io/proa/mesh/rpc"
	"github.com/proa-io/proa/policy"
)

// Sender carries exchanges to backends.
type Sender interface {
	// Forward carries ex to a backend, asking for target, a path and query, and
	// answers it. An error means that nothing has been answered.
	Forward(ex proxy.Exchange, to *Backend, target string) (proxy.Progress, error)
}

// Arrival is how a request has come to a table.
type Arrival struct {
	// Host is what the table looks at, in lower case without a port.
	Host string
	// Target is the path and query asked for.
	Target string
	// Scheme is that of redirects, "https" or "http".
	Scheme string
}

// Outcome tells what became of a request.
type Outcome struct {
	// Rule is nil when none matched; Backend is nil when none was asked.
	Rule    *Rule
	Backend *Backend
	// Status is that of the answer; 0 when there was an error instead.
	Status int
	// Attempts counts the times it was sent.
	Attempts int
}

// Router lets requests meet the rules of tables. It is safe for concurrent use.
type Router struct {
	Sender  Sender
	Mirrors *Mirrors
	// Observe, unless nil, is told of every request at its end.
	Observe func(Outcome)
}

// Serve lets the exchange meet the rules of t, and answers it. An error means that
// nothing has been answered.
func (rt *Router) Serve(ex proxy.Exchange, t *Table, a Arrival) (proxy.Progress, error) {
	in := ex.Request()
	path, query, _ := strings.Cut(a.Target, "?")
	r := Request{Host: a.Host, Path: path, Query: query, Method: in.Method, Header: in.Header, GRPC: rpc.IsGRPC(in.Header)}
	found, ok := t.Lookup(&r)
	if !ok {
		p, err := refuse(ex, refusal{404, codes.Unimplemented, "ERR_ROUTE_NOT_FOUND",
			fmt.Sprintf("no route for %s %s%s: none of %d rules matches", in.Method, a.Host, path, len(t.Rules()))})
		return rt.observed(Outcome{}, p, err)
	}
	if found.Rule.Filters.plain {
		if b := found.Rule.Pick(rand.Uint64()); b != nil && b.plain {
			p, err := rt.Sender.Forward(ex, b, a.Target)
			return rt.observed(Outcome{Rule: found.Rule, Backend: b, Attempts: 1}, p, explained(found.Rule, b, err))
		}
	}
	return rt.filtered(&serving{router: rt, ex: ex, in: in, arrival: a, found: found, grpc: r.GRPC})
}

// filtered serves a request of a rule that does more than to send it to a backend.
func (rt *Router) filtered(s *serving) (proxy.Progress, error) {
	s.out.Rule = s.found.Rule
	p, err := s.serve()
	return rt.observed(s.out, p, err)
}

func (rt *Router) observed(o Outcome, p proxy.Progress, err error) (proxy.Progress, error) {
	if rt.Observe != nil {
		o.Status = p.Status
		rt.Observe(o)
	}
	return p, err
}

// serving is one request that meets a rule.
type serving struct {
	router  *Router
	ex      proxy.Exchange
	in      *proxy.Request
	arrival Arrival
	found   Found
	grpc    bool
	out     Outcome
}

func (s *serving) serve() (proxy.Progress, error) {
	rule := s.found.Rule
	f := &rule.Filters
	if f.Problem != "" {
		return s.refuse(500, codes.Unavailable, "ERR_ROUTE_INVALID", f.Problem)
	}
	if f.CORS != nil && f.CORS.preflight(s.in) {
		return respond(s.ex, 204, f.CORS.answerPreflight(s.in), "")
	}
	if f.MaxRequestBytes > 0 && s.in.ContentLength > f.MaxRequestBytes {
		return s.tooLarge()
	}
	if p, done, err := s.fault(f.Fault); done {
		return p, err
	}
	switch {
	case f.Redirect != nil:
		h := proxy.Header{{Name: "location", Value: f.Redirect.Location(s.arrival.Scheme, s.in.Authority, s.arrival.Target, s.found.Prefix)}}
		f.Response.Apply(&h)
		return respond(s.ex, f.Redirect.Status, h, "")
	case f.Direct != nil:
		h := append(proxy.Header{}, f.Direct.Header...)
		f.Response.Apply(&h)
		return respond(s.ex, f.Direct.Status, h, f.Direct.Body)
	}
	b := rule.Pick(rand.Uint64())
	if b == nil {
		return s.refuse(500, codes.Unavailable, "ERR_ROUTE_NO_BACKEND", "it has no backend with a weight")
	}
	s.out.Backend = b
	if b.Problem != "" {
		return s.refuse(500, codes.Unavailable, "ERR_ROUTE_BACKEND", "backend "+b.String()+": "+b.Problem)
	}
	return s.send(b)
}

// refusal is an answer that says why there is no other.
type refusal struct {
	http int
	grpc codes.Code
	code string
	text string
}

func (s *serving) refuse(http int, grpc codes.Code, code, why string) (proxy.Progress, error) {
	return refuse(s.ex, refusal{http, grpc, code, s.found.Rule.String() + ": " + why})
}

func (s *serving) tooLarge() (proxy.Progress, error) {
	return s.refuse(413, codes.ResourceExhausted, "ERR_ROUTE_TOO_LARGE",
		fmt.Sprintf("the content of the request is larger than %d bytes, the most allowed", s.found.Rule.Filters.MaxRequestBytes))
}

func refuse(ex proxy.Exchange, r refusal) (proxy.Progress, error) {
	if rpc.IsGRPC(ex.Request().Header) {
		if err := rpc.Fail(ex, status.New(r.grpc, r.text)); err != nil {
			return proxy.Progress{}, fault.Wrap(err, fault.Canceled, "answer")
		}
		return proxy.Progress{HeadSent: true, Status: 200, GRPCStatus: strconv.Itoa(int(r.grpc))}, nil
	}
	body := `{"errorCode":` + strconv.Quote(r.code) + `,"message":` + quoteJSON(r.text) + "}"
	return respond(ex, r.http, proxy.Header{{Name: "content-type", Value: "application/json"}}, body)
}

func respond(ex proxy.Exchange, code int, h proxy.Header, body string) (proxy.Progress, error) {
	if code == 204 || code == 304 {
		body = ""
	}
	if err := ex.Respond(code, h, int64(len(body))); err != nil {
		return proxy.Progress{}, fault.Wrap(err, fault.Canceled, "answer")
	}
	p := proxy.Progress{HeadSent: true, Status: code, Bytes: int64(len(body))}
	if body != "" && ex.Request().Method != "HEAD" {
		_, _ = ex.Write([]byte(body)) // the client is gone if this fails
	}
	return p, nil
}

// fault makes the request wait, or fail, if that is its turn.
func (s *serving) fault(f *Fault) (p proxy.Progress, done bool, err error) {
	if f == nil {
		return p, false, nil
	}
	if f.Delay > 0 && rand.Float64() < f.DelayShare { //nolint:gosec // nothing depends on its being a secret
		if err := pause(s.ex.Context(), f.Delay); err != nil {
			return p, true, err
		}
	}
	if f.AbortShare > 0 && rand.Float64() < f.AbortShare { //nolint:gosec // as above
		p, err = s.refuse(f.Status, codes.Code(f.GRPCStatus), "ERR_ROUTE_FAULT", "this failure was asked for by its fault injection") //nolint:gosec // it is small
		return p, true, err
	}
	return p, false, nil
}

// pause waits, unless ctx ends.
func pause(ctx context.Context, d time.Duration) error {
	coroutine.Detach(ctx)
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return fault.Wrap(ctx.Err(), fault.Canceled, "wait")
	}
}

// forward sends an exchange once. An error says which rule chose the backend.
func (s *serving) forward(ex proxy.Exchange, b *Backend, target string) (proxy.Progress, error) {
	s.out.Backend = b
	s.out.Attempts++
	p, err := s.router.Sender.Forward(ex, b, target)
	return p, explained(s.found.Rule, b, err)
}

// explained says of an error which rule chose the backend that it is about.
func explained(rule *Rule, b *Backend, err error) error {
	if err == nil {
		return nil
	}
	code := fault.CodeOf(err)
	if code == fault.Unknown {
		code = fault.Unavailable
	}
	return fault.Wrap(err, code, "%v, backend %s", rule, b).WithReason(fault.ReasonOf(err))
}

// send sends the request to a backend, again when the rule says so.
func (s *serving) send(b *Backend) (proxy.Progress, error) {
	f := &s.found.Rule.Filters
	ctx, cancel := s.ex.Context(), context.CancelFunc(func() {})
	if d := f.Timeouts.Request; d > 0 {
		ctx, cancel = context.WithTimeout(ctx, d)
	}
	defer cancel()
	rx := newRouted(s, b)
	s.mirror(rx, b)
	defer rx.end()
	target := b.Filters.Rewrite.target(f.Rewrite.target(s.arrival.Target, s.found.Prefix), s.found.Prefix)
	f.retryBudget.Deposit()
	f.hedgeBudget.Deposit()
	for attempt := 1; ; attempt++ {
		p, err := s.attempt(ctx, rx, b, target)
		if rx.body.tooLarge.Load() && !p.HeadSent && !rx.answered {
			return s.tooLarge()
		}
		if cerr := rx.finish(); cerr != nil {
			return p, cerr
		}
		again := rx.again
		if err != nil && !p.HeadSent {
			again = s.mayRepeat(ctx, rx, err, attempt) && f.retryBudget.Withdraw()
		}
		if !again {
			return s.ended(p, err)
		}
		if werr := pause(ctx, backoff(f.Retry.Backoff)); werr != nil {
			return s.ended(proxy.Progress{}, ctxError(ctx, cmpError(err, werr)))
		}
		if f.Timeouts.Request > 0 && ctx.Err() != nil {
			return s.ended(proxy.Progress{}, ctxError(ctx, err))
		}
		rx.rewind()
	}
}

func cmpError(a, b error) error {
	if a != nil {
		return a
	}
	return b
}

// backoff is a wait with some jitter, at least as long as was asked for.
func backoff(d time.Duration) time.Duration {
	if d <= 0 {
		return 0
	}
	return d + rand.N(d/4+1) //nolint:gosec // nothing depends on its being a secret
}

// ctxError says that the time for the request is over, if it is.
func ctxError(ctx context.Context, err error) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return fault.Wrap(cmpError(err, ctx.Err()), fault.DeadlineExceeded, "the time for the request is over")
	}
	return err
}

// attempt sends the request once, or twice if the rule hedges.
func (s *serving) attempt(ctx context.Context, rx *routed, b *Backend, target string) (proxy.Progress, error) {
	f := &s.found.Rule.Filters
	cancel := context.CancelFunc(func() {})
	if d := f.Timeouts.Backend; d > 0 {
		ctx, cancel = context.WithTimeout(ctx, d)
	}
	defer cancel()
	rx.begin(ctx, s.out.Attempts)
	var p proxy.Progress
	var err error
	if f.Hedge != nil && (s.grpc || safe(s.in.Method)) && rx.body.whole() {
		p, err = s.hedge(ctx, rx, b, target)
	} else {
		p, err = s.forward(rx, b, target)
	}
	if err != nil && !p.HeadSent {
		err = ctxError(ctx, err)
	}
	return p, err
}

// safe reports whether a request may be sent twice (RFC 9110, section 9.2.2).
func safe(method string) bool {
	switch method {
	case "GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE":
		return true
	}
	return false
}

// mayRepeat reports whether a request that failed before it was answered is sent
// again.
func (s *serving) mayRepeat(ctx context.Context, rx *routed, err error, attempt int) bool {
	f := &s.found.Rule.Filters
	return f.Retry != nil && attempt <= f.Retry.Attempts && ctx.Err() == nil && rx.body.repeatable() &&
		(safe(s.in.Method) || proxy.Unsent(err)) && policy.RetryableError(err)
}

// ended answers a request whose time is over, and leaves other errors to the caller.
func (s *serving) ended(p proxy.Progress, err error) (proxy.Progress, error) {
	f := &s.found.Rule.Filters
	if err == nil || p.HeadSent || f.Timeouts == (Timeouts{}) || fault.CodeOf(err) != fault.DeadlineExceeded || s.ex.Context().Err() != nil {
		return p, err
	}
	why := fmt.Sprintf("no answer within its timeouts (request %v, backendRequest %v)", f.Timeouts.Request, f.Timeouts.Backend)
	return s.refuse(504, codes.DeadlineExceeded, "ERR_ROUTE_TIMEOUT", why)
}

func (r *Rewrite) target(target, prefix string) string {
	if r == nil {
		return target
	}
	return r.Path.Apply(target, prefix)
}
