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
type Header []Field

// Get returns the value of the first field with the name, or "".
func (h Header) Get(name string) string {
	for i := range h {
		if len(h[i].Name) == len(name) && strings.EqualFold(h[i].Name, name) {
			return h[i].Value
		}
	}
	return ""
}

// Has reports whether there is a field with the name.
func (h Header) Has(name string) bool {
	for i := range h {
		if len(h[i].Name) == len(name) && strings.EqualFold(h[i].Name, name) {
			return true
		}
	}
	return false
}

// Values returns the values of all fields with the name, in order.
func (h Header) Values(name string) []string {
	var out []string
	for i := range h {
		if len(h[i].Name) == len(name) && strings.EqualFold(h[i].Name, name) {
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
		if strings.EqualFold((*h)[i].Name, name) {
			(*h)[i].Value = value
			rest := (*h)[i+1:]
			kept := rest[:0]
			for _, f := range rest {
				if !strings.EqualFold(f.Name, name) {
					kept = append(kept, f)
				}
			}
			*h = (*h)[:i+1+len(kept)]
			return
		}
	}
	h.Add(name, value)
}

// Del removes all fields with the name.
func (h *Header) Del(name string) {
	kept := (*h)[:0]
	for _, f := range *h {
		if !strings.EqualFold(f.Name, name) {
			kept = append(kept, f)
		}
	}
	*h = kept
}

// UnknownLength is the ContentLength of a body that is sent in chunks or
// frames until it ends.
const UnknownLength = -1

// Request is the head of a request and its body.
type Request struct {
	Method    string
	Scheme    string // "http" or "https"; "" when the engine cannot know
	Authority string // Host header or :authority
	// Target is the request target as it came: path and query, or "*".
	Target string
	Header Header // without Host, and without pseudo-header fields
	// ContentLength is the length of Body, or UnknownLength.
	ContentLength int64
	// Body is the content; nil or NoBody when there is none. It returns
	// io.EOF when the content is complete, and an error otherwise.
	Body io.Reader
	// Trailer holds the trailer fields; valid once Body has returned io.EOF.
	// A sender that will set trailers lists no names beforehand.
	Trailer *Header
	// Upgrade is the protocol of an Upgrade request (RFC 9110, section 7.8)
	// or of an extended CONNECT (RFC 8441), in lower case, such as
	// "websocket"; "" for an ordinary request.
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

// Response is the head of a response and its body.
type Response struct {
	Status int
	Header Header
	// ContentLength is the length of Body, or UnknownLength.
	ContentLength int64
	// Body is the content, never nil; it returns io.EOF when the content is
	// complete. The receiver of a Response must Close it, which gives the
	// connection back or, before the end, abandons the exchange.
	Body io.ReadCloser
	// Trailer holds the trailer fields; valid once Body has returned io.EOF.
	Trailer *Header
	// Upgraded is the raw two-way stream after a 101 response (or after a
	// 2xx response to a CONNECT); nil otherwise. Closing it ends the
	// connection.
	Upgraded io.ReadWriteCloser
}

// Exchange is the server's side of one request: the request, and the means to
// answer it. It is valid until the Handler returns and not safe for concurrent
// use, except where a method says otherwise.
type Exchange interface {
	// Request returns the request. Its strings stay valid after the exchange;
	// its Body does not.
	Request() *Request

	// Context returns a context that ends when the client goes away or resets
	// the stream, or when the server stops for good. Engines build it on the
	// first call, so that exchanges which never ask do not pay.
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
	// client may be unable to carry them; they are dropped then.
	Trailer(h Header) error

	// Upgrade answers a request that has Request.Upgrade set (with 101, or
	// 200 for an extended CONNECT) and returns the raw two-way stream. The
	// handler owns the stream and must Close it before it returns.
	Upgrade(h Header) (io.ReadWriteCloser, error)

	// Remote is the address of the client; the zero value for a Unix socket.
	Remote() netip.AddrPort

	// Abort ends the exchange so that the client can tell that the response
	// is not complete: it resets the stream or closes the connection.
	Abort()
}

// Handler answers one exchange. When it returns without having called
// Respond, the engine answers 500.
type Handler func(Exchange)

// RoundTripper sends a request and returns the head of the response. It
// returns once the head has arrived; the body of the request may still be on
// its way then, and is read until it ends or the response's Body is closed.
// Interim responses are passed to the function given in opts.
//
// Errors are faults: Unavailable when no connection could be had or it broke,
// with Unsent telling whether the request can safely be sent again;
// DeadlineExceeded and Canceled for ctx.
type RoundTripper interface {
	RoundTrip(ctx context.Context, r *Request, opts RoundTripOptions) (*Response, error)
}

// RoundTripOptions are what a single round trip may want.
type RoundTripOptions struct {
	// Interim, when not nil, is called for each 1xx response but 101.
	Interim func(status int, h Header)
	// HeadTimeout bounds the time until the response's head; 0 for no bound
	// but that of the context.
	HeadTimeout time.Duration
}
