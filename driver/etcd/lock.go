package etcd

import (
	"context"
	"time"

	mvcc "go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/proa-io/proa/block/lock"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
)

// LockConfig configures a lock store on etcd.
type LockConfig struct {
	Config
}

// Lock is a lock.Driver, a lock.Renewer and a lock.Watcher.
//
// A lock is a key that holds its owner and has a lease of etcd, whose time the
// cluster measures: it ends up to two seconds late, and not before about two
// seconds. The fencing token is the revision of the cluster in which the lock
// was taken. All of that is as durable as the cluster.
type Lock struct {
	client *client
	path   string
}

// OpenLock connects to etcd.
func OpenLock(ctx context.Context, cfg LockConfig, _ component.Env) (*Lock, error) {
	c, err := connect(ctx, cfg.Config)
	if err != nil {
		return nil, err
	}
	return &Lock{c, cfg.path()}, nil
}

// Close implements io.Closer. Locks stay held until their leases end.
func (l *Lock) Close() error {
	l.client.close()
	return nil
}

// Acquire implements lock.Driver.
func (l *Lock) Acquire(ctx context.Context, name, owner string, ttl time.Duration) (lock.Lease, error) {
	if err := l.client.ready(ctx); err != nil {
		return lock.Lease{}, err
	}
	key := l.path + name
	// Whoever waits for a lock asks often, and should not leave a trace in the
	// log of the cluster each time.
	there, err := l.client.Get(ctx, key, clientv3.WithCountOnly())
	if err != nil {
		return lock.Lease{}, l.client.classify(ctx, err)
	}
	if there.Count > 0 {
		return lock.Lease{}, lock.ErrHeld()
	}
	began := time.Now()
	grant, err := l.client.Grant(ctx, seconds(ttl))
	if err != nil {
		return lock.Lease{}, l.client.classify(ctx, err)
	}
	res, err := l.client.Txn(ctx).If(clientv3.Compare(clientv3.CreateRevision(key), "=", 0)).
		Then(clientv3.OpPut(key, owner, clientv3.WithLease(grant.ID))).Commit()
	switch {
	case err != nil:
		l.revoke(ctx, grant.ID)
		return lock.Lease{}, l.client.classify(ctx, err)
	case !res.Succeeded:
		l.revoke(ctx, grant.ID)
		return lock.Lease{}, lock.ErrHeld()
	}
	return lock.Lease{Token: uint64(res.Header.Revision), Expires: began.Add(ttl)}, nil
}

// revoke removes a lease, and what still depends on it. If it fails, the lease
// ends by itself.
func (l *Lock) revoke(ctx context.Context, id clientv3.LeaseID) {
	if id != clientv3.NoLease && ctx.Err() == nil {
		_, _ = l.client.Revoke(ctx, id)
	}
}

// Release implements lock.Driver.
func (l *Lock) Release(ctx context.Context, name, owner string) error {
	if err := l.client.ready(ctx); err != nil {
		return err
	}
	key := l.path + name
	res, err := l.client.Txn(ctx).If(clientv3.Compare(clientv3.Value(key), "=", owner)).
		Then(clientv3.OpDelete(key, clientv3.WithPrevKV())).Else(clientv3.OpGet(key, clientv3.WithCountOnly())).Commit()
	switch {
	case err != nil:
		return l.client.classify(ctx, err)
	case !res.Succeeded:
		return notOwned(res.Responses[0].GetResponseRange().Count > 0)
	}
	for _, kv := range res.Responses[0].GetResponseDeleteRange().PrevKvs {
		l.revoke(ctx, clientv3.LeaseID(kv.Lease))
	}
	return nil
}

func notOwned(held bool) error {
	if held {
		return lock.ErrNotOwner()
	}
	return lock.ErrNotHeld()
}

// Renew implements lock.Renewer. The lock gets a new lease, for that is how its
// length can change.
func (l *Lock) Renew(ctx context.Context, name, owner string, ttl time.Duration) (lock.Lease, error) {
	if err := l.client.ready(ctx); err != nil {
		return lock.Lease{}, err
	}
	key := l.path + name
	old, err := l.heldBy(ctx, key, owner)
	if err != nil {
		return lock.Lease{}, err
	}
	began := time.Now()
	grant, err := l.client.Grant(ctx, seconds(ttl))
	if err != nil {
		return lock.Lease{}, l.client.classify(ctx, err)
	}
	res, err := l.client.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(key), "=", old.ModRevision)).
		Then(clientv3.OpPut(key, owner, clientv3.WithLease(grant.ID))).
		Else(clientv3.OpGet(key)).Commit()
	switch {
	case err != nil: // it may have happened: the new lease must stay
		return lock.Lease{}, l.client.classify(ctx, err)
	case !res.Succeeded:
		l.revoke(ctx, grant.ID)
		return lock.Lease{}, changedHands(owner, res.Responses[0].GetResponseRange().Kvs)
	}
	l.revoke(ctx, clientv3.LeaseID(old.Lease))
	return lock.Lease{Token: uint64(old.CreateRevision), Expires: began.Add(ttl)}, nil
}

func (l *Lock) heldBy(ctx context.Context, key, owner string) (*mvcc.KeyValue, error) {
	res, err := l.client.Get(ctx, key)
	switch {
	case err != nil:
		return nil, l.client.classify(ctx, err)
	case len(res.Kvs) == 0 || string(res.Kvs[0].Value) != owner:
		return nil, notOwned(len(res.Kvs) > 0)
	}
	return res.Kvs[0], nil
}

// changedHands returns the error of a Renew that found another state of the lock
// than a moment before.
func changedHands(owner string, now []*mvcc.KeyValue) error {
	if len(now) > 0 && string(now[0].Value) == owner {
		return fault.New(fault.Unavailable, "the lock is being renewed by another call")
	}
	return notOwned(len(now) > 0)
}

// AwaitFree implements lock.Watcher.
func (l *Lock) AwaitFree(ctx context.Context, name string) error {
	if err := l.client.ready(ctx); err != nil {
		return err
	}
	key := l.path + name
	res, err := l.client.Get(ctx, key, clientv3.WithCountOnly())
	if err != nil {
		return l.client.classify(ctx, err)
	}
	if res.Count == 0 {
		return nil
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	changes := l.client.Watch(clientv3.WithRequireLeader(ctx), key, clientv3.WithRev(res.Header.Revision+1), clientv3.WithFilterPut())
	for change := range changes {
		if err := change.Err(); err != nil {
			return l.client.classify(ctx, err)
		}
		if len(change.Events) > 0 {
			return nil
		}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return l.client.classify(ctx, errWatchEnded())
}

func errWatchEnded() error { return fault.New(fault.Unavailable, "the watch has ended") }
