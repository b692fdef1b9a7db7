package nats

import (
	"context"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/proa-io/proa/block/pubsub"
	"github.com/proa-io/proa/engine"
	"github.com/proa-io/proa/fault"
)

// Timing of a consumer.
const (
	// pullExpiry is how long a request for messages stands.
	pullExpiry = 30 * time.Second
	// firstHeartbeat and idleHeartbeat are how often the server says that a
	// request still stands, before and after it has done so once.
	firstHeartbeat = time.Second
	idleHeartbeat  = 5 * time.Second
	// revivals bounds how often a consumer that does not answer is made anew
	// before the subscription counts as broken.
	revivals = 3
	// pullPause is the wait after the server refused a request.
	pullPause = 250 * time.Millisecond
	// flushTime bounds the wait for the last messages and acknowledgements.
	flushTime = time.Second
)

// What is sent to the reply subject of a message.
const (
	ackYes      = "+ACK"
	ackProgress = "+WPI"
)

// consumer is one Subscribe under way.
//
// It asks the server for as many messages as handlers are free, no more, so
// every message it has is with a handler; while handlers are at work it tells
// the server that their messages are. Everything but the handlers runs in one
// goroutine.
type consumer struct {
	p      *PubSub
	nc     *nats.Conn
	topic  string
	wild   bool // topic stands for several subjects
	stream string
	name   string // of the durable consumer
	handle pubsub.Handler
	ctx    context.Context //nolint:containedctx // what handlers get: it lives as long as the call of Subscribe

	limit   int
	asked   int                    // messages requested and not arrived yet
	held    map[*nats.Msg]struct{} // messages with handlers
	queued  []*nats.Msg            // arrived though no handler is free
	pauseTo time.Time              // no request before

	inbox    string
	requests int  // for reply subjects that differ
	answered bool // the server has answered a request
	arrived  chan *nats.Msg
	done     chan *nats.Msg // from handlers that are done
	calls    sync.WaitGroup
}

// Subscribe implements pubsub.Driver.
func (p *PubSub) Subscribe(ctx context.Context, s pubsub.Subscription, handle pubsub.Handler) error {
	err := p.subscribe(ctx, s, handle)
	switch {
	case ctx.Err() != nil:
		return nil
	case p.isClosed():
		return errBrokerClosed()
	}
	return err
}

func (p *PubSub) subscribe(ctx context.Context, s pubsub.Subscription, handle pubsub.Handler) error {
	for tries := 0; ; tries++ {
		if p.isClosed() || ctx.Err() != nil {
			return nil
		}
		at, err := p.placeOf(ctx, s.Topic)
		if err != nil {
			return err
		}
		c, err := p.consumer(ctx, s, at)
		if err == nil {
			if s.Established != nil {
				s.Established()
				s.Established = nil
			}
			c.handle = handle
			err = c.run(ctx)
		}
		if errors.Is(err, errSilent) && tries < revivals {
			if err = p.removeUnused(ctx, c); err == nil {
				continue
			}
		}
		if err != nil {
			p.topics.CompareAndDelete(s.Topic, at) // the stream may have gone
		}
		return err
	}
}

// errSilent ends a consumer whose requests get no answer though the server is
// connected.
var errSilent = errors.New("the server does not answer requests for messages")

// removeUnused deletes a consumer that does not answer if nothing it has
// delivered was ever acknowledged: made again it begins at the same place.
// Servers of version 2.9 leave such a consumer behind at times when two clients
// make the same one, or its stream, at once. The pause keeps these from doing
// that again.
func (p *PubSub) removeUnused(ctx context.Context, c *consumer) error {
	select {
	case <-ctx.Done():
		return nil
	case <-time.After(rand.N(firstHeartbeat)): //nolint:gosec // chance needs no secrecy here
	}
	return p.do(ctx, c.stream, func(ctx context.Context, js jetstream.JetStream) error {
		there, err := js.Consumer(ctx, c.stream, c.name)
		if errors.Is(err, jetstream.ErrConsumerNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		if info := there.CachedInfo(); info.Delivered.Consumer > uint64(info.NumAckPending) { //nolint:gosec // a count
			return fault.Wrap(errSilent, fault.Unavailable, "the consumer does not answer")
		}
		if err = js.DeleteConsumer(ctx, c.stream, c.name); errors.Is(err, jetstream.ErrConsumerNotFound) {
			return nil
		}
		return err
	})
}

// consumer makes the durable consumer of a group, if there is none, and
// returns a consumer that has not begun.
func (p *PubSub) consumer(ctx context.Context, s pubsub.Subscription, at *place) (*consumer, error) {
	name, err := p.makeConsumer(ctx, s.Group, at)
	if err != nil {
		return nil, err
	}
	conn, err := p.engine.ConnFor(ctx, at.stream)
	if err != nil {
		return nil, err
	}
	limit := s.MaxInFlight
	if limit <= 0 {
		limit = int(p.cfg.Concurrency)
	}
	return &consumer{
		p: p, nc: conn.NATS(), topic: s.Topic, wild: !at.own && isPattern(at.subject), stream: at.stream, name: name, ctx: context.WithoutCancel(ctx),
		limit: limit, held: map[*nats.Msg]struct{}{}, inbox: nats.NewInbox(),
		// Room for all that can be under way, were a request counted twice.
		arrived: make(chan *nats.Msg, 3*limit+64), done: make(chan *nats.Msg, limit),
	}, nil
}

func (c *consumer) run(ctx context.Context) error {
	sub, err := c.nc.ChanSubscribe(c.inbox+".*", c.arrived)
	if err != nil {
		return engine.Classify(err)
	}
	status := c.nc.StatusChanged(nats.CONNECTED, nats.CLOSED)
	defer c.nc.RemoveStatusListener(status)
	err = c.loop(ctx, status)
	c.finish(sub)
	return err
}

// loop asks for messages and hands them over until ctx ends or the
// subscription breaks.
func (c *consumer) loop(ctx context.Context, status <-chan nats.Status) error {
	alive := time.NewTicker(c.p.cfg.aliveInterval())
	defer alive.Stop()
	quiet := time.NewTimer(c.silence())
	defer quiet.Stop()
	for {
		paused := c.pull()
		select {
		case m := <-c.arrived:
			if err := c.receive(m); err != nil {
				return err
			}
			c.answered = true
			quiet.Reset(c.silence())
		case m := <-c.done:
			c.finished(m)
		case <-alive.C:
			c.tellAlive()
		case <-paused:
		case <-quiet.C:
			if c.asked > 0 && c.nc.IsConnected() {
				return fault.Wrap(errSilent, fault.Unavailable, "the consumer does not answer")
			}
			quiet.Reset(c.silence())
		case s := <-status:
			if s == nats.CLOSED {
				return fault.New(fault.Unavailable, "the connection to the server is closed")
			}
			c.asked = 0 // requests end with the connection they were made on
			quiet.Reset(c.silence())
		case <-c.p.closed:
			return nil
		case <-ctx.Done():
			return nil
		}
	}
}

// aliveInterval is how often the server must hear that a message is being
// worked on.
func (c PubSubConfig) aliveInterval() time.Duration {
	wait := c.AckWait.Std()
	for _, d := range c.BackOff {
		wait = min(wait, d)
	}
	return max(wait/3, 10*time.Millisecond)
}

// heartbeat is how often the server is to say that a request stands.
func (c *consumer) heartbeat() time.Duration {
	if c.answered {
		return idleHeartbeat
	}
	return firstHeartbeat
}

// silence is when a request counts as lost.
func (c *consumer) silence() time.Duration { return 2*c.heartbeat() + 2*time.Second }

// pull asks for messages if enough handlers are free. It returns a channel
// that tells when to try again, or nil.
func (c *consumer) pull() <-chan time.Time {
	want := c.limit - len(c.held) - len(c.queued) - c.asked
	if want < max(1, c.limit/4) {
		return nil
	}
	if wait := time.Until(c.pauseTo); wait > 0 {
		return time.After(wait)
	}
	c.requests++
	request, err := json.Marshal(struct {
		Batch     int           `json:"batch"`
		Expires   time.Duration `json:"expires"`
		Heartbeat time.Duration `json:"idle_heartbeat"`
	}{want, pullExpiry, c.heartbeat()})
	if err == nil {
		err = c.nc.PublishMsg(&nats.Msg{
			Subject: c.p.cfg.apiPrefix() + ".CONSUMER.MSG.NEXT." + c.stream + "." + c.name,
			Reply:   c.inbox + "." + strconv.Itoa(c.requests), Data: request,
		})
	}
	if err != nil { // while there is no connection; a status tells when there is
		c.pauseTo = time.Now().Add(pullPause)
		return time.After(pullPause)
	}
	c.asked += want
	return nil
}

// apiPrefix is the prefix of the JetStream API's subjects.
func (c PubSubConfig) apiPrefix() string {
	switch {
	case c.APIPrefix != "":
		return strings.TrimSuffix(c.APIPrefix, ".")
	case c.Domain != "":
		return "$JS." + c.Domain + ".API"
	}
	return "$JS.API"
}

// receive takes what has arrived: a message, or a status of the server.
func (c *consumer) receive(m *nats.Msg) error {
	if m.Reply != "" && strings.HasPrefix(m.Reply, "$JS.ACK.") {
		c.asked = max(0, c.asked-1)
		if len(c.held) < c.limit {
			c.dispatch(m)
		} else {
			c.queued = append(c.queued, m)
		}
		return nil
	}
	switch m.Header.Get("Status") {
	case "", "100": // a heartbeat
		return nil
	case "503": // nobody answers: the consumer or its stream is not there
		return fault.New(fault.Unavailable, "the consumer is gone, or its stream has no leader")
	case "404", "408": // nothing to deliver, or the request has expired
		c.release(m)
		return nil
	}
	if m.Header.Get("Description") == "Consumer Deleted" {
		return fault.New(fault.Unavailable, "the consumer was deleted")
	}
	c.release(m)
	c.pauseTo = time.Now().Add(pullPause)
	return nil
}

// release takes off what a request that has ended did not bring.
func (c *consumer) release(m *nats.Msg) {
	n, err := strconv.Atoi(m.Header.Get("Nats-Pending-Messages"))
	if err != nil {
		n = c.asked // all requests have ended
	}
	c.asked = max(0, c.asked-n)
}

// dispatch hands a message to a handler.
func (c *consumer) dispatch(m *nats.Msg) {
	c.held[m] = struct{}{}
	c.calls.Go(func() {
		topic := c.topic
		if c.wild {
			topic = m.Subject
		}
		d, err := c.p.decode(topic, m)
		if err == nil {
			err = c.handle(c.ctx, d)
		}
		c.settle(m, err)
		c.done <- m // has room
	})
}

// settle acknowledges a message or gives it back. When there is no connection
// the message comes again.
func (c *consumer) settle(m *nats.Msg, err error) {
	answer := ackYes
	if err != nil {
		answer = ackNo(fault.RetryAfterOf(err))
	}
	_ = c.nc.Publish(m.Reply, []byte(answer))
}

// ackNo gives a message back, to be delivered again after a wait. There always
// is one: the server writes down when a message is due, but not that it is due
// at once, so one that stops now would have it wait for ackWait when it is back.
func ackNo(wait time.Duration) string {
	return `-NAK {"delay":` + strconv.FormatInt(int64(max(wait, time.Millisecond)), 10) + `}`
}

// finished takes back the place of a message that is settled.
func (c *consumer) finished(m *nats.Msg) {
	delete(c.held, m)
	if len(c.queued) > 0 {
		c.dispatch(c.queued[0])
		c.queued[0] = nil
		c.queued = c.queued[1:]
	}
}

// tellAlive tells the server which messages are being worked on.
func (c *consumer) tellAlive() {
	for m := range c.held {
		_ = c.nc.Publish(m.Reply, []byte(ackProgress))
	}
	for _, m := range c.queued {
		_ = c.nc.Publish(m.Reply, []byte(ackProgress))
	}
}

// finish ends the requests, gives back what no handler has, and waits for the
// handlers.
func (c *consumer) finish(sub *nats.Subscription) {
	for _, m := range c.queued {
		_ = c.nc.Publish(m.Reply, []byte(ackNo(0)))
	}
	c.queued = nil
	if sub.Drain() == nil {
		// What the server had sent before it heard of the end has arrived when
		// it answers.
		c.flush()
	}
	c.giveBack()
	alive := time.NewTicker(c.p.cfg.aliveInterval())
	defer alive.Stop()
	for len(c.held) > 0 {
		select {
		case m := <-c.done:
			delete(c.held, m)
		case <-alive.C:
			c.tellAlive()
		}
	}
	c.calls.Wait()
	_ = sub.Unsubscribe() // in case it could not be drained
	c.giveBack()
	c.flush()
}

// giveBack gives back what has arrived and no handler has.
func (c *consumer) giveBack() {
	for {
		select {
		case m := <-c.arrived:
			if strings.HasPrefix(m.Reply, "$JS.ACK.") {
				_ = c.nc.Publish(m.Reply, []byte(ackNo(0)))
			}
		default:
			return
		}
	}
}

// flush waits until the server has what was sent, if there is a connection.
func (c *consumer) flush() {
	if c.nc.IsConnected() {
		_ = c.nc.FlushTimeout(flushTime)
	}
}
