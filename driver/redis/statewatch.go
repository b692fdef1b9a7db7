package redis

import (
	"context"
	"slices"

	"github.com/proa-io/proa/block/state"
	"github.com/proa-io/proa/fault"
)

// stateEvents are the flags of notify-keyspace-events that a watch of items
// needs: keyspace channels, and commands on all types, on hashes, expiry,
// eviction.
const stateEvents = "Kghxe"

// Watch implements state.Watcher. It has a connection of its own, and keeps no
// history: there are no revisions to go on from. It learns of changes from
// keyspace notifications, which an administrator must have turned on, as they
// cost the server some of its time. Redis does not notify of FLUSHALL and
// FLUSHDB.
func (s *State) Watch(ctx context.Context, prefix string, opt state.WatchOptions, report func(state.Change) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if opt.After != "" {
		return state.ErrRevisionInvalid("redis keeps no history to go on from")
	}
	if err := s.watchable(ctx); err != nil {
		return err
	}
	watching, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(s.client.links[0].life, func() { cancel(state.ErrClosed()) })()
	w := &stateWatch{State: s, prefix: prefix, report: report}
	err := w.run(watching, opt.Initial)
	switch {
	case w.failed != nil:
		return w.failed
	case ctx.Err() != nil:
		return ctx.Err()
	case watching.Err() != nil:
		return context.Cause(watching)
	}
	return err
}

// watchable fails when the server would not tell of changes.
func (s *State) watchable(ctx context.Context) error {
	if s.client.cluster {
		return errWatch("a redis cluster has no notifications for all its keys")
	}
	flags, ok, err := s.client.notifications(ctx)
	switch {
	case err != nil:
		return err
	case !ok:
		return errWatch("this user may not ask redis whether it sends keyspace notifications: permit it CONFIG GET " + notifyParameter)
	}
	if missing := missingEvents(flags, stateEvents); missing != "" {
		return errWatch("redis does not send the keyspace notifications that this takes: have an administrator run CONFIG SET " +
			notifyParameter + " " + flags + missing)
	}
	return nil
}

func errWatch(why string) error {
	return fault.New(fault.Unimplemented, "%s", why).WithReason(state.ReasonWatchNotSupported)
}

// stateWatch is one Watch under way.
type stateWatch struct {
	*State
	prefix string
	report func(state.Change) error
	failed error // of report
}

func (w *stateWatch) run(ctx context.Context, initial bool) error {
	l, err := newLink(ctx, w.cfg)
	if err != nil {
		return classify(ctx, err)
	}
	defer l.close()
	pattern := keyspace(w.cfg.DB) + escapePattern(w.prefix) + "*"
	changes, stop := listen(ctx, l, w.cfg.DB, l.redis.B().Psubscribe().Pattern(pattern).Build(), 1)
	defer stop()
	if err := changes.await(ctx); err != nil {
		return err
	}
	if initial {
		err := w.scan(ctx, w.prefix, func(keys []string) error { return w.items(ctx, keys, false) })
		if err != nil {
			return err
		}
	}
	if err := w.call(state.Change{Kind: state.Synced}); err != nil {
		return err
	}
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case err := <-changes.lost:
			return errNotificationsLost(err)
		case <-changes.wake:
			if err := w.items(ctx, changes.take(), true); err != nil {
				return err
			}
		}
	}
}

// items reports what there is at keys; with gone, also where there is nothing.
func (w *stateWatch) items(ctx context.Context, keys []string, gone bool) error {
	for some := range slices.Chunk(keys, batch) {
		for i, res := range w.BulkGet(ctx, some, state.GetOptions{}) {
			c := state.Change{Kind: state.ItemPut, Key: some[i], Item: res.Item}
			switch {
			case fault.Is(res.Err, fault.FailedPrecondition): // it holds no item
				c.Kind = state.ItemGone
			case res.Err != nil:
				return res.Err
			case !res.Found:
				c.Kind = state.ItemGone
			}
			if c.Kind == state.ItemGone && !gone {
				continue
			}
			if err := w.call(c); err != nil {
				return err
			}
		}
	}
	return nil
}

func (w *stateWatch) call(c state.Change) error {
	w.failed = w.report(c)
	return w.failed
}
