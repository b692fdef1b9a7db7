package rabbitmq

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/proa-io/proa/fault"
)

// Bounds of what a connection waits for on its own.
const (
	// dialWait bounds connecting when the caller sets no earlier deadline.
	dialWait = 10 * time.Second
	// writeWait is how long the server may take nothing before the connection
	// counts as broken.
	writeWait = 5 * time.Second
	// callGrace is how long a call to the server may go on after its context
	// has ended before the connection is cut.
	callGrace = time.Second
	// farewell bounds how long taking leave may take.
	farewell = 2 * time.Second
)

// link is a connection that is made when it is needed, and made again when it
// is needed after it broke.
type link struct {
	target target
	conn   *renewed[connection]
	known  atomic.Bool // the server has let us in once
}

func newLink(t target) *link {
	return &link{target: t, conn: newRenewed(func(c *connection) bool { return !c.IsClosed() }, (*connection).close)}
}

// get returns the connection, which it makes if there is none.
func (l *link) get(ctx context.Context) (*connection, error) {
	return l.conn.get(ctx, l.connect)
}

func (l *link) connect(ctx context.Context) (*connection, error) {
	c, err := connect(ctx, l.target)
	switch {
	case err == nil:
		l.known.Store(true)
	case errors.Is(err, amqp.ErrCredentials) && fault.Is(err, fault.Unavailable) && !l.known.Load():
		// The server hangs up on those it does not let in, without a word. On
		// those it has let in before, something else has happened.
		return nil, fault.Wrap(err, fault.Unauthenticated, "rabbitmq refused the credentials")
	}
	return c, err
}

// close closes the connection and lets nobody make another.
func (l *link) close() {
	if c := l.conn.close(); c != nil {
		c.close()
	}
}

// connection is one connection to the server.
type connection struct {
	*amqp.Connection
	socket *socket
	// declared holds the exchanges that are known to be there.
	declared sync.Map
	// blocked is why the server takes no messages; nil while it does.
	blocked  atomic.Pointer[string]
	watching sync.WaitGroup
}

// connect opens a connection.
func connect(ctx context.Context, t target) (*connection, error) {
	ctx, cancel := context.WithTimeout(ctx, dialWait)
	defer cancel()
	c := &connection{}
	stop := func() bool { return true }
	cfg := t.config()
	cfg.Dial = func(network, addr string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		c.socket = &socket{conn}
		stop = context.AfterFunc(ctx, func() { _ = conn.Close() })
		return c.socket, nil
	}
	var err error
	c.Connection, err = amqp.DialConfig(t.uri.Reveal(), cfg)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		if c.socket != nil {
			_ = c.socket.Close() // the client library leaves it open
		}
		return nil, refused(ctx, err)
	}
	c.watch()
	return c, nil
}

// refused names why no connection came about.
func refused(ctx context.Context, err error) error {
	untrusted, isUntrusted := errors.AsType[*tls.CertificateVerificationError](err)
	switch {
	case ctx.Err() != nil:
	case errors.Is(err, amqp.ErrSASL):
		return fault.Wrap(err, fault.Unauthenticated, "rabbitmq does not offer the way to log in that is set up")
	case isUntrusted:
		return fault.Wrap(err, fault.FailedPrecondition, "the certificate of rabbitmq is not trusted: %v", untrusted.Err)
	}
	return classify(ctx, err)
}

// watch notes when the server begins and ceases to take no messages, until the
// connection ends.
func (c *connection) watch() {
	blocks := c.NotifyBlocked(make(chan amqp.Blocking, 1))
	c.watching.Go(func() {
		for b := range blocks {
			if b.Active {
				c.blocked.Store(&b.Reason)
			} else {
				c.blocked.Store(nil)
			}
		}
	})
}

// close takes leave of the server.
func (c *connection) close() {
	_ = c.CloseDeadline(time.Now().Add(farewell)) // the server notices in any case
	c.cut()
	c.watching.Wait()
}

// cut ends the connection without a word.
func (c *connection) cut() { _ = c.socket.Close() }

// do makes calls to the server, which do not heed contexts: when ctx ends, and
// they do not soon, the connection is as good as dead and is cut.
func (c *connection) do(ctx context.Context, calls func() error) error {
	if err := ctx.Err(); err != nil {
		return classify(ctx, err)
	}
	done := make(chan struct{})
	defer close(done)
	defer context.AfterFunc(ctx, func() {
		select {
		case <-done:
		case <-time.After(callGrace):
			c.cut()
		}
	})()
	return classify(ctx, calls())
}

// channel opens a channel, on which one party makes calls.
func (c *connection) channel(ctx context.Context) (ch *amqp.Channel, err error) {
	err = c.do(ctx, func() error {
		ch, err = c.Channel()
		return err
	})
	return ch, err
}

// onChannel makes calls on a channel of their own: one that the server refuses
// closes the channel.
func (c *connection) onChannel(ctx context.Context, calls func(*amqp.Channel) error) error {
	return c.do(ctx, func() error {
		ch, err := c.Channel()
		if err != nil {
			return err
		}
		err = calls(ch)
		_ = ch.Close() // it is closed already if a call failed
		return err
	})
}

// socket is the connection below the protocol. A server that takes nothing for
// a while breaks it.
type socket struct{ net.Conn }

// Write implements net.Conn.
func (s *socket) Write(b []byte) (int, error) {
	if err := s.SetWriteDeadline(time.Now().Add(writeWait)); err != nil {
		return 0, err
	}
	return s.Conn.Write(b)
}
