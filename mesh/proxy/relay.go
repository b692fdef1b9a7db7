package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/internal/coroutine"
)

// Progress tells how far an answer got.
type Progress struct {
	// HeadSent tells that the client has been answered: nobody else may
	// answer it any more.
	HeadSent bool
	// Status is that of the answer; 0 before its head was sent. GRPCStatus is
	// the grpc-status of its trailer, or of its head when it has no trailer;
	// empty for none.
	Status     int
	GRPCStatus string
	// Bytes is how much content was passed on to the client, or of an
	// upgraded stream.
	Bytes int64
	// Sent is how much of an upgraded stream was passed on to the server.
	Sent int64
	// Route is for who sends the request: a Relayer knows nothing of it.
	Route Route
}

// Route tells where a request was sent.
type Route struct {
	Target string // the application, or whatever else, that was asked for
	// Upstream is the address of the last attempt, "host:port" or "unix:/path";
	// empty when there was none, or when it is not known.
	Upstream string
	Attempts int    // how often it was sent
	Retried  string // why the attempts before the last failed, short, with commas between
}

// ErrClientGone is wrapped by the error of Relay when it was the client that
// did not take the answer.
var ErrClientGone = errors.New("the client is gone")

// Aborter is implemented by exchanges whose protocol can tell the client why a
// response broke off, such as the error code by which the server reset a
// stream. gRPC clients make a status of it.
type Aborter interface {
	// AbortWith is Exchange.Abort with the error that the response broke off
	// with.
	AbortWith(cause error)
}

// Abort aborts ex because of cause, and tells the client why if the protocol
// can.
func Abort(ex Exchange, cause error) {
	if a, ok := ex.(Aborter); ok {
		a.AbortWith(cause)
		return
	}
	ex.Abort()
}

// copyBuffers hold content on its way from one connection to another: large ones
// while much of it comes, and small ones otherwise.
type copyBuffers struct{ small, large sync.Pool } // *[]byte

// The sizes are as much as one read takes. The larger one is that of content of
// 64 KiB with what frames it in gRPC.
const (
	smallBuffer = 4 << 10
	largeBuffer = 72 << 10
)

func (c *copyBuffers) get(size int) *[]byte {
	if b, ok := c.pool(size).Get().(*[]byte); ok {
		return b
	}
	b := make([]byte, size)
	return &b
}

func (c *copyBuffers) put(b *[]byte) { c.pool(len(*b)).Put(b) }

func (c *copyBuffers) pool(size int) *sync.Pool {
	if size == smallBuffer {
		return &c.small
	}
	return &c.large
}

// fit returns b, or the buffer for what comes next if that is another one: ahead
// of it has arrived, and the last read has brought n bytes.
func (c *copyBuffers) fit(b *[]byte, ahead, n int) *[]byte {
	size := len(*b)
	switch {
	case ahead > smallBuffer || n == len(*b):
		size = largeBuffer
	case ahead == 0 && n < smallBuffer:
		size = smallBuffer
	}
	if size == len(*b) {
		return b
	}
	c.put(b)
	return c.get(size)
}

// Relayer passes responses on. The zero value is ready for use; it keeps
// buffers, so use one for many exchanges. It is safe for concurrent use.
type Relayer struct {
	buffers copyBuffers
	sinks   sync.Pool // *splicingSink
}

// Relay answers ex with resp: head, content as it arrives, trailers, or after
// an upgrade both directions of the raw stream. It closes resp.Body. Content is
// flushed whenever no more of it has arrived, and so is the head, so that events
// are not late.
//
// When the content breaks off, the exchange is aborted so that the client can
// tell; the error says which side broke. When the head cannot be passed on,
// nothing was answered.
func (r *Relayer) Relay(ex Exchange, resp *Response) (Progress, error) {
	StripProxyAuth(resp)
	if resp.Upgraded != nil {
		return r.tunnel(ex.Context(), ex, resp)
	}
	return r.respond(ex, resp)
}

const fieldGRPCStatus = "grpc-status"

// respond passes a response on that is no upgrade.
func (r *Relayer) respond(ex Exchange, resp *Response) (Progress, error) {
	// Closing waits until nobody reads the request any more.
	defer resp.Body.Close()
	length := resp.ContentLength
	if resp.Trailer != nil && resp.Header.Has("trailer") {
		length = UnknownLength // HTTP/1.1 has trailers in chunked content only
	}
	if err := ex.Respond(resp.Status, resp.Header, length); err != nil {
		return Progress{}, notBegun(err)
	}
	p := Progress{HeadSent: true, Status: resp.Status}
	var err error
	from, ok := resp.Body.(io.WriterTo)
	to, splices := ex.(io.ReaderFrom)
	if ok && splices && length >= 0 {
		p.Bytes, err = r.writeTo(ex, to, from)
	} else {
		p.Bytes, err = r.copy(ex, resp.Body, length)
	}
	if err == nil && resp.Trailer != nil && len(*resp.Trailer) > 0 {
		p.GRPCStatus = resp.Trailer.Get(fieldGRPCStatus)
		err = clientGone(ex.Trailer(*resp.Trailer))
	} else {
		p.GRPCStatus = resp.Header.Get(fieldGRPCStatus)
	}
	if err != nil {
		Abort(ex, err)
	}
	return p, err
}

// notBegun says why a response was not begun: the client has gone, or the
// response cannot be said in its protocol.
func notBegun(err error) error {
	switch fault.CodeOf(err) {
	case fault.Canceled, fault.Unavailable, fault.DeadlineExceeded:
		return clientGone(err)
	}
	return fault.Wrap(err, fault.Unavailable, "the response cannot be passed on")
}

func clientGone(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%w: %w", ErrClientGone, err)
}

// copy passes content of a length on without delay: before it waits for more, it
// flushes.
func (r *Relayer) copy(ex Exchange, body io.Reader, length int64) (int64, error) {
	size, n := smallBuffer, 0
	if length > smallBuffer {
		size, n = largeBuffer, smallBuffer
	}
	buf := r.buffers.get(size)
	defer func() { r.buffers.put(buf) }()
	for total := int64(0); ; {
		ahead := buffered(body)
		if ahead == 0 && waits(body, length) {
			if err := ex.Flush(); err != nil {
				return total, clientGone(err)
			}
		}
		buf = r.buffers.fit(buf, ahead, n)
		var err error
		n, err = body.Read(*buf)
		if n > 0 {
			if _, werr := ex.Write((*buf)[:n]); werr != nil {
				return total, clientGone(werr)
			}
			total += int64(n)
		}
		if err == io.EOF { // not errors.Is: a connection that broke may wrap it
			return total, nil
		}
		if err != nil {
			return total, err
		}
	}
}

// buffered returns how much of the content has arrived, as far as it can tell.
func buffered(body io.Reader) int {
	if ahead, ok := body.(Lookahead); ok {
		return ahead.Buffered()
	}
	return 0
}

// waits reports whether reading may wait for what has not arrived: content, or in
// HTTP/2 also the end of it alone. None of it is buffered.
func waits(body io.Reader, length int64) bool {
	if c, ok := body.(Completion); ok {
		return !c.Complete()
	}
	_, none := body.(NoBody)
	return length != 0 && !none
}

// writeTo lets the content write itself, which can spare copies. The exchange, to,
// does not hold for long what it is given.
func (r *Relayer) writeTo(ex Exchange, to io.ReaderFrom, body io.WriterTo) (int64, error) {
	s, _ := r.sinks.Get().(*splicingSink)
	if s == nil {
		s = new(splicingSink)
	}
	s.ex, s.to = ex, to
	n, err := body.WriteTo(s)
	if err != nil && err == s.err {
		err = clientGone(err)
	}
	*s = splicingSink{}
	r.sinks.Put(s)
	return n, err
}

// splicingSink remembers the error of the exchange that is written to, to tell it
// from one of the side that is read.
type splicingSink struct {
	ex  Exchange
	to  io.ReaderFrom
	err error
}

func (s *splicingSink) Write(p []byte) (int, error) {
	n, err := s.ex.Write(p)
	s.err = err
	return n, err
}

func (s *splicingSink) ReadFrom(r io.Reader) (int64, error) {
	n, err := s.to.ReadFrom(r)
	s.err = err
	return n, err
}

// tunnel connects the two raw streams until both directions have ended, or ctx
// has.
func (r *Relayer) tunnel(ctx context.Context, ex Exchange, resp *Response) (Progress, error) {
	coroutine.Detach(ctx)
	server := resp.Upgraded
	defer server.Close()
	client, err := ex.Upgrade(resp.Header)
	if err != nil {
		return Progress{}, notBegun(err)
	}
	defer client.Close()
	stop := func() {
		_ = client.Close()
		_ = server.Close()
	}
	defer context.AfterFunc(ctx, stop)()
	p := Progress{HeadSent: true, Status: 101}
	var wg sync.WaitGroup
	var up, down error
	wg.Go(func() { p.Sent, up = r.pipe(server, client, stop) })
	p.Bytes, down = r.pipe(client, server, stop)
	wg.Wait()
	return p, errors.Join(up, down)
}

// pipe copies src to dst until src ends, and tells dst so. When either breaks,
// it stops both, so that the other direction ends too.
func (r *Relayer) pipe(dst, src io.ReadWriteCloser, stop func()) (int64, error) {
	var n int64
	var err error
	if from, ok := src.(io.WriterTo); ok {
		n, err = from.WriteTo(dst)
	} else {
		buf := r.buffers.get(largeBuffer)
		n, err = io.CopyBuffer(struct{ io.Writer }{dst}, struct{ io.Reader }{src}, *buf)
		r.buffers.put(buf)
	}
	if half, ok := dst.(Stream); ok && err == nil {
		err = half.CloseWrite()
	}
	if err != nil {
		stop()
	}
	return n, err
}
