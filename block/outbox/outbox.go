// Package outbox publishes what a transaction of a state store says, exactly
// when the transaction has happened.
//
// A transaction writes, beside its items, one row with all it publishes: see
// [Outbox.Begin]. The row is there if and only if the transaction has happened.
// A relay, [Outbox.Run], publishes the rows in batches, in order, and deletes
// them. What it was about to do when the process dies, the next relay does,
// with the same event ids: nothing is lost, nothing is published of a
// transaction that did not happen, and only the death of a process or a store
// or broker that does not answer makes an event come twice.
//
// # Order
//
// Events with the same key come in the order of the transactions, when each
// began after the one before had been answered; also when they went through
// several processes, as far as the clocks of these agree. For that one process
// at a time relays for all: it has the lease, takes rows of its own from memory
// and finds those of others, also of processes that have died, in the store.
//
// # Rows without a list
//
// Nothing here lists keys, which many stores cannot do and others do by reading
// all they have. Every process, a writer, numbers its rows with the lowest
// number that is free and says in the register how many numbers it uses. So all
// rows there can be are known by name.
//
// In the space that [Store] gives it, an outbox keeps:
//
//	register        the writers and how many numbers each uses
//	lease           which process relays
//	<writer>-<n>    row n of a writer
//	<writer>-bell   which rows a writer wants to be relayed, for another process
package outbox

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/proa-io/proa/fault"
)

// Store is where an outbox keeps its rows: a part of the state store that the
// transactions are in, which applications cannot see. Reads see every write
// that was acknowledged.
type Store interface {
	// Read returns one row for each name, in the order of the names.
	Read(ctx context.Context, names []string) ([]Row, error)
	// Write stores a row if the present one has the given etag or, when that is
	// empty, if there is none; else it fails with Aborted. It returns the new
	// etag, or "" when the store does not tell.
	Write(ctx context.Context, name string, value []byte, etag string) (string, error)
	// Put stores a row whatever there is.
	Put(ctx context.Context, name string, value []byte) error
	// Delete removes rows. One with an etag that is not the present one's is
	// left alone, and that is no error. Only Name and ETag count.
	Delete(ctx context.Context, rows []Row) error
}

// Row is one row in a Store.
type Row struct {
	Name  string
	Value []byte
	ETag  string
	Found bool
}

// Publisher is what an outbox needs of the pub/sub components.
type Publisher interface {
	// Check says why events can never be published to a topic: there is no such
	// component, or the application may not use the topic.
	Check(pubsub, topic string) error
	// Envelope returns e as it is published.
	Envelope(e *Event, t Trace) []byte
	// Publish publishes messages of one topic, in order as far as they have the
	// same key, and returns one error for each, nil where it succeeded.
	Publish(ctx context.Context, pubsub, topic string, messages []Message) []error
}

// Trace is the W3C trace context of a transaction.
type Trace struct{ Parent, State string }

// Options describe one outbox.
type Options struct {
	Store     Store
	Publisher Publisher
	// PubSub and Topic are where the event of an operation goes that does not
	// say otherwise.
	PubSub, Topic string
	// Grace is how long Run goes on publishing what is left once its context
	// has ended; 3 s when zero.
	Grace time.Duration
	// Log receives what keeps events from being published, and names the
	// component already; nil discards.
	Log *slog.Logger
}

// Outbox is the outbox of one state component. It is safe for concurrent use.
type Outbox struct {
	opts Options
	log  *slog.Logger
	id   string // of this process, as a writer and as a relay
	keys keyLocks
	wake chan struct{} // has room for one: something has happened that Run should look at

	mu      sync.Mutex // guards what follows
	slots   []slot
	free    []int         // the slots that are free; those with low numbers last
	growing chan struct{} // closed when the present change of the register is over; nil for none
	known   time.Time     // when the register was last known to have this writer
	stamp   int64         // the last one given
	stored  int           // how many slots are stored
	doubted int           // how many are in doubt
	holding bool          // this process has the lease and has seen what there is
	ready   []*row        // committed since, oldest first
	hot     int           // bytes in ready and with the relay that wait for a lane
	bell    bell

	// What follows belongs to Run.
	lease   leaseView
	members memory
	said    string // the last trouble that was logged
}

// slot is the place of one row of this writer.
type slot struct {
	state   slotState
	stamp   int64
	since   time.Time // when it came into doubt
	relayed bool      // published, but perhaps not deleted yet
}

type slotState uint8

const (
	slotFree   slotState = iota
	slotBusy             // a transaction is under way
	slotStored           // the row is in the store, as far as is known
	slotDoubt            // nobody knows: the store did not answer
)

// Bounds.
const (
	// firstSlots is how many numbers a writer begins with, and maxSlots how
	// many it can have: as many transactions may wait to be published.
	firstSlots = 64
	maxSlots   = 1 << 20
	// maxHot bounds the bytes of rows that are kept in memory until a lane
	// takes them; the others are read from the store when their turn comes.
	maxHot = 32 << 20
	// doubtTime is how long a transaction without an answer may still happen.
	doubtTime = 30 * time.Minute
)

// New returns an outbox. Nothing is published before Run.
func New(o Options) *Outbox {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Grace == 0 {
		o.Grace = 3 * time.Second
	}
	return &Outbox{
		opts: o, log: o.Log, id: newID(), keys: keyLocks{held: map[string]chan struct{}{}},
		wake: make(chan struct{}, 1), members: memory{},
	}
}

// Outcome is what became of a transaction.
type Outcome uint8

// The outcomes.
const (
	Committed Outcome = iota // it has happened
	Aborted                  // it has not and will not
	InDoubt                  // nobody knows
)

// Transaction is what an outbox makes of one. End must be called.
type Transaction struct {
	// Keep tells which operations are to be carried out, in this order.
	Keep []int
	// Row is the name of the row to be written with them, and Value what it
	// holds; empty when nothing is published.
	Row   string
	Value []byte

	outbox   *Outbox
	slot     int
	stamp    int64
	keys     []string
	messages []Message
}

// Begin looks at a transaction before it is carried out. It fails when what it
// says cannot be published at all. metadata is that of the transaction as a
// whole.
//
// Transactions that publish events with the same key wait for each other here,
// so that their events have the order in which they happen.
func (o *Outbox) Begin(ctx context.Context, ops []Operation, metadata map[string]string, trace Trace) (*Transaction, error) {
	p, err := o.newPlan(ops, metadata)
	if err != nil {
		return nil, err
	}
	t := &Transaction{Keep: p.keep, outbox: o}
	if len(p.events) == 0 {
		return t, nil
	}
	t.messages = make([]Message, len(p.events))
	for i := range p.events {
		e := &p.events[i]
		t.messages[i] = Message{PubSub: e.PubSub, Topic: e.Topic, Key: e.Key, ID: e.ID, Envelope: o.opts.Publisher.Envelope(e, trace)}
		t.keys = append(t.keys, e.Key)
	}
	slices.Sort(t.keys)
	t.keys = slices.Compact(t.keys)
	if err := o.keys.lock(ctx, t.keys); err != nil {
		return nil, err
	}
	if t.slot, t.stamp, err = o.allocate(ctx); err != nil {
		o.keys.unlock(t.keys)
		return nil, err
	}
	t.Row, t.Value = o.rowName(t.slot), encodeRow(t.stamp, t.messages)
	return t, nil
}

// End tells what became of the transaction.
func (t *Transaction) End(ctx context.Context, outcome Outcome) {
	if t.Row == "" {
		return
	}
	ring := t.outbox.settle(t, outcome)
	t.outbox.keys.unlock(t.keys)
	if ring {
		// The caller must not hear of the transaction before the relay can: it
		// may go on with another one through that process.
		t.outbox.ring(ctx)
	}
}

// settle takes over a transaction that has ended, and reports whether another
// process should hear of it.
func (o *Outbox) settle(t *Transaction, outcome Outcome) (ring bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	s := &o.slots[t.slot]
	switch outcome {
	case Aborted:
		o.release(t.slot)
		return false
	case InDoubt:
		*s = slot{state: slotDoubt, stamp: t.stamp, since: time.Now()}
		o.doubted++
		o.nudge()
		return false
	}
	o.keep(t.slot, t.stamp)
	o.nudge()
	if !o.holding {
		return true
	}
	r := &row{name: t.Row, slot: t.slot, stamp: t.stamp}
	if o.hot+len(t.Value) <= maxHot {
		r.messages, r.size = t.messages, len(t.Value)
		o.hot += r.size
	}
	o.ready = append(o.ready, r)
	return false
}

// keep marks a slot as stored. o.mu is held.
func (o *Outbox) keep(n int, stamp int64) {
	o.slots[n] = slot{state: slotStored, stamp: stamp}
	o.stored++
	o.bell.note(commit{n, stamp})
}

// release makes a slot free. o.mu is held.
func (o *Outbox) release(n int) {
	switch o.slots[n].state {
	case slotStored:
		o.stored--
	case slotDoubt:
		o.doubted--
	case slotFree:
		return
	case slotBusy:
	}
	o.slots[n] = slot{}
	o.free = append(o.free, n)
}

// nudge makes Run look.
func (o *Outbox) nudge() {
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

// allocate returns a free slot, which is busy from then on, and a time stamp
// that is greater than all before.
func (o *Outbox) allocate(ctx context.Context) (n int, stamp int64, err error) {
	for {
		o.mu.Lock()
		if len(o.free) > 0 && time.Since(o.known) < knownFor {
			n = o.free[len(o.free)-1]
			o.free = o.free[:len(o.free)-1]
			o.stamp = max(time.Now().UnixMicro(), o.stamp+1)
			o.slots[n] = slot{state: slotBusy, stamp: o.stamp}
			stamp = o.stamp
			o.mu.Unlock()
			return n, stamp, nil
		}
		wait := o.growing
		if wait == nil {
			o.growing = make(chan struct{})
		}
		o.mu.Unlock()
		if wait == nil {
			if err := o.grow(ctx); err != nil {
				return 0, 0, err
			}
			continue
		}
		select {
		case <-wait:
		case <-ctx.Done():
			return 0, 0, ctx.Err()
		}
	}
}

// grow says in the register that this process writes rows, and how many at
// most: more than now when none is free.
func (o *Outbox) grow(ctx context.Context) error {
	o.mu.Lock()
	size := len(o.slots)
	if len(o.free) == 0 {
		size = max(firstSlots, 2*size)
	}
	o.mu.Unlock()
	var err error
	if size > maxSlots {
		err = fault.New(fault.ResourceExhausted, "%d transactions wait to be published, and the outbox takes no more until some are", maxSlots)
	} else {
		err = o.enroll(ctx, size)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if err == nil {
		for n := size - 1; n >= len(o.slots); n-- {
			o.free = append(o.free, n)
		}
		o.slots = append(o.slots, make([]slot, size-len(o.slots))...)
		o.known = time.Now()
	}
	close(o.growing)
	o.growing = nil
	return err
}
