package pluggable

import (
	"context"
	"io"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/proa-io/proa/fault"
)

const (
	// partWithin is how long a component may take to end a stream that it is
	// told to end. It has read all answers by then.
	partWithin = 5 * time.Second
	// pingEvery is how often a component is asked, as long as a stream is open,
	// whether it is alive: nothing else would tell that it hangs.
	pingEvery = 10 * time.Second
	// maxHeld bounds how many failures a stream keeps to itself until their
	// delay is over; further ones are told at once.
	maxHeld = 1000
)

// A pull is a stream on which a component sends messages M that are to be
// answered with an A each.
type pull[A, M any] struct {
	link  *link
	on    *session
	open  func(context.Context) (grpc.BidiStreamingClient[A, M], error)
	first *A // is sent first; nil for nothing
	// atOnce is how many messages are handled at a time.
	atOnce int
	// handle processes a message, and returns the answer and how long that is to
	// be held back.
	handle func(ctx context.Context, m *M) (answer *A, hold time.Duration)
}

// A pulling is a pull under way.
type pulling[A, M any] struct {
	pull[A, M]
	stream   grpc.BidiStreamingClient[A, M]
	received chan *M
	broken   chan struct{} // closed when nothing is received any more
	why      error         // then
	stopping chan struct{} // closed when nothing more is handled
	held     chan struct{} // one token per answer held back
	handlers sync.WaitGroup
	sending  sync.Mutex
}

// run handles messages until ctx ends, and returns nil then, or until the stream
// breaks, and returns why. Messages that are being handled when that happens are
// waited for.
func (p pull[A, M]) run(ctx context.Context) error {
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	stop := context.AfterFunc(ctx, end) // while the stream is being opened
	stream, err := p.open(life)
	if err == nil && p.first != nil {
		if err = stream.Send(p.first); err == io.EOF {
			err = receivedError(stream, err)
		}
	}
	if !stop() {
		return nil
	}
	if err != nil {
		return p.link.quote(ctx, err)
	}
	r := &pulling[A, M]{
		pull: p, stream: stream, received: make(chan *M), broken: make(chan struct{}), stopping: make(chan struct{}),
		held: make(chan struct{}, maxHeld),
	}
	var beside sync.WaitGroup
	defer beside.Wait()
	defer end()
	beside.Go(r.receive)
	beside.Go(func() { r.watch(life) })
	r.work(ctx)
	close(r.stopping)
	r.handlers.Wait()
	if ctx.Err() != nil {
		r.part()
		return nil
	}
	return p.link.quote(ctx, r.why)
}

// receive takes messages off the stream until it ends. Those that come while it
// is being ended are not answered: the component keeps them.
func (r *pulling[A, M]) receive() {
	defer close(r.broken)
	for {
		m, err := r.stream.Recv()
		if err != nil {
			r.why = err
			if err == io.EOF {
				r.why = fault.New(fault.Unavailable, "the component has ended the stream")
			}
			return
		}
		select {
		case r.received <- m:
		case <-r.stopping:
		}
	}
}

// watch ends the session when the component does not answer any more.
func (r *pulling[A, M]) watch(life context.Context) {
	tick := time.NewTicker(pingEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-life.Done():
			return
		}
		if !r.link.answers(life, r.on) && life.Err() == nil {
			r.on.end()
			return
		}
	}
}

// work handles what is received until ctx ends or the stream breaks.
func (r *pulling[A, M]) work(ctx context.Context) {
	slots := make(chan struct{}, r.atOnce)
	background := context.WithoutCancel(ctx)
	for {
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return
		case <-r.broken:
			return
		}
		select {
		case m := <-r.received:
			r.handlers.Go(func() {
				answer, hold := r.handle(background, m)
				<-slots
				r.hold(hold)
				r.answer(answer)
			})
		case <-ctx.Done():
			return
		case <-r.broken:
			return
		}
	}
}

// hold waits, as long as there is room for another one that waits.
func (r *pulling[A, M]) hold(delay time.Duration) {
	if delay <= 0 {
		return
	}
	select {
	case r.held <- struct{}{}:
		defer func() { <-r.held }()
	default:
		return
	}
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-r.stopping:
	case <-r.broken:
	}
}

// answer sends an answer. That it cannot be sent shows where messages are
// received.
func (r *pulling[A, M]) answer(a *A) {
	r.sending.Lock()
	defer r.sending.Unlock()
	_ = r.stream.Send(a)
}

// part ends the stream such that the component has read the answers.
func (r *pulling[A, M]) part() {
	_ = r.stream.CloseSend() // fails only if the stream has ended
	timer := time.NewTimer(partWithin)
	defer timer.Stop()
	select {
	case <-r.broken:
	case <-timer.C:
	}
}
