package telemetry

import (
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strconv"
	"sync/atomic"
	"time"
	"unicode/utf8"
)

// Access is a request that was answered, as the access log tells of it. Strings
// are cut to what has room in a record; empty ones are left out of the line.
type Access struct {
	Time time.Time // when it began
	// Direction is "api" for a request of the application to a component,
	// "outbound" for one to another application, and "inbound" for one from
	// another application.
	Direction string
	Method    string // "GET"; "gRPC" for a gRPC call
	Path      string // or the gRPC method; without the query
	Target    string // the application or endpoint that was invoked
	Caller    string // the application that invokes
	Status    int    // of HTTP; 0 for no answer
	// GRPCStatus is the code of a gRPC call; negative for none.
	GRPCStatus int
	// Received and Sent are the content of the request and of the answer, in
	// bytes; negative when that is not known.
	Received, Sent int64
	Duration       time.Duration
	TraceParent    string // as it came, or that of the span
	Failure        string // why it failed, as a code; empty if it did not
}

// Room of a record in the ring. What is longer is cut.
const (
	ringSize      = 2048
	maxAccessText = 640 // bytes of all texts together
	maxAccessPath = 320
	maxAccessName = 96
)

// accessTexts are the texts of a record, in the order of a line.
const (
	textDirection = iota
	textMethod
	textPath
	textTarget
	textCaller
	textFailure
	numTexts
)

// record is an Access without pointers, so that nothing is allocated or kept
// alive.
type record struct {
	at             int64 // Unix nanoseconds
	duration       time.Duration
	received, sent int64
	status, grpc   int32
	trace          [16]byte
	ends           [numTexts]uint16 // in text
	text           [maxAccessText]byte
}

// put copies a, each text cut to its room.
func (r *record) put(a *Access) {
	r.at, r.duration, r.received, r.sent = a.Time.UnixNano(), a.Duration, a.Received, a.Sent
	r.status, r.grpc = int32(a.Status), int32(a.GRPCStatus) //nolint:gosec // they have three digits
	tc, _ := ParseTraceparent(a.TraceParent)
	r.trace = tc.TraceID
	n := 0
	for i, s := range [numTexts]string{a.Direction, a.Method, a.Path, a.Target, a.Caller, a.Failure} {
		room := maxAccessName
		if i == textPath {
			room = maxAccessPath
		}
		n += copy(r.text[n:min(n+room, len(r.text))], s)
		r.ends[i] = uint16(n) //nolint:gosec // less than maxAccessText
	}
}

func (r *record) get(text int) []byte {
	begin := uint16(0)
	if text > 0 {
		begin = r.ends[text-1]
	}
	return r.text[begin:r.ends[text]]
}

// ring is a queue of a fixed size that many put into and one takes out of. Who
// puts never waits: when it is full the record is refused. Each slot counts how
// often it was used, which tells whose turn it is (after Vyukov's bounded
// queue).
type ring struct {
	slots []slot
	_     [64]byte // keeps what many write out of the cache line of what they read
	tail  atomic.Uint64
	_     [64]byte
	head  uint64 // of who takes out
}

type slot struct {
	turn atomic.Uint64
	record
}

func newRing(size int) *ring {
	r := &ring{slots: make([]slot, size)}
	for i := range r.slots {
		r.slots[i].turn.Store(uint64(i)) //nolint:gosec // an index
	}
	return r
}

// put reports whether there was room.
func (r *ring) put(a *Access) bool {
	for {
		at := r.tail.Load()
		s := &r.slots[at%uint64(len(r.slots))]
		switch turn := s.turn.Load(); {
		case turn == at:
			if r.tail.CompareAndSwap(at, at+1) {
				s.put(a)
				s.turn.Store(at + 1)
				return true
			}
		case turn < at:
			return false // it has not been taken out since
		}
	}
}

// take calls use with the oldest record, if there is one that is complete.
func (r *ring) take(use func(*record)) bool {
	s := &r.slots[r.head%uint64(len(r.slots))]
	if s.turn.Load() != r.head+1 {
		return false
	}
	use(&s.record)
	s.turn.Store(r.head + uint64(len(r.slots)))
	r.head++
	return true
}

// AccessLog writes one line of JSON for each request. A request only copies its
// record into a ring; one goroutine formats and writes. When that is slower
// than requests come, records are dropped and counted. A nil *AccessLog logs
// nothing. It is safe for concurrent use.
type AccessLog struct {
	to      io.Writer
	file    *os.File // that to is, when Run closes it
	metrics *Metrics
	log     *slog.Logger
	ring    *ring
	idle    atomic.Bool   // Run waits for wake
	wake    chan struct{} // has room for one
	out     []byte
}

// AccessLogOptions say where an access log goes.
type AccessLogOptions struct {
	// To is "off" or empty for none, "stdout", or the path of a file, which is
	// appended to.
	To      string
	Metrics *Metrics     // counts what was dropped; may be nil
	Log     *slog.Logger // is told when nothing can be written; may be nil
}

// OpenAccessLog returns the access log, or nil when there is none. Run writes
// it.
func OpenAccessLog(o AccessLogOptions) (*AccessLog, error) {
	switch o.To {
	case "", "off":
		return nil, nil //nolint:nilnil // which logs nothing
	case "stdout":
		return NewAccessLog(os.Stdout, o), nil
	}
	f, err := os.OpenFile(o.To, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o640)
	if err != nil {
		return nil, fmt.Errorf(`the access log wants "off", "stdout" or a file that can be written: %w`, err)
	}
	l := NewAccessLog(f, o)
	l.file = f
	return l, nil
}

// NewAccessLog returns an access log that goes to a writer. o.To has no meaning.
func NewAccessLog(to io.Writer, o AccessLogOptions) *AccessLog {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &AccessLog{to: to, metrics: o.Metrics, log: o.Log, ring: newRing(ringSize), wake: make(chan struct{}, 1)}
}

// Add puts a request into the log. It never waits and allocates nothing.
func (l *AccessLog) Add(a Access) {
	if l == nil {
		return
	}
	if !l.ring.put(&a) {
		l.metrics.accessDropped(1)
		return
	}
	if l.idle.Load() && l.idle.CompareAndSwap(true, false) {
		l.wake <- struct{}{} // has room: whoever sets idle has taken what was in it
	}
}

// Run writes until ctx ends, and then what is left. Nobody should call Add after
// that. Call it once.
func (l *AccessLog) Run(ctx context.Context) error {
	for {
		l.drain()
		l.idle.Store(true)
		if l.drain() && l.idle.CompareAndSwap(true, false) {
			continue // one came before it could be told to wake us
		}
		select {
		case <-l.wake:
			continue
		case <-ctx.Done():
		}
		l.drain()
		return l.Close()
	}
}

// Close closes the file that OpenAccessLog has opened. It is for a log that Run
// was not called of; Run does it otherwise.
func (l *AccessLog) Close() error {
	if l == nil || l.file == nil {
		return nil
	}
	return l.file.Close()
}

// maxAccessWrite is how much is written at once.
const maxAccessWrite = 64 << 10

// drain writes all there is, and reports whether there was anything.
func (l *AccessLog) drain() (any bool) {
	n := 0
	for l.ring.take(func(r *record) { l.out = r.appendLine(l.out) }) {
		any = true
		if n++; len(l.out) >= maxAccessWrite {
			l.write(n)
			n = 0
		}
	}
	l.write(n)
	return any
}

// write writes n lines.
func (l *AccessLog) write(n int) {
	if n == 0 {
		return
	}
	if _, err := l.to.Write(l.out); err != nil {
		l.metrics.accessDropped(n)
		l.log.Debug("the access log cannot be written", "lines", n, "error", err)
	}
	l.out = l.out[:0]
}

// appendLine appends the record as a line of JSON.
func (r *record) appendLine(b []byte) []byte {
	b = append(b, `{"time":"`...)
	b = time.Unix(0, r.at).UTC().AppendFormat(b, "2006-01-02T15:04:05.000000Z")
	b = append(b, '"')
	for i, name := range [numTexts - 1]string{"direction", "method", "path", "target", "caller"} {
		b = appendMember(b, name, r.get(i))
	}
	b = appendCount(b, "status", int64(r.status), r.status > 0)
	b = appendCount(b, "grpc_status", int64(r.grpc), r.grpc >= 0)
	b = appendCount(b, "bytes_in", r.received, r.received >= 0)
	b = appendCount(b, "bytes_out", r.sent, r.sent >= 0)
	b = append(b, `,"duration_ms":`...)
	b = strconv.AppendFloat(b, milliseconds(r.duration.Round(time.Microsecond)), 'f', 3, 64)
	if r.trace != [16]byte{} {
		b = append(b, `,"trace_id":"`...)
		b = append(hex.AppendEncode(b, r.trace[:]), '"')
	}
	b = appendMember(b, "failure", r.get(textFailure))
	return append(b, '}', '\n')
}

func appendCount(b []byte, name string, n int64, known bool) []byte {
	if !known {
		return b
	}
	b = append(append(append(b, `,"`...), name...), `":`...)
	return strconv.AppendInt(b, n, 10)
}

// appendMember appends a member of an object; nothing for an empty text. What is
// not UTF-8, as where a text was cut, becomes U+FFFD.
func appendMember(b []byte, name string, text []byte) []byte {
	if len(text) == 0 {
		return b
	}
	b = append(append(append(b, `,"`...), name...), `":"`...)
	const digits = "0123456789abcdef"
	for len(text) > 0 {
		c, size := utf8.DecodeRune(text)
		text = text[size:]
		switch {
		case c == '"' || c == '\\':
			b = append(b, '\\', byte(c)) //nolint:gosec // one of the two
		case c < ' ' || c == 0x7f:
			b = append(b, `\u00`...)
			b = append(b, digits[c>>4], digits[c&15])
		default:
			b = utf8.AppendRune(b, c)
		}
	}
	return append(b, '"')
}
