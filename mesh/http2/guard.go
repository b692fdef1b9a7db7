package http2

import "time"

// guard bounds what a peer can have this side do without asking for anything
// useful. Only the reading goroutine uses it. Its clock is looked at only when
// a budget is spent.
type guard struct {
	frames, resets     float64
	framesAt, resetsAt time.Duration // since the connection began
	credit, ended      int64         // of the connection, when last looked at
}

func newGuard(cfg *Config) guard {
	return guard{frames: float64(cfg.FrameBudget), resets: float64(cfg.ResetBudget)}
}

// junk counts a frame that carries nothing.
func (g *guard) junk(c *conn) error {
	if g.frames >= 1 {
		g.frames--
		return nil
	}
	now, credit, budget := c.age(), c.credit.Load(), float64(c.cfg.FrameBudget)
	g.frames += budget*(now-g.framesAt).Seconds() + float64(credit-g.credit)
	g.frames = min(g.frames, budget)
	g.framesAt, g.credit = now, credit
	if g.frames < 1 {
		return connErrorf(codeCalm, "too many frames that carry nothing")
	}
	g.frames--
	return nil
}

const (
	// creditPerFrame is how many frames that carry nothing the peer may send
	// for each HEADERS and DATA frame that it gets: gRPC implementations
	// answer content with PINGs, to measure, and with WINDOW_UPDATEs.
	creditPerFrame = 4
	// smallUpdate is how much a WINDOW_UPDATE must add to be no junk.
	smallUpdate = 1024
)

// window counts a WINDOW_UPDATE.
func (g *guard) window(c *conn, n int64) error {
	if n >= smallUpdate {
		return nil
	}
	return g.junk(c)
}

// reset counts a stream that the peer has reset before it was answered.
func (g *guard) reset(c *conn) error {
	if g.resets >= 1 {
		g.resets--
		return nil
	}
	now, ended, budget := c.age(), c.ended.Load(), float64(c.cfg.ResetBudget)
	g.resets += budget*(now-g.resetsAt).Seconds() + float64(ended-g.ended)
	g.resets = min(g.resets, budget)
	g.resetsAt, g.ended = now, ended
	if g.resets < 1 {
		return connErrorf(codeCalm, "too many streams were reset")
	}
	g.resets--
	return nil
}
