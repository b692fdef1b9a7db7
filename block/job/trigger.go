package job

import (
	"context"
	"time"

	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/policy"
)

// attend does for an entry what is to be done: it claims the job, calls the
// application and notes what came of it.
func (r *runner) attend(ctx context.Context, e *entry) {
	r.mu.Lock()
	name := e.name
	r.mu.Unlock()
	r.session.hold()
	defer r.session.release()
	rec, rev, wait := r.claim(ctx, name)
	if rec != nil {
		wait = r.settle(ctx, name, rev, rec, r.call(ctx, name, rec))
	}
	r.release(e, wait)
}

// release gives the entry back to the queue, to be looked at after wait at the
// earliest.
func (r *runner) release(e *entry, wait time.Duration) {
	r.mu.Lock()
	e.busy = false
	if r.entries[e.name] == e && !e.gone {
		now := r.now()
		wake := r.wakeOf(e, now)
		if soonest := now.Add(wait); wake.Before(soonest) {
			wake = soonest
		}
		r.queue.set(e, wake)
	}
	r.mu.Unlock()
	<-r.slots
	r.poke()
}

// claim reads a job and, if it is due and nobody's, makes it this session's.
// It returns nil when there is nothing to trigger, and how long to wait at
// least before another look.
func (r *runner) claim(ctx context.Context, name string) (rec *record, rev uint64, wait time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	there, err := r.d.Get(ctx, r.key(name))
	if fault.Is(err, fault.NotFound) {
		r.drop(name)
		return nil, 0, lease
	}
	if err != nil {
		return nil, 0, firstRetry
	}
	if rec, err = decode(there.Value); err != nil {
		return nil, 0, lease
	}
	r.learn(name, there.Revision, rec)
	now := r.now()
	switch {
	case r.isTaken(rec.Claim):
		return nil, 0, 0
	case rec.over(now):
		r.end(ctx, name, there.Revision)
		return nil, 0, lease
	case !r.isDue(name, now):
		return nil, 0, 0
	}
	if err := r.session.ensure(ctx); err != nil {
		return nil, 0, firstRetry
	}
	rec.Claim = r.session.id
	if rec.Began.IsZero() {
		rec.Began = now.UTC()
	}
	rev, err = r.write(ctx, name, there.Revision, rec)
	switch {
	case err == nil:
		return rec, rev, 0
	case fault.ReasonOf(err) == ReasonConflict:
		return nil, 0, turn // the watch tells who was faster
	}
	// Whether it is claimed is not known. If it is, it is by this session, and
	// the watch says so: then it is claimed again.
	return nil, 0, firstRetry
}

// isTaken reports whether a claim is that of another session that is alive.
func (r *runner) isTaken(claim string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return claim != "" && claim != r.session.id && r.silence(claim) > 0
}

// isDue reports whether it is time for an entry, as far as is known.
func (r *runner) isDue(name string, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	e, ok := r.entries[name]
	return ok && !r.wakeOf(e, now).After(now)
}

// learn brings an entry up to date with what was read or written.
func (r *runner) learn(name string, rev uint64, rec *record) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if e, ok := r.entries[name]; ok && rev > e.rev {
		r.update(e, rev, rec)
	}
}

// drop notes that a job does not exist any more. The watch is about to say so.
func (r *runner) drop(name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if e, ok := r.entries[name]; ok {
		e.gone = true
	}
}

// write stores a job if its revision is still rev, and returns the new one.
func (r *runner) write(ctx context.Context, name string, rev uint64, rec *record) (uint64, error) {
	value, err := rec.encode()
	if err != nil {
		return 0, fault.Wrap(err, fault.Internal, "encode job %q", name)
	}
	if rev, err = r.d.Put(ctx, r.key(name), value, Revision(rev)); err == nil {
		r.learn(name, rev, rec)
	}
	return rev, err
}

// end removes a job if its revision is still rev.
func (r *runner) end(ctx context.Context, name string, rev uint64) error {
	err := r.d.Delete(ctx, r.key(name), Revision(rev))
	if err == nil {
		r.drop(name)
	}
	return err
}

// call calls the application through the policies.
func (r *runner) call(ctx context.Context, name string, rec *record) error {
	e := Event{Name: name, Data: rec.payload(), Due: rec.Due, Attempt: int(rec.Attempts) + 1}
	call := policy.Call{Key: name, Bytes: len(rec.data), Idempotent: true}
	return r.trigger.Run(ctx, &call, func(ctx context.Context) error { return r.app.OnJobEvent(ctx, e) })
}

// settle notes what came of a trigger. It returns how long to wait at least
// before another look at the job.
func (r *runner) settle(ctx context.Context, name string, rev uint64, rec *record, err error) time.Duration {
	stays, held := true, false
	switch {
	case err == nil:
		stays = rec.advance()
	case ctx.Err() != nil || fault.ReasonOf(err) == ReasonNotDelivered:
		rec.Claim, held = "", ctx.Err() == nil
		if rec.Attempts == 0 {
			rec.Began = time.Time{}
		}
	case fault.ReasonOf(err) == ReasonNoHandler:
		r.log.Warn("the application has no handler for a job; the trigger is left out", "job", name, "error", err)
		stays = rec.advance()
	default:
		if rec.gaveUp() {
			r.log.Warn("a trigger of a job has failed for good", "job", name, "tries", rec.Attempts+1, "error", err)
		}
		stays = rec.fail(r.now())
	}
	wait := r.holdBack(held)
	r.persist(ctx, name, func(ctx context.Context) error {
		if !stays {
			return r.end(ctx, name, rev)
		}
		_, err := r.write(ctx, name, rev, rec)
		return err
	})
	return wait
}

// holdBack triggers nothing for a while after the application could not be
// reached, longer each time, until it answers again.
func (r *runner) holdBack(held bool) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case !held:
		r.hold = 0
		return 0
	case time.Until(r.heldTill) > 0: // by another trigger
		return time.Until(r.heldTill)
	}
	r.hold = min(max(2*r.hold, firstHold), lastHold)
	r.heldTill = time.Now().Add(r.hold)
	return r.hold
}

// persist carries out the write that ends a claim, again and again until it is
// known what became of it. That the job has changed meanwhile means that it was
// scheduled anew or deleted, or that this very write had been carried out
// before, or that the session was taken for dead: there is nothing to note in
// any case. Once ctx has ended there is one more try, and if that fails the job
// is triggered again.
func (r *runner) persist(ctx context.Context, name string, write func(context.Context) error) {
	for delay := firstRetry; ; delay = min(2*delay, lastRetry) {
		over := ctx.Err() != nil
		err := r.insist(ctx, write)
		switch {
		case err == nil || fault.ReasonOf(err) == ReasonConflict:
			return
		case over:
			r.log.Warn("what came of a trigger could not be noted; the job is triggered again", "job", name, "error", err)
			return
		}
		sleep(ctx, delay)
	}
}

// insist makes one call of the driver that goes on for a moment when ctx ends.
func (r *runner) insist(ctx context.Context, write func(context.Context) error) error {
	call, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
	defer cancel()
	defer context.AfterFunc(ctx, func() {
		select {
		case <-call.Done():
		case <-time.After(heartbeat):
			cancel()
		}
	})()
	return write(call)
}
