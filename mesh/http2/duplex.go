package http2

import (
	"io"
	"strings"

	wire "golang.org/x/net/http2"

	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/mesh/proxy"
)

// duplex is the two-way stream of a CONNECT, at either end.
type duplex struct {
	c    *conn
	side duplexSide
}

// duplexSide is what the ends of a two-way stream differ in. Its methods are
// called with c.mu held.
type duplexSide interface {
	// stream returns the stream, or an error if it is over.
	stream() (*stream, error)
	// read reads, and waits meanwhile with c.mu released.
	read(p []byte) (int, error)
	// done ends what waits for a window.
	done() <-chan struct{}
	// giveUp resets the stream after done was closed.
	giveUp(st *stream)
	// close lets go of the stream.
	close(st *stream)
}

var _ proxy.Stream = (*duplex)(nil)

// Read implements io.Reader.
func (d *duplex) Read(p []byte) (int, error) {
	d.c.mu.Lock()
	defer d.c.mu.Unlock()
	return d.side.read(p)
}

// Write implements io.Writer. What is written goes out at once.
func (d *duplex) Write(p []byte) (int, error) {
	d.c.mu.Lock()
	defer d.c.mu.Unlock()
	st, err := d.side.stream()
	if err != nil {
		return 0, err
	}
	st.refs++
	defer st.unref()
	n, err := d.c.send(st, p, d.side.done())
	if err == errDone {
		d.side.giveUp(st)
	}
	d.c.flushLocked()
	return n, err
}

// CloseWrite implements proxy.Stream.
func (d *duplex) CloseWrite() error {
	d.c.mu.Lock()
	defer d.c.mu.Unlock()
	st, err := d.side.stream()
	if err != nil {
		return err
	}
	if st.err == nil {
		d.c.endLocal(st)
		d.c.flushLocked()
	}
	return nil
}

// Close implements io.Closer: it ends the stream in order if the peer has ended
// its side, and otherwise with CANCEL.
func (d *duplex) Close() error {
	d.c.mu.Lock()
	defer d.c.mu.Unlock()
	st, err := d.side.stream()
	if err != nil {
		return nil
	}
	if st.err == nil {
		d.c.endLocal(st)
		if !st.remoteEnd {
			st.reset(codeCancel, errBodyClosed)
		}
	}
	d.side.close(st)
	d.c.flushLocked()
	return nil
}

// Reset ends the stream so that the peer can tell that it did not end in good
// order: a connection that it stands for was reset (RFC 9113, section 8.5).
func (d *duplex) Reset() {
	d.c.mu.Lock()
	defer d.c.mu.Unlock()
	st, err := d.side.stream()
	if err != nil {
		return
	}
	if st.err == nil {
		st.reset(wire.ErrCodeConnect, errBodyClosed)
	}
	d.side.close(st)
	d.c.flushLocked()
}

// clientSideOf is a response's side of a two-way stream.
type clientSideOf response

func (s *clientSideOf) stream() (*stream, error) {
	if s.st == nil {
		return nil, errBodyClosed
	}
	return s.st, nil
}

func (s *clientSideOf) read(p []byte) (int, error) { return (*response)(s).read(p) }
func (s *clientSideOf) done() <-chan struct{}      { return s.ctx.Done() }
func (s *clientSideOf) giveUp(st *stream) {
	st.reset(codeCancel, (*response)(s).ctxFault(errDone))
}
func (s *clientSideOf) close(*stream) { (*response)(s).end(errBodyClosed) }

// serverSideOf is an exchange's side of a two-way stream.
type serverSideOf exchange

func (s *serverSideOf) stream() (*stream, error) {
	if s.st == nil {
		return nil, errOver
	}
	return s.st, nil
}

func (s *serverSideOf) read(p []byte) (int, error) { return (*exchange)(s).read(p) }
func (s *serverSideOf) done() <-chan struct{}      { return nil }
func (s *serverSideOf) giveUp(*stream)             {}
func (s *serverSideOf) close(st *stream) {
	st.discard = true
	st.dropContent()
	st.wakeReader()
}

// Upgrade implements proxy.Exchange.
func (x *exchange) Upgrade(h proxy.Header) (io.ReadWriteCloser, error) {
	st, err := x.lock()
	if err != nil {
		return nil, err
	}
	defer x.unlock(st)
	x.c.detach(st.co) // what follows waits for either side
	s := &st.server
	switch {
	case s.req.Upgrade == "" && s.req.Method != "CONNECT":
		return nil, fault.New(fault.FailedPrecondition, "the request asks for no upgrade")
	case s.responded:
		return nil, errAnswered
	}
	if s.req.Upgrade == "websocket" {
		h = withoutAccept(h)
	}
	if err := x.c.checkFields(h); err != nil {
		return nil, err
	}
	s.responded, s.upgraded = true, true
	st.sendLeft = proxy.UnknownLength
	if err := x.c.appendHead(st, 200, h, proxy.UnknownLength, false); err != nil {
		return nil, err
	}
	x.c.flushLocked()
	return &duplex{c: x.c, side: (*serverSideOf)(x)}, nil
}

// withoutAccept leaves out what a WebSocket handshake has over HTTP/1.1 only
// (RFC 8441, section 5).
func withoutAccept(h proxy.Header) proxy.Header {
	var out proxy.Header
	for _, f := range h {
		if !strings.EqualFold(f.Name, "sec-websocket-accept") {
			out = append(out, f)
		}
	}
	return out
}
