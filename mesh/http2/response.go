package http2

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/internal/coroutine"
	"github.com/proa-io/proa/mesh/proxy"
)

// response is a Response with what its Body needs. It holds its stream only
// until the body has ended or is closed.
type response struct {
	proxy.Response
	ctx     context.Context //nolint:containedctx // that of RoundTrip: reading the body has no other
	c       *conn
	st      *stream      // nil once the response is over; c.mu guards it
	over    error        // what Read returns then
	by      time.Time    // when ctx ends; zero for no such time
	header  proxy.Header // the memory of Header
	trailer proxy.Header
	up      *upload // sends the request's body; nil when it was sent at once
}

// response returns one for a call of RoundTrip by co.
func (m *memory) response(ctx context.Context, co *coroutine.Coroutine) *response {
	res, ok := m.responses.Get().(*response)
	if !ok {
		res = &response{}
	}
	res.ctx = ctx
	res.by, _ = ctx.Deadline()
	co.Used(res)
	return res
}

// Reuse implements coroutine.Reusable: who has made the call has ended.
func (res *response) Reuse() {
	if res.st != nil || res.up != nil || res.Upgraded != nil {
		return
	}
	mem := res.c.mem
	*res = response{header: reuse(res.header), trailer: reuse(res.trailer)}
	mem.responses.Put(res)
}

// present completes the Response that the caller gets. c.mu is held.
func (rt *roundTrip) present(res *response, st *stream) {
	res.Body = (*responseBody)(res)
	if st.client.connect && res.Status >= 200 && res.Status < 300 {
		res.Body = proxy.NoBody{}
		res.Upgraded = &duplex{c: res.c, side: (*clientSideOf)(res)}
		return
	}
	if st.client.connect {
		res.c.endLocal(st)
		res.c.flush(st.co)
	}
	res.Trailer = &res.trailer
	if st.remoteEnd && st.content.n == 0 && st.err == nil && res.up == nil {
		res.end(io.EOF)
	}
}

// end lets go of the stream. c.mu is held.
func (res *response) end(why error) {
	st := res.st
	res.st, res.over = nil, why
	if why == io.EOF && len(st.trailer) > 0 {
		res.trailer = append(res.trailer, st.trailer...)
	}
	st.client.res = nil
	st.dropContent()
	st.wakeReader()
	st.unref()
}

// responseBody is the Body of a response.
type responseBody response

// Read implements io.Reader.
func (b *responseBody) Read(p []byte) (int, error) {
	res := (*response)(b)
	c := res.c
	c.mu.Lock()
	defer c.mu.Unlock()
	return res.read(p)
}

// read reads from the stream. c.mu is held, but not while waiting.
func (res *response) read(p []byte) (int, error) {
	c := res.c
	for {
		st := res.st
		switch {
		case st == nil:
			return 0, res.over
		case st.content.n > 0 && len(p) > 0:
			n := c.consume(st, p)
			if st.content.n == 0 && st.remoteEnd && st.err == nil {
				// Who reads need not ask again, nor flush what it passes on.
				return n, res.ended(st)
			}
			if c.urgent {
				c.flush(st.co)
			}
			return n, nil
		case st.remoteEnd && st.err == nil:
			return 0, res.ended(st)
		case st.err != nil:
			return 0, res.inTime(st.err)
		case len(p) == 0:
			return 0, nil
		case st.rwait:
			return 0, fault.New(fault.FailedPrecondition, "two goroutines read the body of stream %d", st.id)
		}
		st.refs++
		if res.await(st, time.Time{}) == waitDone && res.st == st {
			st.reset(codeCancel, res.ctxFault(errDone))
			c.flush(st.co)
		}
		st.unref()
	}
}

// await waits until there is something new of the response, until a time if that
// is not zero. c.mu is held, but not while waiting.
func (res *response) await(st *stream, until time.Time) waitEnd {
	if st.co.Attached() {
		return res.suspend(st, until)
	}
	if until.IsZero() {
		return st.wait(st.rsem, &st.rwait, res.ctx.Done(), nil)
	}
	t := st.c.mem.timer(time.Until(until))
	defer st.c.mem.freeTimer(t)
	return st.wait(st.rsem, &st.rwait, res.ctx.Done(), t.C)
}

// suspend is await for a coroutine. It is woken when its own client goes away.
// c.mu is held, but not while waiting.
func (res *response) suspend(st *stream, until time.Time) waitEnd {
	by := res.by
	if by.IsZero() || !until.IsZero() && until.Before(by) {
		by = until
	}
	if by.IsZero() || time.Until(by) > 0 {
		st.rwait, st.parked = true, true
		st.c.alarmAt(st, by)
		st.c.mu.Unlock()
		st.co.Suspend()
		st.c.mu.Lock()
		if !st.parked {
			return waitWoken
		}
		st.rwait, st.parked = false, false
	}
	// It was not news of the stream.
	st.c.mu.Unlock()
	gone := res.ctx.Err() != nil
	st.c.mu.Lock()
	switch {
	case gone:
		return waitDone
	case !until.IsZero() && time.Until(until) <= 0:
		return waitExpired
	}
	return waitWoken
}

// ended notes that all content was read. c.mu is held.
func (res *response) ended(st *stream) error {
	switch {
	case res.Upgraded != nil: // the other direction may go on
	case res.up == nil:
		res.end(io.EOF)
	case len(res.trailer) == 0:
		res.trailer = append(res.trailer, st.trailer...)
	}
	return io.EOF
}

// ctxFault returns err, or what the context ended with if err is errDone.
func (res *response) ctxFault(err error) error {
	if err != errDone {
		return err
	}
	return fault.Wrap(context.Cause(res.ctx), fault.CodeOf(res.ctx.Err()), "%s: the call was given up", res.c.peer())
}

// inTime returns err, or that the deadline has passed if that is why the server
// has reset the stream: it knows the deadline of a gRPC call, too, and may be
// the first to act on it.
func (res *response) inTime(err error) error {
	r, ok := errors.AsType[*ResetError](err)
	if !ok || !r.ByPeer || r.Code != codeCancel {
		return err
	}
	if d, ok := res.ctx.Deadline(); !ok || time.Now().Before(d) {
		return err
	}
	return fault.Wrap(err, fault.DeadlineExceeded, "the call ran out of time")
}

// Close implements io.Closer. It resets the stream if it has not ended, and
// returns when the request's body is not used any more.
func (b *responseBody) Close() error {
	res := (*response)(b)
	c := res.c
	c.mu.Lock()
	if st := res.st; st != nil {
		co := st.co
		st.reset(codeCancel, errBodyClosed)
		res.end(errBodyClosed)
		if len(c.out) > 0 {
			c.flush(co)
		}
	}
	up := res.up
	c.mu.Unlock()
	if up != nil {
		up.stop()
	}
	return nil
}

// Buffered implements proxy.Lookahead.
func (b *responseBody) Buffered() int {
	b.c.mu.Lock()
	defer b.c.mu.Unlock()
	if b.st == nil {
		return 0
	}
	return b.st.content.n
}

// Complete implements proxy.Completion.
func (b *responseBody) Complete() bool {
	b.c.mu.Lock()
	defer b.c.mu.Unlock()
	if b.st == nil {
		return b.over == io.EOF
	}
	return b.st.remoteEnd && b.st.err == nil
}

var (
	_ io.ReadCloser    = (*responseBody)(nil)
	_ proxy.Completion = (*responseBody)(nil)
)

// upload sends the body of a request on a pooled goroutine.
type upload struct {
	c       *conn
	st      *stream // c.mu guards its fields; upload holds a reference
	body    io.Reader
	first   *slab // what was read of the body, sent before it
	trailer *proxy.Header
	known   proxy.Header // the trailers, when body is nil
	length  int64        // of the body as a whole, or UnknownLength
	done    chan struct{}
	res     *response
	stopper sync.Once
}

// newUpload takes over the body of the request. c.mu is held.
func newUpload(rt *roundTrip, st *stream) *upload {
	st.refs++
	up := &upload{
		c: st.c, st: st, body: rt.body, known: rt.trailer, length: rt.r.ContentLength,
		done: make(chan struct{}), res: st.client.res,
	}
	if rt.body != nil {
		up.trailer = rt.r.Trailer
	}
	up.first, rt.first = rt.first, nil
	return up
}

// do implements task.
func (up *upload) do() {
	err := up.send()
	up.c.mem.free(up.first)
	c := up.c
	c.mu.Lock()
	st := up.st
	switch {
	case st.err != nil || st.localEnd:
		// The stream is over, or the server wants no more.
	case err == nil:
		if up.trailer != nil {
			up.known = *up.trailer
		}
		if err = c.checkFields(up.known); err == nil {
			err = c.appendTrailers(st, up.known)
		}
	}
	if err != nil && st.err == nil && !st.localEnd {
		st.reset(codeCancel, err)
	}
	c.flushLocked()
	st.unref()
	c.mu.Unlock()
	close(up.done)
}

// send sends the content. It returns nil at its end.
func (up *upload) send() error {
	if up.first != nil {
		if err := up.write(up.first.b[:up.first.w], false); err != nil {
			return err
		}
	}
	if up.body == nil {
		return nil
	}
	size := slab32K
	if up.length > int64(slabSizes[slab32K]) {
		size = slab64K
	}
	s := up.c.mem.slab(size)
	defer up.c.mem.free(s)
	look, _ := up.body.(proxy.Lookahead)
	left := up.length
	if left >= 0 && up.first != nil {
		left -= int64(up.first.w)
	}
	for {
		n, err := up.body.Read(s.b)
		if left >= 0 {
			if left -= int64(n); left < 0 {
				return &proxy.BodyError{Err: fault.New(fault.InvalidArgument, "the body is longer than its length says")}
			}
		}
		if n > 0 {
			if err := up.write(s.b[:n], err == nil && (look == nil || look.Buffered() == 0)); err != nil {
				return err
			}
		}
		switch {
		case err == io.EOF && left > 0:
			return &proxy.BodyError{Err: fault.New(fault.InvalidArgument, "the body ended %d bytes before its length says", left)}
		case err == io.EOF:
			return nil
		case err != nil:
			return &proxy.BodyError{Err: err}
		}
	}
}

// write sends p, and has it written to the network if it is urgent.
func (up *upload) write(p []byte, urgent bool) error {
	c := up.c
	c.mu.Lock()
	defer c.mu.Unlock()
	_, err := c.send(up.st, p, up.res.ctx.Done())
	if err != nil {
		err = up.res.ctxFault(err)
	}
	if urgent {
		c.flushLocked()
	}
	return err
}

// stop returns when the body is not used any more. The stream has ended.
func (up *upload) stop() {
	select {
	case <-up.done:
		return
	default:
	}
	up.stopper.Do(func() {
		if closer, ok := up.body.(io.Closer); ok {
			_ = closer.Close()
		}
	})
	<-up.done
}
