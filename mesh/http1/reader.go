package http1

import (
	"bytes"
	"io"
	"net"
	"sync"

	"github.com/proa-io/proa/internal/sockio"
)

// bufferSize is the size of the buffers that a connection reads into and
// writes from. It takes the head and a small body of almost all messages.
const bufferSize = 8 << 10

// copySize is the size of the buffers through which long bodies are copied.
const copySize = 32 << 10

// wholeSize is the size of the buffers for requests that are longer than the
// others and sent as a whole all the same: content of 64 KiB with its head.
const wholeSize = 72 << 10

// buffers recycles buffers between the connections of a server or a client, so
// that those which wait for their next request need none.
type buffers struct {
	small  sync.Pool // *[bufferSize]byte
	large  sync.Pool // *[copySize]byte
	whole  sync.Pool // *[wholeSize]byte
	writes sockio.Writes
}

func (b *buffers) get() []byte {
	if p, ok := b.small.Get().(*[bufferSize]byte); ok {
		return p[:]
	}
	return make([]byte, bufferSize)
}

// put takes a buffer back; one that has grown is left to the collector.
func (b *buffers) put(p []byte) {
	switch cap(p) {
	case bufferSize:
		b.small.Put((*[bufferSize]byte)(p[:bufferSize]))
	case wholeSize:
		b.whole.Put((*[wholeSize]byte)(p[:wholeSize]))
	}
}

// grow returns p with room for n bytes in all, which are wholeSize at most.
func (b *buffers) grow(p []byte, n int) []byte {
	if n <= cap(p) {
		return p
	}
	whole, ok := b.whole.Get().(*[wholeSize]byte)
	if !ok {
		whole = new([wholeSize]byte)
	}
	grown := append(whole[:0], p...)
	b.put(p)
	return grown
}

func (b *buffers) getCopy() *[copySize]byte {
	if p, ok := b.large.Get().(*[copySize]byte); ok {
		return p
	}
	return new([copySize]byte)
}

func (b *buffers) putCopy(p *[copySize]byte) { b.large.Put(p) }

// reader is the receiving side of a connection: what has arrived and was not
// consumed is buf[r:w]. It holds no buffer while it is empty and released.
type reader struct {
	conn net.Conn
	sock *sockio.Socket // that conn is; nil: none
	src  io.Reader      // reads from conn, bounding how long
	pool *buffers
	// attended says that somebody else waits for conn: reading from it directly
	// would wait for that one.
	attended bool
	buf      []byte
	r, w     int
}

var _ sockio.Buffer = (*reader)(nil)

// Take and Drop lend the buffer of an empty reader to a socket.
func (rd *reader) Take() []byte {
	if rd.buf == nil {
		rd.buf = rd.pool.get()
	}
	return rd.buf
}

// Drop implements sockio.Buffer.
func (rd *reader) Drop() { rd.release() }

// await is fill for an empty reader, which has no buffer while it waits if
// that is possible.
func (rd *reader) await() error {
	if rd.sock == nil {
		return rd.fill(bufferSize)
	}
	rd.release()
	n, err := rd.sock.Fill(rd)
	rd.w = n
	return err
}

func (rd *reader) buffered() int { return rd.w - rd.r }

func (rd *reader) window() []byte { return rd.buf[rd.r:rd.w] }

// skip consumes n bytes of the window.
func (rd *reader) skip(n int) {
	rd.r += n
	if rd.r == rd.w {
		rd.r, rd.w = 0, 0
	}
}

// release gives the buffer back if nothing is in it.
func (rd *reader) release() {
	if rd.buf != nil && rd.r == rd.w {
		rd.pool.put(rd.buf)
		rd.buf, rd.r, rd.w = nil, 0, 0
	}
}

// drop gives the buffer back with whatever is in it.
func (rd *reader) drop() {
	rd.r = rd.w
	rd.release()
}

// fill reads once from the connection into the buffer. It makes room first by
// moving the window to the front, and by growing the buffer up to max bytes;
// it returns errFull when that is not enough.
func (rd *reader) fill(max int) error {
	switch {
	case rd.buf == nil:
		rd.buf = rd.pool.get()
	case rd.w == len(rd.buf) && rd.r > 0:
		rd.w = copy(rd.buf, rd.buf[rd.r:rd.w])
		rd.r = 0
	case rd.w == len(rd.buf):
		if len(rd.buf) >= max {
			return errFull
		}
		grown := make([]byte, min(2*len(rd.buf), max))
		copy(grown, rd.buf)
		rd.pool.put(rd.buf)
		rd.buf = grown
	}
	n, err := rd.src.Read(rd.buf[rd.w:])
	rd.w += n
	if n > 0 {
		return nil
	}
	if err == nil {
		err = io.ErrNoProgress
	}
	return err
}

// errFull says that the buffer has reached its bound.
const errFull = malformed("too long")

// malformed says in which way a message breaks the rules.
type malformed string

func (m malformed) Error() string { return string(m) }

var endOfHead = []byte("\r\n\r\n")

// head reads up to the empty line that ends the head of a message, and returns
// what precedes that line as one string: lines that end in CRLF, though what
// stands before the LFs remains to be checked. before is called each time
// before it waits for bytes. A head of more than max bytes is errFull.
func (rd *reader) head(max int, before func() error) (string, error) {
	searched := 0
	for {
		win := rd.window()
		from := searched
		if i := bytes.Index(win[from:], endOfHead); i >= 0 {
			n := from + i + 2
			if n+2 > max {
				return "", errFull
			}
			head := string(win[:n])
			rd.skip(n + 2)
			return head, nil
		}
		if len(win) >= max {
			return "", errFull
		}
		if err := checkPartialHead(win, from); err != nil {
			return "", err
		}
		searched = len(win) - min(len(win), len(endOfHead)-1)
		if err := before(); err != nil {
			return "", err
		}
		if err := rd.fill(max); err != nil {
			return "", err
		}
	}
}

// checkPartialHead finds in a head that is not complete yet what can never be
// right, so that a peer that ends its lines otherwise, or speaks another
// protocol, is told at once and not when its time is up.
func checkPartialHead(win []byte, from int) error {
	if len(win) == 0 {
		return nil
	}
	if !isTokenChar(win[0]) && win[0] != '\r' {
		return errNoMessage
	}
	for i := from; ; {
		j := bytes.IndexByte(win[i:], '\n')
		if j < 0 {
			return nil
		}
		if i+j == 0 || win[i+j-1] != '\r' {
			return errBareLF
		}
		i += j + 1
	}
}

const (
	errNoMessage = malformed("what was sent is not HTTP/1.1")
	errBareLF    = malformed("a line ends without CR")
)
