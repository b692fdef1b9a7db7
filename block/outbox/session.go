package outbox

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"github.com/proa-io/proa/fault"
)

// Timing and bounds of a session.
const (
	// linger is how long the lease is kept when there is nothing to relay.
	linger = 5 * time.Second
	// firstPoll and lastPoll are how often the bells of other processes are
	// looked at, after one has rung and when none does.
	firstPoll = 10 * time.Millisecond
	lastPoll  = 250 * time.Millisecond
	// sweepEvery is how often all rows of all others are looked for: of those
	// too that died before they rang.
	sweepEvery = 10 * time.Second
	// maxQueued and maxQueuedBytes bound what waits in the lanes.
	maxQueued      = 20_000
	maxQueuedBytes = 32 << 20
)

// session is the time during which this process has the lease. One goroutine,
// that of Run, finds rows and puts them into lanes; each lane publishes; one
// more deletes what is published.
type session struct {
	o      *Outbox
	ctx    context.Context //nolint:containedctx // a session is one call
	cancel context.CancelFunc
	wg     sync.WaitGroup

	// What follows belongs to the goroutine of Run.
	others map[string]member
	bells  map[string]string // the etag of each, as it was last read
	upTo   map[string]int64  // how many rows of each are known
	seen   map[string]int64  // the time stamp of what was last found under a name of another writer
	fresh  []*row            // found, but what comes before may not be; see settleOrder
	ready  []*row            // in order, not in lanes yet
	poll   time.Duration
	heard  time.Time // when the bells were last looked at
	swept  time.Time // when all rows of others were

	mu      sync.Mutex // guards what follows
	lanes   map[place]*lane
	queued  int // messages in lanes
	bytes   int // of them
	relayed []*row
	busy    int           // rows that are being deleted
	deleted chan struct{} // has room for one: relayed is not empty
}

// place is where a message goes.
type place struct{ pubsub, topic string }

func newSession(o *Outbox, work context.Context, others map[string]member) *session {
	s := &session{
		o: o, others: others, bells: map[string]string{}, upTo: map[string]int64{}, seen: map[string]int64{}, poll: firstPoll,
		lanes: map[place]*lane{}, deleted: make(chan struct{}, 1),
	}
	s.ctx, s.cancel = context.WithCancel(work)
	s.wg.Go(s.deleteAll)
	return s
}

// close ends the session. What is not published stays in the store.
func (s *session) close() {
	s.cancel()
	s.wg.Wait()
	o := s.o
	o.mu.Lock()
	defer o.mu.Unlock()
	o.holding, o.ready, o.hot = false, nil, 0
	for _, r := range s.relayed {
		if r.slot >= 0 {
			o.slots[r.slot].relayed = true // it is only to be deleted
		}
	}
	if o.stored > 0 {
		o.bell.wanted++ // another process may go on
	}
}

// run relays until there has been nothing to relay for a while, or ctx has
// ended and nothing is left, or the session ends.
func (s *session) run(ctx context.Context) error {
	if err := s.begin(); err != nil {
		return err
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	idle, trouble := time.Now(), firstTrouble
	for s.ctx.Err() == nil {
		err := s.find()
		if err == nil {
			err = s.feed()
		}
		if !s.empty() {
			idle = time.Now()
		} else if time.Since(idle) >= linger || ctx.Err() != nil && !s.o.waiting() {
			return nil
		}
		wait := s.wait(idle)
		switch {
		case err != nil && s.ctx.Err() == nil: // the lanes go on
			s.o.say(s.ctx, "the outbox cannot look for what there is to publish and goes on trying", err)
			wait, trouble = trouble, min(2*trouble, lastTrouble)
		case trouble != firstTrouble:
			trouble = firstTrouble
			s.o.calm(s.ctx)
		}
		s.pause(ctx, timer, wait)
	}
	return nil
}

// pause waits until something happens, but no longer than wait. Once ctx has
// ended it does not wait long.
func (s *session) pause(ctx context.Context, timer *time.Timer, wait time.Duration) {
	over := ctx.Done()
	if ctx.Err() != nil {
		over, wait = nil, min(wait, firstPoll)
	}
	timer.Reset(wait)
	select {
	case <-timer.C:
	case <-s.o.wake:
	case <-over:
	case <-s.ctx.Done():
	}
}

// wait returns how long nothing has to be looked for.
func (s *session) wait(idle time.Time) time.Duration {
	wait := min(max(0, linger-time.Since(idle)), s.o.doubtWait())
	if len(s.fresh) > 0 {
		return firstPoll / 100
	}
	if len(s.ready) > 0 {
		return min(wait, lastPoll) // a lane that has room again says so too
	}
	if len(s.others) > 0 {
		return min(wait, s.poll)
	}
	return min(wait, lastPoll)
}

// empty reports whether there is nothing to relay.
func (s *session) empty() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.fresh) == 0 && len(s.ready) == 0 && s.queued == 0 && len(s.relayed) == 0 && s.busy == 0
}

// begin finds the rows that there are: those of this process, which others may
// have relayed, and those of all others.
func (s *session) begin() error {
	o := s.o
	o.mu.Lock()
	o.holding = true // what is committed from now on is in o.ready
	type own struct {
		slot
		n int
	}
	var mine []own
	for n := range o.slots {
		if o.slots[n].state == slotStored {
			mine = append(mine, own{o.slots[n], n})
		}
	}
	o.mu.Unlock()
	for chunk := range slices.Chunk(mine, readChunk) {
		names := make([]string, len(chunk))
		for i := range chunk {
			names[i] = o.rowName(chunk[i].n)
		}
		rows, err := s.read(names)
		if err != nil {
			return err
		}
		o.gone(rows)
		for i := range rows {
			r := &row{name: names[i], slot: chunk[i].n, stamp: chunk[i].stamp}
			switch {
			case !rows[i].Found:
			case chunk[i].relayed:
				s.done(r)
			default:
				s.add(r, rows[i].Value)
			}
		}
	}
	return s.sweep()
}

// add takes up a row. Its messages stay in memory while there is room.
func (s *session) add(r *row, value []byte) {
	s.fresh = append(s.fresh, r)
	o := s.o
	o.mu.Lock()
	room := o.hot+len(value) <= maxHot
	if room {
		o.hot += len(value)
	}
	o.mu.Unlock()
	if room {
		r.size = len(value)
		s.decode(r, value)
	}
}

// decode takes over the value of a row. One that cannot be read is left in the
// store, for somebody to look at.
func (s *session) decode(r *row, value []byte) bool {
	_, messages, err := decodeRow(value)
	if err != nil {
		s.o.log.ErrorContext(s.ctx, "a row of the outbox cannot be read and stays in the store", "row", r.name, "error", err)
		messages = []Message{}
	}
	r.messages = messages
	return err == nil
}

func (s *session) read(names []string) ([]Row, error) {
	ctx, cancel := context.WithTimeout(s.ctx, callTimeout)
	defer cancel()
	return s.o.opts.Store.Read(ctx, names)
}

// find looks for new rows and makes those ready of which is known what comes
// before.
//
// That one transaction follows another means that it began after the other was
// answered for. By then the other was in the memory of this process, or its
// bell had rung. So of the rows whose transactions began before the bells are
// looked at, all that come before are found, whoever wrote them; the others
// wait for the next time.
func (s *session) find() error {
	o := s.o
	if names := o.doubts(); len(names) > 0 {
		rows, err := s.read(names)
		if err != nil {
			return err
		}
		if o.resolve(rows) {
			s.take(rows)
		}
	}
	o.mu.Lock()
	own := len(o.ready) > 0
	o.mu.Unlock()
	now := time.Now()
	if !own && len(s.fresh) == 0 && now.Sub(s.heard) < s.poll {
		return nil
	}
	n := len(s.fresh)
	if err := s.listen(); err != nil {
		return err
	}
	s.heard, s.poll = now, min(2*s.poll, lastPoll)
	if len(s.others) > 0 && now.Sub(s.swept) > sweepEvery {
		if err := s.sweep(); err != nil {
			return err
		}
	}
	if len(s.fresh) > n {
		s.poll = firstPoll
	}
	o.mu.Lock()
	s.fresh = append(s.fresh, o.ready...)
	o.ready = nil
	o.mu.Unlock()
	s.settleOrder(now.UnixMicro())
	return nil
}

// settleOrder makes the rows ready whose transactions had begun by a time.
func (s *session) settleOrder(by int64) {
	slices.SortStableFunc(s.fresh, byStamp)
	n, _ := slices.BinarySearchFunc(s.fresh, by+1, func(r *row, end int64) int { return cmp.Compare(r.stamp, end) })
	s.ready = append(s.ready, s.fresh[:n]...)
	s.fresh = slices.Delete(s.fresh, 0, n)
}

// take takes up rows of this process that have been in doubt.
func (s *session) take(rows []Row) {
	o := s.o
	for i := range rows {
		if !rows[i].Found {
			continue
		}
		var r *row
		o.mu.Lock()
		for n := range o.slots {
			if o.slots[n].state == slotStored && o.rowName(n) == rows[i].Name {
				r = &row{name: rows[i].Name, slot: n, stamp: o.slots[n].stamp}
				break
			}
		}
		o.mu.Unlock()
		if r != nil {
			s.add(r, rows[i].Value)
		}
	}
}

// listen looks which bells have rung, and for the rows that they name.
func (s *session) listen() error {
	names := []string{registerName}
	writers := sortedKeys(s.others)
	for _, id := range writers {
		names = append(names, bellOf(id))
	}
	rows, err := s.read(names)
	if err != nil {
		return err
	}
	reg, err := decodeRegister(rows[0])
	if err != nil {
		return err
	}
	known := s.others
	s.others = s.o.members.update(reg.Writers, s.o.id, time.Now())
	for i, id := range writers {
		if err := s.answer(id, &rows[i+1]); err != nil {
			return err
		}
	}
	for id, m := range s.others {
		if _, ok := known[id]; !ok {
			if err := s.visit(id, m.Slots); err != nil {
				return err
			}
		}
	}
	return nil
}

// answer looks for the rows of a bell that has rung since it was last read.
func (s *session) answer(id string, r *Row) error {
	if !r.Found || s.bells[id] == r.ETag && r.ETag != "" {
		return nil
	}
	h, ok := hear(r.Value, id)
	var err error
	if !ok || h.since > s.upTo[id] {
		err = s.visit(id, max(h.slots, s.others[id].Slots))
	} else {
		err = s.fetch(h.rows)
	}
	if err == nil {
		s.bells[id], s.upTo[id] = r.ETag, h.seq
	}
	return err
}

// fetch reads those rows of another writer that are newer than what was found
// under their names.
func (s *session) fetch(rung map[string]int64) error {
	var names []string
	for name, stamp := range rung {
		if stamp > s.seen[name] {
			names = append(names, name)
		}
	}
	_, err := s.collect(names)
	return err
}

// visit reads all rows of another writer.
func (s *session) visit(id string, slots int) error {
	names := make([]string, slots)
	for n := range names {
		names[n] = rowOf(id, n)
	}
	found, err := s.collect(names)
	if err == nil && !found && s.o.members.silent(id, time.Now()) {
		ctx, cancel := context.WithTimeout(s.ctx, callTimeout)
		defer cancel()
		err = s.o.forget(ctx, id)
	}
	return err
}

// collect reads rows of another writer, and takes up those that are new. It
// reports whether there is any.
func (s *session) collect(names []string) (found bool, err error) {
	for chunk := range slices.Chunk(names, readChunk) {
		rows, err := s.read(chunk)
		if err != nil {
			return found, err
		}
		for i := range rows {
			if !rows[i].Found {
				continue
			}
			found = true
			stamp, _, err := decodeRow(rows[i].Value)
			if err != nil {
				stamp = 1 // whenever it was
			}
			if stamp > s.seen[rows[i].Name] {
				s.seen[rows[i].Name] = stamp
				stamp = min(stamp, time.Now().UnixMicro()) // its clock may be fast
				s.add(&row{name: rows[i].Name, slot: -1, etag: rows[i].ETag, stamp: stamp}, rows[i].Value)
			}
		}
	}
	return found, nil
}

// sweep looks for all rows of all others.
func (s *session) sweep() error {
	for _, id := range sortedKeys(s.others) {
		if err := s.visit(id, s.others[id].Slots); err != nil {
			return err
		}
	}
	s.swept = time.Now()
	return nil
}

// feed puts rows that are ready into lanes, as many as there is room for.
func (s *session) feed() error {
	for len(s.ready) > 0 {
		s.mu.Lock()
		room := s.queued < maxQueued && s.bytes < maxQueuedBytes
		s.mu.Unlock()
		if !room {
			return nil
		}
		n := min(readChunk, len(s.ready))
		if err := s.load(s.ready[:n]); err != nil { // they stay where they are
			return err
		}
		for _, r := range s.ready[:n] {
			s.enqueue(r)
		}
		clear(s.ready[:n])
		s.ready = s.ready[n:]
	}
	s.ready = nil
	return nil
}

// load reads the messages of rows that are not in memory.
func (s *session) load(rows []*row) error {
	var cold []*row
	var names []string
	for _, r := range rows {
		if r.messages == nil {
			cold, names = append(cold, r), append(names, r.name)
		}
	}
	if len(cold) == 0 {
		return nil
	}
	values, err := s.read(names)
	if err != nil {
		return err
	}
	for i, r := range cold {
		if !values[i].Found {
			r.messages = []Message{} // relayed by the holder before us, which was slow
			continue
		}
		r.etag = ""
		if r.slot < 0 {
			r.etag = values[i].ETag
		}
		s.decode(r, values[i].Value)
	}
	return nil
}

// enqueue puts the messages of a row into the lanes of their places.
func (s *session) enqueue(r *row) {
	if r.size > 0 {
		s.o.mu.Lock()
		s.o.hot -= r.size
		s.o.mu.Unlock()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	r.left = len(r.messages)
	for i := range r.messages {
		m := &r.messages[i]
		at := place{m.PubSub, m.Topic}
		l := s.lanes[at]
		if l == nil {
			l = &lane{session: s, place: at, fresh: make(chan struct{}, 1)}
			s.lanes[at] = l
			s.wg.Go(l.run)
		}
		l.push(&queued{Message: *m, row: r})
	}
	s.queued += r.left
}

// published takes over a message that is published. s.mu is held.
func (s *session) published(q *queued) {
	s.queued--
	s.bytes -= len(q.Envelope)
	if q.row.left--; q.row.left == 0 {
		s.finish(q.row)
	}
}

// done lets a row be deleted.
func (s *session) done(r *row) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.finish(r)
}

func (s *session) finish(r *row) {
	s.relayed = append(s.relayed, r)
	select {
	case s.deleted <- struct{}{}:
	default:
	}
}

// maxDeleted is how many rows are deleted at once.
const maxDeleted = 500

// deleteAll deletes the rows that are published, until the session ends.
func (s *session) deleteAll() {
	trouble := firstTrouble
	for {
		s.mu.Lock()
		n := min(maxDeleted, len(s.relayed))
		rows := slices.Clone(s.relayed[:n])
		s.relayed = s.relayed[n:]
		s.busy = n
		s.mu.Unlock()
		if n == 0 {
			select {
			case <-s.ctx.Done():
				return
			case <-s.deleted:
			}
			continue
		}
		for {
			err := s.delete(rows)
			if err == nil {
				trouble = firstTrouble
				break
			}
			select {
			case <-s.ctx.Done():
				return
			case <-time.After(trouble):
			}
			trouble = min(2*trouble, lastTrouble)
		}
	}
}

// delete deletes rows and frees their slots.
func (s *session) delete(rows []*row) error {
	list := make([]Row, len(rows))
	s.o.mu.Lock()
	for i, r := range rows {
		list[i] = Row{Name: r.name, ETag: r.etag}
		if r.slot >= 0 {
			s.o.slots[r.slot].relayed = true
		}
	}
	s.o.mu.Unlock()
	// A deletion goes on when the session ends, lest the rows be published
	// again.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.ctx), callTimeout)
	defer cancel()
	if err := s.o.opts.Store.Delete(ctx, list); err != nil {
		return err
	}
	s.o.mu.Lock()
	for _, r := range rows {
		if r.slot >= 0 {
			s.o.release(r.slot)
		}
	}
	s.o.mu.Unlock()
	s.mu.Lock()
	s.busy = 0
	s.mu.Unlock()
	s.o.nudge()
	return nil
}

func isAborted(err error) bool { return fault.Is(err, fault.Aborted) }
