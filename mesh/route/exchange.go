package route

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/mesh/proxy"
	"github.com/proa-io/proa/mesh/rpc"
)

func quoteJSON(text string) string {
	b, err := json.Marshal(text)
	if err != nil {
		return `""`
	}
	return string(b)
}

// routed is an exchange as a backend sees it: with what filters change of the
// request, and of the answer.
type routed struct {
	proxy.Exchange

	serving *serving
	backend *Backend
	request proxy.Request
	header  proxy.Header // of the request, for each attempt anew
	body    body
	tap     []*tap          // copies for mirrors, of the next attempt
	taps    []*tap          // all copies
	ctx     context.Context //nolint:containedctx // that of the attempt
	attempt int

	again    bool // the answer of this attempt is not passed on: there is another one
	answered bool
	broken   bool // the answer was aborted
	ate      int64
	compress *compressor
}

// newRouted makes the request that the backend gets.
func newRouted(s *serving, b *Backend) *routed {
	f := &s.found.Rule.Filters
	rx := &routed{Exchange: s.ex, serving: s, backend: b, request: *s.in}
	rx.header = slices.Clone(s.in.Header)
	f.Request.Apply(&rx.header)
	b.Filters.Request.Apply(&rx.header)
	rx.body.of(s.in, f)
	return rx
}

// Authority returns the host name that the backend is asked with; "" for its own.
func (rx *routed) Authority() string {
	if r := rx.backend.Filters.Rewrite; r != nil && r.Host != "" {
		return r.Host
	}
	if r := rx.serving.found.Rule.Filters.Rewrite; r != nil {
		return r.Host
	}
	return ""
}

// begin prepares an attempt.
func (rx *routed) begin(ctx context.Context, before int) {
	rx.ctx, rx.attempt, rx.again, rx.ate = ctx, before+1, false, 0
	rx.request.Header = slices.Clone(rx.header)
	rx.request.Body = rx.body.reader(rx.tap)
}

// rewind prepares the content for another attempt.
func (rx *routed) rewind() { rx.tap = nil }

// end tells mirrors that no more of the content comes.
func (rx *routed) end() {
	for _, t := range rx.taps {
		t.finish(errCut)
	}
}

// Request implements proxy.Exchange.
func (rx *routed) Request() *proxy.Request { return &rx.request }

// Context implements proxy.Exchange.
func (rx *routed) Context() context.Context { return rx.ctx }

// maxEaten bounds the content of an answer that is not passed on.
const maxEaten = 64 << 10

var (
	errEaten = errors.New("the answer is not wanted: the request is sent again")
	errCut   = errors.New("the request broke off")
)

// Respond implements proxy.Exchange.
func (rx *routed) Respond(code int, h proxy.Header, length int64) error {
	if rx.repeats(code, h) {
		rx.again = true
		return nil
	}
	rx.answered = true
	f := &rx.serving.found.Rule.Filters
	h = slices.Clone(h)
	rx.backend.Filters.Response.Apply(&h)
	f.Response.Apply(&h)
	if f.CORS != nil {
		f.CORS.addTo(rx.serving.in, &h)
	}
	if f.Compression != nil {
		h, length = rx.compression(f.Compression, code, h, length)
	}
	return rx.Exchange.Respond(code, h, length)
}

// repeats reports whether the request is sent again instead of being answered so.
func (rx *routed) repeats(code int, h proxy.Header) bool {
	f := &rx.serving.found.Rule.Filters
	if f.Retry == nil || rx.attempt > f.Retry.Attempts || rx.ctx.Err() != nil || !rx.body.repeatable() {
		return false
	}
	wanted := slices.Contains(f.Retry.Codes, code)
	if rpc.IsGRPC(h) {
		n, err := strconv.Atoi(h.Get("grpc-status"))
		wanted = err == nil && slices.Contains(f.Retry.GRPCCodes, n)
	}
	return wanted && f.retryBudget.Withdraw()
}

// Write implements proxy.Exchange.
func (rx *routed) Write(p []byte) (int, error) {
	if rx.again {
		if rx.ate += int64(len(p)); rx.ate > maxEaten {
			return 0, errEaten
		}
		return len(p), nil
	}
	if rx.compress != nil {
		return rx.compress.Write(p)
	}
	return rx.Exchange.Write(p)
}

// ReadFrom keeps the engine's own way of passing on a body.
func (rx *routed) ReadFrom(r io.Reader) (int64, error) {
	if to, ok := rx.Exchange.(io.ReaderFrom); ok && !rx.again && rx.compress == nil {
		return to.ReadFrom(r)
	}
	return io.Copy(struct{ io.Writer }{rx}, r)
}

// Flush implements proxy.Exchange.
func (rx *routed) Flush() error {
	switch {
	case rx.again:
		return nil
	case rx.compress != nil:
		return rx.compress.Flush()
	}
	return rx.Exchange.Flush()
}

// Trailer implements proxy.Exchange.
func (rx *routed) Trailer(h proxy.Header) error {
	if rx.again {
		return nil
	}
	if rx.compress != nil {
		if err := rx.compress.Close(); err != nil {
			return err
		}
	}
	return rx.Exchange.Trailer(h)
}

// finish writes what compressing has held back.
func (rx *routed) finish() error {
	if rx.compress == nil || rx.broken {
		return nil
	}
	if err := rx.compress.Close(); err != nil {
		return fault.Wrap(err, fault.Canceled, "answer")
	}
	return nil
}

// Abort implements proxy.Exchange: an answer that is not passed on cannot break
// off.
func (rx *routed) Abort() { rx.AbortWith(errCut) }

// AbortWith implements proxy.Aborter.
func (rx *routed) AbortWith(cause error) {
	rx.broken = true
	if !rx.again {
		proxy.Abort(rx.Exchange, cause)
	}
}

// maxKept bounds the content of a request that is kept for another attempt.
const maxKept = 1 << 20

// body is the content of a request over several attempts.
type body struct {
	from     io.Reader
	length   int64
	keep     bool // another attempt is possible
	kept     []byte
	complete bool // kept is all of it
	lost     bool // some of it is gone
	limit    int64
	tooLarge atomic.Bool
	mu       sync.Mutex // guards kept, complete and lost, while somebody reads
}

// of takes the content of a request.
func (b *body) of(r *proxy.Request, f *Filters) {
	b.from, b.length, b.keep, b.limit = r.Body, r.ContentLength, f.Retry != nil || f.Hedge != nil, f.MaxRequestBytes
	if r.Body == nil {
		b.complete = true
		return
	}
	ahead, ok := r.Body.(proxy.Lookahead)
	if !b.keep || !ok || r.ContentLength < 0 || r.ContentLength > maxKept || int64(ahead.Buffered()) < r.ContentLength {
		return
	}
	b.kept = make([]byte, r.ContentLength)
	if n, err := io.ReadFull(r.Body, b.kept); err != nil {
		b.kept = b.kept[:n]
		return
	}
	b.complete = true
}

// repeatable reports whether the content can be sent once more.
func (b *body) repeatable() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.complete || b.keep && !b.lost
}

// whole reports whether all of the content is at hand.
func (b *body) whole() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.complete
}

// reader returns the content for an attempt; copies get all that is read.
func (b *body) reader(copies []*tap) io.Reader {
	if b.from == nil {
		for _, t := range copies {
			t.finish(io.EOF)
		}
		return nil
	}
	if b.limit == 0 && !b.keep && len(copies) == 0 {
		return b.from
	}
	return &attemptBody{body: b, copies: copies}
}

// attemptBody is a body for one attempt. What is read from the client for the
// first time is kept while it is not too much.
type attemptBody struct {
	body   *body
	copies []*tap
	at     int // in kept
	total  int64
}

var errTooLarge = errors.New("the content of the request is larger than its route allows")

// Read implements io.Reader.
func (a *attemptBody) Read(p []byte) (int, error) {
	b := a.body
	n, err := a.replay(p)
	if n == 0 && err == nil && len(p) > 0 {
		n, err = b.from.Read(p)
		a.record(p[:n], err)
	}
	a.total += int64(n)
	if b.limit > 0 && a.total > b.limit {
		b.tooLarge.Store(true)
		n, err = 0, errTooLarge
	}
	for _, t := range a.copies {
		t.add(p[:n])
		if err != nil {
			t.finish(err)
		}
	}
	return n, err
}

// replay reads what an attempt before has read.
func (a *attemptBody) replay(p []byte) (int, error) {
	b := a.body
	b.mu.Lock()
	defer b.mu.Unlock()
	n := 0
	if a.at < len(b.kept) {
		n = copy(p, b.kept[a.at:])
		a.at += n
	} else if b.complete {
		return 0, io.EOF
	}
	return n, nil
}

// record keeps what is read for the first time.
func (a *attemptBody) record(p []byte, err error) {
	b := a.body
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.lost:
	case !b.keep || len(b.kept)+len(p) > maxKept:
		b.lost, b.kept = len(p) > 0, nil
	default:
		b.kept = append(b.kept, p...)
		a.at = len(b.kept)
		b.complete = err == io.EOF || int64(len(b.kept)) == b.length //nolint:errorlint // a connection that broke may wrap it
	}
}

// Buffered implements proxy.Lookahead.
func (a *attemptBody) Buffered() int {
	a.body.mu.Lock()
	n, complete := max(0, len(a.body.kept)-a.at), a.body.complete
	a.body.mu.Unlock()
	if ahead, ok := a.body.from.(proxy.Lookahead); ok && !complete {
		n += ahead.Buffered()
	}
	return n
}

// Close implements io.Closer.
func (a *attemptBody) Close() error {
	a.body.mu.Lock()
	complete := a.body.complete
	a.body.lost = a.body.lost || !complete
	a.body.mu.Unlock()
	if complete {
		return nil
	}
	if c, ok := a.body.from.(io.Closer); ok {
		return c.Close()
	}
	return nil
}

// tap is a copy of the content of a request for a mirror. What is sent never waits
// for it: a mirror that falls behind by more than maxTap loses the request.
type tap struct {
	mu    sync.Mutex
	data  []byte
	err   error
	ready chan struct{} // holds one when there is something
}

// maxTap bounds the content that waits for a mirror.
const maxTap = 256 << 10

func newTap() *tap { return &tap{ready: make(chan struct{}, 1)} }

func (t *tap) add(p []byte) {
	t.mu.Lock()
	if t.err == nil {
		if len(t.data)+len(p) > maxTap {
			t.data, t.err = nil, errors.New("the mirror does not keep up")
		} else {
			t.data = append(t.data, p...)
		}
	}
	t.mu.Unlock()
	t.wake()
}

func (t *tap) finish(err error) {
	t.mu.Lock()
	if t.err == nil {
		t.err = err
	}
	t.mu.Unlock()
	t.wake()
}

func (t *tap) wake() {
	select {
	case t.ready <- struct{}{}:
	default:
	}
}

// Read implements io.Reader.
func (t *tap) Read(p []byte) (int, error) {
	for {
		t.mu.Lock()
		n := copy(p, t.data)
		t.data = t.data[n:]
		err := t.err
		t.mu.Unlock()
		if n > 0 {
			return n, nil
		}
		if err != nil {
			return 0, err
		}
		<-t.ready
	}
}

// Close implements io.Closer.
func (t *tap) Close() error {
	t.finish(errCut)
	return nil
}
