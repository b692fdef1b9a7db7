package outbox

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"sync"
	"time"
)

// Timing of Run.
const (
	// patrolEvery is how often a process without anything to publish looks
	// whether one that has died left something.
	patrolEvery = 10 * time.Second
	// followEvery is how often a process whose rows another one relays looks
	// which of them are gone.
	followEvery  = 250 * time.Millisecond
	firstTrouble = 50 * time.Millisecond
	lastTrouble  = 5 * time.Second
)

// readChunk is how many rows are read at once.
const readChunk = 200

// Run publishes what there is to publish until ctx ends, and then what this
// process still has to publish for up to Options.Grace. It outlives a store or
// a broker that cannot be reached. It returns nil. Call it once.
func (o *Outbox) Run(ctx context.Context) error {
	work, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() { o.stayKnown(work) })
	wg.Go(func() {
		select {
		case <-work.Done():
			return
		case <-ctx.Done():
		}
		select {
		case <-work.Done():
		case <-time.After(o.opts.Grace):
			cancel()
		}
	})
	trouble := firstTrouble
	for {
		wait, err := o.step(ctx, work)
		if err != nil {
			o.say(ctx, "the outbox cannot do its work and goes on trying", err)
			wait, trouble = trouble, min(2*trouble, lastTrouble)
		} else {
			trouble = firstTrouble
			o.calm(ctx)
		}
		if work.Err() != nil || ctx.Err() != nil && !o.waiting() {
			break
		}
		o.pause(ctx, work, wait)
	}
	lctx, lcancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
	defer lcancel()
	o.leave(lctx)
	return nil
}

// pause waits until something happens, but no longer than wait. Once ctx has
// ended it does not wait long.
func (o *Outbox) pause(ctx, work context.Context, wait time.Duration) {
	over := ctx.Done()
	if ctx.Err() != nil {
		over, wait = work.Done(), min(wait, followEvery)
	}
	timer := time.NewTimer(min(wait, o.doubtWait()))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-o.wake:
	case <-over:
	}
}

// waiting reports whether rows of this process are to be published.
func (o *Outbox) waiting() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.stored > 0
}

// say logs trouble, once for each text.
func (o *Outbox) say(ctx context.Context, text string, err error) {
	if now := err.Error(); now != o.said {
		o.said = now
		o.log.WarnContext(ctx, text, "error", err) //nolint:sloglint // the callers give constants
	}
}

func (o *Outbox) calm(ctx context.Context) {
	if o.said != "" {
		o.said = ""
		o.log.InfoContext(ctx, "the outbox works again")
	}
}

// step does what there is to do now, and returns how long nothing has to be
// done unless something happens.
func (o *Outbox) step(ctx, work context.Context) (time.Duration, error) {
	before := o.lease.value
	others, found, err := o.look(work)
	if err != nil {
		return 0, err
	}
	now := time.Now()
	mine := o.waiting()
	switch {
	case o.lease.open(o.id, now) && (mine || found):
		return 0, o.relay(ctx, work, others)
	case o.lease.open(o.id, now) && len(others) > 0 && o.lease.value == before && ctx.Err() == nil:
		// Nobody has looked since we did.
		return 0, o.relay(ctx, work, others)
	case o.lease.open(o.id, now):
		return patrolEvery, nil
	case !mine:
		return min(patrolEvery, o.lease.left(now)+time.Millisecond), nil
	}
	o.ringAgain(work)
	if err := o.reap(work); err != nil {
		return 0, err
	}
	return followEvery, nil
}

// look reads the lease, the register and the rows in doubt. found tells that
// one of these is there.
func (o *Outbox) look(ctx context.Context) (others map[string]member, found bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	rows, err := o.opts.Store.Read(ctx, append([]string{leaseName, registerName}, o.doubts()...))
	if err != nil {
		return nil, false, err
	}
	now := time.Now()
	if err := o.lease.look(rows[0], now); err != nil {
		return nil, false, err
	}
	reg, err := decodeRegister(rows[1])
	if err != nil {
		return nil, false, err
	}
	found = o.resolve(rows[2:])
	return o.members.update(reg.Writers, o.id, now), found, nil
}

// doubts names rows of which nobody knows whether they are there, a few at a
// time.
func (o *Outbox) doubts() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.doubted == 0 {
		return nil
	}
	var names []string
	for n := range o.slots {
		if s := &o.slots[n]; s.state == slotDoubt && len(names) < readChunk {
			names = append(names, o.rowName(n))
		}
	}
	return names
}

// doubtWait returns when rows in doubt should be looked for.
func (o *Outbox) doubtWait() time.Duration {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.doubted == 0 {
		return patrolEvery
	}
	return time.Second
}

// resolve takes over what was read of rows in doubt. A row that is there has
// been committed; one that is not may still come, until doubtTime is over. It
// reports whether there was one.
func (o *Outbox) resolve(rows []Row) (found bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	at := make(map[string]bool, len(rows))
	for i := range rows {
		at[rows[i].Name] = rows[i].Found
	}
	for n := range o.slots {
		s := &o.slots[n]
		there, asked := at[o.rowName(n)]
		switch {
		case s.state != slotDoubt || !asked:
		case there:
			o.doubted--
			o.keep(n, s.stamp)
			found = true
		case time.Since(s.since) > doubtTime:
			o.release(n)
		}
	}
	return found
}

// reap finds out which rows another process has relayed.
func (o *Outbox) reap(ctx context.Context) error {
	for names := range slices.Chunk(o.storedRows(), readChunk) {
		cctx, cancel := context.WithTimeout(ctx, callTimeout)
		rows, err := o.opts.Store.Read(cctx, names)
		cancel()
		if err != nil {
			return err
		}
		o.gone(rows)
	}
	return nil
}

// storedRows names the rows of this process that are stored, as far as is
// known.
func (o *Outbox) storedRows() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	names := make([]string, 0, o.stored)
	for n := range o.slots {
		if o.slots[n].state == slotStored {
			names = append(names, o.rowName(n))
		}
	}
	return names
}

// gone frees the slots of those rows that are not there any more. The rows were
// committed before they were read.
func (o *Outbox) gone(rows []Row) {
	missing := map[string]struct{}{}
	for i := range rows {
		if !rows[i].Found {
			missing[rows[i].Name] = struct{}{}
		}
	}
	if len(missing) == 0 {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	for n := range o.slots {
		if _, ok := missing[o.rowName(n)]; ok && o.slots[n].state == slotStored {
			o.release(n)
		}
	}
}

// relay takes the lease and relays until there is nothing to relay, the lease
// is lost, or work ends.
func (o *Outbox) relay(ctx, work context.Context, others map[string]member) error {
	if err := o.claim(work, o.id); err != nil {
		o.lease.since = time.Time{} // look again
		if isAborted(err) {
			return nil
		}
		return err
	}
	s := newSession(o, work, others)
	hold := o.hold(s.ctx, s.cancel)
	err := s.run(ctx)
	s.close()
	hold.end()
	o.yield(context.WithoutCancel(ctx))
	return err
}

// row is a row that is to be relayed.
type row struct {
	name     string
	slot     int // of ours; -1 for another writer's
	etag     string
	stamp    int64
	messages []Message // nil when they are to be read
	size     int       // of the messages in memory
	left     int       // messages that are not published; guarded by session.mu
}

// byStamp orders rows by when their transactions began.
func byStamp(a, b *row) int {
	return cmp.Or(cmp.Compare(a.stamp, b.stamp), cmp.Compare(a.name, b.name))
}

// sortedKeys returns the keys of a map in order.
func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
