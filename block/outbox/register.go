package outbox

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"math/rand/v2"
	"slices"
	"strconv"
	"time"

	"github.com/proa-io/proa/fault"
)

// Names of rows.
const (
	registerName = "register"
	leaseName    = "lease"
)

func (o *Outbox) rowName(n int) string { return rowOf(o.id, n) }

func rowOf(writer string, n int) string { return writer + "-" + strconv.Itoa(n) }

func bellOf(writer string) string { return writer + "-bell" }

// Timing of the register. A writer that forgetAfter has passed since it was
// last heard of, and that has no rows, is struck off. Until then it may write
// rows, so it makes itself heard every heardEvery, and stops to write without
// that after knownFor.
const (
	heardEvery  = 2 * time.Minute
	knownFor    = 5 * time.Minute
	forgetAfter = 15 * time.Minute
)

// register lists the writers. It is kept as JSON.
type register struct {
	Writers map[string]member `json:"writers"`
}

// member is one writer.
type member struct {
	// Slots is how many numbers the rows of the writer have: below it.
	Slots int `json:"slots"`
	// Heard grows while the writer lives.
	Heard int64 `json:"heard"`
}

func decodeRegister(r Row) (register, error) {
	reg := register{Writers: map[string]member{}}
	if !r.Found {
		return reg, nil
	}
	if err := json.Unmarshal(r.Value, &reg); err != nil {
		return reg, fault.Wrap(err, fault.Internal, "the register of the outbox cannot be read")
	}
	for id, m := range reg.Writers {
		if m.Slots < 0 || m.Slots > maxSlots {
			return reg, fault.New(fault.Internal, "the register of the outbox says that writer %q has %d rows", id, m.Slots)
		}
	}
	return reg, nil
}

// amend changes the register. change is called with what there is, perhaps more
// than once, and returns false when there is nothing to change.
func (o *Outbox) amend(ctx context.Context, change func(map[string]member) bool) error {
	const tries, pause = 20, 10 * time.Millisecond
	for n := 1; ; n++ {
		rows, err := o.opts.Store.Read(ctx, []string{registerName})
		if err != nil {
			return err
		}
		reg, err := decodeRegister(rows[0])
		if err != nil {
			return err
		}
		if reg.Writers == nil {
			reg.Writers = map[string]member{}
		}
		if !change(reg.Writers) {
			return nil
		}
		value, err := json.Marshal(reg)
		if err != nil {
			return fault.Wrap(err, fault.Internal, "the register of the outbox cannot be written")
		}
		_, err = o.opts.Store.Write(ctx, registerName, value, rows[0].ETag)
		if err == nil || !fault.Is(err, fault.Aborted) || n == tries {
			return err
		}
		select { // another process was faster
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(rand.N(time.Duration(n) * pause)): //nolint:gosec // chance needs no secrecy here
		}
	}
}

// enroll puts this process into the register with so many numbers, and makes it
// heard.
func (o *Outbox) enroll(ctx context.Context, slots int) error {
	err := o.amend(ctx, func(writers map[string]member) bool {
		m := writers[o.id]
		m.Slots, m.Heard = max(m.Slots, slots), m.Heard+1
		writers[o.id] = m
		return true
	})
	if err != nil {
		return fault.Wrap(err, fault.CodeOf(err), "preparing the outbox")
	}
	return nil
}

// stayKnown makes this process heard once it is in the register, until ctx
// ends.
func (o *Outbox) stayKnown(ctx context.Context) {
	tick := time.NewTicker(heardEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		o.mu.Lock()
		slots := len(o.slots)
		o.mu.Unlock()
		if slots == 0 {
			continue
		}
		cctx, cancel := context.WithTimeout(ctx, callTimeout)
		if o.enroll(cctx, slots) == nil { // if not, Begin does it in time
			o.mu.Lock()
			o.known = time.Now()
			o.mu.Unlock()
		}
		cancel()
	}
}

// leave strikes this process off, unless rows of it are or may come to be in
// the store.
func (o *Outbox) leave(ctx context.Context) {
	o.mu.Lock()
	clean := len(o.free) == len(o.slots)
	used := len(o.slots) > 0
	if clean {
		o.slots, o.free = nil, nil // a transaction that comes now enrolls anew
	}
	o.mu.Unlock()
	if !clean || !used {
		return
	}
	err := o.amend(ctx, func(writers map[string]member) bool {
		o.mu.Lock()
		defer o.mu.Unlock()
		_, there := writers[o.id]
		delete(writers, o.id)
		return there && len(o.slots) == 0
	})
	if err == nil {
		_ = o.opts.Store.Delete(ctx, []Row{{Name: bellOf(o.id)}}) // it does no harm
	}
}

// memory is what a process remembers of other writers.
type memory map[string]*acquaintance

type acquaintance struct {
	heard int64
	since time.Time // when heard was first seen
}

// update takes over a register, and returns the other writers.
func (m memory) update(writers map[string]member, self string, now time.Time) map[string]member {
	others := make(map[string]member, len(writers))
	for id, w := range writers {
		if id == self {
			continue
		}
		others[id] = w
		if a := m[id]; a == nil || a.heard != w.Heard {
			m[id] = &acquaintance{w.Heard, now}
		}
	}
	for id := range m {
		if _, there := others[id]; !there {
			delete(m, id)
		}
	}
	return others
}

// silent reports whether a writer was not heard of for so long that it cannot
// write any more.
func (m memory) silent(id string, now time.Time) bool {
	a := m[id]
	return a != nil && now.Sub(a.since) > forgetAfter
}

// forget strikes off a writer that is silent and has no rows.
func (o *Outbox) forget(ctx context.Context, id string) error {
	heard := o.members[id].heard
	err := o.amend(ctx, func(writers map[string]member) bool {
		m, there := writers[id]
		if !there || m.Heard != heard {
			return false
		}
		delete(writers, id)
		return true
	})
	if err == nil {
		err = o.opts.Store.Delete(ctx, []Row{{Name: bellOf(id)}})
	}
	return err
}

// bell tells the relay in another process what there is to relay. Calls that
// come together ring once.
type bell struct {
	wanted, done int
	busy         chan struct{} // closed when the present ring is over; nil for none
	seq          int64         // counts what was committed
	recent       []commit      // the last ones, oldest first
}

// commit is one row that was stored.
type commit struct {
	slot  int
	stamp int64
}

// maxRung bounds how many rows a ring names.
const maxRung = 512

// note remembers a row that was stored.
func (b *bell) note(c commit) {
	b.seq++
	if len(b.recent) == 2*maxRung {
		b.recent = slices.Delete(b.recent, 0, maxRung)
	}
	b.recent = append(b.recent, c)
}

// ringTimeout bounds how long the answer to a transaction may wait for the
// bell.
const ringTimeout = time.Second

// ring writes the bell, after what was committed before the call. That it
// cannot does no harm: the relay finds the rows later.
func (o *Outbox) ring(ctx context.Context) {
	o.mu.Lock()
	o.bell.wanted++
	o.mu.Unlock()
	o.ringAgain(ctx)
}

// ringAgain writes the bell unless that has been done since it was last asked
// for.
func (o *Outbox) ringAgain(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), ringTimeout)
	defer cancel()
	o.mu.Lock()
	defer o.mu.Unlock()
	for mine := o.bell.wanted; o.bell.done < mine && ctx.Err() == nil; {
		if busy := o.bell.busy; busy != nil {
			o.mu.Unlock()
			select {
			case <-busy:
			case <-ctx.Done():
			}
			o.mu.Lock()
			continue
		}
		busy, upTo, value := make(chan struct{}), o.bell.wanted, o.rung()
		o.bell.busy = busy
		o.mu.Unlock()
		err := o.opts.Store.Put(ctx, bellOf(o.id), value)
		o.mu.Lock()
		o.bell.busy = nil
		close(busy)
		if err != nil {
			return
		}
		o.bell.done = upTo
	}
}

// rung is the value of the bell: a version byte and varints. These are how many
// numbers the writer uses, how many rows it has stored so far, how many of the
// last of them are considered here, and the number and time stamp of each of
// those that is still there. o.mu is held.
func (o *Outbox) rung() []byte {
	recent := o.bell.recent[max(0, len(o.bell.recent)-maxRung):]
	b := []byte{rowVersion}
	b = binary.AppendVarint(b, int64(len(o.slots)))
	b = binary.AppendVarint(b, o.bell.seq)
	b = binary.AppendVarint(b, int64(len(recent)))
	for _, c := range recent {
		if s := &o.slots[c.slot]; s.state == slotStored && s.stamp == c.stamp && !s.relayed {
			b = binary.AppendVarint(b, int64(c.slot))
			b = binary.AppendVarint(b, c.stamp)
		}
	}
	return b
}

// heardBell is what a bell says.
type heardBell struct {
	slots int
	// seq is how many rows the writer has stored, and since how many of these
	// rows says nothing about.
	seq, since int64
	rows       map[string]int64 // time stamps by name
}

// hear reads a bell. It returns false for one that cannot be read.
func hear(value []byte, writer string) (heardBell, bool) {
	d := decoder{rest: value}
	if d.byte() != rowVersion {
		return heardBell{}, false
	}
	h := heardBell{slots: int(d.varint()), seq: d.varint(), rows: map[string]int64{}}
	h.since = h.seq - d.varint()
	for len(d.rest) > 0 && !d.bad {
		n, stamp := d.varint(), d.varint()
		if n < 0 || n >= maxSlots {
			return h, false
		}
		h.rows[rowOf(writer, int(n))] = stamp
	}
	return h, !d.bad && h.slots >= 0 && h.slots <= maxSlots
}
