package mqtt

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"

	"github.com/proa-io/proa/fault"
)

// What a connection does and bears on its own.
const (
	// dialWait bounds connecting when the caller sets no earlier deadline.
	dialWait = 10 * time.Second
	// keepAlive is after which silence the broker may take us for dead.
	keepAlive = 30 * time.Second
	// pingEvery is how often the broker hears of us, and silence how long it
	// may be silent before it counts as dead.
	pingEvery = keepAlive / 3
	silence   = 2 * pingEvery
	// writeWait is how long the broker may take nothing before the connection
	// counts as broken.
	writeWait = 5 * time.Second
	// farewell bounds how long taking leave may take.
	farewell = 2 * time.Second
	// maxPending is how many packets may be unanswered at a time.
	maxPending = 1024
)

// conn is one connection to a broker: packets in and out, and which answer is
// to what. It is safe for concurrent use.
type conn struct {
	net     net.Conn
	deliver func(*conn, *packets.PublishPacket)
	once    *ids

	write sync.Mutex    // packets are whole
	slots chan struct{} // one taken by each packet that is unanswered

	mu      sync.Mutex
	lastID  uint16
	pending map[uint16]*pending
	pongs   []chan struct{} // of pings, oldest first
	err     error           // why the connection ended

	ended   chan struct{} // closed when it has
	heard   atomic.Int64  // when the last packet came, in Unix nanoseconds
	workers sync.WaitGroup
}

// pending is a packet that is unanswered.
type pending struct {
	answered chan struct{} // closed when the answer is there
	refused  bool
}

// hello is how a client presents itself.
type hello struct {
	clientID     string
	cleanSession bool
	deliver      func(*conn, *packets.PublishPacket) // must not block; nil drops
	once         *ids                                // of messages with QoS 2; nil without deliver
}

// ids are the packet ids of messages with QoS 2 that are processed, and that
// the broker may still deliver again. They outlive the connection, as the
// session does.
type ids struct {
	mu  sync.Mutex
	all map[uint16]struct{}
}

func (s *ids) has(id uint16) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.all[id]
	return ok
}

func (s *ids) add(id uint16) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all == nil {
		s.all = map[uint16]struct{}{}
	}
	s.all[id] = struct{}{}
}

func (s *ids) remove(id uint16) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.all, id)
}

func (s *ids) clear() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.all)
}

// connect opens a connection.
func connect(ctx context.Context, t target, h hello) (*conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialWait)
	defer cancel()
	socket, err := new(net.Dialer).DialContext(ctx, "tcp", t.addr)
	if err != nil {
		return nil, classify(ctx, err)
	}
	stop := context.AfterFunc(ctx, func() { _ = socket.Close() })
	c := &conn{
		net: socket, deliver: h.deliver, once: h.once, slots: make(chan struct{}, maxPending),
		pending: map[uint16]*pending{}, ended: make(chan struct{}),
	}
	r, err := c.handshake(t, h)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		_ = c.net.Close()
		return nil, classify(ctx, err)
	}
	c.heard.Store(time.Now().UnixNano())
	c.workers.Go(func() { c.fail(c.read(r)) })
	c.workers.Go(c.watch)
	return c, nil
}

func (c *conn) handshake(t target, h hello) (*bufio.Reader, error) {
	if t.tls != nil {
		encrypted := tls.Client(c.net, t.tls)
		if err := encrypted.Handshake(); err != nil {
			if bad, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
				return nil, fault.Wrap(err, fault.FailedPrecondition, "the certificate of the MQTT broker is not trusted: %v", bad.Err)
			}
			return nil, err
		}
		c.net = encrypted
	}
	p := packets.NewControlPacket(packets.Connect).(*packets.ConnectPacket) //nolint:forcetypeassert // it is
	p.ProtocolName, p.ProtocolVersion, p.Keepalive = "MQTT", 4, uint16(keepAlive/time.Second)
	p.ClientIdentifier, p.CleanSession = h.clientID, h.cleanSession
	if t.user != "" {
		p.UsernameFlag, p.Username = true, t.user
		p.PasswordFlag, p.Password = t.password != "", []byte(t.password)
	}
	if err := c.send(p); err != nil {
		return nil, err
	}
	r := bufio.NewReader(c.net)
	answer, err := readPacket(r)
	if err != nil {
		return nil, err
	}
	ack, ok := answer.(*packets.ConnackPacket)
	if !ok {
		return nil, fmt.Errorf("%w: no CONNACK", errMalformed)
	}
	if !ack.SessionPresent && h.once != nil {
		h.once.clear()
	}
	return r, refusal(ack.ReturnCode)
}

// refusal names what a broker answers to CONNECT (MQTT 3.1.1, section 3.2.2.3).
func refusal(code byte) error {
	switch code {
	case packets.Accepted:
		return nil
	case packets.ErrRefusedBadProtocolVersion:
		return fault.New(fault.FailedPrecondition, "the MQTT broker does not speak version 3.1.1")
	case packets.ErrRefusedIDRejected:
		return fault.New(fault.FailedPrecondition, "the MQTT broker does not allow the client id")
	case packets.ErrRefusedServerUnavailable:
		return fault.New(fault.Unavailable, "the MQTT broker is not available")
	case packets.ErrRefusedBadUsernameOrPassword, packets.ErrRefusedNotAuthorised:
		return fault.New(fault.Unauthenticated, "the MQTT broker refused the credentials")
	}
	return fault.New(fault.Unavailable, "the MQTT broker refuses the connection with code %d", code)
}

// classify names an error of the network for a call made with ctx. It returns
// nil for nil.
func classify(ctx context.Context, err error) error {
	switch {
	case err == nil:
		return nil
	case fault.CodeOf(err) != fault.Unknown && !isContextError(err):
		return err // already named
	}
	switch ctx.Err() {
	case context.Canceled:
		return context.Canceled
	case context.DeadlineExceeded:
		return fault.Wrap(err, fault.DeadlineExceeded, "the MQTT broker did not answer in time")
	}
	return fault.Wrap(err, fault.Unavailable, "the MQTT broker cannot be reached")
}

func isContextError(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}

// send writes a packet. A broker that takes nothing for a while breaks the
// connection.
func (c *conn) send(p packets.ControlPacket) error {
	c.write.Lock()
	defer c.write.Unlock()
	if err := c.net.SetWriteDeadline(time.Now().Add(writeWait)); err != nil {
		return err
	}
	return p.Write(c.net)
}

// fail ends the connection, once, for the given reason.
func (c *conn) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		c.err = err
		_ = c.net.Close()
		close(c.ended)
	}
}

// alive reports whether the connection has not ended.
func (c *conn) alive() bool {
	select {
	case <-c.ended:
		return false
	default:
		return true
	}
}

// broken names why the connection has ended.
func (c *conn) broken() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return fault.Wrap(c.err, fault.Unavailable, "the connection to the MQTT broker broke")
}

// read takes packets until the connection ends, and returns why.
func (c *conn) read(r *bufio.Reader) error {
	for {
		p, err := readPacket(r)
		if err != nil {
			return err
		}
		c.heard.Store(time.Now().UnixNano())
		if err := c.receive(p); err != nil {
			return err
		}
	}
}

func (c *conn) receive(p packets.ControlPacket) error {
	switch p := p.(type) {
	case *packets.PublishPacket:
		switch {
		case c.deliver == nil:
		case p.Qos == 2 && c.once.has(p.MessageID):
			return c.send(pubrec(p.MessageID))
		default:
			c.deliver(c, p)
		}
	case *packets.PubrelPacket:
		if c.once != nil {
			c.once.remove(p.MessageID)
		}
		return c.send(&packets.PubcompPacket{FixedHeader: packets.FixedHeader{MessageType: packets.Pubcomp}, MessageID: p.MessageID})
	case *packets.PubrecPacket:
		return c.send(&packets.PubrelPacket{FixedHeader: packets.FixedHeader{MessageType: packets.Pubrel, Qos: 1}, MessageID: p.MessageID})
	case *packets.PubackPacket:
		c.answer(p.MessageID, false)
	case *packets.PubcompPacket:
		c.answer(p.MessageID, false)
	case *packets.SubackPacket:
		c.answer(p.MessageID, p.ReturnCodes[0] > 2)
	case *packets.UnsubackPacket:
		c.answer(p.MessageID, false)
	case *packets.PingrespPacket:
		c.pong()
	default:
		return fmt.Errorf("%w: a broker does not send %T", errMalformed, p)
	}
	return nil
}

func pubrec(id uint16) packets.ControlPacket {
	return &packets.PubrecPacket{FixedHeader: packets.FixedHeader{MessageType: packets.Pubrec}, MessageID: id}
}

// answer ends the wait for an answer. One that nobody waits for is from before.
func (c *conn) answer(id uint16, refused bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if p := c.pending[id]; p != nil {
		delete(c.pending, id)
		p.refused = refused
		close(p.answered)
		<-c.slots
	}
}

// expect takes a free packet id for a packet that will be answered.
func (c *conn) expect(ctx context.Context) (uint16, *pending, error) {
	select {
	case c.slots <- struct{}{}:
	case <-c.ended:
		return 0, nil, c.broken()
	case <-ctx.Done():
		return 0, nil, classify(ctx, ctx.Err())
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		c.lastID++
		if _, taken := c.pending[c.lastID]; c.lastID != 0 && !taken {
			p := &pending{answered: make(chan struct{})}
			c.pending[c.lastID] = p
			return c.lastID, p, nil
		}
	}
}

// ask sends a packet and waits for the answer to it. The packet id stays taken
// until the answer is there, whoever waits.
func (c *conn) ask(ctx context.Context, p packets.ControlPacket, answer *pending) error {
	if err := c.send(p); err != nil {
		c.fail(err)
		return classify(ctx, err)
	}
	select {
	case <-answer.answered:
		return nil
	case <-c.ended:
		return c.broken()
	case <-ctx.Done():
		return classify(ctx, ctx.Err())
	}
}

// publish sends a message, and waits until the broker has it if the QoS is
// more than 0.
func (c *conn) publish(ctx context.Context, m *packets.PublishPacket) error {
	if err := ctx.Err(); err != nil {
		return classify(ctx, err)
	}
	if m.Qos == 0 {
		if err := c.send(m); err != nil {
			c.fail(err)
			return classify(ctx, err)
		}
		return nil
	}
	id, answer, err := c.expect(ctx)
	if err != nil {
		return err
	}
	m.MessageID = id
	return c.ask(ctx, m, answer)
}

// subscribe asks for the messages of a filter.
func (c *conn) subscribe(ctx context.Context, filter string, qos byte) error {
	id, answer, err := c.expect(ctx)
	if err != nil {
		return err
	}
	err = c.ask(ctx, &packets.SubscribePacket{
		FixedHeader: packets.FixedHeader{MessageType: packets.Subscribe, Qos: 1},
		MessageID:   id, Topics: []string{filter}, Qoss: []byte{qos},
	}, answer)
	if err == nil && answer.refused {
		return fault.New(fault.PermissionDenied, "the MQTT broker refuses the subscription to %q", filter)
	}
	return err
}

// unsubscribe asks for no more messages of a filter.
func (c *conn) unsubscribe(ctx context.Context, filter string) error {
	id, answer, err := c.expect(ctx)
	if err != nil {
		return err
	}
	return c.ask(ctx, &packets.UnsubscribePacket{
		FixedHeader: packets.FixedHeader{MessageType: packets.Unsubscribe, Qos: 1},
		MessageID:   id, Topics: []string{filter},
	}, answer)
}

// acknowledge tells the broker that a message is processed. If the connection
// has ended the broker delivers it again.
func (c *conn) acknowledge(m *packets.PublishPacket) {
	if !c.alive() {
		return
	}
	var err error
	switch m.Qos {
	case 1:
		err = c.send(&packets.PubackPacket{FixedHeader: packets.FixedHeader{MessageType: packets.Puback}, MessageID: m.MessageID})
	case 2:
		c.once.add(m.MessageID)
		if err = c.send(pubrec(m.MessageID)); err != nil {
			c.once.remove(m.MessageID)
		}
	}
	if err != nil {
		c.fail(err)
	}
}

// flush waits until the broker has taken what was sent, but not for long. It
// reports whether it has.
func (c *conn) flush() bool {
	answered := make(chan struct{})
	if err := c.ping(answered); err != nil {
		c.fail(err)
		return false
	}
	select {
	case <-answered:
		return true
	case <-c.ended:
	case <-time.After(farewell):
	}
	return false
}

func (c *conn) ping(answered chan struct{}) error {
	c.write.Lock() // answers come in the order of the pings
	defer c.write.Unlock()
	c.mu.Lock()
	c.pongs = append(c.pongs, answered)
	c.mu.Unlock()
	if err := c.net.SetWriteDeadline(time.Now().Add(writeWait)); err != nil {
		return err
	}
	return (&packets.PingreqPacket{FixedHeader: packets.FixedHeader{MessageType: packets.Pingreq}}).Write(c.net)
}

func (c *conn) pong() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.pongs) > 0 {
		close(c.pongs[0])
		c.pongs = c.pongs[1:]
	}
}

var errSilent = errors.New("the broker is silent")

// watch shows the broker that we are alive, and breaks the connection when the
// broker is not.
func (c *conn) watch() {
	ticker := time.NewTicker(pingEvery)
	defer ticker.Stop()
	for {
		select {
		case <-c.ended:
			return
		case <-ticker.C:
		}
		if time.Since(time.Unix(0, c.heard.Load())) > silence {
			c.fail(errSilent)
			return
		}
		if err := c.ping(make(chan struct{})); err != nil {
			c.fail(err)
			return
		}
	}
}

var errLeft = errors.New("we took leave")

// close takes leave of the broker, in good order if that is possible.
func (c *conn) close() {
	if c.alive() && c.flush() {
		_ = c.send(&packets.DisconnectPacket{FixedHeader: packets.FixedHeader{MessageType: packets.Disconnect}})
	}
	c.fail(errLeft)
	c.workers.Wait()
}
