package http1

import (
	"context"
	"errors"
	"io"
	"os"
	"time"

	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/mesh/proxy"
)

// ctxDelay is how long a round trip waits before it watches its context. Most
// end sooner and need not pay for that.
const ctxDelay = 20 * time.Millisecond

// nameError says what went wrong before the head of the response was there.
func (c *clientConn) nameError(err error) error {
	name := c.cl.name()
	if bodyErr, ok := errors.AsType[*proxy.BodyError](err); ok {
		return bodyErr
	}
	switch {
	case c.ctx.Err() != nil:
		return c.cl.ctxError(c.ctx.Err(), "wait for the response of")
	case errors.Is(err, os.ErrDeadlineExceeded) && c.ctxExpired():
		return c.cl.ctxError(context.DeadlineExceeded, "wait for the response of")
	case errors.Is(err, os.ErrDeadlineExceeded) && !c.headBy.IsZero():
		return fault.Wrap(err, fault.DeadlineExceeded, "%s did not answer within %s", name, c.headTime)
	case err == errFull:
		return fault.New(fault.Unavailable, "the head of the response of %s is longer than %d bytes", name, orDefault(c.cl.MaxHead, DefaultMaxHead))
	case isMalformed(err):
		return fault.New(fault.Unavailable, "the response of %s is malformed: %s", name, err)
	case err == io.EOF || err == io.ErrUnexpectedEOF:
		return fault.Wrap(err, fault.Unavailable, "%s closed the connection before it answered", name)
	}
	return fault.Wrap(err, fault.Unavailable, "no response from %s: %s", name, whyNot(err))
}

func (c *clientConn) ctxExpired() bool {
	by, ok := c.ctx.Deadline()
	return ok && !time.Now().Before(by)
}

// endCtx stops watching the context, and reports false if it has ended, in
// which case the connection is of no use any more.
func (c *clientConn) endCtx() bool {
	return c.stopCtx == nil || c.stopCtx()
}

// patientReader reads from the connection of a client. It waits a short while
// first, and watches the context only from then on.
type patientReader clientConn

func (p *patientReader) Read(b []byte) (n int, err error) {
	c := (*clientConn)(p)
	if err = c.readErr; err != nil {
		c.readErr = nil
		return 0, err
	}
	for {
		if c.rd.sock != nil {
			n, err = c.rd.sock.Read(b)
		} else {
			n, err = c.nc.Read(b)
		}
		if n > 0 || err == nil || !errors.Is(err, os.ErrDeadlineExceeded) || !c.goOn() {
			return n, err
		}
	}
}

// beforeHead is called before bytes of a head are waited for.
func (c *clientConn) beforeHead() error {
	c.allowRead(c.headBy)
	return nil
}

// beforeRead is called before bytes of the content are waited for.
func (c *clientConn) beforeRead() error {
	var by time.Time
	if d := orDefault(c.cl.StallTimeout, DefaultStallTimeout); d >= 0 {
		by = time.Now().Add(d)
	}
	c.allowRead(by)
	return nil
}

// beforeSplice is called before the bare connection is read, which must not end
// after the short wait at first.
func (c *clientConn) beforeSplice() error {
	c.watchCtx()
	return c.beforeRead()
}

func (c *clientConn) watchCtx() {
	if c.stopCtx == nil {
		c.stopCtx = context.AfterFunc(c.ctx, c.cancel)
	}
}

// allowRead lets reads wait until by or the end of the context. While the
// context is not watched yet it lets them wait for only a short time.
func (c *clientConn) allowRead(by time.Time) {
	if end, ok := c.ctx.Deadline(); ok && (by.IsZero() || end.Before(by)) {
		by = end
	}
	c.hardBy = by
	if c.attendant != nil {
		return
	}
	if c.stopCtx == nil {
		now := time.Now()
		c.asked = now
		if soon := now.Add(ctxDelay); by.IsZero() || soon.Before(by) {
			// A deadline that was set for an earlier wait will do, unless too
			// little is left of it.
			if left := c.readBy.Sub(now); ctxDelay/2 <= left && left <= ctxDelay {
				return
			}
			by = soon
		}
	}
	c.setReadBy(by)
}

func (c *clientConn) setReadBy(by time.Time) {
	c.readBy = by
	_ = c.nc.SetReadDeadline(by)
	// A cancellation that is not seen here will come after it.
	if c.canceled.Load() {
		interrupt(c.nc)
	}
}

// goOn is called when a read has timed out. It reports whether that was only
// the short wait at first.
func (c *clientConn) goOn() bool {
	if c.stopCtx != nil || !c.hardBy.IsZero() && !time.Now().Before(c.hardBy) {
		return false
	}
	c.watchCtx()
	c.setReadBy(c.hardBy)
	return true
}

// onCancel is called when the context ends.
func (c *clientConn) onCancel() {
	c.canceled.Store(true)
	_ = c.nc.SetDeadline(time.Unix(1, 0))
}

// bodyError says what went wrong within the content of the response.
func (c *clientConn) bodyError(err error) error {
	name := c.cl.name()
	switch {
	case (c.canceled.Load() || c.attendant != nil) && c.ctx.Err() != nil:
		return c.cl.ctxError(c.ctx.Err(), "read the response of")
	case errors.Is(err, os.ErrDeadlineExceeded) && c.ctxExpired():
		return c.cl.ctxError(context.DeadlineExceeded, "read the response of")
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fault.Wrap(err, fault.DeadlineExceeded, "%s sent nothing more of its response for %s", name,
			orDefault(c.cl.StallTimeout, DefaultStallTimeout))
	case c.senderFailed():
		return c.sender.err
	case isMalformed(err):
		return fault.New(fault.Unavailable, "the content of the response of %s is malformed: %s", name, err)
	case err == io.EOF || err == io.ErrUnexpectedEOF:
		return fault.Wrap(err, fault.Unavailable, "%s closed the connection within its response", name)
	}
	return fault.Wrap(err, fault.Unavailable, "the response of %s is incomplete: %s", name, whyNot(err))
}

// senderFailed reports whether the content of the request could not be read.
func (c *clientConn) senderFailed() bool {
	if c.sender == nil {
		return false
	}
	select {
	case <-c.sender.done:
		_, ok := errors.AsType[*proxy.BodyError](c.sender.err)
		return ok
	default:
		return false
	}
}

func (c *clientConn) bodyEnded() {}
