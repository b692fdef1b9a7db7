package pubsub

import (
	"context"
	"slices"
	"sync"

	"github.com/proa-io/proa/fault"
)

// StreamRoute is the route that every event of a streaming subscription has.
const StreamRoute = "/"

// Stream is the application at the other end of a stream of events: events go
// out by a function, and what became of them comes in through Settle. Any
// number may be out at a time. It is safe for concurrent use.
type Stream struct {
	send func(*Event) error

	sending sync.Mutex // calls of send do not overlap

	establish   func() // may be called more than once
	established chan struct{}

	mu     sync.Mutex
	out    map[string][]chan Status // by event id, oldest first
	cancel context.CancelFunc       // ends the subscription; nil before there is one
	ended  bool
	gone   chan struct{} // closed by End
}

// NewStream returns a Stream that sends events by the given function. Its calls
// do not overlap. An error of send means that the stream is broken, and ends
// it.
func NewStream(send func(*Event) error) *Stream {
	s := &Stream{send: send, out: map[string][]chan Status{}, established: make(chan struct{}), gone: make(chan struct{})}
	s.establish = sync.OnceFunc(func() { close(s.established) })
	return s
}

// Established returns a channel that is closed once the broker has the
// subscription: what is published from then on arrives. Until the broker can be
// reached that is not so for brokers that keep nothing for groups to come.
func (s *Stream) Established() <-chan struct{} { return s.established }

// Stream receives messages and sends them out on stream until ctx ends, as
// [Broker.Subscribe] does, or the stream does. Of the spec it heeds the
// component, topic, metadata and dead letter topic; every event goes out for
// the route "/". Any number of streams may have the same topic; they share its
// messages.
//
// When ctx ends, what is out may still be settled for up to Options.Grace. Call
// [Stream.End] when the application is gone: what it has not settled then goes
// back to the broker at once. Check tells beforehand whether the spec can work.
func (b *Broker) Stream(ctx context.Context, spec *SubscriptionSpec, stream *Stream) error {
	ctx, cancel := context.WithCancel(ctx)
	defer stream.End()
	stream.attach(cancel)
	s := *spec
	s.Type, s.Rules, s.DefaultRoute, s.Bulk = Streaming, nil, StreamRoute, BulkSpec{}
	return b.Subscribe(ctx, &s, stream)
}

// Settle takes the answer to the event with the given id. It reports false
// when no such event is out. When several are, which have the same id, the
// answer is to the one sent first.
func (s *Stream) Settle(id string, status Status) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	waiting := s.out[id]
	if len(waiting) == 0 {
		return false
	}
	waiting[0] <- status // has room
	s.remove(id, waiting[0])
	return true
}

// attach makes End call cancel.
func (s *Stream) attach(cancel context.CancelFunc) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cancel = cancel
	if s.ended {
		cancel()
	}
}

// End gives up all events that are out and ends the subscription: the
// application is gone. It may be called more than once.
func (s *Stream) End() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cancel != nil {
		s.cancel()
	}
	if !s.ended {
		s.ended = true
		close(s.gone)
	}
}

// Deliver implements [App]: it sends the event and waits for its answer.
func (s *Stream) Deliver(ctx context.Context, _ string, e *Event) (Status, error) {
	id, answer := e.ID(), make(chan Status, 1)
	if !s.await(id, answer) {
		return 0, errStreamEnded()
	}
	defer s.forget(id, answer)
	if err := s.transmit(e); err != nil {
		s.End()
		return 0, fault.Wrap(err, fault.Canceled, "the stream to the application broke")
	}
	select {
	case status := <-answer:
		return status, nil
	case <-s.gone:
		return 0, errStreamEnded()
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

// errStreamEnded is not the event's fault: it goes back to the broker.
func errStreamEnded() error { return fault.New(fault.Canceled, "the stream to the application ended") }

func (s *Stream) transmit(e *Event) error {
	s.sending.Lock()
	defer s.sending.Unlock()
	return s.send(e)
}

// DeliverBulk implements [App]. Streams have no batches.
func (s *Stream) DeliverBulk(context.Context, string, *BulkEvent) ([]EntryStatus, error) {
	return nil, fault.New(fault.Unimplemented, "streams have no batches")
}

func (s *Stream) await(id string, answer chan Status) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return false
	}
	s.out[id] = append(s.out[id], answer)
	return true
}

func (s *Stream) forget(id string, answer chan Status) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.remove(id, answer)
}

func (s *Stream) remove(id string, answer chan Status) {
	waiting := s.out[id]
	i := slices.Index(waiting, answer)
	switch {
	case i < 0:
	case len(waiting) == 1:
		delete(s.out, id)
	default:
		s.out[id] = slices.Delete(waiting, i, i+1)
	}
}
