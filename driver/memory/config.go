package memory

import (
	"context"
	"maps"
	"slices"
	"strconv"
	"sync"

	"github.com/proa-io/proa/block/config"
	"github.com/proa-io/proa/component"
)

// ConfigConfig configures a configuration store in memory.
type ConfigConfig struct {
	// Items is a JSON object of the items that there are from the start.
	Items map[string]string `setting:"items"`
}

// Config is a config.Driver and a config.Writer.
type Config struct {
	mu       sync.Mutex
	items    map[string]config.Item
	version  uint64 // of the last write
	watchers map[*configWatcher]struct{}
}

// OpenConfig returns a store with the items that cfg gives it.
func OpenConfig(_ context.Context, cfg ConfigConfig, _ component.Env) (*Config, error) {
	c := &Config{items: map[string]config.Item{}, watchers: map[*configWatcher]struct{}{}}
	for _, key := range slices.Sorted(maps.Keys(cfg.Items)) { // so that their versions are the same every time
		c.set(key, cfg.Items[key])
	}
	return c, nil
}

// Get implements config.Driver.
func (c *Config) Get(ctx context.Context, q config.Query) (map[string]config.Item, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.selected(q), nil
}

func (c *Config) selected(q config.Query) map[string]config.Item {
	if len(q.Keys) == 0 {
		return maps.Clone(c.items)
	}
	out := make(map[string]config.Item, len(q.Keys))
	for _, k := range q.Keys {
		if item, ok := c.items[k]; ok {
			out[k] = item
		}
	}
	return out
}

// Write implements config.Writer.
func (c *Config) Write(ctx context.Context, writes []config.Write) ([]string, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, w := range writes {
		if item, ok := c.items[w.Key]; !w.Expect.Met(item, ok) {
			return nil, config.ErrConflict(w.Key)
		}
	}
	versions := make([]string, len(writes))
	for i, w := range writes {
		if !w.Delete {
			item := c.set(w.Key, w.Value)
			versions[i] = item.Version
			c.tell(w.Key, config.Event{Items: map[string]config.Item{w.Key: item}})
		} else if _, ok := c.items[w.Key]; ok {
			delete(c.items, w.Key)
			c.tell(w.Key, config.Event{Deleted: []string{w.Key}})
		}
	}
	return versions, nil
}

func (c *Config) set(key, value string) config.Item {
	c.version++
	item := config.Item{Value: value, Version: strconv.FormatUint(c.version, 10)}
	c.items[key] = item
	return item
}

// maxEvents bounds what is kept for a watcher that does not keep up. Beyond it
// the watcher gets the items as they are instead.
const maxEvents = 1024

// configWatcher is one Watch under way. Config.mu guards it.
type configWatcher struct {
	keys   []string
	events []config.Event
	missed bool          // events is not all that has happened
	wake   chan struct{} // holds one token when there is something to report
}

func (c *Config) tell(key string, e config.Event) {
	for w := range c.watchers {
		if len(w.keys) > 0 && !slices.Contains(w.keys, key) {
			continue
		}
		if len(w.events) == maxEvents {
			w.missed = true
		}
		if !w.missed {
			w.events = append(w.events, config.Event{Items: maps.Clone(e.Items), Deleted: slices.Clone(e.Deleted)})
		}
		select {
		case w.wake <- struct{}{}:
		default:
		}
	}
}

// Watch implements config.Driver.
func (c *Config) Watch(ctx context.Context, q config.Query, report func(config.Event)) error {
	w := &configWatcher{keys: q.Keys, missed: true, wake: make(chan struct{}, 1)}
	w.wake <- struct{}{}
	c.mu.Lock()
	c.watchers[w] = struct{}{}
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		delete(c.watchers, w)
		c.mu.Unlock()
	}()
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-w.wake:
		}
		for _, e := range c.take(w, q) {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			report(e)
		}
	}
}

// take returns what w has to report.
func (c *Config) take(w *configWatcher, q config.Query) []config.Event {
	c.mu.Lock()
	defer c.mu.Unlock()
	events := w.events
	if w.missed {
		events = []config.Event{{Complete: true, Items: c.selected(q)}}
	}
	w.events, w.missed = nil, false
	return events
}

// Close implements io.Closer.
func (c *Config) Close() error { return nil }
