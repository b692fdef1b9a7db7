package http2

import "time"

// guard bounds what a peer can have this side do without asking for anything
// useful. Only the reading goroutine uses it. Its clock is looked at only when
// a budget is spent.
type guard struct {
	frames, frameBudget float64
	resets, resetBudget float64
	framesAt, resetsAt  time.Time
	credit, ended       int64 // of the connection, when last looked at
}

func newGuard(cfg *Config) guard {
	now := time.Now()
	return guard{
		frames: float64(cfg.FrameBudget), frameBudget: float64(cfg.FrameBudget), framesAt: now,
		resets: float64(cfg.ResetBudget), resetBudget: float64(cfg.ResetBudget), resetsAt: now,
	}
}

// junk counts a frame that carries nothing.
func (g *guard) junk(c *conn) error {
	if g.frames >= 1 {
		g.frames--
		return nil
	}
	now, credit := time.Now(), c.credit.Load()
	g.frames += g.frameBudget*now.Sub(g.framesAt).Seconds() + float64(credit-g.credit)
	g.frames = min(g.frames, g.frameBudget)
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
	now, ended := time.Now(), c.ended.Load()
	g.resets += g.resetBudget*now.Sub(g.resetsAt).Seconds() + float64(ended-g.ended)
	g.resets = min(g.resets, g.resetBudget)
	g.resetsAt, g.ended = now, ended
	if g.resets < 1 {
		return connErrorf(codeCalm, "too many streams were reset")
	}
	g.resets--
	return nil
}
