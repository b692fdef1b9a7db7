package engine

import (
	"errors"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Timing of the connections.
const (
	// handshakeTimeout bounds a connect. The client library holds the lock of
	// the connection meanwhile, so it also bounds how long a call can be stuck
	// in it.
	handshakeTimeout = 2 * time.Second
	// pingInterval times maxPings is how long a server may be silent before
	// the connection counts as broken. A process that died is noticed at once;
	// this is for one that hangs and for networks that swallow packets.
	pingInterval = 10 * time.Second
	maxPings     = 2
	// drainTimeout bounds the drain of the connections at stop.
	drainTimeout = 3 * time.Second
)

// connectAll starts every connection of the pool that is not started. They go
// on trying until they are closed.
func (e *Engine) connectAll(url string, extra ...nats.Option) error {
	for _, c := range e.conns {
		if c.nc.Load() != nil {
			continue
		}
		if err := c.connect(url, extra); err != nil {
			return err
		}
	}
	return nil
}

// connect makes the client connection. It fails only on options that cannot
// work now, such as a file that cannot be read.
func (c *Conn) connect(url string, extra []nats.Option) error {
	// The library calls the handlers from a goroutine of its own, perhaps
	// before it returns the connection: they wait until it is stored.
	made, closed := make(chan struct{}), make(chan struct{})
	defer close(made)
	connected := func(nc *nats.Conn) { <-made; c.connected(nc) }
	nc, err := nats.Connect(url, append([]nats.Option{
		nats.Name(c.engine.opts.Name),
		nats.Timeout(handshakeTimeout),
		nats.PingInterval(pingInterval),
		nats.MaxPingsOutstanding(maxPings),
		nats.RetryOnFailedConnect(true),
		nats.MaxReconnects(-1),
		nats.IgnoreAuthErrorAbort(),
		nats.ReconnectBufSize(-1),
		nats.DrainTimeout(drainTimeout),
		nats.ConnectHandler(connected),
		nats.ReconnectHandler(connected),
		nats.DisconnectErrHandler(c.disconnected),
		nats.ClosedHandler(func(*nats.Conn) { close(closed) }),
		nats.ErrorHandler(c.asyncError),
	}, extra...)...)
	if err != nil {
		return err
	}
	js, err := jetstream.New(nc)
	if err != nil {
		nc.Close()
		return err
	}
	c.js, c.closed = js, closed
	c.nc.Store(nc)
	return nil
}

// connected begins a new link, also for a connect that succeeds at once.
func (c *Conn) connected(nc *nats.Conn) {
	if c.nc.Load() == nil {
		return // connect gave it up
	}
	c.engine.learn(nc)
	if old := c.link.Swap(new(link)); old != nil {
		old.lose()
	}
	c.engine.clearTrouble()
	c.engine.announce()
}

// disconnected ends the link and with it the calls in flight.
func (c *Conn) disconnected(_ *nats.Conn, err error) {
	if old := c.link.Swap(nil); old != nil {
		old.lose()
	}
	c.engine.log.Debug("engine connection lost", "error", err)
	c.engine.announce()
}

// asyncError remembers refusals, which the server reports apart from the
// request they concern, and logs what no call can return.
func (c *Conn) asyncError(_ *nats.Conn, sub *nats.Subscription, err error) {
	log := c.engine.log
	switch {
	case errors.Is(err, nats.ErrPermissionViolation):
		c.denied.Store(&denial{at: time.Now(), err: err})
		select {
		case c.deny <- struct{}{}:
		default:
		}
		log.Warn("engine server refused a request", "error", err)
	case sub != nil:
		log.Warn("engine subscription has an error", "subject", sub.Subject, "error", err)
	default: // a broken connection, mostly, which the link tells
		log.Debug("engine connection has an error", "error", err)
	}
}

// learn records what the connected server says of itself.
func (e *Engine) learn(nc *nats.Conn) {
	v := nc.ConnectedServerVersion()
	e.server.Store(&serverFacts{
		name: nc.ConnectedServerName(), version: v, parsed: parseVersion(v),
		cluster: nc.ConnectedClusterName(), servers: len(nc.Servers()), maxPayload: nc.MaxPayload(),
	})
}

// anyUp returns a connection that has a link.
func (e *Engine) anyUp() (*Conn, *link) {
	for _, c := range e.conns {
		if l := c.link.Load(); l != nil {
			return c, l
		}
	}
	return nil, nil
}

// kick makes the connections that are waiting for their next attempt try now.
func (e *Engine) kick() {
	for _, c := range e.conns {
		if nc := c.nc.Load(); nc != nil && c.link.Load() == nil && nc.IsReconnecting() {
			_ = nc.ForceReconnect() // fails only when closed
		}
	}
}

// drain hands over what the connections still hold and closes them.
func (e *Engine) drain() {
	late := time.NewTimer(drainTimeout + time.Second)
	defer late.Stop()
	for _, c := range e.conns {
		if nc := c.nc.Load(); nc != nil && (c.link.Load() == nil || nc.Drain() != nil) {
			nc.Close()
		}
	}
	for _, c := range e.conns {
		nc := c.nc.Load()
		if nc == nil {
			continue
		}
		select {
		case <-c.closed:
			continue
		case <-late.C:
			late.Reset(0) // for those that follow, too
		}
		nc.Close()
		<-c.closed
	}
}
