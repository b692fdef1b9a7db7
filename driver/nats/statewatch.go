package nats

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"sync"

	"github.com/proa-io/proa/block/state"
	"github.com/proa-io/proa/engine"
	"github.com/proa-io/proa/fault"
)

// errClosing ends a watch whose driver is closed.
var errClosing = errors.New("closing")

// Watch implements state.Watcher. It needs a server of version 2.11, and a
// bucket without a history: elsewhere deletions leave nothing to see.
func (s *State) Watch(ctx context.Context, prefix string, opt state.WatchOptions, report func(state.Change) error) error {
	if err := s.usable(ctx); err != nil {
		return err
	}
	if s.old != nil {
		return fault.New(fault.Unimplemented, "watching needs a NATS server of version 2.11 or newer, and a bucket without a history").
			WithReason(state.ReasonWatchNotSupported)
	}
	o := engine.FollowOptions{Pattern: patternOf(prefix), Initial: opt.Initial}
	if opt.After != "" {
		p, err := engine.ParsePoint(opt.After)
		if err != nil {
			return state.ErrRevisionInvalid("it does not have the form of one")
		}
		o.After = &p
	}
	following, cancel := context.WithCancelCause(ctx)
	defer s.onClose(cancel)()
	w := stateWatch{prefix: prefix, report: report, hashed: map[string]string{}}
	err := s.bucket.Follow(following, o, w.take)
	switch {
	case ctx.Err() != nil && w.failed == nil:
		return ctx.Err()
	case context.Cause(following) == errClosing:
		return state.ErrClosed()
	case fault.ReasonOf(err) == engine.ReasonForgotten:
		return state.ErrRevisionGone()
	}
	return err
}

// onClose cancels a call when the driver is closed. The caller calls what it
// returns in the end.
func (s *State) onClose(cancel context.CancelCauseFunc) (release func()) {
	over := make(chan struct{})
	var waiting sync.WaitGroup
	waiting.Go(func() {
		select {
		case <-s.closing:
			cancel(errClosing)
		case <-over:
		}
	})
	return func() {
		close(over)
		waiting.Wait()
		cancel(nil)
	}
}

// stateWatch is one Watch under way.
type stateWatch struct {
	prefix string
	report func(state.Change) error
	failed error             // of report
	hashed map[string]string // the keys of items that are kept under a hash
}

// take passes a change on.
func (w *stateWatch) take(u engine.Update, p engine.Point) error {
	c := state.Change{Kind: state.Synced}
	if p != (engine.Point{}) {
		c.Revision = p.String()
	}
	if u.Op != engine.OpSynced {
		key, ok := decodeStateKey(u.Key, u.Header.Get(keyHeader))
		if !ok && strings.Contains(u.Key, hashMark) {
			// The end of its life does not tell the key.
			if key, ok = w.hashed[u.Key]; !ok {
				w.failed = state.ErrRevisionGone()
				return w.failed
			}
		}
		if !ok || !strings.HasPrefix(key, w.prefix) {
			return nil
		}
		c.Key = key
		w.describe(&c, &u)
	}
	w.failed = w.report(c)
	return w.failed
}

// describe fills in what has become of an item.
func (w *stateWatch) describe(c *state.Change, u *engine.Update) {
	if u.Op == engine.OpDelete {
		c.Kind = state.ItemGone
		delete(w.hashed, u.Key)
		return
	}
	c.Kind = state.ItemPut
	c.Item = state.Item{Value: u.Value, ETag: strconv.FormatUint(u.Revision, 10), Expires: endOf(u.Entry)}
	if strings.Contains(u.Key, hashMark) {
		w.hashed[u.Key] = c.Key
	}
}
