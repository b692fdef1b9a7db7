package nats

import (
	"context"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/nats-io/nats.go"

	"github.com/proa-io/proa/engine"
	"github.com/proa-io/proa/fault"
)

// groups joins transactions that come at the same time into one commit of the
// server: a commit takes a single server some milliseconds, however much is in
// it. A transaction that comes alone does not wait.
type groups struct {
	commit func(context.Context, []engine.Write) error

	mu      sync.Mutex
	waiting []*member
	running bool
	work    sync.WaitGroup
}

// maxGroupBytes bounds what is committed together.
const maxGroupBytes = 1 << 20

// member is one transaction that waits for its commit.
type member struct {
	ctx    context.Context //nolint:containedctx // it is a call
	writes []engine.Write
	size   int
	done   chan error // has room for one
}

// do commits writes of different keys, all or none. When ctx ends first nobody
// knows whether it happens.
func (g *groups) do(ctx context.Context, writes []engine.Write) error {
	m := &member{ctx: ctx, writes: writes, done: make(chan error, 1)}
	for i := range writes {
		m.size += len(writes[i].Value)
	}
	g.mu.Lock()
	g.waiting = append(g.waiting, m)
	if !g.running {
		g.running = true
		g.work.Go(g.run)
	}
	g.mu.Unlock()
	select {
	case err := <-m.done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// close waits for what is under way.
func (g *groups) close() { g.work.Wait() }

// run commits until nothing waits.
func (g *groups) run() {
	for {
		group := g.next()
		if group == nil {
			return
		}
		g.commitAll(group)
	}
}

// next takes the transactions that are committed next: as many as have no key
// in common, with each other or with one that came before and stays behind.
func (g *groups) next() []*member {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.waiting) == 0 {
		g.running = false
		return nil
	}
	taken := map[string]struct{}{}
	count, size := 0, 0
	var group, left []*member
	for _, m := range g.waiting {
		if m.ctx.Err() != nil {
			m.done <- m.ctx.Err() // it never began
			continue
		}
		fits := len(group) == 0 || count+len(m.writes) <= engine.MaxCommit && size+m.size <= maxGroupBytes
		free := !slices.ContainsFunc(m.writes, func(w engine.Write) bool { _, ok := taken[w.Key]; return ok })
		for i := range m.writes {
			taken[m.writes[i].Key] = struct{}{}
		}
		if !fits || !free {
			left = append(left, m)
			continue
		}
		group = append(group, m)
		count, size = count+len(m.writes), size+m.size
	}
	g.waiting = left
	if group == nil && left == nil {
		g.running = false
	}
	return group
}

// commitAll commits a group. When something in it conflicts, those that demand
// something are committed by themselves.
func (g *groups) commitAll(group []*member) {
	err := g.commitTogether(group)
	if fault.ReasonOf(err) != engine.ReasonConflict || len(group) == 1 {
		for _, m := range group {
			m.done <- err
		}
		return
	}
	var plain []*member
	for _, m := range group {
		if m.demands() {
			m.done <- g.commitTogether([]*member{m})
		} else {
			plain = append(plain, m)
		}
	}
	if len(plain) == 0 {
		return
	}
	err = g.commitTogether(plain)
	for _, m := range plain {
		m.done <- err
	}
}

// demands reports whether a transaction depends on what there is.
func (m *member) demands() bool {
	return slices.ContainsFunc(m.writes, func(w engine.Write) bool { return w.Check || w.Expect != engine.Anything() })
}

// commitTogether commits as long as somebody waits for it.
func (g *groups) commitTogether(group []*member) error {
	ctx, cancel := context.WithCancel(context.WithoutCancel(group[0].ctx))
	defer cancel()
	var writes []engine.Write
	var waiting atomic.Int64
	waiting.Store(int64(len(group)))
	for _, m := range group {
		stop := context.AfterFunc(m.ctx, func() {
			if waiting.Add(-1) == 0 {
				cancel()
			}
		})
		defer stop()
		for _, w := range m.writes {
			w.Header = nats.Header(maps.Clone(w.Header)) // a commit changes it
			writes = append(writes, w)
		}
	}
	return g.commit(ctx, writes)
}
