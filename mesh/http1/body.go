package http1

import (
	"io"
	"net"
	"sync/atomic"

	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/mesh/proxy"
)

// bodyOwner is the connection that a body is read from.
type bodyOwner interface {
	// beforeRead is called each time before the body waits for bytes.
	beforeRead() error
	// beforeSplice is the same before bytes are taken from the bare connection.
	beforeSplice() error
	// bodyError turns what went wrong into an error for the reader.
	bodyError(err error) error
	// bodyEnded is called once, when the content is complete.
	bodyEnded()
}

type bodyKind uint8

const (
	bodyNone    bodyKind = iota
	bodyLength           // as long as Content-Length said
	bodyChunked          // chunked transfer coding
	bodyClose            // until the connection ends (responses only)
)

// body decodes the content of a message as it is read. It is part of its
// connection and used again for each message.
type body struct {
	rd      *reader
	owner   bodyOwner
	lenient bool // for trailers
	kind    bodyKind
	state   chunkState
	left    int64 // of the content, or of the chunk
	allowed int64 // bytes of content that may still come; -1: any number
	waste   int64 // bytes of chunk extensions beyond those of content
	trailer proxy.Header
	ahead   error // what comes after the buffered content, if that is known
	err     error // what every further Read returns
	closed  atomic.Bool
	done    atomic.Bool // all of the content was read
}

// start makes the body ready for the next message.
func (b *body) start(kind bodyKind, length, allowed int64) {
	b.kind, b.state, b.left, b.allowed, b.waste = kind, inSize, length, allowed, 0
	b.trailer = b.trailer[:0]
	b.ahead, b.err = nil, nil
	if kind == bodyLength && length == 0 {
		b.kind = bodyNone
	}
	if b.kind == bodyNone {
		b.err = io.EOF
	}
	b.closed.Store(false)
	b.done.Store(b.kind == bodyNone)
}

// complete reports whether all of the content was read.
func (b *body) complete() bool { return b.err == io.EOF }

// Buffered returns how many bytes can be read without waiting. Of content with a
// length that includes what has come and waits in the socket.
func (b *body) Buffered() int {
	n := b.held()
	if b.err == nil && b.kind == bodyLength && int64(n) < b.left && b.rd.sock != nil {
		n = int(min(int64(n+b.rd.sock.Waiting()), b.left))
	}
	return n
}

// held is how much content is in the buffer.
func (b *body) held() int {
	if b.err != nil {
		return 0
	}
	switch b.kind {
	case bodyClose:
		return b.rd.buffered()
	case bodyChunked:
		b.lookAhead()
		if b.state != inData {
			return 0
		}
	}
	return int(min(int64(b.rd.buffered()), b.left))
}

// Read reads content. It returns io.EOF together with the last bytes if it can
// tell, and what has arrived rather than wait for more.
func (b *body) Read(p []byte) (int, error) {
	if b.err != nil {
		return 0, b.err
	}
	if len(p) == 0 {
		return 0, nil
	}
	var n int
	var err error
	switch b.kind {
	case bodyLength:
		n, err = b.readLength(p)
	case bodyChunked:
		n, err = b.readChunked(p)
	default:
		n, err = b.readData(p)
	}
	if err != nil {
		return n, b.end(err)
	}
	return n, nil
}

// end notes and returns the error that ends the body.
func (b *body) end(err error) error {
	if err == io.EOF {
		b.err = err
		b.done.Store(true)
		b.owner.bodyEnded()
		return err
	}
	if b.closed.Load() {
		// The read was cut short by Close. Bytes that arrive later are still
		// part of the body, so that the connection may skip them.
		return errBodyClosed
	}
	b.err = b.owner.bodyError(err)
	return b.err
}

// errBodyClosed is what Read returns after Close.
var errBodyClosed error = fault.New(fault.Canceled, "the body was closed")

func (b *body) readLength(p []byte) (int, error) {
	n, err := b.readData(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	switch {
	case b.left == 0:
		return n, io.EOF
	case err == io.EOF:
		return n, io.ErrUnexpectedEOF
	}
	return n, err
}

// readData reads raw bytes: from the buffer, or past it into a large p.
func (b *body) readData(p []byte) (int, error) {
	if b.rd.buffered() == 0 {
		if err := b.wait(b.owner.beforeRead); err != nil {
			return 0, err
		}
		if len(p) >= bufferSize/4 {
			n, err := b.rd.src.Read(p)
			if n > 0 {
				err = nil
			}
			return n, err
		}
		if err := b.rd.fill(bufferSize); err != nil {
			return 0, err
		}
	}
	n := copy(p, b.rd.window())
	b.rd.skip(n)
	return n, nil
}

// wait is called before the body blocks in a read of the connection.
func (b *body) wait(before func() error) error {
	if err := before(); err != nil {
		return err
	}
	// Close sets closed and then cuts the read short, so a Close that is not
	// seen here will interrupt what follows.
	if b.closed.Load() {
		return errBodyClosed
	}
	return nil
}

// noEOF tells a connection that ended within a message from a body that did.
func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// Close makes Read return errors from now on, and one that waits return.
func (b *body) Close() error {
	if !b.done.Load() && !b.closed.Swap(true) {
		interrupt(b.rd.conn)
	}
	return nil
}

// spliceSize bounds what is passed on in one go, so that the bounds on waiting
// hold for parts and not for the whole of a long body; smaller rests are not
// worth the system calls of a splice.
const (
	spliceSize = 4 << 20
	spliceLeft = 64 << 10
)

// noError turns the end of a body into success.
func noError(err error) error {
	if err == io.EOF {
		return nil
	}
	return err
}

// WriteTo writes the rest of the content to w: what has arrived, straight from
// the buffer. When w can read by itself (an Exchange or a request of this
// package), the long rest of a body with a known length is given to it as the
// bare connection, so that the kernel can move the bytes between two sockets.
func (b *body) WriteTo(w io.Writer) (int64, error) {
	var total int64
	var buf *[copySize]byte
	to, canRead := w.(io.ReaderFrom)
	canRead = canRead && b.kind == bodyLength && isSocket(b.rd.conn) && !b.rd.attended
	for b.err == nil {
		var n int64
		var err error
		switch {
		case b.held() > 0:
			n, err = b.writeBuffered(w)
		case canRead && b.left >= spliceLeft:
			n, err = b.splice(to)
		default:
			if buf == nil {
				buf = b.rd.pool.getCopy()
				defer b.rd.pool.putCopy(buf)
			}
			n, err = b.writeNext(w, buf[:])
		}
		if total += n; err != nil {
			return total, err
		}
	}
	return total, noError(b.err)
}

// writeBuffered writes the content that has arrived.
func (b *body) writeBuffered(w io.Writer) (int64, error) {
	p := b.rd.window()[:b.held()]
	n, err := w.Write(p)
	b.rd.skip(n)
	if b.left -= int64(n); b.kind == bodyLength && b.left == 0 {
		b.end(io.EOF)
	} else if b.kind == bodyChunked && b.left == 0 {
		b.state = afterData
	}
	return int64(n), err
}

// writeNext reads once and writes what came.
func (b *body) writeNext(w io.Writer, buf []byte) (int64, error) {
	n, err := b.Read(buf)
	if n > 0 {
		m, werr := w.Write(buf[:n])
		if n = m; werr != nil {
			return int64(n), werr
		}
	}
	return int64(n), noError(err)
}

// splice moves a part of the rest.
func (b *body) splice(to io.ReaderFrom) (int64, error) {
	if err := b.wait(b.owner.beforeSplice); err != nil {
		return 0, b.end(err)
	}
	part := &io.LimitedReader{R: b.rd.conn, N: min(b.left, spliceSize)}
	asked := part.N
	n, err := to.ReadFrom(part)
	read := asked - part.N
	b.left -= read
	switch {
	case err != nil && read == n && !b.closed.Load() && !connFailed(b.rd.conn):
		return n, err // of the other side
	case err != nil:
		return n, b.end(err)
	case part.N > 0:
		return n, b.end(io.ErrUnexpectedEOF)
	case b.left == 0:
		b.end(io.EOF)
	}
	return n, nil
}

// isSocket reports whether the kernel can move bytes from c to another socket.
func isSocket(c net.Conn) bool {
	switch c.(type) {
	case *net.TCPConn, *net.UnixConn:
		return true
	}
	return false
}
