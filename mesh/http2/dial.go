package http2

import (
	"context"
	"crypto/tls"
	"errors"
	"net"

	"github.com/proa-io/proa/fault"
)

// startDial makes a connection in the background. cl.mu is held.
func (cl *Client) startDial() {
	cl.dialing++
	cl.active.Add(1)
	go func() {
		defer cl.active.Done()
		cl.dial()
	}()
}

func (cl *Client) dial() {
	nc, state, err := cl.connect()
	if err != nil {
		cl.dialed(nil, cl.dialFault(err))
		return
	}
	c := newConn(nc, connOptions{
		cfg: &cl.cfg, role: cl, client: true, log: cl.log, mem: &cl.mem, workers: &cl.workers, tls: state,
		retire: cl.Retire,
	})
	c.slots.Store(assumedStreams)
	c.begin()
	if !cl.add(c) {
		c.abort(errClosed)
	}
	err = c.run()
	if !c.gotPeer {
		// It never came to be a connection of HTTP/2.
		if err == nil {
			err = c.fault(fault.Unavailable, nil, "the server closed the connection before it sent SETTINGS")
		}
		cl.dialed(nil, err)
	} else if err != nil {
		cl.log.Debug("connection ended", "error", err)
	}
	cl.remove(c)
}

// add counts in a connection that is being made, unless the client is closed.
func (cl *Client) add(c *conn) bool {
	cl.mu.Lock()
	defer cl.mu.Unlock()
	cl.all[c] = struct{}{}
	return !cl.closing
}

func (cl *Client) remove(c *conn) {
	cl.mu.Lock()
	defer cl.mu.Unlock()
	delete(cl.all, c)
}

// settled implements role: the server's SETTINGS have arrived, and so requests
// can be sent that it will take.
func (cl *Client) settled(c *conn) { cl.dialed(c, nil) }

// connect makes a connection, and a TLS one if asked for.
func (cl *Client) connect() (net.Conn, *tls.ConnectionState, error) {
	ctx := cl.ctx
	if cl.dialTimeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, cl.dialTimeout)
		defer cancel()
	}
	nc, err := cl.dialNetwork(ctx)
	if err != nil {
		return nil, nil, err
	}
	tc, ok := nc.(*tls.Conn)
	switch {
	case !ok && cl.tls == nil:
		return nc, nil, nil
	case !ok:
		tc = tls.Client(&packer{Conn: nc}, cl.tls)
	}
	state, err := tlsHandshake(ctx, tc, 0)
	if err == nil {
		if weak := weakTLS(state); weak != "" {
			err = errors.New(weak)
		}
	}
	if err != nil {
		_ = nc.Close()
		return nil, nil, fault.Wrap(err, fault.Unavailable, "TLS handshake")
	}
	return tc, state, nil
}

func (cl *Client) dialNetwork(ctx context.Context) (net.Conn, error) {
	if cl.Dial != nil {
		return cl.Dial(ctx)
	}
	var d net.Dialer
	if path, ok := cutUnix(cl.Addr); ok {
		return d.DialContext(ctx, "unix", path)
	}
	return d.DialContext(ctx, "tcp", cl.Addr)
}

func cutUnix(addr string) (path string, ok bool) {
	const scheme = "unix:"
	if len(addr) > len(scheme) && addr[:len(scheme)] == scheme {
		return addr[len(scheme):], true
	}
	return "", false
}

func (cl *Client) dialFault(err error) error {
	if cl.ctx.Err() != nil {
		return errClosed
	}
	return fault.Wrap(err, fault.Unavailable, "connect to %s", cl.name())
}
