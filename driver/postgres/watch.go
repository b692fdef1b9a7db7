package postgres

import (
	"context"
	"errors"
	"strings"
	"sync"

	"github.com/proa-io/proa/block/state"
	"github.com/proa-io/proa/internal/textkey"
)

// maxPending bounds how many changed keys a slow report may leave waiting.
const maxPending = 100_000

// Watch implements state.Watcher. Triggers on the table name the keys that
// change, to all processes that watch it; the items are then read. There is no
// history to go on from.
func (s *State) Watch(ctx context.Context, prefix string, opt state.WatchOptions, report func(state.Change) error) error {
	if opt.After != "" {
		return state.ErrRevisionInvalid("it keeps no history and hands out none")
	}
	if err := s.ensureTriggers(ctx); err != nil {
		return err
	}
	conn, err := s.client.listen(ctx, s.format.table, "")
	if err != nil {
		return err
	}
	defer closeSoon(ctx, conn)
	changes := newChangedKeys(prefix)
	ctx, cancel := context.WithCancelCause(ctx)
	var work sync.WaitGroup
	defer work.Wait()
	defer cancel(nil)
	work.Go(func() { cancel(s.client.receive(ctx, conn, changes.take)) })
	var refused error
	err = s.tell(ctx, prefix, opt, changes, func(c state.Change) error {
		refused = report(c)
		return refused
	})
	if cause := context.Cause(ctx); refused == nil && ctx.Err() != nil && !errors.Is(cause, context.Canceled) {
		return s.client.classify(context.WithoutCancel(ctx), cause)
	}
	return err
}

// tell reports what there is, if asked to, and then what has changed.
func (s *State) tell(ctx context.Context, prefix string, opt state.WatchOptions, changes *changedKeys, report func(state.Change) error) error {
	if opt.Initial {
		if err := s.tellAll(ctx, prefix, report); err != nil {
			return err
		}
	}
	if err := report(state.Change{Kind: state.Synced}); err != nil {
		return err
	}
	for {
		keys, err := changes.next(ctx)
		if err != nil {
			return err
		}
		for i, r := range s.BulkGet(ctx, keys, state.GetOptions{}) {
			if r.Err != nil {
				return r.Err
			}
			c := state.Change{Kind: state.ItemGone, Key: keys[i]}
			if r.Found {
				c.Kind, c.Item = state.ItemPut, r.Item
			}
			if err := report(c); err != nil {
				return err
			}
		}
	}
}

func (s *State) tellAll(ctx context.Context, prefix string, report func(state.Change) error) error {
	const some = 500
	for after := ""; ; {
		keys, err := s.List(ctx, prefix, after, some)
		if err != nil || len(keys) == 0 {
			return err
		}
		for i, r := range s.BulkGet(ctx, keys, state.GetOptions{}) {
			if r.Err != nil {
				return r.Err
			}
			if !r.Found {
				continue // gone meanwhile
			}
			if err := report(state.Change{Kind: state.ItemPut, Key: keys[i], Item: r.Item}); err != nil {
				return err
			}
		}
		after = keys[len(keys)-1]
	}
}

// changedKeys are the keys with a prefix that have changed and are to be
// reported, each once.
type changedKeys struct {
	prefix string
	signal chan struct{} // holds a token when there is something

	mu      sync.Mutex
	order   []string
	waiting map[string]struct{}
}

func newChangedKeys(prefix string) *changedKeys {
	return &changedKeys{prefix: prefix, signal: make(chan struct{}, 1), waiting: map[string]struct{}{}}
}

// take notes what a notification says.
func (c *changedKeys) take(payload string) error {
	if !c.add(payload) {
		return state.ErrRevisionGone()
	}
	return nil
}

// add notes a key, as text. It returns false when what has changed cannot be
// said any more.
func (c *changedKeys) add(text string) bool {
	if text == "" {
		return false // all is gone
	}
	key, err := textkey.Decode(text)
	if err != nil || !strings.HasPrefix(key, c.prefix) {
		return true
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, dup := c.waiting[key]; dup {
		return true
	}
	if len(c.order) == maxPending {
		return false
	}
	c.order, c.waiting[key] = append(c.order, key), struct{}{}
	select {
	case c.signal <- struct{}{}:
	default:
	}
	return true
}

// next waits for keys and takes some of them.
func (c *changedKeys) next(ctx context.Context) ([]string, error) {
	const some = 100
	for {
		c.mu.Lock()
		keys := c.order[:min(some, len(c.order))]
		c.order = c.order[len(keys):]
		for _, k := range keys {
			delete(c.waiting, k)
		}
		c.mu.Unlock()
		if len(keys) > 0 {
			return keys, nil
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-c.signal:
		}
	}
}
