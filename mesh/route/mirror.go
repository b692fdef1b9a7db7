package route

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/mesh/proxy"
)

// The bounds of mirrored requests.
const (
	maxMirrors    = 256              // under way at once; more are not sent
	mirrorTimeout = 15 * time.Second // of one of them
)

// Mirrors sends copies of requests, whose answers nobody waits for. It is safe for
// concurrent use.
type Mirrors struct {
	sender Sender
	log    *slog.Logger

	mu      sync.Mutex
	ctx     context.Context //nolint:containedctx // of Run, for the requests that it owns
	running int
	wg      sync.WaitGroup
	dropped atomic.Int64
}

// NewMirrors returns a Mirrors. It sends nothing before Run is called.
func NewMirrors(s Sender, log *slog.Logger) *Mirrors { return &Mirrors{sender: s, log: log} }

// Run lets requests be mirrored until ctx ends, then gives up those under way, and
// returns nil.
func (m *Mirrors) Run(ctx context.Context) error {
	m.mu.Lock()
	m.ctx = ctx
	m.mu.Unlock()
	<-ctx.Done()
	m.mu.Lock()
	m.ctx = nil
	m.mu.Unlock()
	m.wg.Wait()
	return nil
}

// Dropped returns how many copies were not sent, because too many were under way.
func (m *Mirrors) Dropped() int64 { return m.dropped.Load() }

// send sends a copy of a request, with the content that copied gets, if there is
// room. It reports whether it does.
func (m *Mirrors) send(b *Backend, r proxy.Request, target string, copied *tap) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ctx == nil || m.running >= maxMirrors {
		m.dropped.Add(1)
		return false
	}
	m.running++
	ctx, cancel := context.WithTimeout(m.ctx, mirrorTimeout)
	m.wg.Go(func() {
		defer cancel()
		// A reader that waits for more must not outlive the request.
		defer context.AfterFunc(ctx, func() { copied.finish(context.Cause(ctx)) })()
		ex := &detached{request: r, ctx: ctx}
		if _, err := m.sender.Forward(ex, b, target); err != nil {
			m.log.Debug("a mirrored request failed", "backend", b.String(), "error", err)
		}
		copied.finish(errCut)
		m.mu.Lock()
		m.running--
		m.mu.Unlock()
	})
	return true
}

// mirror sends the copies that a request is to have.
func (s *serving) mirror(rx *routed, to *Backend) {
	if s.router.Mirrors == nil || s.in.Upgrade != "" || s.in.Method == "CONNECT" {
		return
	}
	f := &s.found.Rule.Filters
	for _, list := range [][]Mirror{f.Mirrors, to.Filters.Mirrors} {
		for i := range list {
			m := &list[i]
			if m.Backend.Problem != "" || m.Share < 1 && rand.Float64() >= m.Share { //nolint:gosec // nothing depends on its being a secret
				continue
			}
			copied := newTap()
			r := *s.in
			r.Header = slices.Clone(rx.header)
			r.Trailer = nil
			if r.Body != nil {
				r.Body = copied
			}
			if s.router.Mirrors.send(&m.Backend, r, s.arrival.Target, copied) {
				rx.tap, rx.taps = append(rx.tap, copied), append(rx.taps, copied)
			}
		}
	}
}

// detached is an exchange without a client. What it is answered with is kept, or
// thrown away.
type detached struct {
	request proxy.Request
	ctx     context.Context //nolint:containedctx // that of the exchange

	keep    int64 // how much content of the answer is kept; 0 for none
	status  int
	header  proxy.Header
	body    bytes.Buffer
	trailer proxy.Header
	over    bool // the answer was larger than keep
	aborted error
}

var errNoUpgrade = errors.New("nobody is there to switch protocols for")

// Request implements proxy.Exchange, as do the following.
func (d *detached) Request() *proxy.Request { return &d.request }

// Context returns the context of the exchange.
func (d *detached) Context() context.Context { return d.ctx }

// Interim does nothing.
func (d *detached) Interim(int, proxy.Header) error { return nil }

// Respond keeps the head.
func (d *detached) Respond(status int, h proxy.Header, _ int64) error {
	d.status, d.header = status, slices.Clone(h)
	return nil
}

// Write keeps content.
func (d *detached) Write(p []byte) (int, error) {
	if d.keep == 0 {
		return len(p), nil
	}
	if int64(d.body.Len()+len(p)) > d.keep {
		d.over = true
		return 0, fault.New(fault.ResourceExhausted, "the answer is larger than %d bytes, the most allowed", d.keep)
	}
	return d.body.Write(p)
}

// Flush does nothing.
func (d *detached) Flush() error { return nil }

// Trailer keeps the trailer.
func (d *detached) Trailer(h proxy.Header) error {
	d.trailer = slices.Clone(h)
	return nil
}

// Upgrade fails.
func (d *detached) Upgrade(proxy.Header) (io.ReadWriteCloser, error) { return nil, errNoUpgrade }

// Remote returns the zero value.
func (d *detached) Remote() netip.AddrPort { return netip.AddrPort{} }

// TLS returns nil.
func (d *detached) TLS() *tls.ConnectionState { return nil }

// Abort notes that the answer broke off.
func (d *detached) Abort() { d.AbortWith(errCut) }

// AbortWith implements proxy.Aborter.
func (d *detached) AbortWith(cause error) { d.aborted = cause }

// Message is a request or an answer whose content is at hand.
type Message struct {
	Status  int
	Header  proxy.Header
	Body    []byte
	Trailer proxy.Header
}

// Call lets a request whose content is at hand meet the rules of t. The answer has
// at most maxBody bytes.
func (rt *Router) Call(ctx context.Context, t *Table, a Arrival, r proxy.Request, maxBody int64) (*Message, error) {
	d := &detached{request: r, ctx: ctx, keep: max(1, maxBody)}
	_, err := rt.Serve(d, t, a)
	switch {
	case d.over:
		return nil, fault.New(fault.ResourceExhausted, "the answer is larger than %d bytes, the most allowed", maxBody)
	case err != nil:
		return nil, err
	case d.aborted != nil:
		return nil, fault.Wrap(d.aborted, fault.Unavailable, "the answer broke off")
	}
	return &Message{Status: d.status, Header: d.header, Body: d.body.Bytes(), Trailer: d.trailer}, nil
}
