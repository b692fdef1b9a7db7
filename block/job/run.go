package job

import (
	"container/heap"
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/proa-io/proa/fault"
)

// App takes triggers.
type App interface {
	// OnJobEvent calls the application for a job that is due. An error is a
	// failure that the job's failure policy deals with, but for two: one with
	// ReasonNotDelivered means that there is nobody to be called, so that the
	// job waits; one with ReasonNoHandler that the application has no use for
	// it, so that no other try is made.
	OnJobEvent(ctx context.Context, e Event) error
}

// Reasons of errors of an App.
const (
	// ReasonNotDelivered marks a trigger that never reached the application.
	ReasonNotDelivered fault.Reason = "job.not_delivered"
	// ReasonNoHandler marks a trigger that the application has no handler for.
	ReasonNoHandler fault.Reason = "job.no_handler"
)

// Event is one trigger of a job.
type Event struct {
	Name string
	Data *Data // nil for none
	// Due is when it was due, and Attempt counts the tries, from 1.
	Due     time.Time
	Attempt int
}

// Timing of a Run.
const (
	// maxSleep bounds how long to sleep without a look at the clock on the
	// wall, which may be set and which runs on while a machine is suspended.
	maxSleep = 10 * time.Second
	// clockJump is the least difference that counts as a clock that was set.
	clockJump = time.Second
	// turn is how long to leave a job to a replica whose turn it is first.
	turn = 100 * time.Millisecond
	// firstHold and lastHold are how long nothing is triggered after the
	// application could not be reached.
	firstHold = 200 * time.Millisecond
	lastHold  = 10 * time.Second
	// firstRetry and lastRetry are how long to wait before the store is tried
	// again.
	firstRetry = 100 * time.Millisecond
	lastRetry  = 10 * time.Second
)

// Run triggers the jobs that are due by calling app, until ctx ends; then it
// lets the triggers under way end, for the grace period at most, and returns
// nil. Jobs whose triggers are cut off by that are triggered again, by another
// replica or by the next Run. Trouble with the store is waited out.
func (s *Store) Run(ctx context.Context, app App) error {
	var d Driver
	s.again(ctx, func() (err error) {
		d, err = s.handle.Get(ctx)
		return err
	})
	if ctx.Err() != nil {
		return nil
	}
	r := &runner{
		Store: s, d: d, app: app, session: newSession(d, s.scope),
		entries: map[string]*entry{}, peers: map[string]peer{}, kick: make(chan struct{}, 1),
		slots: make(chan struct{}, s.opts.MaxTriggers), lastWall: s.now(), lastLook: time.Now(),
	}
	var watching, beating sync.WaitGroup
	watching.Go(func() { s.again(ctx, func() error { return r.watch(ctx) }) })
	alive, die := context.WithCancel(context.WithoutCancel(ctx))
	beating.Go(func() { r.session.run(alive) })
	r.loop(ctx)
	watching.Wait()
	die()
	beating.Wait()
	return nil
}

// again carries out do until it succeeds or ctx ends, with growing pauses, and
// logs what is wrong, once.
func (s *Store) again(ctx context.Context, do func() error) {
	delay, said := firstRetry, ""
	for ctx.Err() == nil {
		began := time.Now()
		err := do()
		if err == nil || ctx.Err() != nil {
			return
		}
		if time.Since(began) > lastRetry {
			delay, said = firstRetry, ""
		}
		if text := err.Error(); text != said {
			s.log.WarnContext(ctx, "the jobs store cannot be watched at present and is tried again", "error", err)
			said = text
		}
		sleep(ctx, delay/2+rand.N(delay)) //nolint:gosec // jitter needs no secrecy
		delay = min(2*delay, lastRetry)
	}
}

func sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// runner is one Run.
type runner struct {
	*Store
	d       Driver
	app     App
	session *session
	slots   chan struct{} // holds one token for each trigger under way
	kick    chan struct{} // gets a token when there may be something to do

	mu       sync.Mutex
	entries  map[string]*entry
	queue    queue
	peers    map[string]peer // other sessions
	echo     echo
	watches  int // how often the store was watched
	synced   bool
	hold     time.Duration // how long the last hold was; 0 when the application answers
	heldTill time.Time
	lastWall time.Time // the clock on the wall at lastLook
	lastLook time.Time
}

// peer is what is known of another session.
type peer struct {
	rev  uint64    // of its entry
	seen time.Time // when it last gave a sign
}

// echo tells since when this session has heard its own signs without a gap, as
// it hears those of the others. Silence while the store is out of reach says
// nothing about who is alive.
type echo struct{ first, last time.Time }

func (e *echo) heard() {
	now := time.Now()
	if now.Sub(e.last) > maxGap {
		e.first = now
	}
	e.last = now
}

func (e *echo) clear() (since time.Time, ok bool) { return e.first, time.Since(e.last) <= maxGap }

// loop triggers what is due until ctx ends, and waits for the triggers.
func (r *runner) loop(ctx context.Context) {
	work, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	var triggers sync.WaitGroup
	timer := time.NewTimer(0)
	defer timer.Stop()
	for ctx.Err() == nil {
		for _, id := range r.dead() {
			triggers.Go(func() { r.bury(work, id) })
		}
		timer.Reset(r.dispatch(func(e *entry) { triggers.Go(func() { r.attend(work, e) }) }))
		select {
		case <-timer.C:
		case <-r.kick:
		case <-ctx.Done():
		}
	}
	grace := time.AfterFunc(r.opts.Grace, cancel)
	triggers.Wait()
	grace.Stop()
}

// poke makes the loop look.
func (r *runner) poke() {
	select {
	case r.kick <- struct{}{}:
	default:
	}
}

// dispatch hands over the entries that want attention, as long as there are
// free slots, and returns how long to sleep then.
func (r *runner) dispatch(attend func(*entry)) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.now()
	r.noticeJump(now)
	if !r.synced {
		return maxSleep
	}
	if held := time.Until(r.heldTill); held > 0 {
		return min(held, maxSleep)
	}
	for len(r.queue) > 0 {
		e := r.queue[0]
		if wait := e.wake.Sub(now); wait > 0 {
			return min(wait, maxSleep)
		}
		if wait := r.patience(e, now); wait > 0 {
			r.queue.set(e, now.Add(wait))
			continue
		}
		select {
		case r.slots <- struct{}{}:
		default:
			return maxSleep // the end of a trigger pokes
		}
		heap.Pop(&r.queue)
		e.busy = true
		attend(e)
	}
	return maxSleep
}

// patience returns how long to leave an entry to others. The caller holds mu.
func (r *runner) patience(e *entry, now time.Time) time.Duration {
	if e.claim != "" && e.claim != r.session.id {
		return r.silence(e.claim)
	}
	return e.at.Add(time.Duration(e.rank(r.session.id, r.peers)) * turn).Sub(now)
}

// silence returns how much longer a session must be silent to count as dead.
// The caller holds mu.
func (r *runner) silence(session string) time.Duration {
	r.session.busy() // so as to hear, and so that the others know of this replica
	p, known := r.peers[session]
	if !known { // it may be about to give a sign
		p.seen = time.Now()
		r.peers[session] = p
	}
	since, clear := r.echo.clear()
	switch {
	case !clear:
		return heartbeat
	case since.After(p.seen):
		return lease - time.Since(since)
	}
	return lease - time.Since(p.seen)
}

// dead returns the sessions that have been silent for so long that nothing they
// claimed can be waiting for them, and forgets them.
func (r *runner) dead() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []string
	for id, p := range r.peers {
		if time.Since(p.seen) > 2*lease {
			delete(r.peers, id)
			out = append(out, id)
		}
	}
	return out
}

// bury removes the entry of a session whose process has died. Should it be
// alive after all, it writes it again.
func (r *runner) bury(ctx context.Context, id string) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_ = r.d.Delete(ctx, r.key(sessionPrefix+id), Anything()) // the next one to see it tries again
}

// noticeJump looks at everything again when the clock on the wall has been
// set. The caller holds mu.
func (r *runner) noticeJump(now time.Time) {
	jump := now.Sub(r.lastWall) - time.Since(r.lastLook)
	r.lastWall, r.lastLook = now, time.Now()
	if jump.Abs() < clockJump {
		return
	}
	r.log.Info("the clock has been set", "by", jump)
	for _, e := range r.entries {
		if e.place >= 0 {
			r.queue.set(e, r.wakeOf(e, now))
		}
	}
}

// wakeOf returns when to look at an entry. One with a fixed distance is never
// further away than that, unless the clock has been set back.
func (r *runner) wakeOf(e *entry, now time.Time) time.Time {
	if e.every > 0 && e.at.Sub(now) > e.every {
		e.at = now.Add(e.every)
	}
	return e.at
}

// take notes a change of the store. It is the function that Watch calls.
func (r *runner) take(c Change) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case c.Op == OpSynced:
		r.settleWatch()
	case isSession(c.Name):
		r.takeSession(c)
	case c.Op == OpDelete:
		if e, ok := r.entries[c.Name]; ok {
			r.queue.remove(e)
			delete(r.entries, c.Name)
		}
	default:
		r.note(c.Name, c.Revision, c.Value)
	}
	r.poke()
}

// watch notes the changes of the store until ctx ends or that is not possible.
func (r *runner) watch(ctx context.Context) error {
	r.mu.Lock()
	r.watches++
	r.mu.Unlock()
	return r.d.Watch(ctx, r.scope, r.take)
}

// settleWatch notes that everything there is has been reported: what this watch
// has not reported is gone. The caller holds mu.
func (r *runner) settleWatch() {
	r.synced = true
	for name, e := range r.entries {
		if e.watch != r.watches {
			r.queue.remove(e)
			delete(r.entries, name)
		}
	}
}

// takeSession notes that another session gives a sign, or has ended.
func (r *runner) takeSession(c Change) {
	id := c.Name[len(sessionPrefix):]
	switch {
	case id == r.session.id:
		r.echo.heard()
	case c.Op == OpDelete:
		delete(r.peers, id)
	case c.Revision > r.peers[id].rev: // else it is told again
		r.peers[id] = peer{c.Revision, time.Now()}
	}
}

// note brings an entry up to date with a revision that is new. The caller
// holds mu.
func (r *runner) note(name string, rev uint64, value []byte) {
	e, known := r.entries[name]
	if known {
		e.watch = r.watches
	}
	if known && rev <= e.rev {
		return
	}
	rec, err := decode(value)
	if err != nil {
		r.log.Warn("the jobs store holds something that is no job", "name", name, "error", err)
		return
	}
	if !known {
		e = &entry{name: name, place: -1, watch: r.watches}
		r.entries[name] = e
	}
	r.update(e, rev, rec)
}

// update brings an entry up to date. The caller holds mu.
func (r *runner) update(e *entry, rev uint64, rec *record) {
	e.rev, e.at, e.every, e.claim, e.gone = rev, rec.wakeAt(), rec.interval(), rec.Claim, false
	if rec.Claim != "" && rec.Claim != r.session.id {
		r.session.busy()
	}
	if !e.busy {
		r.queue.set(e, r.wakeOf(e, r.now()))
	}
}
