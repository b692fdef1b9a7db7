package engine

import (
	"context"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"
)

// maxGuests bounds the connections of other sidecars to the holder.
const maxGuests = 1024

// guests serves the connections of other sidecars: each is joined to an
// in-process connection of the embedded server, which can listen on nothing
// but TCP itself.
type guests struct {
	dial func() (net.Conn, error) // a new in-process connection
	log  *slog.Logger

	mu    sync.Mutex
	open  map[net.Conn]struct{}
	over  bool
	group sync.WaitGroup
}

// serve accepts until l is closed. It returns when every guest has left.
func (g *guests) serve(ctx context.Context, l net.Listener) {
	defer g.group.Wait()
	for {
		guest, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil || g.ended() {
				return
			}
			// Out of descriptors, most likely: others may close some.
			g.log.WarnContext(ctx, "engine cannot accept a connection", "error", err)
			select {
			case <-ctx.Done():
				return
			case <-time.After(50 * time.Millisecond):
			}
			continue
		}
		if !g.add(guest) {
			_ = guest.Close()
			continue
		}
		g.group.Go(func() { g.join(guest) })
	}
}

// join copies between the guest and the server until either ends.
func (g *guests) join(guest net.Conn) {
	defer g.remove(guest)
	inside, err := g.dial()
	if err != nil {
		_ = guest.Close()
		return
	}
	var pair sync.WaitGroup
	relay := func(to, from net.Conn) {
		_, _ = io.Copy(to, from)
		_ = to.Close()
		_ = from.Close()
	}
	pair.Go(func() { relay(inside, guest) })
	relay(guest, inside)
	pair.Wait()
}

func (g *guests) add(c net.Conn) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.over || len(g.open) >= maxGuests {
		return false
	}
	if g.open == nil {
		g.open = make(map[net.Conn]struct{})
	}
	g.open[c] = struct{}{}
	return true
}

func (g *guests) remove(c net.Conn) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.open, c)
}

func (g *guests) ended() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.over
}

// end refuses new guests. Those that are there leave when the server closes
// their connections.
func (g *guests) end() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.over = true
}

// expel closes the connections of the guests that are still there.
func (g *guests) expel() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for c := range g.open {
		_ = c.Close()
	}
}
