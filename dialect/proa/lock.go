package proa

import (
	"context"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	proav1 "github.com/proa-io/proa/api/gen/proa/v1"
	"github.com/proa-io/proa/block/lock"
	"github.com/proa-io/proa/fault"
)

// lockService is proa.v1.Lock.
type lockService struct {
	proav1.UnimplementedLockServer
	*API
}

// Acquire takes a lock. A wait ends when the API stops.
func (s *lockService) Acquire(ctx context.Context, in *proav1.LockAcquireRequest) (*proav1.LockAcquireResponse, error) {
	store, err := s.opts.Blocks.Lock(in.GetStoreName())
	if err != nil {
		return nil, err
	}
	r := lock.Request{Resource: in.GetResourceId(), Owner: in.GetLockOwner()}
	if r.TTL, err = duration("ttl", in.GetTtl(), lock.ReasonBadTTL); err != nil {
		return nil, err
	}
	if r.Wait, err = duration("wait", in.GetWait(), lock.ReasonBadWait); err != nil {
		return nil, err
	}
	if r.Wait > 0 {
		var cancel context.CancelFunc
		ctx, cancel = s.untilStop(ctx)
		defer cancel()
	}
	lease, acquired, err := store.Lock(ctx, r)
	switch {
	case err != nil:
		return nil, stopped(ctx, err)
	case !acquired:
		return &proav1.LockAcquireResponse{}, nil
	}
	return &proav1.LockAcquireResponse{
		Acquired: true, FencingToken: lease.Token, ExpireTime: timestamppb.New(lease.Expires),
	}, nil
}

// duration reads a duration; one that is absent is 0.
func duration(field string, d *durationpb.Duration, reason fault.Reason) (time.Duration, error) {
	if d == nil {
		return 0, nil
	}
	out := d.AsDuration() // what is too long becomes the longest there is
	if d.CheckValid() != nil || out > maxDuration {
		return 0, fault.New(fault.InvalidArgument, "%s is no duration, or longer than %v", field, maxDuration).WithReason(reason)
	}
	return out, nil
}

// maxDuration is the longest that a lock can be asked for, and waited for: what
// stores can count in milliseconds and nanoseconds alike.
const maxDuration = 10 * 365 * 24 * time.Hour

// Renew lets a lock end later.
func (s *lockService) Renew(ctx context.Context, in *proav1.LockRenewRequest) (*proav1.LockRenewResponse, error) {
	store, err := s.opts.Blocks.Lock(in.GetStoreName())
	if err != nil {
		return nil, err
	}
	ttl, err := duration("ttl", in.GetTtl(), lock.ReasonBadTTL)
	if err != nil {
		return nil, err
	}
	lease, err := store.Renew(ctx, in.GetResourceId(), in.GetLockOwner(), ttl)
	if err != nil {
		return nil, err
	}
	return &proav1.LockRenewResponse{FencingToken: lease.Token, ExpireTime: timestamppb.New(lease.Expires)}, nil
}

// Release gives a lock back.
func (s *lockService) Release(ctx context.Context, in *proav1.LockReleaseRequest) (*proav1.LockReleaseResponse, error) {
	store, err := s.opts.Blocks.Lock(in.GetStoreName())
	if err != nil {
		return nil, err
	}
	status, err := store.Unlock(ctx, in.GetResourceId(), in.GetLockOwner())
	switch {
	case err != nil:
		return nil, err
	case status == lock.DoesNotExist:
		err = lock.ErrNotHeld()
	case status == lock.BelongsToOthers:
		err = lock.ErrNotOwner()
	}
	if err != nil {
		return nil, fault.Wrap(err, fault.CodeOf(err), "release lock %q of store %q", in.GetResourceId(), in.GetStoreName())
	}
	return &proav1.LockReleaseResponse{}, nil
}
