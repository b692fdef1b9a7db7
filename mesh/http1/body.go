package http1

import (
	"bytes"
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

// chunkState is the place within a chunked body.
type chunkState uint8

const (
	inSize    chunkState = iota // before the line that holds a chunk's size
	inData                      // within a chunk's data
	afterData                   // before the CRLF that ends a chunk's data
	inTrailer                   // after the last chunk
)

const (
	// maxChunkLine bounds the line that holds the size of a chunk, with its
	// extensions; maxChunkWaste bounds by how much the extensions of a body may
	// exceed its content.
	maxChunkLine  = 256
	maxChunkWaste = 16 << 10
	// maxTrailer and maxTrailerFields bound the trailer section.
	maxTrailer       = 16 << 10
	maxTrailerFields = 100
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

// Buffered returns how many bytes Read can return without waiting.
func (b *body) Buffered() int {
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

// lookAhead takes framing from the buffer until there is content, or no more.
func (b *body) lookAhead() {
	for again := true; again && b.ahead == nil && b.state != inData; {
		again, b.ahead = b.frame()
	}
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

func (b *body) readChunked(p []byte) (int, error) {
	total := 0
	for {
		b.lookAhead()
		switch {
		case b.state == inData && (total == 0 || total < len(p) && b.rd.buffered() > 0):
			n, err := b.readData(p[total:min(int64(len(p)), int64(total)+b.left)])
			total += n
			if b.left -= int64(n); b.left == 0 {
				b.state = afterData
			}
			if err != nil {
				return total, noEOF(err)
			}
		case b.ahead != nil:
			return total, b.ahead
		case total > 0:
			return total, nil
		default:
			if err := b.wait(b.owner.beforeRead); err != nil {
				return 0, err
			}
			if err := b.rd.fill(maxTrailer); err != nil {
				return 0, noEOF(err)
			}
		}
	}
}

// noEOF tells a connection that ended within a message from a body that did.
func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// frame takes one element of the chunked framing from the buffer, without
// waiting. It reports whether there was one, and returns io.EOF after the last.
func (b *body) frame() (again bool, err error) {
	win := b.rd.window()
	switch b.state {
	case afterData:
		if len(win) >= 1 && win[0] != '\r' || len(win) >= 2 && win[1] != '\n' {
			return false, malformed("the data of a chunk does not end with CRLF")
		}
		if len(win) < 2 {
			return false, nil
		}
		b.rd.skip(2)
		b.state = inSize
		return true, nil
	case inSize:
		return b.frameSize(win)
	case inTrailer:
		return b.frameTrailer(win)
	}
	return false, nil
}

func (b *body) frameSize(win []byte) (again bool, err error) {
	end := bytes.IndexByte(win, '\n')
	if end > maxChunkLine || end < 0 && len(win) > maxChunkLine {
		return false, malformed("the line with the size of a chunk is too long")
	}
	if end < 0 {
		return false, nil
	}
	size, digits, err := parseChunkSize(win[:end])
	if err != nil {
		return false, err
	}
	if b.waste = max(0, b.waste+int64(end-digits)-size); b.waste > maxChunkWaste {
		return false, malformed("too many chunk extensions")
	}
	b.rd.skip(end + 1)
	if size == 0 {
		b.state = inTrailer
		return true, nil
	}
	if b.allowed >= 0 {
		if size > b.allowed {
			return false, errBodyTooLarge
		}
		b.allowed -= size
	}
	b.left, b.state = size, inData
	return true, nil
}

// errBodyTooLarge says that a chunked body went beyond its limit.
const errBodyTooLarge = malformed("the body is too large")

// parseChunkSize parses a chunk's line without its LF: hexadecimal digits and
// extensions, which are skipped. It returns how many bytes the size takes, with
// the CR.
func parseChunkSize(line []byte) (size int64, digits int, err error) {
	if len(line) == 0 || line[len(line)-1] != '\r' {
		return 0, 0, errBareLF
	}
	line = line[:len(line)-1]
	for digits < len(line) {
		d, ok := hexDigit(line[digits])
		if !ok {
			break
		}
		if digits == 15 {
			return 0, 0, malformed("the size of a chunk is too large")
		}
		size = size<<4 | int64(d)
		digits++
	}
	if digits == 0 {
		return 0, 0, malformed("the size of a chunk is not a number: " + quote(string(line)))
	}
	extension := string(line[digits:])
	if extension != "" && extension[0] != ';' || !isFieldValue(extension) {
		return 0, 0, malformed("the size of a chunk is followed by something else: " + quote(string(line)))
	}
	return size, digits + 1, nil
}

func hexDigit(c byte) (byte, bool) {
	switch {
	case '0' <= c && c <= '9':
		return c - '0', true
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10, true
	case 'A' <= c && c <= 'F':
		return c - 'A' + 10, true
	}
	return 0, false
}

func (b *body) frameTrailer(win []byte) (again bool, err error) {
	if len(win) >= 2 && win[0] == '\r' && win[1] == '\n' {
		b.rd.skip(2)
		return false, io.EOF
	}
	end := bytes.Index(win, endOfHead)
	if end < 0 {
		if len(win) >= maxTrailer {
			return false, malformed("the trailer section is too long")
		}
		if len(win) == 0 {
			return false, nil
		}
		return false, checkPartialHead(win, 0)
	}
	lines := string(win[:end+2])
	b.rd.skip(end + len(endOfHead))
	if err := parseTrailer(lines, &b.trailer, maxTrailerFields, b.lenient); err != nil {
		return false, err
	}
	return false, io.EOF
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
	canRead = canRead && b.kind == bodyLength && isSocket(b.rd.conn)
	for b.err == nil {
		var n int64
		var err error
		switch {
		case b.Buffered() > 0:
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
	p := b.rd.window()[:b.Buffered()]
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
