package telemetry

import (
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"math"
	"os"
	"strconv"
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
	// Upstream is where it was sent at last, Attempts how often; Retried says why
	// the attempts before failed.
	Upstream string
	Attempts int
	Retried  string
}

// Room of a record in the ring. What is longer is cut.
const (
	ringSize      = 2048
	maxAccessText = 832 // bytes of all texts together
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
	textUpstream
	textRetried
	numTexts
)

// record is an Access without pointers, so that nothing is allocated or kept
// alive.
type record struct {
	at             int64 // Unix nanoseconds
	duration       time.Duration
	received, sent int64
	status, grpc   int32
	attempts       int32
	trace          [16]byte
	ends           [numTexts]uint16 // in text
	text           [maxAccessText]byte
}

// put copies a, each text cut to its room.
func (r *record) put(a *Access) {
	r.at, r.duration, r.received, r.sent = a.Time.UnixNano(), a.Duration, a.Received, a.Sent
	r.status, r.grpc = int32(a.Status), int32(a.GRPCStatus) //nolint:gosec // they have three digits
	r.attempts = int32(min(a.Attempts, math.MaxInt32))      //nolint:gosec // see there
	tc, _ := ParseTraceparent(a.TraceParent)
	r.trace = tc.TraceID
	n := 0
	for i, s := range [numTexts]string{a.Direction, a.Method, a.Path, a.Target, a.Caller, a.Failure, a.Upstream, a.Retried} {
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

// AccessLog writes one line of JSON for each request, to a file that may be
// replaced. A request only copies its record into a queue; one goroutine formats
// and writes. A nil *AccessLog logs nothing. It is safe for concurrent use.
type AccessLog struct {
	queue

	metrics *Metrics
	log     *slog.Logger
	next    chan *AccessFile // has room for one
	to      *AccessFile      // of Run; nil for none
	out     []byte
}

// AccessLogOptions are what an access log needs beside a file.
type AccessLogOptions struct {
	Metrics *Metrics     // counts what was dropped; may be nil
	Log     *slog.Logger // is told when nothing can be written; may be nil
}

// AccessFile is where an access log goes.
type AccessFile struct {
	io.Writer
	io.Closer // nil for what stays open
}

// OpenAccessFile opens what text names: "off" or empty is nil, for nowhere;
// "stdout"; or else the path of a file, which is appended to.
func OpenAccessFile(text string) (*AccessFile, error) {
	switch text {
	case "", "off":
		return nil, nil //nolint:nilnil // which is nowhere
	case "stdout":
		return &AccessFile{Writer: os.Stdout}, nil
	}
	f, err := os.OpenFile(text, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o640)
	if err != nil {
		return nil, fmt.Errorf(`the access log wants "off", "stdout" or a file that can be written: %w`, err)
	}
	return &AccessFile{Writer: f, Closer: f}, nil
}

// Close closes the file. It does nothing for nil.
func (f *AccessFile) Close() error {
	if f == nil || f.Closer == nil {
		return nil
	}
	return f.Closer.Close()
}

// NewAccessLog returns an access log that goes nowhere.
func NewAccessLog(o AccessLogOptions) *AccessLog {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &AccessLog{queue: newQueue(), metrics: o.Metrics, log: o.Log, next: make(chan *AccessFile, 1)}
}

// Use has the log go to f from now on; nil for nowhere. What was logged before
// still goes to the former file, which Run closes. It must not be called by
// several goroutines at a time.
func (l *AccessLog) Use(f *AccessFile) {
	l.enable(f != nil) // first: Run takes out of what that has made
	select {
	case former := <-l.next: // Run has not got to it
		_ = former.Close()
	default:
	}
	l.next <- f
}

// Enabled reports whether requests are logged.
func (l *AccessLog) Enabled() bool { return l != nil && l.on.Load() }

// Add puts a request into the log. It never waits and allocates nothing.
func (l *AccessLog) Add(a Access) {
	if l.Enabled() && !l.add(&a) {
		l.metrics.accessDropped(1)
	}
}

// Run writes until ctx ends, and then what is left, and closes the file. Call it
// once.
func (l *AccessLog) Run(ctx context.Context) error {
	for {
		l.rest(l.drain)
		select {
		case <-l.wake:
		case f := <-l.next:
			l.replace(f)
		case <-ctx.Done():
			select {
			case f := <-l.next:
				l.replace(f)
			default:
			}
			l.drain()
			return l.to.Close()
		}
	}
}

// replace writes to another file.
func (l *AccessLog) replace(f *AccessFile) {
	l.drain()
	if err := l.to.Close(); err != nil {
		l.log.Debug("the former access log cannot be closed", "error", err)
	}
	l.to = f
}

// Close closes the file of a log whose Run was not called.
func (l *AccessLog) Close() error {
	select {
	case f := <-l.next:
		return f.Close()
	default:
		return nil
	}
}

// maxAccessWrite is how much is written at once.
const maxAccessWrite = 64 << 10

// drain writes all there is, and reports whether there was anything. Without a
// file it stays for the next one.
func (l *AccessLog) drain() (any bool) {
	if l.to == nil {
		return false
	}
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
	for i, name := range [textFailure]string{"direction", "method", "path", "target", "caller"} {
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
	b = appendMember(b, "upstream", r.get(textUpstream))
	b = appendCount(b, "attempts", int64(r.attempts), r.attempts > 0)
	b = appendMember(b, "retried", r.get(textRetried))
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
