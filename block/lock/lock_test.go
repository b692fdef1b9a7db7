package lock_test

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/proa-io/proa/block/lock"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/policy"
)

// scripted is a driver that answers every call with err and notes the name.
type scripted struct {
	name  string
	lease lock.Lease
	err   error
}

func (s *scripted) Acquire(_ context.Context, name, _ string, _ time.Duration) (lock.Lease, error) {
	s.name = name
	return s.lease, s.err
}

func (s *scripted) Release(_ context.Context, name, _ string) error {
	s.name = name
	return s.err
}

func (s *scripted) Close() error { return nil }

type renewing struct{ scripted }

func (r *renewing) Renew(_ context.Context, name, _ string, _ time.Duration) (lock.Lease, error) {
	r.name = name
	return r.lease, r.err
}

func newStore(d lock.Driver, c lock.Config) *lock.Store {
	return lock.New(component.Opened("locks", d), lock.Options{Chains: policy.None{}, AppID: "shop", Config: c})
}

func TestNamesInTheStoreAreThoseOfDapr(t *testing.T) {
	for _, c := range []struct{ keyPrefix, want string }{
		{"", "lock||shop||order"},
		{"appid", "lock||shop||order"},
		{"AppID", "lock||shop||order"},
		{"name", "lock||locks||order"},
		{"none", "lock||order"},
		{"Mine", "lock||mine||order"},
	} {
		d := &renewing{}
		s := newStore(d, lock.Config{KeyPrefix: c.keyPrefix})
		if _, _, err := s.TryLock(t.Context(), "order", "me", time.Second); err != nil || d.name != c.want {
			t.Errorf("keyPrefix %q: TryLock of %q, %v; want %q", c.keyPrefix, d.name, err, c.want)
		}
		d.name = ""
		if _, err := s.Unlock(t.Context(), "order", "me"); err != nil || d.name != c.want {
			t.Errorf("keyPrefix %q: Unlock of %q, %v; want %q", c.keyPrefix, d.name, err, c.want)
		}
		d.name = ""
		if _, err := s.Renew(t.Context(), "order", "me", time.Second); err != nil || d.name != c.want {
			t.Errorf("keyPrefix %q: Renew of %q, %v; want %q", c.keyPrefix, d.name, err, c.want)
		}
	}
	d := &scripted{}
	s := lock.New(component.Opened[lock.Driver]("locks", d), lock.Options{Chains: policy.None{}})
	if _, _, err := s.TryLock(t.Context(), "order", "me", time.Second); err != nil || d.name != "lock||order" {
		t.Errorf("without an application: TryLock of %q, %v", d.name, err)
	}
}

func TestKeyPrefixWithTheSeparatorIsRefused(t *testing.T) {
	if err := (lock.Config{KeyPrefix: "a||b"}).Validate(); err == nil || !strings.Contains(err.Error(), `"keyPrefix": must not contain "||"`) {
		t.Errorf("error %v", err)
	}
}

func TestRequestsThatCanNeverSucceedAreInvalid(t *testing.T) {
	d := &renewing{}
	s := newStore(d, lock.Config{})
	for _, c := range []struct {
		resource, owner string
		ttl             time.Duration
		want            fault.Reason
	}{
		{"", "me", time.Second, lock.ReasonNoResource},
		{"a||b", "me", time.Second, lock.ReasonIllegalResource},
		{"r", "", time.Second, lock.ReasonNoOwner},
		{"r", "me", 0, lock.ReasonBadTTL},
		{"r", "me", -time.Second, lock.ReasonBadTTL},
	} {
		check := func(op string, err error) {
			t.Helper()
			if !fault.Is(err, fault.InvalidArgument) || fault.ReasonOf(err) != c.want {
				t.Errorf("%s(%q, %q, %v): error %v, want invalid_argument with reason %q", op, c.resource, c.owner, c.ttl, err, c.want)
			}
		}
		_, ok, err := s.TryLock(t.Context(), c.resource, c.owner, c.ttl)
		if ok {
			t.Errorf("TryLock(%q, %q, %v) got the lock", c.resource, c.owner, c.ttl)
		}
		check("TryLock", err)
		_, err = s.Renew(t.Context(), c.resource, c.owner, c.ttl)
		check("Renew", err)
		if c.want != lock.ReasonBadTTL {
			status, err := s.Unlock(t.Context(), c.resource, c.owner)
			check("Unlock", err)
			if status != lock.InternalError {
				t.Errorf("Unlock(%q, %q): status %d", c.resource, c.owner, status)
			}
		}
	}
	if d.name != "" {
		t.Errorf("the driver was asked for %q", d.name)
	}
}

func TestHeldLockIsAnAnswerAndNoFailure(t *testing.T) {
	var outcomes []error
	s := lock.New(component.Opened[lock.Driver]("locks", &scripted{err: lock.ErrHeld()}), lock.Options{
		Chains: outcomeSpy(func(err error) { outcomes = append(outcomes, err) }),
	})
	lease, ok, err := s.TryLock(t.Context(), "r", "me", time.Second)
	if ok || err != nil || lease != (lock.Lease{}) {
		t.Errorf("TryLock = %v, %v, %v; want no lease and no error", lease, ok, err)
	}
	if !slices.Equal(outcomes, []error{nil}) {
		t.Errorf("the policies saw %v, want one success", outcomes)
	}
}

func TestLostRaceOfAnotherKindIsAFailure(t *testing.T) {
	_, ok, err := newStore(&scripted{err: fault.New(fault.Aborted, "the script was killed")}, lock.Config{}).
		TryLock(t.Context(), "r", "me", time.Second)
	if ok || !fault.Is(err, fault.Aborted) {
		t.Errorf("TryLock = %v, %v; want the error", ok, err)
	}
}

func TestUnlockTellsHowItEnded(t *testing.T) {
	for _, c := range []struct {
		err    error
		want   lock.Status
		failed bool
	}{
		{nil, lock.Success, false},
		{lock.ErrNotHeld(), lock.DoesNotExist, false},
		{lock.ErrNotOwner(), lock.BelongsToOthers, false},
		{fault.New(fault.Unavailable, "down"), lock.InternalError, true},
	} {
		got, err := newStore(&scripted{err: c.err}, lock.Config{}).Unlock(t.Context(), "r", "me")
		if got != c.want || (err != nil) != c.failed {
			t.Errorf("driver says %v: Unlock = %d, %v; want %d", c.err, got, err, c.want)
		}
		if c.failed && (!fault.Is(err, fault.CodeOf(c.err)) || err.Error() != `release lock "r" of store "locks": down`) {
			t.Errorf("error %q has lost its code or does not say what failed", err)
		}
	}
}

func TestRenewOfAStoreThatCannotIsUnimplemented(t *testing.T) {
	_, err := newStore(&scripted{}, lock.Config{}).Renew(t.Context(), "r", "me", time.Second)
	if !fault.Is(err, fault.Unimplemented) || fault.ReasonOf(err) != lock.ReasonCannotRenew {
		t.Errorf("error %v, want unimplemented", err)
	}
}

func TestErrorsShowTheIdAndNotTheNameInTheStore(t *testing.T) {
	_, _, err := newStore(&scripted{err: fault.New(fault.Unavailable, "down")}, lock.Config{}).
		TryLock(t.Context(), "order", "me", time.Second)
	if want := `acquire lock "order" of store "locks": down`; fault.Message(err) != want {
		t.Errorf("message %q, want %q", fault.Message(err), want)
	}
}

// outcomeSpy is a Chains with one policy, which shows how each call ended.
type outcomeSpy func(error)

func (s outcomeSpy) Component(string, string, bool) policy.Chain {
	return policy.Chain{func(_ policy.Op, next policy.Handler) policy.Handler {
		return func(ctx context.Context, c *policy.Call) error {
			err := next(ctx, c)
			s(err)
			return err
		}
	}}
}

func (s outcomeSpy) App(string) policy.Chain { return nil }
