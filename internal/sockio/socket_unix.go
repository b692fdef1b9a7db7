//go:build unix

package sockio

import (
	"io"
	"net"
	"os"
	"sync"
	"syscall"
)

// Socket is a bare socket. Its methods may be used by one reader and one writer
// at a time, beside those of the net.Conn. It neither owns nor closes it.
type Socket struct {
	raw  syscall.RawConn
	in   input
	once func(fd uintptr) // reads once; made when it is needed
}

// input are the operands and the outcome of a read.
type input struct {
	turn     func(fd uintptr) (done bool) // s.turn
	to       Buffer                       // takes what comes; nil: p does
	p        []byte
	n        int
	err      error
	question []byte // is written before the answer is awaited; nil: was written
	wrote    int
	fresh    bool // there is no need to look before
}

// Writes keeps what writes need while they last, so that a Socket which waits
// does not hold it. The zero value is ready. One serves any number of Sockets.
type Writes struct{ pool sync.Pool }

// output are the operands and the outcome of a write.
type output struct {
	try   func(fd uintptr) // tryFD
	parts [3][]byte
	n     int
	err   error
}

func (w *Writes) get() *output {
	out, _ := w.pool.Get().(*output)
	if out == nil {
		out = new(output)
		out.try = out.tryFD
	}
	return out
}

func (w *Writes) put(out *output) {
	out.parts, out.n, out.err = [3][]byte{}, 0, nil
	w.pool.Put(out)
}

// Of returns the socket that nc is, or nil if it is none or something above one,
// such as TLS.
func Of(nc net.Conn) *Socket {
	var raw syscall.RawConn
	var err error
	switch c := nc.(type) {
	case *net.TCPConn:
		raw, err = c.SyscallConn()
	case *net.UnixConn:
		raw, err = c.SyscallConn()
	default:
		return nil
	}
	if err != nil {
		return nil
	}
	s := &Socket{raw: raw}
	s.in.turn = s.turn
	return s
}

// Read is that of net.Conn.
func (s *Socket) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	s.in.p = p
	err := s.run()
	s.in.p = nil
	return s.in.n, err
}

// Fill waits for bytes, and reads them to the buffer that it takes then. While
// that is empty they are left where they are: it returns 0 and no error then.
func (s *Socket) Fill(to Buffer) (n int, err error) {
	s.in.to = to
	err = s.run()
	s.in.to = nil
	return s.in.n, err
}

// Ask writes question, waits for bytes and reads them as Fill does. It spares
// the attempt to read at once, which would find nothing. It returns how much of
// question was written: when that is not all of it and err is nil, the socket
// takes no more for now, and nothing was waited for. A connection that is not
// fresh is looked into first, see ErrStale. The write has no deadline since it
// does not wait, the read has that of the net.Conn.
func (s *Socket) Ask(question []byte, to Buffer, fresh bool) (wrote, n int, err error) {
	s.in.to, s.in.question, s.in.fresh, s.in.wrote = to, question, fresh, 0
	err = s.run()
	s.in.to, s.in.question = nil, nil
	return s.in.wrote, s.in.n, err
}

// TryRead reads what has come, without waiting: nothing, and no error, if there is
// nothing. Unlike Read it can be called while Watch waits.
func (s *Socket) TryRead(p []byte) (n int, err error) {
	if len(p) == 0 {
		return 0, nil
	}
	s.in.p, s.in.n, s.in.err = p, 0, nil
	if s.once == nil {
		s.once = func(fd uintptr) { s.read(int(fd), s.in.p) }
	}
	err = s.raw.Control(s.once)
	s.in.p = nil
	if err == nil {
		err = s.in.err
	}
	return s.in.n, err
}

// Watch calls f at once, and then each time there may be something to read, until
// it returns false. The socket must not be closed by f, which would wait for
// itself. It returns early with an error when the deadline for reads passes or
// the socket is closed.
func (s *Socket) Watch(f func() bool) error {
	return s.raw.Read(func(uintptr) bool { return !f() })
}

// TryWrite writes as much of the parts, up to three, as the socket takes without
// waiting.
func (s *Socket) TryWrite(w *Writes, parts ...[]byte) (int, error) {
	out := w.get()
	defer w.put(out)
	copy(out.parts[:], parts)
	if err := s.raw.Control(out.try); err != nil {
		return 0, err
	}
	return out.n, out.err
}

// Peek reports what a read would find now. It does not wait and consumes
// nothing.
func (s *Socket) Peek() State {
	state := Ended
	// Control, unlike Read, works whatever the deadline of the connection is.
	if s.raw.Control(func(fd uintptr) { state, _ = peek(int(fd)) }) != nil {
		return Ended
	}
	return state
}

// Waiting returns how many bytes could be read now, without reading them; where
// the system does not tell, 1 stands for any number.
func (s *Socket) Waiting() (n int) {
	if s.raw.Control(func(fd uintptr) { n = waiting(int(fd)) }) != nil {
		return 0
	}
	return n
}

// Control calls f with the descriptor, which is valid until it returns.
func (s *Socket) Control(f func(fd uintptr)) error { return s.raw.Control(f) }

// run takes turns until one is the last, and waits in between.
func (s *Socket) run() error {
	s.in.n, s.in.err = 0, nil
	if err := s.raw.Read(s.in.turn); err != nil {
		return err
	}
	return s.in.err
}

// turn is called at first, and then each time there may be something to read.
// The runtime notes what comes from before the first turn on, so nothing that
// comes after the question was written is missed.
func (s *Socket) turn(fd uintptr) (done bool) {
	switch {
	case s.in.question != nil:
		return s.ask(int(fd))
	case s.in.to == nil:
		return s.read(int(fd), s.in.p)
	}
	p := s.in.to.Take()
	if len(p) == 0 {
		return s.look(int(fd))
	}
	done = s.read(int(fd), p)
	if s.in.n == 0 {
		s.in.to.Drop()
	}
	return done
}

// ask writes the question.
func (s *Socket) ask(fd int) (done bool) {
	in := &s.in
	if !in.fresh {
		if state, _ := peek(fd); state != Quiet {
			in.err = ErrStale
			return true
		}
	}
	n, err := write(fd, in.question)
	in.wrote = max(n, 0)
	switch {
	case in.wrote == len(in.question):
		in.question = nil
		return false
	case err != nil && err != syscall.EAGAIN:
		in.err = os.NewSyscallError("write", err)
	}
	return true
}

func (s *Socket) read(fd int, p []byte) (done bool) {
	n, err := read(fd, p)
	switch {
	case n > 0:
		s.in.n = n
	case err == syscall.EAGAIN:
		return false
	case err != nil:
		s.in.err = os.NewSyscallError("read", err)
	default:
		s.in.err = io.EOF
	}
	return true
}

// look is read without reading.
func (s *Socket) look(fd int) (done bool) {
	switch state, err := peek(fd); state {
	case Quiet:
		return false
	case Ended:
		if s.in.err = io.EOF; err != nil {
			s.in.err = os.NewSyscallError("read", err)
		}
	}
	return true
}

func (out *output) tryFD(fd uintptr) {
	n, err := writeAll(int(fd), &out.parts)
	out.n = max(n, 0)
	if err != nil && err != syscall.EAGAIN {
		out.err = os.NewSyscallError("write", err)
	}
}

func peek(fd int) (State, error) {
	var one [1]byte
	n, err := look(fd, one[:])
	switch {
	case err == syscall.EAGAIN:
		return Quiet, nil
	case err != nil || n == 0:
		return Ended, err
	}
	return Readable, nil
}
