package rabbitmq

import (
	"context"
	"hash/maphash"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/proa-io/proa/block/pubsub"
	"github.com/proa-io/proa/fault"
)

// numLanes is how many channels messages are published on. Those of a topic
// share one, so that they keep their order.
const numLanes = 8

// publisher publishes on one connection. A message that the server refuses
// closes its channel; the others that were on it are published again, each on
// a channel of its own, so that only the one that is to blame fails.
type publisher struct {
	cfg   *PubSubConfig
	link  *link
	seed  maphash.Seed
	lanes [numLanes]*renewed[lane]
}

// lane is a channel that several parties publish on.
type lane struct {
	conn *connection
	ch   *amqp.Channel
}

func newPublisher(cfg *PubSubConfig, l *link) *publisher {
	p := &publisher{cfg: cfg, link: l, seed: maphash.MakeSeed()}
	for i := range p.lanes {
		p.lanes[i] = newRenewed(func(l *lane) bool { return !l.ch.IsClosed() }, func(*lane) {})
	}
	return p
}

// lane returns the lane of an exchange.
func (p *publisher) lane(ctx context.Context, exchange string) (*lane, error) {
	return p.lanes[maphash.String(p.seed, exchange)%numLanes].get(ctx, p.openLane)
}

func (p *publisher) openLane(ctx context.Context) (*lane, error) {
	c, err := p.link.get(ctx)
	if err != nil {
		return nil, err
	}
	ch, err := c.channel(ctx)
	if err == nil && p.cfg.confirms() {
		err = c.do(ctx, func() error { return ch.Confirm(false) })
	}
	return &lane{c, ch}, err
}

// sent is a message that the server has not confirmed yet.
type sent struct {
	lane *lane
	ack  *amqp.DeferredConfirmation // nil without confirms
	err  error
}

// parcel is a message ready to be published.
type parcel struct {
	exchange, key string
	message       amqp.Publishing
}

func (p *publisher) parcel(m *pubsub.Message) (parcel, error) {
	out := parcel{exchange: nameOf(m.Topic), key: p.cfg.routingKey(m)}
	var err error
	out.message, err = p.cfg.encode(m)
	return out, err
}

// send hands a message to the connection.
func (p *publisher) send(ctx context.Context, m *parcel) sent {
	if err := ctx.Err(); err != nil {
		return sent{err: classify(ctx, err)}
	}
	l, err := p.lane(ctx, m.exchange)
	if err != nil {
		return sent{err: err}
	}
	if err := p.ready(ctx, l.conn, m); err != nil {
		return sent{err: err}
	}
	ack, err := l.ch.PublishWithDeferredConfirm(m.exchange, m.key, false, false, m.message)
	return sent{l, ack, classify(ctx, err)}
}

// ready refuses a message that cannot be published now, and makes its exchange
// if that is not known to be there.
func (p *publisher) ready(ctx context.Context, c *connection, m *parcel) error {
	if why := c.blocked.Load(); why != nil {
		return fault.New(fault.ResourceExhausted, "rabbitmq takes no messages at present: %s", *why)
	}
	if err := check(m.exchange, m.key, &m.message, c.Config.FrameSize); err != nil {
		return err
	}
	if _, there := c.declared.Load(m.exchange); there {
		return nil
	}
	err := c.onChannel(ctx, func(ch *amqp.Channel) error { return p.cfg.declareExchange(ch, m.exchange) })
	if err == nil {
		c.declared.Store(m.exchange, struct{}{})
	}
	return err
}

// await waits until the server has answered for a message. A message that was
// on a channel which another one closed is published again.
func (p *publisher) await(ctx context.Context, s sent, m *parcel) error {
	if s.err == nil && s.ack != nil {
		select {
		case <-s.ack.Done():
		case <-ctx.Done():
			return classify(ctx, ctx.Err())
		}
		if s.ack.Acked() {
			return nil
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
	c.declared.Delete(m.exchange) // it may have gone with its last queue
	if err := p.ready(ctx, c, m); err != nil {
		return err
	}
	return c.onChannel(ctx, func(ch *amqp.Channel) error {
		closed := ch.NotifyClose(make(chan *amqp.Error, 1))
		if err := ch.Confirm(false); err != nil {
			return err
		}
		ack, err := ch.PublishWithDeferredConfirm(m.exchange, m.key, false, false, m.message)
		if err != nil {
			return err
		}
		if acked, err := ack.WaitContext(ctx); acked || err != nil {
			return err
		}
		select {
		case why := <-closed:
			if why != nil {
				return why
			}
		default:
		}
		return errNotTaken()
	})
}

func errNotTaken() error {
	return fault.New(fault.Unavailable, "rabbitmq did not take the message: a queue is full or out of order")
}
