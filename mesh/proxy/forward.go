package proxy

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/proa-io/proa/fault"
)

// Forwarder passes exchanges on to servers. The zero value is ready; it holds
// nothing but memory to use again. It is safe for concurrent use.
type Forwarder struct {
	states sync.Pool // *forwarding
	relay  Relayer
}

// ForwardOptions are what one route or target wants of forwarding. The functions
// are called in the goroutine of Forward.
type ForwardOptions struct {
	// Rewrite, when not nil, may change the request that is about to be sent:
	// its Method, Scheme, Authority, Target and Header. It is called once for
	// each Forward, with a Header of its own. X-Forwarded-For and its kin are
	// its business; the Forwarder adds no fields.
	Rewrite func(ctx context.Context, ex Exchange, r *Request)
	// RewriteResponse, when not nil, may change the Status and the Header of
	// the response that is about to be passed on.
	RewriteResponse func(ctx context.Context, ex Exchange, r *Response)
	// HeadTimeout bounds the time until the response's head; 0 for no bound
	// but that of the context.
	HeadTimeout time.Duration
}

// Failure says what kept an exchange from being forwarded as a whole.
type Failure uint8

// The failures of forwarding. Those up to NoResponse leave the client without
// a response, unless Outcome.Started says otherwise.
const (
	NoFailure    Failure = iota
	ClientGone           // the client went away, or the context was canceled
	RequestBody          // the content of the request is malformed, too large or did not come
	NotSent              // the server could not be reached, or refused the request unseen
	TimedOut             // the response did not come in time
	NoResponse           // the connection broke, or what came was no response
	ResponseCut          // the response broke off after its head
	NotForwarded         // the message cannot be said in the other side's protocol
)

// String returns the failure in snake case, as it appears in metrics and logs.
func (f Failure) String() string {
	switch f {
	case NoFailure:
		return "none"
	case ClientGone:
		return "client_gone"
	case RequestBody:
		return "request_body"
	case NotSent:
		return "not_sent"
	case TimedOut:
		return "timed_out"
	case NoResponse:
		return "no_response"
	case ResponseCut:
		return "response_cut"
	case NotForwarded:
		return "not_forwarded"
	}
	return "unknown"
}

// Outcome tells how far a Forward got.
type Outcome struct {
	// Status is the status of the response's head that was received; 0: none.
	Status int
	// Started tells that the response was begun to the client: nobody else can
	// answer any more. An exchange that failed after that has been aborted.
	Started bool
	// Untouched tells that the request can be forwarded once more as far as
	// its content goes: it has none, or none of it was read.
	Untouched bool
	// Sent and Received count the bytes of content that went to the server and
	// came from it, with those of an upgraded stream.
	Sent, Received int64
	// Failure and Err say what went wrong; Err is nil if nothing did.
	Failure Failure
	Err     error
}

// Forward sends the request of ex to rt and passes the response on as it comes,
// nothing being buffered or replayed: content, trailers, interim responses,
// upgraded streams in both directions. What belongs to one connection (RFC
// 9110, section 7.6.1) stays there. Content is flushed whenever the server has
// sent nothing more for now, so events are not late.
//
// ctx should be ex.Context() or derive from it, so that the request ends when
// the client goes away. It covers all of the exchange, upgraded streams
// included.
//
// When the Outcome has an Err and is not Started, the exchange is still
// unanswered: the caller may forward it again or answer it.
func (f *Forwarder) Forward(ctx context.Context, ex Exchange, rt RoundTripper, opts ForwardOptions) Outcome {
	fw, _ := f.states.Get().(*forwarding)
	if fw == nil {
		fw = new(forwarding)
		fw.f, fw.onInterim = f, fw.interim
	}
	fw.ctx, fw.ex, fw.opts = ctx, ex, opts
	fw.prepare()
	fw.run(rt)
	out := fw.out
	out.Sent += fw.body.count.Load()
	out.Untouched = fw.req.Body == nil || !fw.body.touched.Load()
	fw.reset()
	f.states.Put(fw)
	return out
}

// forwarding is the state of one Forward, used again by later ones.
type forwarding struct {
	f         *Forwarder
	ctx       context.Context //nolint:containedctx // of the exchange that is forwarded
	ex        Exchange
	opts      ForwardOptions
	req       Request
	body      countedBody
	out       Outcome
	onInterim func(int, Header)
}

// reset forgets everything that belongs to the exchange.
func (fw *forwarding) reset() {
	clear(fw.req.Header)
	fw.req = Request{Header: fw.req.Header[:0]}
	if cap(fw.req.Header) > 64 {
		fw.req.Header = nil
	}
	fw.body.reset(nil)
	fw.ctx, fw.ex, fw.opts, fw.out = nil, nil, ForwardOptions{}, Outcome{}
}

// prepare makes the request that will be sent.
func (fw *forwarding) prepare() {
	r := fw.ex.Request()
	fields := fw.req.Header[:0]
	for _, f := range r.Header {
		if !isHopByHop(f) {
			fields = append(fields, f)
		}
	}
	fw.req = *r
	fw.req.Header = fields
	if r.Body != nil {
		fw.body.reset(r.Body)
		fw.req.Body = &fw.body
	}
	if fw.opts.Rewrite != nil {
		fw.opts.Rewrite(fw.ctx, fw.ex, &fw.req)
	}
}

// isHopByHop reports whether a field is for the next recipient only. Engines
// leave out most of these by themselves; it costs little not to rely on it.
func isHopByHop(f Field) bool {
	switch len(f.Name) {
	case 2:
		return SameName(f.Name, "TE") && f.Value != "trailers"
	case 4:
		return SameName(f.Name, "Host")
	case 7:
		return SameName(f.Name, "Upgrade")
	case 10:
		return SameName(f.Name, "Connection") || SameName(f.Name, "Keep-Alive")
	case 14:
		return SameName(f.Name, "Content-Length")
	case 16:
		return SameName(f.Name, "Proxy-Connection")
	case 17:
		return SameName(f.Name, "Transfer-Encoding")
	case 18, 19, 25:
		return IsProxyAuth(f.Name)
	}
	return false
}

// IsProxyAuth reports whether the field authenticates to a proxy, or a proxy to
// its client: Proxy-Authenticate, Proxy-Authorization, Proxy-Authentication-Info
// (RFC 9110, section 11.7). A proxy that asks for no authentication passes none
// of them on.
func IsProxyAuth(name string) bool {
	const prefix = "Proxy-Auth"
	return len(name) > len(prefix) && name[0]|0x20 == 'p' && strings.EqualFold(name[:len(prefix)], prefix)
}

// interim passes an interim response on. A client that has gone is found out
// about later.
func (fw *forwarding) interim(status int, h Header) { _ = fw.ex.Interim(status, h) }

func (fw *forwarding) fail(kind Failure, err error) { fw.out.Failure, fw.out.Err = kind, err }

func (fw *forwarding) run(rt RoundTripper) {
	resp, err := rt.RoundTrip(fw.ctx, &fw.req, RoundTripOptions{Interim: fw.onInterim, HeadTimeout: fw.opts.HeadTimeout})
	if err != nil {
		fw.fail(failureOf(err), err)
		return
	}
	fw.out.Status = resp.Status
	// Whatever happens from here on, also a panic of a rewrite, ends it.
	if resp.Upgraded != nil {
		defer resp.Upgraded.Close()
	} else {
		defer resp.Body.Close()
	}
	if fw.opts.RewriteResponse != nil {
		fw.opts.RewriteResponse(fw.ctx, fw.ex, resp)
	}
	StripProxyAuth(resp)
	var p Progress
	if resp.Upgraded != nil {
		p, err = fw.f.relay.tunnel(fw.ctx, fw.ex, resp)
	} else {
		p, err = fw.f.relay.respond(fw.ex, resp)
	}
	fw.out.Started, fw.out.Received, fw.out.Sent = p.HeadSent, p.Bytes, p.Sent
	fw.relayed(err)
}

// failureOf classifies what a round trip failed with.
func failureOf(err error) Failure {
	if body, ok := errors.AsType[*BodyError](err); ok {
		if fault.Is(body.Err, fault.Canceled) {
			return ClientGone
		}
		return RequestBody
	}
	switch fault.CodeOf(err) {
	case fault.Canceled:
		return ClientGone
	case fault.DeadlineExceeded:
		return TimedOut
	case fault.InvalidArgument:
		return NotForwarded
	}
	if Unsent(err) {
		return NotSent
	}
	return NoResponse
}

// StripProxyAuth takes out of a response what is for the next proxy alone. Relay
// does so by itself.
func StripProxyAuth(resp *Response) {
	for i := range resp.Header {
		if IsProxyAuth(resp.Header[i].Name) {
			resp.Header.Del("Proxy-Authenticate")
			resp.Header.Del("Proxy-Authentication-Info")
			return
		}
	}
}

// relayed judges how the response was passed on.
func (fw *forwarding) relayed(err error) {
	switch {
	case err == nil:
	case errors.Is(err, ErrClientGone), fault.Is(err, fault.Canceled):
		fw.fail(ClientGone, err)
	case !fw.out.Started:
		fw.fail(NotForwarded, err)
	case fault.Is(err, fault.DeadlineExceeded):
		fw.fail(TimedOut, err)
	default:
		fw.fail(ResponseCut, err)
	}
}

// countedBody counts what is read of a request's content, and passes on what
// the content can do.
type countedBody struct {
	r       io.Reader
	count   atomic.Int64
	touched atomic.Bool
}

var (
	_ Completion  = (*countedBody)(nil)
	_ io.WriterTo = (*countedBody)(nil)
	_ io.Closer   = (*countedBody)(nil)
)

func (b *countedBody) reset(r io.Reader) {
	b.r = r
	b.count.Store(0)
	b.touched.Store(false)
}

func (b *countedBody) Read(p []byte) (int, error) {
	b.touched.Store(true)
	n, err := b.r.Read(p)
	b.count.Add(int64(n))
	return n, err
}

func (b *countedBody) WriteTo(w io.Writer) (int64, error) {
	b.touched.Store(true)
	n, err := io.Copy(w, b.r)
	b.count.Add(n)
	return n, err
}

func (b *countedBody) Buffered() int {
	switch r := b.r.(type) {
	case Lookahead:
		return r.Buffered()
	case interface{ Len() int }:
		return r.Len()
	}
	return 0
}

func (b *countedBody) Complete() bool {
	c, ok := b.r.(Completion)
	return ok && c.Complete()
}

func (b *countedBody) Close() error {
	if c, ok := b.r.(io.Closer); ok {
		return c.Close()
	}
	return nil
}
