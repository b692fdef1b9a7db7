package memory

import (
	"context"
	"sync"
	"time"

	"github.com/proa-io/proa/block/lock"
	"github.com/proa-io/proa/component"
)

// LockConfig configures a lock store in memory. There is nothing to configure.
type LockConfig struct{}

// Lock is a lock.Driver, a lock.Renewer and a lock.Watcher.
type Lock struct {
	mu    sync.Mutex
	held  map[string]heldLock // by name; some may have expired
	token uint64              // of the last Acquire of any lock
	sweep int                 // size of held at which expired locks are removed

	watched map[string]*watchedLock // by name; locks that somebody awaits
}

// watchedLock is a lock that somebody awaits.
type watchedLock struct {
	watchers int
	changed  chan struct{} // closed and replaced when the lock is released or renewed
}

type heldLock struct {
	owner string
	lock.Lease
}

// minSweep is the least number of locks at which it is worth looking for
// expired ones.
const minSweep = 1024

// OpenLock returns a store in which no lock is held.
func OpenLock(context.Context, LockConfig, component.Env) (*Lock, error) {
	return &Lock{held: map[string]heldLock{}, sweep: minSweep, watched: map[string]*watchedLock{}}, nil
}

// Acquire implements lock.Driver.
func (l *Lock) Acquire(ctx context.Context, name, owner string, ttl time.Duration) (lock.Lease, error) {
	if err := ctx.Err(); err != nil {
		return lock.Lease{}, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	if h, ok := l.held[name]; ok && now.Before(h.Expires) {
		return lock.Lease{}, lock.ErrHeld()
	}
	l.forgetExpired(now)
	l.token++
	lease := lock.Lease{Token: l.token, Expires: now.Add(ttl)}
	l.held[name] = heldLock{owner, lease}
	return lease, nil
}

// Release implements lock.Driver.
func (l *Lock) Release(ctx context.Context, name, owner string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, err := l.ownedBy(name, owner); err != nil {
		return err
	}
	delete(l.held, name)
	l.tell(name)
	return nil
}

// Renew implements lock.Renewer.
func (l *Lock) Renew(ctx context.Context, name, owner string, ttl time.Duration) (lock.Lease, error) {
	if err := ctx.Err(); err != nil {
		return lock.Lease{}, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	h, err := l.ownedBy(name, owner)
	if err != nil {
		return lock.Lease{}, err
	}
	h.Expires = time.Now().Add(ttl)
	l.held[name] = h
	l.tell(name)
	return h.Lease, nil
}

// AwaitFree implements lock.Watcher.
func (l *Lock) AwaitFree(ctx context.Context, name string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	w := l.watched[name]
	if w == nil {
		w = &watchedLock{changed: make(chan struct{})}
		l.watched[name] = w
	}
	w.watchers++
	defer func() {
		if w.watchers--; w.watchers == 0 {
			delete(l.watched, name)
		}
	}()
	for ctx.Err() == nil {
		h, ok := l.held[name]
		left := time.Until(h.Expires)
		if !ok || left <= 0 {
			return nil
		}
		l.await(ctx, w.changed, left)
	}
	return context.Cause(ctx)
}

// await waits without the mutex that it is called with.
func (l *Lock) await(ctx context.Context, changed <-chan struct{}, d time.Duration) {
	l.mu.Unlock()
	defer l.mu.Lock()
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-changed:
	case <-timer.C:
	case <-ctx.Done():
	}
}

// tell wakes those who await a lock.
func (l *Lock) tell(name string) {
	if w := l.watched[name]; w != nil {
		close(w.changed)
		w.changed = make(chan struct{})
	}
}

// Close implements io.Closer.
func (l *Lock) Close() error { return nil }

func (l *Lock) ownedBy(name, owner string) (heldLock, error) {
	h, ok := l.held[name]
	switch {
	case !ok || !time.Now().Before(h.Expires):
		return heldLock{}, lock.ErrNotHeld()
	case h.owner != owner:
		return heldLock{}, lock.ErrNotOwner()
	}
	return h, nil
}

// forgetExpired keeps locks that are never taken again from filling memory.
func (l *Lock) forgetExpired(now time.Time) {
	if len(l.held) < l.sweep {
		return
	}
	for name, h := range l.held {
		if !now.Before(h.Expires) {
			delete(l.held, name)
		}
	}
	l.sweep = max(minSweep, 2*len(l.held))
}
