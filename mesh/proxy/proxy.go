// Package proxy is the seam between what speaks HTTP on a connection and what
// decides where a request goes: the model of one request and its response
// that the connection engines (mesh/http1, mesh/http2), the dialects and
// service invocation share, and the forwarding of one to the other.
//
// Heads are small, bodies are streams. Nothing here buffers a body, and
// nothing depends on which version of HTTP either side speaks.
package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net/netip"
	"strings"
	"time"
)

// Field is one header or trailer field. Names keep the spelling they came
// with; compare them without regard to case (RFC 9110, section 5.1).
type Field struct {
	Name  string
	Value string
}

// Header is a list of fields in the order they came. Its methods compare names
// without regard to case. A Header is not safe for concurrent use.
//
// A Header never holds what belongs to a single connection or to the framing
// of a message: pseudo-header fields, Host, Content-Length, Transfer-Encoding,
// Connection and the fields it names, Keep-Alive, Proxy-Connection, Upgrade,
// and TE with another value than "trailers". Engines take these out of what
// they receive (RFC 9110, section 7.6.1) and write their own; they leave out
// such a field if a Header that is to be sent holds one all the same.
type Header []Field

// Get returns the value of the first field with the name, or "".
func (h Header) Get(name string) string {
	for i := range h {
		if SameName(h[i].Name, name) {
			return h[i].Value
		}
	}
	return ""
}

// Has reports whether there is a field with the name.
func (h Header) Has(name string) bool {
	for i := range h {
		if SameName(h[i].Name, name) {
			return true
		}
	}
	return false
}

// Values returns the values of all fields with the name, in order.
func (h Header) Values(name string) []string {
	var out []string
	for i := range h {
		if SameName(h[i].Name, name) {
			out = append(out, h[i].Value)
		}
	}
	return out
}

// Add appends a field.
func (h *Header) Add(name, value string) { *h = append(*h, Field{name, value}) }

// Set replaces the first field with the name and removes the others, or
// appends the field.
func (h *Header) Set(name, value string) {
	for i := range *h {
		if SameName((*h)[i].Name, name) {
			(*h)[i].Value = value
			rest := (*h)[i+1:]
			rest.Del(name)
			*h = (*h)[:i+1+len(rest)]
			return
		}
	}
	h.Add(name, value)
}

// Del removes all fields with the name. It moves the fields behind them up in
// place, so it must not be used on a Header that somebody else also holds.
func (h *Header) Del(name string) {
	kept := (*h)[:0]
	for _, f := range *h {
		if !SameName(f.Name, name) {
			kept = append(kept, f)
		}
	}
	*h = kept
}

// SameName reports whether two field names are equal without regard to case.
func SameName(a, b string) bool {
	return len(a) == len(b) && (a == b || strings.EqualFold(a, b))
}

// UnknownLength is the ContentLength of a body that is sent in chunks or
// frames until it ends.
const UnknownLength = -1

// Request is the head of a request and its body.
type Request struct {
	Method    string
	Scheme    string // "http" or "https"; "" when the engine cannot know
	Authority string // Host header or :authority
	// Target is the request target in origin form, path and query, as it came;
	// "*" for a server-wide OPTIONS; the authority for a CONNECT.
	Target string
	Header Header
	// ContentLength is the length of Body, or UnknownLength.
	ContentLength int64
	// Body is the content; nil when there is none. It returns io.EOF when the
	// content is complete, and an error otherwise. The Body of an Exchange may
	// be read by one goroutine while another one answers. A Body that is an
	// io.Closer, as those of the engines are, may be closed at any time, also
	// while a Read waits: the Read then returns with an error, and nothing
	// that has arrived is lost to the connection. A Body that is not must
	// never wait for long.
	Body io.Reader
	// Trailer holds the trailer fields, valid once Body has returned io.EOF;
	// nil when there can be none. A sender that will set trailers lists no
	// names beforehand.
	Trailer *Header
	// Upgrade is the protocol of an Upgrade request (RFC 9110, section 7.8)
	// or of an extended CONNECT (RFC 8441), in lower case, such as
	// "websocket"; "" for an ordinary request. The Method of an extended
	// CONNECT is presented, and accepted by RoundTrippers, as GET, so that the
	// two forms look the same here. Engines supply Sec-WebSocket-Key and
	// Sec-WebSocket-Accept where one side has no such fields (RFC 8441,
	// section 5).
	Upgrade string
}

// Path returns the target up to the query.
func (r *Request) Path() string {
	path, _, _ := strings.Cut(r.Target, "?")
	return path
}

// Query returns what follows the first "?" of the target, undecoded.
func (r *Request) Query() string {
	_, query, _ := strings.Cut(r.Target, "?")
	return query
}

// Response is the head of a response and its body. It is valid until its Body
// is closed, since engines use it again; its strings stay valid.
type Response struct {
	Status int
	Header Header
	// ContentLength is the length of Body, or UnknownLength. For a response
	// to HEAD and for a 304 it is what Content-Length said, while Body is
	// empty.
	ContentLength int64
	// Body is the content, never nil; it returns io.EOF when the content is
	// complete. The receiver of a Response must Close it, which gives the
	// connection back or, before the end, abandons the exchange. Close may be
	// called more than once, also while a Read waits.
	Body io.ReadCloser
	// Trailer holds the trailer fields, valid once Body has returned io.EOF;
	// nil when there can be none.
	Trailer *Header
	// Upgraded is the raw two-way stream after a 101 response, or after a
	// 2xx response to a CONNECT; nil otherwise. See Stream. Closing it ends
	// the connection; Body is empty then, and need not be closed.
	Upgraded io.ReadWriteCloser
	// Upstream is where the response came from, when that is not the address
	// that was asked; empty else.
	Upstream string
}

// NoBody is a body without content.
type NoBody struct{}

// Read returns io.EOF.
func (NoBody) Read([]byte) (int, error) { return 0, io.EOF }

// Close does nothing.
func (NoBody) Close() error { return nil }

// Lookahead is implemented by bodies that know how much of their content has
// arrived and waits to be read. A forwarder flushes what it has passed on when
// nothing waits, so that events are not late and bulk data not in pieces.
type Lookahead interface {
	// Buffered returns how many bytes Read can return without waiting.
	Buffered() int
}

// Completion is implemented by bodies that know whether all of their content
// has arrived. A RoundTripper sends a small body that has from the goroutine of
// its caller, together with the head.
type Completion interface {
	Lookahead
	// Complete reports whether what is Buffered is all that is left, so that
	// reading to io.EOF does not wait.
	Complete() bool
}

// Stream is what the two-way streams of the engines implement beside
// io.ReadWriteCloser. Read, Write and Close may be called from different
// goroutines.
type Stream interface {
	io.ReadWriteCloser
	// CloseWrite tells the other side that nothing more will be written,
	// while its bytes can still be read.
	CloseWrite() error
}

// Exchange is the server's side of one request: the request, and the means to
// answer it. It is valid until the Handler returns and not safe for concurrent
// use, except where a method says otherwise. Methods that send fail with
// fault.Canceled or fault.Unavailable when the client has gone.
type Exchange interface {
	// Request returns the request. Its strings stay valid after the exchange;
	// the Request itself, its Header and its Body do not.
	Request() *Request

	// Context returns a context that ends when the client goes away or resets
	// the stream, or when the server stops for good. Engines build it on the
	// first call, so that exchanges which never ask do not pay. It has ended
	// once the handler has returned.
	Context() context.Context

	// Interim sends an informational (1xx) response other than 101. It is an
	// error to call it after Respond.
	Interim(status int, h Header) error

	// Respond sends the head of the response. contentLength is the exact
	// length of what will be written, or UnknownLength. The engine adds Date,
	// and what the framing needs, and nothing else. Respond may hold the head
	// back until the first Write, Flush or the end of the exchange.
	Respond(status int, h Header, contentLength int64) error

	// Write sends a part of the response's content.
	io.Writer

	// Flush sends what Respond and Write have held back.
	Flush() error

	// Trailer sends trailer fields and ends the response. The protocol of the
	// client, or a known length, may be unable to carry them; they are dropped
	// then.
	Trailer(h Header) error

	// Upgrade answers a request that has Request.Upgrade set (with 101, or
	// 200 for an extended CONNECT), or a CONNECT (with 200), and returns the
	// raw two-way stream, which is a Stream. The handler owns the stream and
	// must Close it before it returns.
	Upgrade(h Header) (io.ReadWriteCloser, error)

	// Remote is the address of the client; the zero value for a Unix socket.
	Remote() netip.AddrPort

	// TLS describes the TLS connection of the client, with its certificates;
	// nil for plain text. It must not be changed.
	TLS() *tls.ConnectionState

	// Abort ends the exchange so that the client can tell that the response
	// is not complete: it resets the stream or closes the connection. It may
	// be called at any time from any goroutine.
	Abort()
}

// exchangeKey is what the contexts of exchanges know their exchange by.
type exchangeKey struct{}

// ExchangeKey returns the key by which the Context of an Exchange tells the
// Exchange, as long as that is valid; see ExchangeOf.
func ExchangeKey() any { return exchangeKey{} }

// ExchangeOf returns the exchange that ctx comes from, or nil. It is that of the
// connection, and must be used by the goroutine only that handles it.
func ExchangeOf(ctx context.Context) Exchange {
	ex, _ := ctx.Value(exchangeKey{}).(Exchange)
	return ex
}

// Handler answers one exchange. When it returns without having called Respond
// or Abort, the engine answers 500, or 413 when the body was larger than its
// limit.
type Handler func(Exchange)

// RoundTripper sends a request and returns the head of the response. It
// returns once the head has arrived; the body of the request may still be on
// its way then, and is read until it ends or the response's Body is closed.
// Interim responses are passed to the function given in opts. The RoundTripper
// does not touch r or its Body any more once it has returned an error or the
// response's Body is closed.
//
// Errors are faults: Unavailable when no connection could be had or it broke,
// or the answer made no sense; DeadlineExceeded when the head did not come in
// time; Canceled when ctx ended; InvalidArgument when r cannot be sent. An
// error in reading r.Body comes back as it is, inside a BodyError. [Unsent]
// tells whether a request that failed can be sent again.
//
// A RoundTripper is safe for concurrent use.
type RoundTripper interface {
	RoundTrip(ctx context.Context, r *Request, opts RoundTripOptions) (*Response, error)
}

// RoundTripOptions are what a single round trip may want.
type RoundTripOptions struct {
	// Interim, when not nil, is called for each 1xx response but 100, which
	// asks for the body, and 101. The Header is valid during the call.
	Interim func(status int, h Header)
	// HeadTimeout bounds the time until the response's head; 0 for no bound
	// but that of the context.
	HeadTimeout time.Duration
}

// MarkUnsent returns an error that wraps err and for which Unsent reports true.
func MarkUnsent(err error) error { return &unsentError{err} }

// Unsent reports whether a request that failed with err can be sent again
// whatever its method: the application behind cannot have seen any of it (no
// byte was sent, or the server said that it did not process the request), and
// nothing of its Body was read.
func Unsent(err error) bool {
	_, ok := errors.AsType[*unsentError](err)
	return ok
}

type unsentError struct{ err error }

func (e *unsentError) Error() string { return e.err.Error() }
func (e *unsentError) Unwrap() error { return e.err }

// BodyError says that a round trip failed because the body of the request
// could not be read: the fault is on the side of the client, not of the server.
type BodyError struct{ Err error }

// Error returns the text of the cause after what was being done.
func (e *BodyError) Error() string { return "read the request's body: " + e.Err.Error() }

// Unwrap returns the cause.
func (e *BodyError) Unwrap() error { return e.Err }
