package memory

import (
	"context"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/proa-io/proa/block/state"
)

// maxChanges is how many changes are remembered for watches that are behind.
const maxChanges = 1 << 16

// changes remembers which keys have changed, from the first watch on. What they
// have changed to is looked up when it is reported.
type changes struct {
	epoch string // of this process: its numbers mean nothing to the next one
	on    atomic.Bool

	mu     sync.Mutex // guards what follows
	ring   []string   // the key of change n is at n % maxChanges
	next   uint64     // the number of the next change
	wake   chan struct{}
	closed bool
}

// add remembers a change. It is called with the lock of the key's shard held.
func (c *changes) add(key string) {
	if !c.on.Load() {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ring[c.next%maxChanges] = key
	c.next++
	c.signal()
}

func (c *changes) signal() {
	if c.wake != nil {
		close(c.wake)
		c.wake = nil
	}
}

// start begins to remember changes, if that has not begun.
func (c *changes) start() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ring == nil {
		c.ring = make([]string, maxChanges)
		c.on.Store(true)
	}
}

func (c *changes) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	c.signal()
}

// position returns the number of the next change.
func (c *changes) position() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.next
}

// since returns the keys of all changes from number from on, and what is closed
// when there are more.
func (c *changes) since(from uint64) (keys []string, more <-chan struct{}, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, nil, state.ErrClosed()
	}
	if c.next-from > maxChanges {
		return nil, nil, state.ErrRevisionGone()
	}
	for n := from; n < c.next; n++ {
		keys = append(keys, c.ring[n%maxChanges])
	}
	if c.wake == nil {
		c.wake = make(chan struct{})
	}
	return keys, c.wake, nil
}

// revision names the moment before change n.
func (c *changes) revision(n uint64) string { return c.epoch + "-" + strconv.FormatUint(n, 10) }

// after returns the number of the first change after a revision.
func (c *changes) after(revision string) (uint64, error) {
	epoch, number, ok := strings.Cut(revision, "-")
	n, err := strconv.ParseUint(number, 10, 64)
	switch {
	case !ok || err != nil || len(epoch) != len(c.epoch):
		return 0, state.ErrRevisionInvalid("it does not have the form of one")
	case epoch != c.epoch:
		return 0, state.ErrRevisionGone()
	case n > c.position():
		return 0, state.ErrRevisionInvalid("it is in the future")
	}
	return n, nil
}

// burial is how often a watch looks for items that have expired.
const burial = time.Second

// Watch implements state.Watcher. It remembers the last 65,536 changes.
func (s *State) Watch(ctx context.Context, prefix string, opt state.WatchOptions, report func(state.Change) error) error {
	if err := s.usable(ctx); err != nil {
		return err
	}
	s.log.start()
	w := stateWatch{State: s, prefix: prefix, report: report}
	if err := w.begin(opt); err != nil {
		return err
	}
	tick := time.NewTicker(burial)
	defer tick.Stop()
	for {
		keys, more, err := s.log.since(w.next)
		if err != nil {
			return err
		}
		if err := w.changed(keys); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-more:
		case now := <-tick.C:
			s.sweep(now)
		}
	}
}

// stateWatch is one Watch under way.
type stateWatch struct {
	*State
	prefix string
	report func(state.Change) error
	next   uint64 // the number of the first change that is not reported
}

// begin reports what comes before the changes.
func (w *stateWatch) begin(opt state.WatchOptions) (err error) {
	if opt.After != "" {
		if w.next, err = w.log.after(opt.After); err != nil {
			return err
		}
		if _, _, err := w.log.since(w.next); err != nil {
			return err
		}
		return w.report(state.Change{Kind: state.Synced, Revision: w.log.revision(w.next)})
	}
	for _, e := range w.snapshot(opt.Initial) {
		c := state.Change{Kind: state.ItemPut, Key: e.key, Item: state.Item{Value: e.value, ETag: e.etag, Expires: e.expires}}
		if err := w.report(c); err != nil {
			return err
		}
	}
	return w.report(state.Change{Kind: state.Synced, Revision: w.log.revision(w.next)})
}

// snapshot sets next to a moment between two changes and returns the items that
// there are at that moment, if they are wanted.
func (w *stateWatch) snapshot(wanted bool) (all []*entry) {
	for i := range w.shards {
		w.shards[i].mu.Lock()
		defer w.shards[i].mu.Unlock()
	}
	w.next = w.log.position()
	if !wanted {
		return nil
	}
	now := time.Now()
	for i := range w.shards {
		for k, e := range w.shards[i].items {
			if strings.HasPrefix(k, w.prefix) && e.live(now) {
				all = append(all, e)
			}
		}
	}
	return all
}

// changed reports what has become of the keys of the changes from next on; of a
// key that comes more than once, at the last of its places.
func (w *stateWatch) changed(keys []string) error {
	last := make(map[string]int)
	for i, k := range keys {
		if strings.HasPrefix(k, w.prefix) {
			last[k] = i
		}
	}
	first := w.next
	w.next += uint64(len(keys))
	for i, k := range keys {
		if at, ours := last[k]; !ours || at != i {
			continue
		}
		c := state.Change{Kind: state.ItemGone, Key: k, Revision: w.log.revision(first + uint64(i) + 1)}
		sh := &w.shards[w.shardOf(k)]
		sh.mu.RLock()
		if e := sh.live(k, time.Now()); e != nil {
			c.Kind, c.Item = state.ItemPut, state.Item{Value: e.value, ETag: e.etag, Expires: e.expires}
		}
		sh.mu.RUnlock()
		if err := w.report(c); err != nil {
			return err
		}
	}
	return nil
}
