package mqtt

import (
	"context"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"

	"github.com/proa-io/proa/block/pubsub"
)

// A broker keeps the subscriptions of a session, and may send messages of those
// that nobody here has any more, or not yet. They are kept for who may come;
// only when there are more than these few, which keep the broker from sending
// others, those that are older than a minute are given up, and what brings
// them is unsubscribed.
const (
	fewOrphans = 5
	orphanWait = time.Minute
)

// maxQueued is how many messages of QoS 0 may wait. The others are bounded by
// the broker, which wants them acknowledged.
const maxQueued = 1000

// session is what a broker knows of a group: a client id, whose subscriptions
// share a connection.
type session struct {
	p    *PubSub
	link *link

	mu        sync.Mutex
	consumers map[*consumer]struct{}
	orphans   []*inbound
	left      map[string]filter // that consumers have left behind with the broker
	count     uint64            // of messages
	overflown bool              // it was said
}

// inbound is a message on its way to one or more consumers.
type inbound struct {
	conn   *conn
	packet *packets.PublishPacket
	since  time.Time
	id     string
	left   atomic.Int32 // consumers that have not processed it, be they here or to come
}

// processed is called by each consumer, once. The last one acknowledges.
func (in *inbound) processed() {
	if in.left.Add(-1) == 0 {
		in.conn.acknowledge(in.packet)
	}
}

// delivery returns the message as a handler gets it.
func (in *inbound) delivery() *pubsub.Delivery {
	d := &pubsub.Delivery{ID: in.id, Attempt: 1}
	if in.packet.Dup {
		d.Attempt = 2 // at least
	}
	d.Topic, d.Data = in.packet.TopicName, in.packet.Payload
	d.Metadata = map[string]string{"retained": strconv.FormatBool(in.packet.Retain)}
	return d
}

func newSession(p *PubSub, clientID string) *session {
	s := &session{p: p, consumers: map[*consumer]struct{}{}, left: map[string]filter{}}
	s.link = newLink(p.target, hello{clientID: clientID, cleanSession: p.cfg.CleanSession, deliver: s.deliver, once: &ids{}})
	return s
}

// deliver takes a message from the broker.
func (s *session) deliver(c *conn, m *packets.PublishPacket) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.count++
	in := &inbound{conn: c, packet: m, since: time.Now(), id: strconv.FormatUint(s.count, 10)}
	if s.hand(in) {
		return
	}
	if m.Qos > 0 {
		in.left.Store(1) // who comes for it
		s.orphans = append(s.orphans, in)
	}
}

// hand queues a message for one consumer of each filter that matches, the one
// that has least to do. It reports false when there is none. s.mu is held.
func (s *session) hand(in *inbound) bool {
	var to []*consumer
	for c := range s.consumers {
		if c.conn == in.conn && !c.stopping && c.filter.matches(in.packet.TopicName) {
			to = choose(to, c)
		}
	}
	in.left.Store(int32(len(to))) //nolint:gosec // few
	for _, c := range to {
		s.push(c, in)
	}
	return len(to) > 0
}

// choose adds c to those that get a message, or lets it take the place of one
// with the same filter that has more to do.
func choose(to []*consumer, c *consumer) []*consumer {
	for i, other := range to {
		if other.filter.text == c.filter.text {
			if c.has < other.has {
				to[i] = c
			}
			return to
		}
	}
	return append(to, c)
}

// push queues a message for a consumer. s.mu is held.
func (s *session) push(c *consumer, in *inbound) {
	if in.packet.Qos == 0 && c.has >= maxQueued {
		if !s.overflown {
			s.overflown = true
			s.p.log.Warn("messages with QoS 0 come faster than they are processed, and are lost", "topic", in.packet.TopicName)
		}
		return
	}
	c.has++
	c.queue = append(c.queue, &job{in: in, out: in.delivery()})
	select {
	case c.arrived <- struct{}{}:
	default: // it knows already
	}
}

// take returns the next message for a consumer, or nil.
func (s *session) take(c *consumer) *job {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(c.queue) == 0 {
		return nil
	}
	j := c.queue[0]
	c.queue[0] = nil
	c.queue = c.queue[1:]
	return j
}

// stop lets no more messages come to a consumer.
func (s *session) stop(c *consumer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c.stopping = true
}

// putBack queues again what a consumer has not processed.
func (s *session) putBack(c *consumer, rest []*job) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c.queue = append(c.queue, rest...)
}

// settled notes that a consumer is done with a message.
func (s *session) settled(c *consumer, j *job) {
	j.in.processed()
	s.mu.Lock()
	defer s.mu.Unlock()
	c.has--
}

// join connects, if need be, and subscribes for a consumer.
func (s *session) join(ctx context.Context, c *consumer) error {
	c.session = s
	s.mu.Lock()
	s.consumers[c] = struct{}{} // before others take leave
	s.mu.Unlock()
	conn, err := s.link.inTurn(ctx)
	if err == nil {
		s.mu.Lock()
		c.conn = conn
		s.mu.Unlock()
		err = conn.subscribe(ctx, c.filter.text, byte(s.p.cfg.QoS)) //nolint:gosec // Validate bounds it
	}
	if err != nil {
		s.leave(c)
		return err
	}
	s.adopt(c)
	return nil
}

// adopt hands a consumer what came before it.
func (s *session) adopt(c *consumer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.left, c.filter.text)
	rest := s.orphans[:0]
	for _, in := range s.orphans {
		switch {
		case in.conn != c.conn: // comes again
		case c.filter.matches(in.packet.TopicName):
			s.push(c, in)
		default:
			rest = append(rest, in)
		}
	}
	clear(s.orphans[len(rest):])
	s.orphans = rest
}

// leave ends a consumer's part in the session. What it has not processed goes
// to another one of the same filter, or waits for one to come; if there is no
// consumer at all, with the broker.
func (s *session) leave(c *consumer) {
	s.mu.Lock()
	delete(s.consumers, c)
	rest := c.queue
	c.queue = nil
	last, same := len(s.consumers) == 0, s.sibling(c)
	quits := c.leaves && same == nil && c.conn != nil
	s.mu.Unlock()
	if quits && !(last && s.p.cfg.CleanSession) {
		ctx, cancel := context.WithTimeout(c.ctx, farewell)
		defer cancel()
		_ = c.conn.unsubscribe(ctx, c.filter.text) // otherwise the broker keeps sending
	}
	for _, j := range rest {
		if quits {
			j.in.processed() // nobody wants it any more
		}
	}
	if last {
		s.link.drop(func() bool {
			s.mu.Lock()
			defer s.mu.Unlock()
			if len(s.consumers) > 0 {
				return false
			}
			s.orphans, s.overflown = nil, false
			clear(s.left)
			return true
		})
		return
	}
	for _, j := range rest {
		if !quits {
			s.bequeath(c, j)
		}
	}
	if c.conn != nil && c.conn.alive() {
		c.conn.flush()
	}
}

// sibling returns a consumer of the same filter on the same connection. s.mu is
// held.
func (s *session) sibling(c *consumer) *consumer {
	for other := range s.consumers {
		if other != c && other.filter.text == c.filter.text && other.conn == c.conn && !other.stopping {
			return other
		}
	}
	return nil
}

// bequeath passes on what a consumer has not processed.
func (s *session) bequeath(from *consumer, j *job) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch heir := s.sibling(from); {
	case !j.in.conn.alive(): // comes again
	case heir != nil:
		s.push(heir, j.in)
	case j.in.packet.Qos == 0:
	default:
		s.orphans = append(s.orphans, j.in)
		s.left[from.filter.text] = from.filter
	}
}

// sweep gives up messages that nobody has come for.
func (s *session) sweep(ctx context.Context, conn *conn) {
	given, brings := s.giveUp(conn)
	for _, in := range given {
		in.processed()
	}
	for _, text := range brings {
		ctx, cancel := context.WithTimeout(ctx, farewell)
		_ = conn.unsubscribe(ctx, text)
		cancel()
	}
}

// giveUp returns messages that have waited too long, and what to unsubscribe
// from.
func (s *session) giveUp(conn *conn) (given []*inbound, brings []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.orphans) > fewOrphans && time.Since(s.orphans[0].since) > s.p.orphanWait {
		in := s.orphans[0]
		s.orphans[0] = nil
		s.orphans = s.orphans[1:]
		topic := in.packet.TopicName
		switch {
		case in.conn != conn: // comes again
			continue
		case !slices.Contains(brings, topic):
			s.p.log.Warn("the broker sends messages of a topic that nobody here subscribes to any more; they are lost, and it is unsubscribed",
				"topic", topic)
			brings = append(brings, topic)
		}
		given = append(given, in)
		for text, f := range s.left {
			if f.matches(topic) {
				brings = append(brings, text)
				delete(s.left, text)
			}
		}
	}
	return given, brings
}
