package mqtt

import (
	"context"
	"sync"

	"github.com/proa-io/proa/fault"
)

// link is a connection that is made when it is needed, by one party at a time,
// and made again when it is needed after it broke.
type link struct {
	target target
	hello  hello
	turn   chan struct{} // held by who connects or takes leave

	mu     sync.Mutex
	conn   *conn
	closed bool
}

func newLink(t target, h hello) *link {
	return &link{target: t, hello: h, turn: make(chan struct{}, 1)}
}

// get returns the connection, which it makes if there is none.
func (l *link) get(ctx context.Context) (*conn, error) {
	if c, err := l.present(); c != nil || err != nil {
		return c, err
	}
	return l.inTurn(ctx)
}

// inTurn is get, after those who take leave at this moment.
func (l *link) inTurn(ctx context.Context) (*conn, error) {
	select {
	case l.turn <- struct{}{}:
		defer func() { <-l.turn }()
	case <-ctx.Done():
		return nil, classify(ctx, ctx.Err())
	}
	if c, err := l.present(); c != nil || err != nil {
		return c, err
	}
	c, err := connect(ctx, l.target, l.hello)
	if err != nil {
		return nil, err
	}
	if !l.put(c) {
		c.close()
		return nil, errLinkClosed()
	}
	return c, nil
}

func errLinkClosed() error {
	return fault.New(fault.Unavailable, "the connection to the MQTT broker is closed")
}

// present returns the connection if it is alive.
func (l *link) present() (*conn, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, errLinkClosed()
	}
	if l.conn != nil && !l.conn.alive() {
		l.conn.workers.Wait() // they end with it
		l.conn = nil
	}
	return l.conn, nil
}

func (l *link) put(c *conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.closed {
		l.conn = c
	}
	return !l.closed
}

// drop takes leave of the broker unless somebody wants to stay. The connection
// is made again when it is needed.
func (l *link) drop(unwanted func() bool) {
	l.turn <- struct{}{}
	defer func() { <-l.turn }()
	if !unwanted() {
		return
	}
	l.mu.Lock()
	c := l.conn
	l.conn = nil
	l.mu.Unlock()
	if c != nil {
		c.close()
	}
}

// close takes leave of the broker and lets nobody connect any more.
func (l *link) close() {
	l.mu.Lock()
	c := l.conn
	l.conn, l.closed = nil, true
	l.mu.Unlock()
	if c != nil {
		c.close()
	}
}
