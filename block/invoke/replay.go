package invoke

import (
	"bytes"
	"errors"
	"io"
	"slices"

	"github.com/proa-io/proa/mesh/proxy"
)

// The request bodies that are kept for another attempt are bounded: those that
// have arrived already, and those that are kept while they are sent.
const (
	maxReplay = 64 << 10
	maxRecord = 4 << 20
)

// replay is the body of a request over several attempts.
type replay struct {
	stream io.Reader // a body that can be sent once; nil when there is none
	kept   []byte    // a small body that has arrived already
	reader bytes.Reader
	has    bool  // kept is the body
	used   bool  // stream has been given away
	length int64 // of stream, or proxy.UnknownLength
	record *recorder
	memory []byte // for kept
}

// keep keeps the body of r if all of it has arrived and it is small, and
// streams it otherwise.
func (b *replay) keep(r *proxy.Request) {
	if r.Body == nil || r.ContentLength == 0 {
		b.has = true
		return
	}
	ahead, ok := r.Body.(proxy.Lookahead)
	if !ok || r.ContentLength < 0 || r.ContentLength > maxReplay || int64(ahead.Buffered()) < r.ContentLength {
		b.stream, b.length = r.Body, r.ContentLength
		return
	}
	b.memory = slices.Grow(b.memory[:0], int(r.ContentLength))
	b.kept = b.memory[:r.ContentLength]
	if _, err := io.ReadFull(r.Body, b.kept); err != nil {
		b.stream, b.length = io.MultiReader(bytes.NewReader(b.kept), failing{err}), proxy.UnknownLength
		b.kept, b.memory = nil, nil
		return
	}
	b.has = true
}

// emptied returns a replay without a body, with the memory of b if that is small.
func (b *replay) emptied() replay {
	if cap(b.memory) > maxReusedMemory {
		return replay{}
	}
	return replay{memory: b.memory[:0]}
}

// maxReusedMemory bounds the memory of bodies that is kept for the next ones.
const maxReusedMemory = maxReplay

// failing is a body that breaks off.
type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// next returns the body for another attempt. With keep what is sent is kept, so
// that one more attempt can be made.
func (b *replay) next(keep bool) io.Reader {
	b.settle()
	switch {
	case !b.has && keep && !b.used:
		b.used = true
		b.record = &recorder{from: b.stream, length: b.length}
		return b.record
	case !b.has:
		b.used = true
		return b.stream
	case b.kept == nil:
		return nil
	}
	b.reader.Reset(b.kept)
	return &b.reader
}

// again reports whether next can give the whole body once more. It must not be
// called while an attempt is under way.
func (b *replay) again() bool {
	b.settle()
	return b.has || !b.used
}

// settle takes what an attempt that is over has left.
func (b *replay) settle() {
	if b.record == nil {
		return
	}
	if r := b.record; r.complete {
		b.kept, b.has = r.kept, true
	} else if !r.touched {
		b.used = false
	}
	b.record = nil
}

// recorder keeps a body while it is read. The transport that reads it may close
// it, which ends the body for good.
type recorder struct {
	from     io.Reader
	length   int64 // or proxy.UnknownLength
	kept     []byte
	touched  bool
	tooLong  bool
	complete bool // kept is the whole body
}

// Read implements io.Reader.
func (r *recorder) Read(p []byte) (int, error) {
	r.touched = true
	n, err := r.from.Read(p)
	switch {
	case r.tooLong:
	case len(r.kept)+n > maxRecord:
		r.kept, r.tooLong = nil, true
	default:
		r.kept = append(r.kept, p[:n]...)
	}
	r.complete = !r.tooLong && (errors.Is(err, io.EOF) || int64(len(r.kept)) == r.length)
	return n, err
}

// Buffered implements proxy.Lookahead.
func (r *recorder) Buffered() int {
	if ahead, ok := r.from.(proxy.Lookahead); ok {
		return ahead.Buffered()
	}
	return 0
}

// Close implements io.Closer.
func (r *recorder) Close() error {
	if c, ok := r.from.(io.Closer); ok {
		r.touched = true
		return c.Close()
	}
	return nil
}
