package http1

import (
	"errors"
	"io"
	"os"
	"sync/atomic"
	"time"

	"github.com/proa-io/proa/mesh/proxy"
)

// sender sends the content of a request while the caller of the round trip
// waits for the response already: a server may answer before it has read all,
// or answer as it reads.
type sender struct {
	c    *clientConn
	r    *proxy.Request
	more proxy.Lookahead // r.Body, if it is one
	left int64           // of a content with a length
	// expected, when not nil, is sent whether the content is wanted.
	expected chan bool
	read     atomic.Bool // the content was read to its end
	failed   error       // of a write
	err      error       // the outcome, once done is closed
	done     chan struct{}
}

// errUnwanted says that the server has answered without asking for the content.
var errUnwanted = errors.New("the content is not wanted")

// startSender begins to send the content; the head is in the buffer.
func (c *clientConn) startSender(r *proxy.Request) {
	s := &sender{c: c, r: r, left: r.ContentLength, done: make(chan struct{})}
	s.more, _ = r.Body.(proxy.Lookahead)
	if hasToken(r.Header.Get("Expect"), "100-continue") {
		s.expected = make(chan bool, 1)
	}
	c.sender = s
	go s.run()
}

func (s *sender) run() {
	s.err = s.send()
	failed := s.err != nil && (s.failed == nil || errors.Is(s.failed, os.ErrDeadlineExceeded))
	close(s.done)
	if failed && s.err != errUnwanted {
		// The server must not take this for the end of the content, and the
		// caller not wait for a response. After other failures to write, it
		// may find one.
		s.c.close()
	}
}

// proceed tells a sender that waits whether the content is wanted. Only the
// first call counts.
func (s *sender) proceed(wanted bool) {
	if s.expected != nil {
		select {
		case s.expected <- wanted:
		default:
		}
	}
}

// stop ends the sender, waits for it and returns its outcome.
func (s *sender) stop() error {
	s.proceed(false)
	if s.read.Load() {
		// Only the end is to be written, or it was a moment ago.
		select {
		case <-s.done:
			return s.err
		case <-time.After(lingerTimeout):
		}
	}
	select {
	case <-s.done:
	default:
		if closer, ok := s.r.Body.(io.Closer); ok {
			closer.Close()
		}
		s.c.close()
		<-s.done
		if s.err == nil {
			s.err = errUnwanted
		}
	}
	return s.err
}

func (s *sender) send() error {
	if s.expected != nil && !s.wanted() {
		return errUnwanted
	}
	if s.more == nil || s.more.Buffered() == 0 {
		if err := s.wrote(s.c.w.flush()); err != nil {
			return err
		}
	}
	if err := s.sendContent(); err != nil {
		return err
	}
	w := &s.c.w
	if s.r.ContentLength < 0 {
		var trailer proxy.Header
		if s.r.Trailer != nil {
			trailer = *s.r.Trailer
		}
		w.buffer("")
		out, err := appendTrailer(w.out, trailer)
		if err != nil {
			return &proxy.BodyError{Err: err}
		}
		w.out = out
	}
	return s.wrote(w.flush())
}

// wanted sends the head and waits until the server asks for the content, or for
// so long that it will not.
func (s *sender) wanted() bool {
	if s.wrote(s.c.w.flush()) != nil {
		return false
	}
	limit := time.NewTimer(orDefault(s.c.cl.ExpectTimeout, DefaultExpectTimeout))
	defer limit.Stop()
	select {
	case wanted := <-s.expected:
		return wanted
	case <-limit.C:
		return true
	}
}

func (s *sender) sendContent() error {
	if from, ok := s.r.Body.(io.WriterTo); ok && s.left >= spliceLeft {
		_, err := from.WriteTo(s)
		return s.ended(err)
	}
	buf := s.c.cl.bufs.getCopy()
	defer s.c.cl.bufs.putCopy(buf)
	for {
		n, err := s.r.Body.Read(buf[:])
		if err == io.EOF {
			s.read.Store(true)
		}
		if n > 0 {
			if _, werr := s.write(buf[:n], err == io.EOF); werr != nil {
				return werr
			}
		}
		if err != nil {
			return s.ended(noError(err))
		}
	}
}

// ended judges the end of the content; err is nil for io.EOF.
func (s *sender) ended(err error) error {
	switch {
	case err != nil && err == s.failed:
		return err
	case err == nil && s.left > 0:
		err = io.ErrUnexpectedEOF
	case err == nil:
		s.read.Store(true)
		return nil
	}
	return &proxy.BodyError{Err: err}
}

func (s *sender) wrote(err error) error {
	if err != nil {
		s.failed = err
	}
	return err
}

// Write sends a part of the content, at once unless more waits to be read.
func (s *sender) Write(p []byte) (int, error) { return s.write(p, false) }

func (s *sender) write(p []byte, last bool) (int, error) {
	w := &s.c.w
	if s.r.ContentLength < 0 {
		if err := s.wrote(w.chunk(p)); err != nil {
			return 0, err
		}
	} else {
		if int64(len(p)) > s.left {
			return 0, errContentTooLong
		}
		if s.left -= int64(len(p)); s.left == 0 {
			s.read.Store(true) // the response may be there before the end is looked for
		}
		if err := s.wrote(w.send(p, "")); err != nil {
			return 0, err
		}
	}
	if !last && (s.more == nil || s.more.Buffered() == 0) {
		return len(p), s.wrote(w.flush())
	}
	return len(p), nil
}

var errContentTooLong error = &proxy.BodyError{Err: errors.New("it is longer than its Content-Length")}

// ReadFrom sends what r holds; from a socket to a socket, the kernel moves it.
func (s *sender) ReadFrom(r io.Reader) (int64, error) {
	w := &s.c.w
	from, ok := r.(*io.LimitedReader)
	if ok && w.canSplice(from) && from.N <= s.left {
		n, err := w.splice(from)
		s.left -= n
		return n, s.wrote(err)
	}
	buf := s.c.cl.bufs.getCopy()
	defer s.c.cl.bufs.putCopy(buf)
	return io.CopyBuffer(struct{ io.Writer }{s}, struct{ io.Reader }{r}, buf[:])
}
