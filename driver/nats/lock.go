package nats

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/proa-io/proa/block/lock"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/engine"
	"github.com/proa-io/proa/fault"
)

// LockConfig configures a lock store on the engine.
type LockConfig struct {
	Server
	// Bucket is the key-value bucket that holds the locks; by default one for
	// each namespace. Letters, digits, _ and - only.
	Bucket string `setting:"bucket"`
}

// Validate reports settings that can never work.
func (c LockConfig) Validate() error {
	if err := c.Server.Validate(); err != nil {
		return err
	}
	return checkBucket(c.Bucket)
}

// Lock is a lock.Driver, a lock.Renewer and a lock.Watcher.
//
// A lock is a key that whoever takes it creates, or overwrites if the lease in
// it is over, in both cases provided that nobody else was faster. The time of a
// lease is measured by the server's clock, so the clocks of sidecars need not
// agree. A server of version 2.11 or newer removes leases that are over, whole
// seconds late; an older one keeps them until the lock is taken again.
type Lock struct {
	connection
	bucket *engine.Bucket
	ttl    bool             // the server removes leases
	now    func() time.Time // the clock of this process
}

// OpenLock opens the bucket, and creates it when it does not exist. It uses
// shared unless cfg names a server.
func OpenLock(ctx context.Context, shared *engine.Engine, cfg LockConfig, env component.Env) (*Lock, error) {
	c, err := cfg.connect(ctx, shared, env)
	if err != nil {
		return nil, err
	}
	if cfg.Bucket == "" {
		cfg.Bucket = bucketName("locks", env.Namespace)
	}
	ttl := c.engine.Supports(engine.MessageTTL)
	b, err := c.engine.KeyValue(ctx, engine.BucketConfig{Name: cfg.Bucket, Description: "locks", KeyTTL: ttl})
	if err != nil {
		c.stop()
		return nil, err
	}
	return &Lock{connection: c, bucket: b, ttl: ttl, now: time.Now}, nil
}

// lease is what the key of a lock holds.
type lease struct {
	Owner []byte `json:"owner"`
	// TTL is how long the lease lasts from when the server stored it, in
	// nanoseconds.
	TTL time.Duration `json:"ttl"`
	// Token is the fencing token of a lease that was renewed. That of one
	// that was not is the revision of the key.
	Token uint64 `json:"token,omitempty"`
}

// held is a lease as it was read.
type held struct {
	lease
	revision uint64
	created  time.Time // by the server's clock
}

func (h held) token() uint64 {
	if h.Token != 0 {
		return h.Token
	}
	return h.revision
}

// maxTries bounds how often a call begins again because the lock has changed
// hands meanwhile.
const maxTries = 4

// Acquire implements lock.Driver.
func (l *Lock) Acquire(ctx context.Context, name, owner string, ttl time.Duration) (lock.Lease, error) {
	key, began := encodeKey(name), time.Now()
	for range maxTries {
		revision, err := l.store(ctx, key, lease{Owner: []byte(owner), TTL: ttl}, engine.Absent())
		if conflict(err) {
			var h held
			h, err = l.read(ctx, key)
			switch {
			case fault.Is(err, fault.NotFound):
				continue // it has just been released
			case err != nil:
				return lock.Lease{}, err
			}
			var over bool
			if over, err = l.over(ctx, h); err != nil {
				return lock.Lease{}, err
			}
			if !over {
				return lock.Lease{}, lock.ErrHeld()
			}
			began = time.Now()
			revision, err = l.store(ctx, key, lease{Owner: []byte(owner), TTL: ttl}, engine.Revision(h.revision))
		}
		switch {
		case conflict(err):
			continue // somebody was faster, or the server has removed it
		case err != nil:
			return lock.Lease{}, err
		}
		return lock.Lease{Token: revision, Expires: began.Add(ttl)}, nil
	}
	return lock.Lease{}, lock.ErrHeld()
}

// Release implements lock.Driver.
func (l *Lock) Release(ctx context.Context, name, owner string) error {
	key := encodeKey(name)
	for range maxTries {
		h, err := l.ownedBy(ctx, key, owner)
		if err != nil {
			return err
		}
		if err := l.bucket.Delete(ctx, key, engine.Revision(h.revision)); !conflict(err) {
			return err
		}
	}
	return errBusy()
}

// Renew implements lock.Renewer.
func (l *Lock) Renew(ctx context.Context, name, owner string, ttl time.Duration) (lock.Lease, error) {
	key := encodeKey(name)
	for range maxTries {
		h, err := l.ownedBy(ctx, key, owner)
		if err != nil {
			return lock.Lease{}, err
		}
		began := time.Now()
		_, err = l.store(ctx, key, lease{Owner: []byte(owner), TTL: ttl, Token: h.token()}, engine.Revision(h.revision))
		switch {
		case conflict(err):
			continue
		case err != nil:
			return lock.Lease{}, err
		}
		return lock.Lease{Token: h.token(), Expires: began.Add(ttl)}, nil
	}
	return lock.Lease{}, errBusy()
}

// errFree ends the watch of a lock that is free.
var errFree = errors.New("the lock is free")

// AwaitFree implements lock.Watcher. When a lease has ended it relies on the
// clock of this process: the holder may have the lock a little longer, or the
// server may have told first.
func (l *Lock) AwaitFree(ctx context.Context, name string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	watching, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	over := time.AfterFunc(time.Hour, func() { cancel(errFree) })
	over.Stop() // until there is a lease
	defer over.Stop()
	absent := true
	err := l.bucket.Watch(watching, encodeKey(name), func(u engine.Update) error {
		var v lease
		switch {
		case u.Op == engine.OpSynced && absent, u.Op == engine.OpDelete && !absent:
			return errFree
		case u.Op != engine.OpPut:
			return nil
		}
		absent = false
		if json.Unmarshal(u.Value, &v) != nil {
			return nil // no lock: Acquire will tell
		}
		over.Reset(u.Created.Add(v.TTL).Sub(l.now()))
		return nil
	})
	switch {
	case errors.Is(err, errFree):
		return nil
	case err != nil:
		return err
	case ctx.Err() == nil:
		return nil // cancelled by over
	}
	return context.Cause(ctx)
}

func errBusy() error {
	return fault.New(fault.Unavailable, "the lock changes hands too fast")
}

// Close implements io.Closer. A shared engine stays open.
func (l *Lock) Close() error {
	l.stop()
	return nil
}

func conflict(err error) bool { return fault.ReasonOf(err) == engine.ReasonConflict }

func (l *Lock) store(ctx context.Context, key string, v lease, expect engine.Expect) (uint64, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	value, err := json.Marshal(v)
	if err != nil {
		return 0, fault.Wrap(err, fault.Internal, "encode lock")
	}
	opt := engine.PutOptions{Expect: expect}
	if l.ttl {
		opt.TTL = v.TTL
	}
	return l.bucket.Put(ctx, key, value, opt)
}

func (l *Lock) read(ctx context.Context, key string) (held, error) {
	e, err := l.bucket.Get(ctx, key, engine.Strong)
	if err != nil {
		return held{}, err
	}
	h := held{revision: e.Revision, created: e.Created}
	if err := json.Unmarshal(e.Value, &h.lease); err != nil || len(h.Owner) == 0 {
		return held{}, fault.New(fault.FailedPrecondition, "bucket %q holds something at key %q that is no lock", l.bucket.Name(), key)
	}
	return h, nil
}

// ownedBy returns the lease of a lock that owner holds.
func (l *Lock) ownedBy(ctx context.Context, key, owner string) (held, error) {
	if err := ctx.Err(); err != nil {
		return held{}, err
	}
	h, err := l.read(ctx, key)
	if fault.Is(err, fault.NotFound) {
		return held{}, lock.ErrNotHeld()
	}
	if err != nil {
		return held{}, err
	}
	switch over, err := l.over(ctx, h); {
	case err != nil:
		return held{}, err
	case over:
		return held{}, lock.ErrNotHeld()
	case string(h.Owner) != owner:
		return held{}, lock.ErrNotOwner()
	}
	return h, nil
}

// over reports whether a lease has ended. The clock of this process may be
// wrong: when it says that the lease has ended, the server's clock decides.
func (l *Lock) over(ctx context.Context, h held) (bool, error) {
	end := h.created.Add(h.TTL)
	if l.now().Before(end) {
		return false, nil
	}
	now, err := l.serverTime(ctx)
	return err == nil && !now.Before(end), err
}

// clockKey is the key whose last write tells the server's time. No lock has
// it: encodeKey never returns it.
const clockKey = "=clock"

// serverTime asks the server for the time by making it stamp a write. That is
// the only way that servers of all versions offer to a client.
func (l *Lock) serverTime(ctx context.Context) (time.Time, error) {
	if _, err := l.bucket.Put(ctx, clockKey, nil, engine.PutOptions{}); err != nil {
		return time.Time{}, err
	}
	e, err := l.bucket.Get(ctx, clockKey, engine.Strong)
	return e.Created, err
}
