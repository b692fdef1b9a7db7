package redis

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/proa-io/proa/block/config"
)

// Watch implements config.Driver. It has a connection of its own.
func (s *ConfigStore) Watch(ctx context.Context, q config.Query, report func(config.Event)) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	notified, err := s.enable(ctx)
	if err != nil {
		return err
	}
	if !notified {
		s.warn.Do(func() {
			s.log.WarnContext(ctx, "redis may not send keyspace notifications and this user may not turn them on: changes are looked for at intervals",
				"interval", s.cfg.PollInterval.Std(), "remedy", "CONFIG SET notify-keyspace-events "+neededEvents)
		})
	}
	w := &configWatch{store: s, query: q, report: report}
	return w.run(ctx, notified)
}

// configWatch is one Watch under way.
type configWatch struct {
	store  *ConfigStore
	query  config.Query
	report func(config.Event)
	known  map[string]config.Item // as reported
}

func (w *configWatch) run(ctx context.Context, notified bool) error {
	l, err := newLink(ctx, w.store.cfg.Config)
	if err != nil {
		return classify(ctx, err)
	}
	defer l.close()
	changes, stop := w.subscribe(ctx, l)
	defer stop()
	if err := changes.await(ctx); err != nil {
		return err
	}
	var poll <-chan time.Time
	if !notified {
		ticker := time.NewTicker(w.store.cfg.PollInterval.Std())
		defer ticker.Stop()
		poll = ticker.C
	}
	for err = w.all(ctx); err == nil; {
		select {
		case <-ctx.Done():
		case err = <-changes.lost:
			err = errNotificationsLost(err)
		case <-changes.wake:
			err = w.changes(ctx, changes.take())
		case <-poll:
			err = w.all(ctx)
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
	return err
}

// subscribe begins to receive notifications.
func (w *configWatch) subscribe(ctx context.Context, l *link) (changes *notices, stop func()) {
	prefix := keyspace(w.store.cfg.DB)
	subscribe, channels := l.redis.B().Psubscribe().Pattern(prefix+"*").Build(), 1
	if keys := slices.Compact(slices.Sorted(slices.Values(w.query.Keys))); len(keys) > 0 {
		for i, key := range keys {
			keys[i] = prefix + key
		}
		subscribe, channels = l.redis.B().Subscribe().Channel(keys...).Build(), len(keys)
	}
	return listen(ctx, l, w.store.cfg.DB, subscribe, channels)
}

// all reports everything there is.
func (w *configWatch) all(ctx context.Context) error {
	items, err := w.store.Get(ctx, w.query)
	if err != nil {
		return err
	}
	if w.known == nil || !maps.EqualFunc(w.known, items, sameItem) {
		w.report(config.Event{Complete: true, Items: maps.Clone(items)})
	}
	w.known = items
	return nil
}

// changes reports what has become of the keys that may have changed.
func (w *configWatch) changes(ctx context.Context, keys []string) error {
	items, err := w.store.read(ctx, keys)
	if err != nil {
		return err
	}
	e := config.Event{Items: map[string]config.Item{}}
	for _, key := range keys {
		item, there := items[key]
		old, had := w.known[key]
		switch {
		case there && (!had || !sameItem(item, old)):
			e.Items[key], w.known[key] = item, item
		case !there && had:
			e.Deleted = append(e.Deleted, key)
			delete(w.known, key)
		}
	}
	if len(e.Items) > 0 || len(e.Deleted) > 0 {
		w.report(e)
	}
	return nil
}

func sameItem(a, b config.Item) bool { return a.Value == b.Value && a.Version == b.Version }
