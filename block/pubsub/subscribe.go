package pubsub

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/proa-io/proa/fault"
)

// Back-off between attempts to subscribe again after a subscription broke.
const (
	firstResubscribe = 100 * time.Millisecond
	lastResubscribe  = 10 * time.Second
)

// Check says whether Subscribe could ever work with the spec: that the topic
// may be used and that the rules compile. The error names the subscription and
// the place in the file.
func (b *Broker) Check(spec *SubscriptionSpec) error {
	_, err := b.compile(spec, nil)
	return err
}

// run receives messages on the subscription's broker until ctx ends.
func (s *subscription) run(ctx context.Context) error {
	work, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s.work, s.intake = work, ctx
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() { s.limit(ctx, cancel) })
	if s.spec.Bulk.Enabled {
		s.batches = newBatcher(s)
		defer s.batches.close() // no handle call is left by then
		wg.Go(s.batches.run)
	}
	return s.keepAlive(ctx)
}

// limit begins draining when ctx ends, and ends what is left of the work when
// the grace is over.
func (s *subscription) limit(ctx context.Context, cancel context.CancelFunc) {
	select {
	case <-s.work.Done():
		return
	case <-ctx.Done():
	}
	s.drain()
	select {
	case <-s.work.Done():
	case <-time.After(s.broker.opts.Grace):
		cancel()
	}
}

// subscription is a Subscribe under way.
type subscription struct {
	broker  *Broker
	spec    SubscriptionSpec
	app     App
	router  *router
	raw     bool
	intake  context.Context //nolint:containedctx // a subscription is one call; this ends when no message is to be taken any more
	work    context.Context //nolint:containedctx // and this when deliveries must end
	batches *batcher        // nil unless in bulk
	// established is called, more than once perhaps, when what is published
	// from then on will arrive.
	established func()

	mu       sync.Mutex
	handling int       // messages that are being processed
	last     time.Time // when one came or was done with
	draining bool
	flights  map[*flight]struct{}
	drained  chan struct{} // closed when draining begins
}

func (b *Broker) compile(spec *SubscriptionSpec, app App) (*subscription, error) {
	invalid := func(err error) error {
		return fault.New(fault.InvalidArgument, "%s: %v", spec, err).WithReason(ReasonSubscription)
	}
	if err := b.checkTopic(spec.Topic, &b.subscribing, "subscribe to"); err != nil {
		return nil, fault.Wrap(err, fault.CodeOf(err), "%s", spec)
	}
	if spec.DeadLetterTopic != "" {
		if problem, _ := topicProblem(spec.DeadLetterTopic); problem != "" {
			return nil, invalid(fmt.Errorf("dead letter topic: %s", problem))
		}
	}
	raw, err := spec.raw()
	if err != nil {
		return nil, invalid(err)
	}
	r, err := newRouter(spec)
	if err != nil {
		return nil, invalid(err)
	}
	s := &subscription{
		broker: b, spec: *spec, app: app, router: r, raw: raw,
		flights: map[*flight]struct{}{}, drained: make(chan struct{}), established: func() {},
	}
	if stream, ok := app.(*Stream); ok {
		s.established = stream.establish
	}
	s.spec.Bulk = spec.Bulk.withDefaults()
	return s, nil
}

// keepAlive subscribes again and again until ctx ends.
func (s *subscription) keepAlive(ctx context.Context) error {
	log := s.broker.log.With("topic", s.spec.Topic)
	if s.spec.DeadLetterTopic != "" && !s.broker.publishing.permit(s.spec.DeadLetterTopic) {
		log.WarnContext(ctx, "the publishing scopes forbid the dead letter topic: messages that cannot be processed stay with the broker",
			"dead_letter_topic", s.spec.DeadLetterTopic)
	}
	delay, said := firstResubscribe, ""
	for {
		start := time.Now()
		err := s.once(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if fault.CodeOf(err) == fault.InvalidArgument {
			return fault.Wrap(err, fault.InvalidArgument, "%s", &s.spec).WithReason(ReasonSubscription)
		}
		if time.Since(start) > lastResubscribe {
			delay, said = firstResubscribe, ""
		}
		if text := err.Error(); text != said {
			log.WarnContext(ctx, "subscription broke and will be tried again", "error", err)
			said = text
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(delay/2 + rand.N(delay)): //nolint:gosec // jitter needs no secrecy
		}
		delay = min(2*delay, lastResubscribe)
	}
}

// once subscribes until ctx ends or the subscription breaks.
func (s *subscription) once(ctx context.Context) error {
	d, err := s.broker.handle.Get(ctx)
	if err != nil {
		return err
	}
	sub := Subscription{Topic: s.spec.Topic, Group: s.broker.group, Metadata: s.spec.Metadata}
	if f, ok := d.(Forgetter); ok && f.Forgets() {
		sub.Established = s.established
	} else {
		s.established() // the broker keeps what is published for groups to come
	}
	if s.spec.Bulk.Enabled {
		// One batch is with the application while the next one fills.
		sub.MaxInFlight, sub.Batch = 2*s.spec.Bulk.MaxMessages, s.spec.Bulk.MaxMessages
	}
	if err := d.Subscribe(ctx, sub, s.receive); err != nil {
		return err
	}
	return fault.New(fault.Unavailable, "the broker ended the subscription")
}

// flight is a delivery under way.
type flight struct {
	cancel context.CancelFunc
	inCall bool // with the application at this moment
}

// begin returns the context of a delivery. It ends when deliveries must, and
// as soon as draining begins unless the application is at work on it.
func (s *subscription) begin() (context.Context, *flight) {
	ctx, cancel := context.WithCancel(s.work)
	f := &flight{cancel: cancel}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.flights[f] = struct{}{}
	return ctx, f
}

func (s *subscription) end(f *flight) {
	s.mu.Lock()
	delete(s.flights, f)
	s.mu.Unlock()
	f.cancel()
}

// enter marks that the application is at work on f. It reports false when no
// more work may begin.
func (s *subscription) enter(f *flight) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	f.inCall = !s.draining
	return f.inCall
}

// leave marks that the application is done with f for now, and reports whether
// it may be asked again.
func (s *subscription) leave(f *flight) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	f.inCall = false
	return !s.draining
}

// drain lets no delivery begin or be tried again.
func (s *subscription) drain() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.draining = true
	close(s.drained)
	for f := range s.flights {
		if !f.inCall {
			f.cancel()
		}
	}
}
