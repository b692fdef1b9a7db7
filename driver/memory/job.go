package memory

import (
	"context"
	"maps"
	"slices"
	"sync"

	"github.com/proa-io/proa/block/job"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
)

// JobsConfig configures a jobs store in memory.
type JobsConfig struct {
	// MaxEntries bounds the number of entries. A write beyond it fails with
	// resource_exhausted.
	MaxEntries int `setting:"maxEntries"`
}

// Validate reports settings that can never work.
func (c JobsConfig) Validate() error {
	if c.MaxEntries < 1 {
		return component.Invalid("maxEntries", "must be at least 1")
	}
	return nil
}

// Jobs is a job.Driver.
type Jobs struct {
	max int

	mu       sync.Mutex
	revision uint64 // of the last write
	entries  map[job.Key]job.Entry
	watchers map[*jobsWatcher]struct{}
}

// OpenJobs returns an empty store.
func OpenJobs(_ context.Context, cfg JobsConfig, _ component.Env) (*Jobs, error) {
	return &Jobs{max: cfg.MaxEntries, entries: map[job.Key]job.Entry{}, watchers: map[*jobsWatcher]struct{}{}}, nil
}

// Get implements job.Driver.
func (j *Jobs) Get(ctx context.Context, key job.Key) (job.Entry, error) {
	if err := ctx.Err(); err != nil {
		return job.Entry{}, err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	e, ok := j.entries[key]
	if !ok {
		return job.Entry{}, job.ErrNotFound()
	}
	e.Value = slices.Clone(e.Value)
	return e, nil
}

// Put implements job.Driver.
func (j *Jobs) Put(ctx context.Context, key job.Key, value []byte, expect job.Expect) (uint64, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	there, ok := j.entries[key]
	switch {
	case !expect.Holds(there.Revision):
		return 0, job.ErrConflict()
	case !ok && len(j.entries) >= j.max:
		return 0, fault.New(fault.ResourceExhausted, "the store in memory has %d entries, the most allowed", j.max)
	}
	j.revision++
	e := job.Entry{Name: key.Name, Value: slices.Clone(value), Revision: j.revision}
	j.entries[key] = e
	j.tell(key.Scope, job.Change{Op: job.OpPut, Entry: e})
	return j.revision, nil
}

// Delete implements job.Driver.
func (j *Jobs) Delete(ctx context.Context, key job.Key, expect job.Expect) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	there, ok := j.entries[key]
	switch {
	case !expect.Holds(there.Revision):
		return job.ErrConflict()
	case ok:
		delete(j.entries, key)
		j.tell(key.Scope, job.Change{Op: job.OpDelete, Entry: job.Entry{Name: key.Name}})
	}
	return nil
}

// maxJobChanges bounds what is kept for a watcher that does not keep up. Beyond
// it the watcher begins again.
const maxJobChanges = 4096

// jobsWatcher is one Watch under way. Jobs.mu guards it.
type jobsWatcher struct {
	scope   job.Scope
	changes []job.Change
	missed  bool            // changes is not all that has happened
	known   map[string]bool // what has been reported and not been deleted
	wake    chan struct{}   // holds one token when there is something to report
}

func (j *Jobs) tell(scope job.Scope, c job.Change) {
	for w := range j.watchers {
		if w.scope != scope {
			continue
		}
		if w.missed = w.missed || len(w.changes) == maxJobChanges; !w.missed {
			w.changes = append(w.changes, c)
		}
		select {
		case w.wake <- struct{}{}:
		default:
		}
	}
}

// Watch implements job.Driver.
func (j *Jobs) Watch(ctx context.Context, scope job.Scope, report func(job.Change)) error {
	w := &jobsWatcher{scope: scope, missed: true, known: map[string]bool{}, wake: make(chan struct{}, 1)}
	w.wake <- struct{}{}
	j.mu.Lock()
	j.watchers[w] = struct{}{}
	j.mu.Unlock()
	defer func() {
		j.mu.Lock()
		delete(j.watchers, w)
		j.mu.Unlock()
	}()
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-w.wake:
		}
		for _, c := range j.takeChanges(w) {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			c.Value = slices.Clone(c.Value)
			report(c)
		}
	}
}

// takeChanges returns what w has to report.
func (j *Jobs) takeChanges(w *jobsWatcher) []job.Change {
	j.mu.Lock()
	defer j.mu.Unlock()
	changes := w.changes
	if w.missed {
		changes = j.all(w)
	}
	for _, c := range changes {
		switch c.Op {
		case job.OpPut:
			w.known[c.Name] = true
		case job.OpDelete:
			delete(w.known, c.Name)
		}
	}
	w.changes, w.missed = nil, false
	return changes
}

// all returns everything that w must know of, in the order of the writes.
func (j *Jobs) all(w *jobsWatcher) []job.Change {
	var changes []job.Change
	for key, e := range j.entries {
		if key.Scope == w.scope {
			changes = append(changes, job.Change{Op: job.OpPut, Entry: e})
		}
	}
	slices.SortFunc(changes, func(a, b job.Change) int { return int(a.Revision) - int(b.Revision) }) //nolint:gosec // counts
	for _, name := range slices.Sorted(maps.Keys(w.known)) {
		if _, ok := j.entries[job.Key{Scope: w.scope, Name: name}]; !ok {
			changes = append(changes, job.Change{Op: job.OpDelete, Entry: job.Entry{Name: name}})
		}
	}
	return append(changes, job.Change{Op: job.OpSynced})
}

// Close implements io.Closer.
func (j *Jobs) Close() error { return nil }
