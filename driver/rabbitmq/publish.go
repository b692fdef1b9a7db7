package rabbitmq

import (
	"context"
	"hash/maphash"
	"sync"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/proa-io/proa/fault"
)

// numLanes is how many channels messages are published on. Those of an exchange
// share one, so that they keep their order.
const numLanes = 8

// publisher publishes on one connection. A message that the server refuses
// closes its channel; the others that were on it are published again, each on
// a channel of its own, so that only the one that is to blame fails.
type publisher struct {
	link *link
	// confirms waits for the server.
	confirms bool
	// mandatory wants every message to reach a queue: those that do not are
	// published again after declare, once. They need ids.
	mandatory bool
	// declare makes what messages are published to, as far as it is not there.
	declare func(*amqp.Channel, *parcel) error

	seed  maphash.Seed
	lanes [numLanes]*renewed[lane]
}

// parcel is a message ready to be published.
type parcel struct {
	exchange, key string
	message       amqp.Publishing
}

// place names what a message is published to.
func (m *parcel) place() string {
	if m.exchange == "" {
		return "queue " + m.key
	}
	return m.exchange
}

// maxOut is how many messages of a lane may be unanswered, if those that do not
// reach a queue must be told from the others.
const maxOut = 1024

// lane is a channel that several parties publish on.
type lane struct {
	conn *connection
	ch   *amqp.Channel
	// Messages that reach no queue come back before they are confirmed.
	returns  chan amqp.Return
	slots    chan struct{} // one taken by each message that is unanswered
	mu       sync.Mutex
	returned map[string]struct{} // by id
}

// newPublisher completes a publisher.
func newPublisher(p publisher) *publisher {
	p.seed = maphash.MakeSeed()
	for i := range p.lanes {
		p.lanes[i] = newRenewed(func(l *lane) bool { return !l.ch.IsClosed() }, func(*lane) {})
	}
	return &p
}

// lane returns the lane of a message.
func (p *publisher) lane(ctx context.Context, m *parcel) (*lane, error) {
	return p.lanes[maphash.String(p.seed, m.exchange)%numLanes].get(ctx, p.openLane)
}

func (p *publisher) openLane(ctx context.Context) (*lane, error) {
	c, err := p.link.get(ctx)
	if err != nil {
		return nil, err
	}
	ch, err := c.channel(ctx)
	if err == nil && p.confirms {
		err = c.do(ctx, func() error { return ch.Confirm(false) })
	}
	if err != nil {
		return nil, err
	}
	l := &lane{conn: c, ch: ch}
	if p.mandatory {
		l.returns = ch.NotifyReturn(make(chan amqp.Return, maxOut))
		l.slots, l.returned = make(chan struct{}, maxOut), map[string]struct{}{}
	}
	return l, nil
}

// acquire takes a slot for a message, if they are counted.
func (l *lane) acquire(ctx context.Context) error {
	if l.slots == nil {
		return nil
	}
	select {
	case l.slots <- struct{}{}:
		return nil
	case <-ctx.Done():
		return classify(ctx, ctx.Err())
	}
}

func (l *lane) release() {
	if l.slots != nil {
		<-l.slots
	}
}

// reached reports whether a message that is confirmed has reached a queue.
func (l *lane) reached(m *parcel) bool {
	if l.returns == nil {
		return true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for {
		select {
		case r, open := <-l.returns:
			if open {
				l.returned[r.MessageId] = struct{}{}
				continue
			}
		default:
		}
		break
	}
	_, back := l.returned[m.message.MessageId]
	delete(l.returned, m.message.MessageId)
	return !back
}

// sent is a message that the server has not confirmed yet.
type sent struct {
	lane *lane
	ack  *amqp.DeferredConfirmation // nil without confirms
	err  error
}

// publish hands a message to the server and waits until it has it.
func (p *publisher) publish(ctx context.Context, m *parcel) error {
	return p.await(ctx, p.send(ctx, m), m)
}

// send hands a message to the connection.
func (p *publisher) send(ctx context.Context, m *parcel) sent {
	if err := ctx.Err(); err != nil {
		return sent{err: classify(ctx, err)}
	}
	l, err := p.lane(ctx, m)
	if err != nil {
		return sent{err: err}
	}
	if err := p.ready(ctx, l.conn, m); err != nil {
		return sent{err: err}
	}
	if err := l.acquire(ctx); err != nil {
		return sent{err: err}
	}
	ack, err := l.ch.PublishWithDeferredConfirm(m.exchange, m.key, p.mandatory, false, m.message)
	return sent{l, ack, classify(ctx, err)}
}

// ready refuses a message that cannot be published now, and makes what it is
// published to if that is not known to be there.
func (p *publisher) ready(ctx context.Context, c *connection, m *parcel) error {
	if why := c.blocked.Load(); why != nil {
		return fault.New(fault.ResourceExhausted, "rabbitmq takes no messages at present: %s", *why)
	}
	if err := check(m, c.Config.FrameSize); err != nil {
		return err
	}
	if _, there := c.declared.Load(m.place()); there {
		return nil
	}
	err := c.onChannel(ctx, func(ch *amqp.Channel) error { return p.declare(ch, m) })
	if err == nil {
		c.declared.Store(m.place(), struct{}{})
	}
	return err
}

// await waits until the server has answered for a message. A message that was
// on a channel which another one closed is published again.
func (p *publisher) await(ctx context.Context, s sent, m *parcel) error {
	if s.lane != nil {
		defer s.lane.release()
	}
	if s.err == nil && s.ack != nil {
		select {
		case <-s.ack.Done():
		case <-ctx.Done():
			return classify(ctx, ctx.Err())
		}
		if s.ack.Acked() {
			if s.lane.reached(m) {
				return nil
			}
			return p.alone(ctx, s.lane.conn, m)
		}
	}
	switch {
	case s.lane == nil || s.err == nil && s.ack == nil:
		return s.err
	case s.lane.conn.IsClosed():
		return fault.New(fault.Unavailable, "the connection to rabbitmq broke")
	case s.lane.ch.IsClosed():
		return p.alone(ctx, s.lane.conn, m)
	case s.err != nil:
		return s.err
	}
	return errNotTaken()
}

// alone publishes a message on a channel of its own.
func (p *publisher) alone(ctx context.Context, c *connection, m *parcel) error {
	c.declared.Delete(m.place()) // it may be gone
	if err := p.ready(ctx, c, m); err != nil {
		return err
	}
	return c.onChannel(ctx, func(ch *amqp.Channel) error {
		closed, returned := ch.NotifyClose(make(chan *amqp.Error, 1)), ch.NotifyReturn(make(chan amqp.Return, 1))
		if err := ch.Confirm(false); err != nil {
			return err
		}
		ack, err := ch.PublishWithDeferredConfirm(m.exchange, m.key, p.mandatory, false, m.message)
		if err != nil {
			return err
		}
		acked, err := ack.WaitContext(ctx)
		if err != nil {
			return err
		}
		if !acked {
			return refusedFor(closed)
		}
		select {
		case r := <-returned:
			return fault.New(fault.Unavailable, "the message has reached no queue: %s", r.ReplyText)
		default:
			return nil
		}
	})
}

// refusedFor returns why the server has not taken a message: it closed the
// channel, or said no.
func refusedFor(closed <-chan *amqp.Error) error {
	select {
	case why := <-closed:
		if why != nil {
			return why
		}
	default:
	}
	return errNotTaken()
}

func errNotTaken() error {
	return fault.New(fault.Unavailable, "rabbitmq did not take the message: a queue is full or out of order")
}
