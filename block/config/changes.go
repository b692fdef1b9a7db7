package config

import (
	"context"
	"maps"
	"sync"
)

// apply takes a report into what the subscriber knows, and queues what is new
// to it. The first report of all is the base line.
func (sub *subscription) apply(e Event) {
	changes := map[string]Change{}
	for k, item := range e.Items {
		if old, ok := sub.known[k]; !ok || !same(old, item) {
			changes[k] = Change{Item: item}
		}
	}
	gone := e.Deleted
	if e.Complete {
		gone = nil
		for k := range sub.known {
			if _, ok := e.Items[k]; !ok {
				gone = append(gone, k)
			}
		}
	}
	for _, k := range gone {
		if _, ok := sub.known[k]; ok {
			changes[k] = Change{Deleted: true}
		}
	}
	first := sub.known == nil
	if first || e.Complete {
		sub.known = maps.Clone(e.Items)
		if sub.known == nil {
			sub.known = map[string]Item{}
		}
	} else {
		maps.Copy(sub.known, e.Items)
		for _, k := range gone {
			delete(sub.known, k)
		}
	}
	if !first && len(changes) > 0 {
		sub.queue.put(changes)
	}
}

func same(a, b Item) bool {
	return a.Value == b.Value && a.Version == b.Version && maps.Equal(a.Metadata, b.Metadata)
}

// maxPending bounds how many updates wait for a slow subscriber before they
// are merged into one.
const maxPending = 256

// queue holds the changes that a subscriber has not been told of, in order.
type queue struct {
	wake chan struct{} // holds one token when pending may not be empty

	mu      sync.Mutex
	pending []map[string]Change
}

func (q *queue) put(changes map[string]Change) {
	q.mu.Lock()
	q.pending = append(q.pending, changes)
	if len(q.pending) > maxPending {
		q.pending = []map[string]Change{merge(q.pending)}
	}
	q.mu.Unlock()
	q.signal()
}

// putBack returns changes that could not be delivered to the front, less those
// of keys that have changed again.
func (q *queue) putBack(changes map[string]Change) {
	q.mu.Lock()
	left := maps.Clone(changes)
	for _, newer := range q.pending {
		for k := range newer {
			delete(left, k)
		}
	}
	if len(left) > 0 {
		q.pending = append([]map[string]Change{left}, q.pending...)
	}
	q.mu.Unlock()
	q.signal()
}

// next removes and returns the oldest changes; it waits for some until ctx
// ends and then reports false.
func (q *queue) next(ctx context.Context) (map[string]Change, bool) {
	for ctx.Err() == nil {
		q.mu.Lock()
		if len(q.pending) > 0 {
			changes := q.pending[0]
			q.pending = q.pending[1:]
			q.mu.Unlock()
			return changes, true
		}
		q.mu.Unlock()
		select {
		case <-q.wake:
		case <-ctx.Done():
		}
	}
	return nil, false
}

func (q *queue) signal() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

func merge(all []map[string]Change) map[string]Change {
	out := map[string]Change{}
	for _, changes := range all {
		maps.Copy(out, changes)
	}
	return out
}
