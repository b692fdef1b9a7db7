package main

import (
	"context"

	"github.com/dapr/go-sdk/client"
)

const lockStore = "lockstore"

func (a *app) checkLock() {
	lock := func(ctx context.Context, t *t, id, owner string, seconds int32) bool {
		r, err := a.client.TryLockAlpha1(ctx, lockStore, &client.LockRequest{ResourceID: id, LockOwner: owner, ExpiryInSeconds: seconds})
		t.ok(err)
		return r.Success
	}
	unlock := func(ctx context.Context, t *t, id, owner string) string {
		r, err := a.client.UnlockAlpha1(ctx, lockStore, &client.UnlockRequest{ResourceID: id, LockOwner: owner})
		t.ok(err)
		return r.Status
	}
	a.check("lock: one owner has it, and only that one gives it back", func(ctx context.Context, t *t) {
		t.equal(lock(ctx, t, "boat", "ada", 60), true, "ada locks")
		t.equal(lock(ctx, t, "boat", "bob", 60), false, "bob locks")
		t.equal(unlock(ctx, t, "boat", "bob"), "LOCK_BELONGS_TO_OTHERS", "bob unlocks")
		t.equal(unlock(ctx, t, "boat", "ada"), "SUCCESS", "ada unlocks")
		t.equal(unlock(ctx, t, "boat", "ada"), "LOCK_DOES_NOT_EXIST", "ada unlocks again")
		t.equal(lock(ctx, t, "boat", "bob", 60), true, "bob locks at last")
		t.equal(unlock(ctx, t, "boat", "bob"), "SUCCESS", "bob unlocks")
	})
	a.check("lock: it expires", func(ctx context.Context, t *t) {
		t.equal(lock(ctx, t, "paddle", "ada", 1), true, "ada locks")
		t.eventually(ctx, true, "bob locks when ada's time is over", func() any { return lock(ctx, t, "paddle", "bob", 60) })
		t.equal(unlock(ctx, t, "paddle", "ada"), "LOCK_BELONGS_TO_OTHERS", "ada unlocks too late")
	})
	a.check("lock: a bad request is refused", func(ctx context.Context, t *t) {
		_, err := a.client.TryLockAlpha1(ctx, lockStore, &client.LockRequest{ResourceID: "boat", LockOwner: "ada"})
		t.refused(err, "code = InvalidArgument")
	})
}
