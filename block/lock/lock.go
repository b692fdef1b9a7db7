// Package lock is the building block of distributed locks: leases with an
// owner, a time to live and a fencing token.
//
// Dialects call Store; lock stores implement Driver.
package lock

import (
	"context"
	"strings"
	"time"

	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/policy"
)

// Reasons of the errors that Store returns, besides ReasonHeld.
const (
	// ReasonNoResource marks an empty resource id.
	ReasonNoResource fault.Reason = "lock.no_resource"
	// ReasonNoOwner marks an empty owner.
	ReasonNoOwner fault.Reason = "lock.no_owner"
	// ReasonBadTTL marks a time to live that is not positive.
	ReasonBadTTL fault.Reason = "lock.bad_ttl"
	// ReasonBadWait marks a time to wait that is negative.
	ReasonBadWait fault.Reason = "lock.bad_wait"
	// ReasonIllegalResource marks a resource id with the separator in it.
	ReasonIllegalResource fault.Reason = "lock.illegal_resource"
	// ReasonNoStore marks a wait for a lock of a store that was removed.
	ReasonNoStore fault.Reason = "lock.no_store"
	// ReasonCannotRenew marks a store that cannot renew.
	ReasonCannotRenew fault.Reason = "lock.cannot_renew"
)

// separator joins the parts of a lock's name in the store.
const separator = "||"

// Config holds the settings of a lock component that this block reads.
type Config struct {
	// KeyPrefix says what locks of the same id are kept apart by: "appid"
	// (the default) gives each application its own, "name" each component,
	// "none" shares them all; any other text is a prefix of its own and is
	// lower-cased.
	KeyPrefix string `setting:"keyPrefix"`
}

// Validate reports a prefix that holds the separator.
func (c Config) Validate() error {
	if strings.Contains(c.KeyPrefix, separator) {
		return component.Invalid("keyPrefix", "must not contain %q", separator)
	}
	return nil
}

// prefix returns what comes before the id, as Dapr builds it, so that both see
// the same locks.
func (c Config) prefix(storeName, appID string) string {
	var part string
	switch p := strings.ToLower(c.KeyPrefix); p {
	case "", "appid":
		part = appID
	case "name":
		part = storeName
	case "none":
	default:
		part = p
	}
	if part == "" {
		return "lock" + separator
	}
	return "lock" + separator + part + separator
}

// Options configure a Store.
type Options struct {
	// Chains gives the policies around the calls.
	Chains policy.Chains
	// AppID identifies the application.
	AppID string
	// Config is what the block reads from the component's settings.
	Config Config
}

// Store is a named lock component. It is safe for concurrent use.
type Store struct {
	handle  *component.Handle[Driver]
	prefix  string
	acquire *policy.Operation
	release *policy.Operation
	renew   *policy.Operation
	waiting lines

	life context.Context //nolint:containedctx // of the store itself: ends with Replace
	end  context.CancelFunc
	next *Store // valid once life has ended; nil for none
}

// New returns a Store over the driver that h opens.
func New(h *component.Handle[Driver], o Options) *Store {
	chain := o.Chains.Component(Block, h.Name(), false)
	bind := func(op string) *policy.Operation {
		return chain.Bind(policy.Op{Block: Block, Component: h.Name(), Name: op})
	}
	s := &Store{
		handle: h, prefix: o.Config.prefix(h.Name(), o.AppID),
		acquire: bind("acquire"), release: bind("release"), renew: bind("renew"),
	}
	s.life, s.end = context.WithCancel(context.Background())
	return s
}

// Name returns the component's name.
func (s *Store) Name() string { return s.handle.Name() }

// TryLock takes the lock on resource for owner, for at most ttl, and reports
// whether it got it. It never waits for another owner, and an owner that holds
// the lock does not get it again. A request that can never succeed is
// InvalidArgument.
func (s *Store) TryLock(ctx context.Context, resource, owner string, ttl time.Duration) (Lease, bool, error) {
	r := Request{Resource: resource, Owner: owner, TTL: ttl}
	if err := s.checkRequest(r); err != nil {
		return Lease{}, false, err
	}
	return s.try(ctx, r)
}

func (s *Store) try(ctx context.Context, r Request) (Lease, bool, error) {
	// That the lock is held is an answer, not a failure: policies must not
	// count or repeat it.
	held := false
	lease, err := policy.Do(ctx, s.acquire, policy.Call{Key: r.Resource}, func(ctx context.Context) (Lease, error) {
		d, err := s.handle.Get(ctx)
		if err != nil {
			return Lease{}, err
		}
		lease, err := d.Acquire(ctx, s.prefix+r.Resource, r.Owner, r.TTL)
		if held = err != nil && fault.ReasonOf(err) == ReasonHeld; held {
			return Lease{}, nil
		}
		return lease, s.wrap(err, "acquire", r.Resource)
	})
	return lease, err == nil && !held, err
}

// Status is how an Unlock ended. The values are those of
// dapr.proto.runtime.v1.UnlockResponse.Status.
type Status int32

// The outcomes of Unlock.
const (
	Success         Status = 0 // released
	DoesNotExist    Status = 1 // nobody held it
	BelongsToOthers Status = 2 // another owner holds it
	InternalError   Status = 3 // not known; see the error
)

// Unlock gives back the lock on resource that owner holds. Status is
// InternalError exactly if the error is not nil.
func (s *Store) Unlock(ctx context.Context, resource, owner string) (Status, error) {
	if err := s.check(resource, owner); err != nil {
		return InternalError, err
	}
	status, err := policy.Do(ctx, s.release, policy.Call{Key: resource}, func(ctx context.Context) (Status, error) {
		d, err := s.handle.Get(ctx)
		if err != nil {
			return InternalError, err
		}
		err = d.Release(ctx, s.prefix+resource, owner)
		switch {
		case fault.Is(err, fault.NotFound):
			return DoesNotExist, nil
		case fault.Is(err, fault.PermissionDenied):
			return BelongsToOthers, nil
		}
		return Success, s.wrap(err, "release", resource)
	})
	if err != nil {
		return InternalError, err
	}
	if status == Success {
		s.waiting.wake(resource)
	}
	return status, nil
}

// Renew lets the lock on resource that owner holds expire ttl from now. It is
// NotFound when nobody holds it, PermissionDenied when another owner does, and
// Unimplemented when the store cannot renew.
func (s *Store) Renew(ctx context.Context, resource, owner string, ttl time.Duration) (Lease, error) {
	if err := s.checkRequest(Request{Resource: resource, Owner: owner, TTL: ttl}); err != nil {
		return Lease{}, err
	}
	call := policy.Call{Key: resource, Idempotent: true}
	return policy.Do(ctx, s.renew, call, func(ctx context.Context) (Lease, error) {
		d, err := s.handle.Get(ctx)
		if err != nil {
			return Lease{}, err
		}
		r, ok := d.(Renewer)
		if !ok {
			return Lease{}, fault.New(fault.Unimplemented, "lock store %q (%s) cannot renew locks", s.Name(), s.handle.Type()).
				WithReason(ReasonCannotRenew)
		}
		lease, err := r.Renew(ctx, s.prefix+resource, owner, ttl)
		return lease, s.wrap(err, "renew", resource)
	})
}

func (s *Store) check(resource, owner string) error {
	switch {
	case resource == "":
		return fault.New(fault.InvalidArgument, "lock store %q: the resource id is empty", s.Name()).WithReason(ReasonNoResource)
	case strings.Contains(resource, separator):
		return fault.New(fault.InvalidArgument, "lock store %q: resource id %q must not contain %q", s.Name(), resource, separator).
			WithReason(ReasonIllegalResource)
	case owner == "":
		return fault.New(fault.InvalidArgument, "lock store %q: the lock owner is empty", s.Name()).WithReason(ReasonNoOwner)
	}
	return nil
}

func (s *Store) checkRequest(r Request) error {
	if err := s.check(r.Resource, r.Owner); err != nil {
		return err
	}
	switch {
	case r.TTL <= 0:
		return fault.New(fault.InvalidArgument, "lock store %q: the expiry must be positive, not %v", s.Name(), r.TTL).
			WithReason(ReasonBadTTL)
	case r.Wait < 0:
		return fault.New(fault.InvalidArgument, "lock store %q: the time to wait must not be negative, as %v is", s.Name(), r.Wait).
			WithReason(ReasonBadWait)
	}
	return nil
}

func (s *Store) wrap(err error, op, resource string) error {
	if err == nil {
		return nil
	}
	return fault.Wrap(err, fault.CodeOf(err), "%s lock %q of store %q", op, resource, s.Name())
}
