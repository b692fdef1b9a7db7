package http2

import (
	"io"

	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/mesh/proxy"
)

// requestBody is the Body of an exchange's request.
type requestBody exchange

// Read implements io.Reader.
func (b *requestBody) Read(p []byte) (int, error) {
	x := (*exchange)(b)
	x.c.mu.Lock()
	defer x.c.mu.Unlock()
	return x.read(p)
}

// read reads what has come on the stream. c.mu is held, but not while waiting.
func (x *exchange) read(p []byte) (int, error) {
	for {
		st := x.st
		switch {
		case st == nil:
			return 0, errOver
		case st.discard:
			return 0, errBodyClosed
		case st.content.n > 0 && len(p) > 0:
			return x.take(st, p)
		case st.err != nil:
			return 0, st.err
		case st.remoteEnd:
			return 0, io.EOF
		case len(p) == 0:
			return 0, nil
		case st.rwait:
			return 0, fault.New(fault.FailedPrecondition, "two goroutines read the body of stream %d", st.id)
		}
		x.await(st)
	}
}

// await waits until there may be something to read. c.mu is held, but not
// while waiting.
func (x *exchange) await(st *stream) {
	st.refs++
	defer st.unref()
	if st.server.expect {
		st.server.expect = false
		if !st.server.responded {
			_ = x.c.appendHead(st, 100, nil, proxy.UnknownLength, false)
		}
	}
	x.c.detach(st.co)
	x.c.flushLocked()
	if st.content.n == 0 && !st.remoteEnd && st.err == nil && x.st == st && !st.discard && !st.rwait {
		st.wait(st.rsem, &st.rwait, nil, nil)
	}
}

// take reads what is there, within the bound for bodies. c.mu is held.
func (x *exchange) take(st *stream, p []byte) (int, error) {
	if most := x.c.cfg.MaxBodyBytes; most > 0 && !st.server.upgraded {
		if st.server.bodyLeft == 0 {
			st.server.tooLarge = true
			return 0, fault.New(fault.ResourceExhausted, "the body of the request is larger than %d bytes", most)
		}
		p = p[:min(int64(len(p)), st.server.bodyLeft)]
	}
	n := x.c.consume(st, p)
	st.server.bodyLeft -= int64(n)
	if st.content.n == 0 && st.remoteEnd && st.err == nil {
		return n, io.EOF
	}
	if x.c.urgent {
		x.c.flush(st.co)
	}
	return n, nil
}

// errBodyClosed says that a body is read after it was closed.
var errBodyClosed = fault.New(fault.FailedPrecondition, "the body is closed")

// Close implements io.Closer: what still comes is thrown away, and a Read that
// waits returns.
func (b *requestBody) Close() error {
	x := (*exchange)(b)
	x.c.mu.Lock()
	defer x.c.mu.Unlock()
	if st := x.st; st != nil && !st.discard {
		st.discard = true
		st.dropContent()
		st.wakeReader()
	}
	return nil
}

// Buffered implements proxy.Lookahead.
func (b *requestBody) Buffered() int {
	b.c.mu.Lock()
	defer b.c.mu.Unlock()
	if b.st == nil || b.st.discard {
		return 0
	}
	return b.st.content.n
}

// Complete implements proxy.Completion.
func (b *requestBody) Complete() bool {
	b.c.mu.Lock()
	defer b.c.mu.Unlock()
	return b.st != nil && b.st.remoteEnd && b.st.err == nil && !b.st.discard
}
