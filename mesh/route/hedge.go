package route

import (
	"context"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/internal/coroutine"
	"github.com/proa-io/proa/mesh/proxy"
)

// hedge sends the request, and once more when there is no answer after a while. The
// answer that begins first counts, and the other request is given up.
func (s *serving) hedge(ctx context.Context, rx *routed, b *Backend, target string) (proxy.Progress, error) {
	coroutine.Detach(ctx)
	r := &race{results: make(chan raced, 2)}
	r.start(ctx, s, rx, b, target)
	timer := time.NewTimer(s.found.Rule.Filters.Hedge.Delay)
	defer timer.Stop()
	running := 1
	var last raced
	for running > 0 {
		select {
		case <-timer.C:
			if r.winner.Load() == nil && ctx.Err() == nil && s.found.Rule.Filters.hedgeBudget.Withdraw() {
				r.start(ctx, s, rx, b, target)
				running++
			}
		case done := <-r.results:
			running--
			if won := r.winner.Load() == done.branch; won || r.winner.Load() == nil {
				last = done
			}
		}
	}
	r.done.Wait()
	return last.progress, last.err
}

// race is between the requests of a hedge.
type race struct {
	results chan raced
	winner  atomic.Pointer[branch]
	done    sync.WaitGroup

	mu       sync.Mutex
	branches []*branch
}

type raced struct {
	branch   *branch
	progress proxy.Progress
	err      error
}

func (r *race) start(ctx context.Context, s *serving, rx *routed, b *Backend, target string) {
	ctx, cancel := context.WithCancel(ctx)
	br := &branch{routed: rx, race: r, ctx: ctx, cancel: cancel, request: rx.request}
	br.request.Header = slices.Clone(rx.header)
	br.request.Body = rx.body.reader(rx.tap)
	rx.tap = nil // a copy is enough
	r.mu.Lock()
	r.branches = append(r.branches, br)
	r.mu.Unlock()
	s.out.Backend = b
	s.out.Attempts++
	r.done.Go(func() {
		defer cancel()
		p, err := s.router.Sender.Forward(br, b, target)
		r.results <- raced{br, p, err}
	})
}

// claim makes br the one whose answer counts, unless there is one.
func (r *race) claim(br *branch) bool {
	if !r.winner.CompareAndSwap(nil, br) {
		return r.winner.Load() == br
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, other := range r.branches {
		if other != br {
			other.cancel()
		}
	}
	return true
}

// branch is one of the requests of a hedge.
type branch struct {
	*routed

	race    *race
	ctx     context.Context //nolint:containedctx // that of the request
	cancel  context.CancelFunc
	request proxy.Request
}

func (b *branch) lost() error {
	return fault.New(fault.Canceled, "another try at the same request was answered first")
}

// Request implements proxy.Exchange, as do the following.
func (b *branch) Request() *proxy.Request { return &b.request }

// Context returns the context of the request.
func (b *branch) Context() context.Context { return b.ctx }

// Interim passes nothing on: it is not known whose answer counts.
func (b *branch) Interim(int, proxy.Header) error { return nil }

// Respond answers, if nobody else has.
func (b *branch) Respond(status int, h proxy.Header, length int64) error {
	if !b.race.claim(b) {
		return b.lost()
	}
	return b.routed.Respond(status, h, length)
}

// Write sends content of the answer that counts.
func (b *branch) Write(p []byte) (int, error) {
	if !b.race.claim(b) {
		return 0, b.lost()
	}
	return b.routed.Write(p)
}

// ReadFrom sends content of the answer that counts.
func (b *branch) ReadFrom(r io.Reader) (int64, error) {
	if !b.race.claim(b) {
		return 0, b.lost()
	}
	return b.routed.ReadFrom(r)
}

// Flush sends what was held back of the answer that counts.
func (b *branch) Flush() error {
	if !b.race.claim(b) {
		return b.lost()
	}
	return b.routed.Flush()
}

// Trailer ends the answer that counts.
func (b *branch) Trailer(h proxy.Header) error {
	if !b.race.claim(b) {
		return b.lost()
	}
	return b.routed.Trailer(h)
}

// Upgrade switches protocols for the answer that counts.
func (b *branch) Upgrade(h proxy.Header) (io.ReadWriteCloser, error) {
	if !b.race.claim(b) {
		return nil, b.lost()
	}
	return b.routed.Upgrade(h)
}

// Abort aborts the answer that counts.
func (b *branch) Abort() { b.AbortWith(errCut) }

// AbortWith implements proxy.Aborter.
func (b *branch) AbortWith(cause error) {
	if b.race.winner.Load() == b {
		b.routed.AbortWith(cause)
	}
}
