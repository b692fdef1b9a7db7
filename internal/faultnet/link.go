package faultnet

import (
	"net"
	"sync"
	"time"
)

// stream is what *net.TCPConn and *net.UnixConn have in common.
type stream interface {
	net.Conn
	CloseWrite() error
}

// abort closes a connection without the courtesy of a FIN. Its peer gets a
// reset where the network has one.
func abort(s stream) {
	if tcp, ok := s.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = s.Close()
}

// link is one connection of a client and its counterpart to the server. Fields
// are guarded by p.mu except client, which never changes.
type link struct {
	p      *Proxy
	client stream
	server stream  // nil until connected
	pumps  []*pump // both, once connected
	dead   bool    // its connections are closed
	lossy  bool    // has lost bytes, or will have by the time the rules change
	broken bool    // a side has failed, so the other must not see an orderly end
	cut    bool    // CutAfter has ended it; what still comes is thrown away
}

// run connects to the server and forwards until both directions have ended.
func (l *link) run() {
	defer l.end()
	up, down := l.connect()
	if up == nil {
		return
	}
	var wg sync.WaitGroup
	wg.Go(down.run)
	up.run()
	wg.Wait()
}

// connect waits until the rules let anything through and dials the server. It
// returns nil when the link died meanwhile or the server cannot be reached.
func (l *link) connect() (up, down *pump) {
	l.p.mu.Lock()
	for !l.dead && (l.p.rules.stopped() || l.p.rules.unreachable()) {
		l.p.changed.Wait()
	}
	dead := l.dead
	l.p.mu.Unlock()
	if dead {
		return nil, nil
	}

	conn, err := l.p.dial()

	l.p.mu.Lock()
	defer l.p.mu.Unlock()
	if err != nil {
		l.broken = true
		return nil, nil
	}
	l.server = conn.(stream)
	if l.dead {
		abort(l.server)
		return nil, nil
	}
	up = newPump(l, Upstream, l.client, l.server)
	down = newPump(l, Downstream, l.server, l.client)
	l.pumps = []*pump{up, down}
	return up, down
}

// end closes what is still open and takes the link off the list.
func (l *link) end() {
	l.p.mu.Lock()
	defer l.p.mu.Unlock()
	if l.broken {
		l.kill()
	}
	if !l.dead {
		l.dead = true
		_ = l.client.Close()
		_ = l.server.Close()
	}
	delete(l.p.links, l)
	l.p.changed.Broadcast()
}

// kill resets both connections. p.mu is held.
func (l *link) kill() {
	if l.dead {
		return
	}
	l.dead = true
	abort(l.client)
	if l.server != nil {
		abort(l.server)
	}
	l.interrupt()
	l.p.changed.Broadcast()
}

// interrupt makes the pumps look at the rules, whatever they are waiting for.
// p.mu is held.
func (l *link) interrupt() {
	past := time.Unix(1, 0)
	for _, u := range l.pumps {
		_ = u.src.SetReadDeadline(past)
		_ = u.dst.SetWriteDeadline(past)
		select {
		case u.wake <- struct{}{}:
		default:
		}
	}
}
