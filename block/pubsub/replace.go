package pubsub

import (
	"context"
	"sync"
	"time"

	"github.com/proa-io/proa/fault"
)

// succession is what a Broker knows of the one in its place.
type succession struct {
	mu sync.Mutex
	// members are the subscriptions that are on the broker or on their way to it
	// from the one before: however late they notice that they are to move, they
	// stop at each broker of the line, since each may have messages for them.
	members  int
	running  sync.WaitGroup // the members that have not ended here
	next     *Broker        // valid once replaced is closed; nil for none
	replaced chan struct{}
	drain    chan struct{} // closed when subscriptions shall end as soon as nothing comes
	force    chan struct{} // closed when they shall end in any case
}

func newSuccession() *succession {
	return &succession{replaced: make(chan struct{}), drain: make(chan struct{}), force: make(chan struct{})}
}

// Replace tells that next takes the place of b, or nothing if next is nil.
// Every Subscribe and Stream on b goes on there: what it subscribes to, it
// subscribes to on next at once. It keeps its subscription on b until Drain is
// called, for messages that b got before. With nothing in its place, Subscribe
// fails with NotFound once its deliveries under way have ended. Call it once.
func (b *Broker) Replace(next *Broker) {
	b.succession.mu.Lock()
	defer b.succession.mu.Unlock()
	if next != nil {
		next.succession.expect(b.succession.members)
	}
	b.succession.next = next
	close(b.succession.replaced)
}

// expect counts in n subscriptions that are on their way.
func (s *succession) expect(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.members += n
	s.running.Add(n)
}

// Drain ends the subscriptions on b, which has been replaced and gets no more
// publishes: each one as soon as no message has come for a moment, which shows
// that what it had was delivered, or when ctx ends. Deliveries under way then
// go on for up to Options.Grace. Drain returns when all have ended. Call it
// once.
func (b *Broker) Drain(ctx context.Context) {
	close(b.succession.drain)
	defer context.AfterFunc(ctx, func() { close(b.succession.force) })()
	b.succession.running.Wait()
}

// latest returns the Broker in place of b, or b itself; nil when it was
// removed.
func (b *Broker) latest() *Broker {
	for b != nil {
		select {
		case <-b.succession.replaced:
			b = b.succession.next
		default:
			return b
		}
	}
	return nil
}

// enter counts a new subscription on the Broker in place of b and returns that
// one; nil when it was removed. The subscription must call running.Done when it
// has ended there, and leave when it goes no further.
func (b *Broker) enter() *Broker {
	for b = b.latest(); b != nil; b = b.latest() {
		b.succession.mu.Lock()
		select {
		case <-b.succession.replaced: // just now
			b.succession.mu.Unlock()
			continue
		default:
		}
		b.succession.members++
		b.succession.running.Add(1)
		b.succession.mu.Unlock()
		return b
	}
	return nil
}

// leave counts out a subscription that ends on b: the brokers after it need not
// wait for it.
func (b *Broker) leave() {
	for first := true; b != nil; first = false {
		b.succession.mu.Lock()
		b.succession.members--
		if !first {
			b.succession.running.Done()
		}
		next := b.succession.next
		b.succession.mu.Unlock()
		b = next
	}
}

// lull is how long nothing must come for a subscription to count as drained. It
// is long, because a busy machine can keep a message waiting for a while.
const lull = time.Second

// Subscribe receives messages and delivers them to app until ctx ends, and
// returns nil then. It outlives the broker: when the component is not ready,
// or the subscription breaks, it tries again with growing delays for ever, and
// when the component is replaced it goes on with the one in its place, see
// [Broker.Replace]. It fails only with InvalidArgument or PermissionDenied, when
// the spec can never work, see [Broker.Check], and with NotFound when the
// component is removed.
//
// When ctx ends no further message is taken. Deliveries under way go on for up
// to Options.Grace, but none is tried again. What is not acknowledged then
// goes back to the broker, for any member of the group.
func (b *Broker) Subscribe(ctx context.Context, spec *SubscriptionSpec, app App) error {
	var running sync.WaitGroup
	defer running.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // also what is left of the subscriptions on former brokers
	if b = b.enter(); b == nil {
		return removed(spec)
	}
	defer func() { b.leave() }()
	for {
		s, err := b.compile(spec, app)
		if err != nil {
			b.succession.running.Done()
			return err
		}
		here, end := context.WithCancel(ctx)
		ended := make(chan error, 1)
		running.Go(func() {
			defer s.broker.succession.running.Done()
			defer end()
			ended <- s.run(here)
		})
		select {
		case err := <-ended:
			return err
		case <-b.succession.replaced:
		}
		if b.succession.next == nil {
			end()
			<-ended
			return removed(spec)
		}
		running.Go(func() { s.finish(here, end) })
		b = b.succession.next
	}
}

// removed says that there is no component to subscribe to any more.
func removed(spec *SubscriptionSpec) error {
	return fault.New(fault.NotFound, "%s: the component was removed", spec).WithReason(ReasonNotFound)
}

// finish ends a subscription to a broker that was replaced, once that is to be
// drained and nothing comes any more.
func (s *subscription) finish(here context.Context, end context.CancelFunc) {
	defer end()
	select {
	case <-s.broker.succession.drain:
		s.quiet(here)
	case <-here.Done():
	}
}

// quiet waits until no message has come for a moment, at most until it is told
// to wait no longer or ctx ends.
func (s *subscription) quiet(ctx context.Context) {
	began := time.Now()
	timer := time.NewTimer(lull)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.broker.succession.force:
			return
		case <-timer.C:
		}
		s.mu.Lock()
		busy, last := s.handling > 0, s.last
		s.mu.Unlock()
		if last.Before(began) {
			last = began
		}
		since := time.Since(last)
		if !busy && since >= lull {
			return
		}
		timer.Reset(max(lull-since, lull/10))
	}
}

// receive is the Handler of the subscription: handle, and what quiet looks at.
func (s *subscription) receive(ctx context.Context, d *Delivery) error {
	s.note(1)
	defer s.note(-1)
	return s.handle(ctx, d)
}

func (s *subscription) note(n int) {
	s.mu.Lock()
	s.handling += n
	s.last = time.Now()
	s.mu.Unlock()
}
