package runtime

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/proa-io/proa/block/secret"
	"github.com/proa-io/proa/resource"
)

// references are the secrets that one component or endpoint refers to, and what
// they were when it was opened.
type references struct {
	store string   // that they are in
	names []string // of the secrets, sorted
	// read follows all references.
	read func(ctx context.Context, lookup resource.SecretLookup) error

	used atomic.Pointer[digest] // of the values in use; nil before
	said atomic.Pointer[string] // why they could not be read, as it was logged
}

// digest stands for values that are nobody's business.
type digest [sha256.Size]byte

// newReferences returns the references of a resource; nil for none.
func newReferences(store string, names []string, read func(context.Context, resource.SecretLookup) error) *references {
	if len(names) == 0 {
		return nil
	}
	slices.Sort(names)
	return &references{store: store, names: slices.Compact(names), read: read}
}

// secretNames returns the secrets that entries refer to.
func secretNames(list []resource.NameValue) (names []string) {
	for _, nv := range list {
		if nv.SecretKeyRef.IsSet() {
			names = append(names, nv.SecretKeyRef.Name)
		}
	}
	return names
}

// summing returns a lookup that does as the given one does, and how to get the
// digest of all values that it has returned.
func summing(lookup resource.SecretLookup) (resource.SecretLookup, func() *digest) {
	sum := sha256.New()
	wrapped := func(ctx context.Context, store, name, key string) (string, error) {
		value, err := lookup(ctx, store, name, key)
		_, _ = sum.Write(binary.AppendUvarint(nil, uint64(len(value)))) // never fails
		_, _ = sum.Write([]byte(value))
		return value, err
	}
	return wrapped, func() *digest {
		var d digest
		sum.Sum(d[:0])
		return &d
	}
}

// stale reports whether the values are others now than those in use.
func (r *references) stale(ctx context.Context, lookup resource.SecretLookup) (bool, error) {
	used := r.used.Load()
	if used == nil {
		return false, nil // each attempt to open it reads them anew
	}
	lookup, sum := summing(lookup)
	if err := r.read(ctx, lookup); err != nil {
		return false, err
	}
	return *sum() != *used, nil
}

// stale is what was opened with secrets that have changed.
type stale struct {
	units     []*unit
	endpoints []*endpoint
}

// rotation follows the secrets that components and endpoints refer to. What
// they were opened with is compared with what they are whenever the store tells
// of a change, or at intervals.
type rotation struct {
	rt    *Runtime
	every time.Duration
	found chan stale

	work      sync.WaitGroup
	followers map[string]*follower // by the name of the store; for the reloader's goroutine only
}

type follower struct {
	store *secret.Store
	names []string
	end   context.CancelFunc
}

// checkWithin bounds how long the secrets of one store are read when it is looked
// whether they have changed.
const checkWithin = 30 * time.Second

func newRotation(rt *Runtime) *rotation {
	return &rotation{rt: rt, every: cmp.Or(rt.cfg.SecretReread, time.Minute), found: make(chan stale), followers: map[string]*follower{}}
}

// follow follows the secrets that a table's components refer to, until ctx ends
// or it is called with another one.
func (r *rotation) follow(ctx context.Context, table *components) {
	if r.every < 0 {
		return
	}
	wanted := map[string][]string{}
	for refs := range table.references() {
		wanted[refs.store] = append(wanted[refs.store], refs.names...)
	}
	for name := range wanted {
		slices.Sort(wanted[name])
		wanted[name] = slices.Compact(wanted[name])
	}
	for name, f := range r.followers {
		if f.store != table.secrets[name] || !slices.Equal(f.names, wanted[name]) {
			f.end()
			delete(r.followers, name)
		}
	}
	for name, names := range wanted {
		store := table.secrets[name]
		if store == nil || r.followers[name] != nil {
			continue
		}
		here, end := context.WithCancel(ctx)
		r.followers[name] = &follower{store, names, end}
		r.work.Go(func() { store.Follow(here, names, r.every, func() { r.check(here, name) }) })
	}
}

// references iterates over those of all components and endpoints.
func (c *components) references() func(yield func(*references) bool) {
	return func(yield func(*references) bool) {
		for _, u := range c.units {
			if u.refs != nil && !yield(u.refs) {
				return
			}
		}
		for _, e := range c.endpoints {
			if e.refs != nil && !yield(e.refs) {
				return
			}
		}
	}
}

// check finds what was opened with other secrets of a store than there are.
func (r *rotation) check(ctx context.Context, store string) {
	table := r.rt.pinned()
	defer table.release()
	ctx, cancel := context.WithTimeout(ctx, checkWithin)
	defer cancel()
	var found stale
	for _, u := range table.units {
		if u.refs != nil && u.refs.store == store && r.changed(ctx, table, u.refs, "component", u.name) {
			found.units = append(found.units, u)
		}
	}
	for _, e := range table.endpoints {
		if e.refs != nil && e.refs.store == store && r.changed(ctx, table, e.refs, "endpoint", e.resource.Name()) {
			found.endpoints = append(found.endpoints, e)
		}
	}
	if len(found.units) == 0 && len(found.endpoints) == 0 {
		return
	}
	select {
	case r.found <- found:
	case <-ctx.Done():
	}
}

// changed reports whether secrets have changed. That they cannot be read is said
// once, and changes nothing.
func (r *rotation) changed(ctx context.Context, table *components, refs *references, kind, name string) bool {
	changed, err := refs.stale(ctx, table.lookupSecret)
	switch {
	case ctx.Err() != nil:
	case err == nil:
		refs.said.Store(nil)
	default:
		text := err.Error()
		if said := refs.said.Swap(&text); said == nil || *said != text {
			r.rt.cfg.Log.Warn("secrets cannot be read again; what was read at first stays in use", kind, name, "error", err)
		}
	}
	return changed
}

// wait waits for what follow has begun; its context has ended.
func (r *rotation) wait() { r.work.Wait() }

// rotate plans to replace what was opened with secrets that have changed: by the
// same, opened anew, while what was opened before serves on. A change of the
// resources that is under way comes first.
func (r *reloader) rotate(ctx context.Context, found stale) {
	if r.plan != nil && !r.plan.published {
		r.postponed = append(r.postponed, found)
		return
	}
	rt, now := r.rt, r.rt.table.Load()
	old := map[*unit]bool{}
	for _, u := range found.units {
		if slices.Contains(now.units, u) && !r.replacing(u) {
			old[u] = true
		}
	}
	r.addDependents(now, old)
	there := slices.DeleteFunc(slices.Clone(now.endpoints), func(e *endpoint) bool { return slices.Contains(found.endpoints, e) })
	if len(old) == 0 && len(there) == len(now.endpoints) {
		return
	}
	p := &plan{rotated: rotatedNames(old, found.endpoints, now)}
	set := now.set
	if r.plan != nil { // of which some had to wait, and still do
		set = r.plan.want.set
	}
	b := rt.builder(set)
	b.there = there
	b.reuse = func(block, name, print string) *unit {
		u := r.reuse(block, name, print)
		if old[u] {
			return nil
		}
		return u
	}
	table, err := b.build(rt.declared(set))
	if err != nil {
		r.refuse(err)
		return
	}
	p.want = table
	r.begin(ctx, p, b.fresh)
}

// rotatePostponed takes up what had to wait for a change of the resources.
func (r *reloader) rotatePostponed(ctx context.Context) {
	all := r.postponed
	r.postponed = nil
	for _, found := range all {
		r.rotate(ctx, found)
	}
}

// replacing reports whether a unit that serves is to be replaced already.
func (r *reloader) replacing(u *unit) bool {
	return r.plan != nil && r.plan.want.unit(u.spec.Block, u.name) != u
}

// addDependents adds the components whose secrets are in stores that are to be
// replaced: one that is still being opened asks the store of its own table.
func (r *reloader) addDependents(now *components, old map[*unit]bool) {
	for n := -1; n != len(old); {
		n = len(old)
		for u := range maps.Clone(old) {
			if u.spec.Block != secret.Block {
				continue
			}
			for _, d := range now.units {
				if d.refs != nil && d.refs.store == u.name && !r.replacing(d) {
					old[d] = true
				}
			}
		}
	}
}

func rotatedNames(units map[*unit]bool, endpoints []*endpoint, now *components) []string {
	var names []string
	for u := range units {
		names = append(names, "Component "+u.name)
	}
	for _, e := range endpoints {
		if slices.Contains(now.endpoints, e) {
			names = append(names, "HTTPEndpoint "+e.resource.Name())
		}
	}
	slices.Sort(names)
	return names
}
