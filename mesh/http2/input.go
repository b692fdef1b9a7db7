package http2

import (
	"io"
	"net"
	"sync/atomic"

	"github.com/proa-io/proa/internal/sockio"
)

// inputSizes are the sizes of input buffers. A connection starts with the
// first; one that fills its buffer gets the next.
var inputSizes = [...]int{slab4K, slab32K, slab128K}

// input is the buffer between the network and the frame parser. Only the
// reading goroutine uses it, except for reads.
type input struct {
	nc   net.Conn
	mem  *memory
	slab *slab // nil before the first read
	buf  []byte
	r, w int // what is buffered is buf[r:w]
	step int // index of inputSizes

	sock *sockio.Socket // that nc is; nil: none

	// idle is called before each read from the network, which may wait. It
	// reports whether nothing is going on, so that memory is better given
	// back.
	idle func() bool
	// reads counts reads from the network that brought something.
	reads atomic.Uint64
	// midway tells that what is being waited for is the rest of something.
	midway atomic.Bool
	inside bool // the same, as far as the one who reads knows
	full   bool // the last read filled the buffer
	ahead  int  // how often it was read on
}

var _ sockio.Buffer = (*input)(nil)

// seed puts bytes into the buffer that were read from the network already.
func (in *input) seed(p []byte) {
	for len(p) > slabSizes[inputSizes[in.step]] && in.step < len(inputSizes)-1 {
		in.step++
	}
	if len(p) > slabSizes[inputSizes[in.step]] {
		in.buf = append([]byte(nil), p...)
		in.w = len(p)
		return
	}
	in.take(in.step)
	in.w = copy(in.buf, p)
}

func (in *input) take(step int) {
	in.step = step
	in.slab = in.mem.slab(inputSizes[step])
	in.buf = in.slab.b
}

func (in *input) release() {
	in.mem.free(in.slab)
	in.slab, in.buf = nil, nil
	in.r, in.w = 0, 0
}

// Take implements sockio.Buffer.
func (in *input) Take() []byte {
	in.take(in.step)
	return in.buf
}

// Drop implements sockio.Buffer.
func (in *input) Drop() { in.release() }

// Read implements io.Reader for the Framer.
func (in *input) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if in.r == in.w {
		if err := in.fill(1); err != nil {
			return 0, err
		}
	}
	n := copy(p, in.buf[in.r:in.w])
	in.r += n
	return n, nil
}

// next returns the next n bytes, which are valid until the next call of a
// method.
func (in *input) next(n int) ([]byte, error) {
	if err := in.fill(n); err != nil {
		return nil, err
	}
	p := in.buf[in.r : in.r+n]
	in.r += n
	return p, nil
}

// discard skips n bytes.
func (in *input) discard(n int) error {
	for n > 0 {
		if in.r == in.w {
			if err := in.fill(1); err != nil {
				return err
			}
		}
		k := min(n, in.w-in.r)
		in.r += k
		n -= k
	}
	return nil
}

// fill reads until n bytes are buffered. n must not exceed the largest size.
func (in *input) fill(n int) error {
	for empty := 0; in.w-in.r < n; {
		if in.readOn(n) {
			continue
		}
		in.ahead = 0
		k, err := in.read(n, in.idle())
		if k > 0 {
			in.full = in.w == len(in.buf)
			in.reads.Add(1)
			continue
		}
		if err == nil {
			if empty++; empty < 100 {
				continue
			}
			err = io.ErrNoProgress
		}
		if err == io.EOF && in.w > in.r {
			err = io.ErrUnexpectedEOF
		}
		return err
	}
	return nil
}

// maxAhead is how often input is read on before what came is acted on.
const maxAhead = 4

// readOn reads the rest of a frame if that has come in the meantime, so that a
// message that the network brings in pieces is acted on as a whole. Errors are
// left to read, before which those are woken who wait for what came.
func (in *input) readOn(n int) bool {
	if in.w == in.r || in.sock == nil || in.ahead == maxAhead {
		return false
	}
	in.ahead++
	in.makeRoom(n, false)
	k, err := in.sock.TryRead(in.buf[in.w:])
	if k <= 0 || err != nil {
		return false
	}
	in.w += k
	in.full = in.w == len(in.buf)
	in.reads.Add(1)
	return true
}

// read reads once from the network, on the way to n bytes. Where the system
// allows it, it waits for the beginning of a frame without a buffer.
func (in *input) read(n int, quiet bool) (int, error) {
	midway := in.inside || in.w > in.r
	in.midway.Store(midway)
	if !midway && in.sock != nil {
		switch {
		case in.full:
			in.step = min(in.step+1, len(inputSizes)-1)
		case quiet:
			in.step = 0
		}
		in.release()
		k, err := in.sock.Fill(in)
		in.w = k
		return k, err
	}
	in.makeRoom(n, quiet)
	k, err := in.receive(in.buf[in.w:])
	in.w += k
	return k, err
}

func (in *input) receive(p []byte) (int, error) {
	if in.sock != nil {
		return in.sock.Read(p)
	}
	return in.nc.Read(p)
}

// makeRoom makes room for n bytes and for as much more as is worth reading. A
// quiet connection goes back to the smallest buffer.
func (in *input) makeRoom(n int, quiet bool) {
	step := in.step
	switch {
	case in.full:
		step = min(step+1, len(inputSizes)-1)
	case quiet && in.r == in.w:
		step = 0
	}
	for slabSizes[inputSizes[step]] < max(n, in.w-in.r) && step < len(inputSizes)-1 {
		step++
	}
	in.full = false
	if in.buf != nil && (step == in.step || in.w-in.r >= slabSizes[inputSizes[step]]) {
		if in.r > 0 {
			in.w = copy(in.buf, in.buf[in.r:in.w])
			in.r = 0
		}
		return
	}
	old, unread := in.slab, in.buf[in.r:in.w]
	in.take(step)
	in.r, in.w = 0, copy(in.buf, unread)
	in.mem.free(old)
}
