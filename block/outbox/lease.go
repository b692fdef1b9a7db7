package outbox

import (
	"context"
	"encoding/json"
	"sync"
	"time"

	"github.com/proa-io/proa/fault"
)

// Timing of the lease. The clocks of other machines do not count: a lease that
// nobody renews while this process watches it for leaseTime is over. A holder
// that could not renew it for mustRenew stops by itself before that.
const (
	leaseTime  = 4 * time.Second
	renewEvery = time.Second
	mustRenew  = 3 * time.Second
	// callTimeout bounds one call of the store.
	callTimeout = 2 * time.Second
)

// leaseValue is what the lease's row holds, as JSON.
type leaseValue struct {
	// Holder is the id of the process that relays; "" for none.
	Holder string `json:"holder"`
	// Turn grows with every change.
	Turn int64 `json:"turn"`
}

// leaseView is what this process knows of the lease.
type leaseView struct {
	row   Row
	value leaseValue
	since time.Time // when it was first seen like this
}

// look takes over a row that was read.
func (v *leaseView) look(r Row, now time.Time) error {
	var value leaseValue
	if r.Found {
		if err := json.Unmarshal(r.Value, &value); err != nil {
			return fault.Wrap(err, fault.Internal, "the lease of the outbox cannot be read")
		}
	}
	if value != v.value || v.since.IsZero() {
		v.since = now
	}
	v.row, v.value = r, value
	return nil
}

// open reports whether this process may take the lease.
func (v *leaseView) open(self string, now time.Time) bool {
	return v.value.Holder == "" || v.value.Holder == self || now.Sub(v.since) >= leaseTime
}

// left returns how long the present holder may still stay silent.
func (v *leaseView) left(now time.Time) time.Duration { return max(0, leaseTime-now.Sub(v.since)) }

// claim writes the lease, if it is still as it was seen.
func (o *Outbox) claim(ctx context.Context, holder string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	next := leaseValue{Holder: holder, Turn: o.lease.value.Turn + 1}
	value, err := json.Marshal(next)
	if err != nil {
		return fault.Wrap(err, fault.Internal, "the lease of the outbox cannot be written")
	}
	began := time.Now()
	etag, err := o.opts.Store.Write(ctx, leaseName, value, o.lease.row.ETag)
	if err != nil {
		return err
	}
	if etag == "" { // the store does not tell
		rows, err := o.opts.Store.Read(ctx, []string{leaseName})
		if err != nil {
			return err
		}
		if err := o.lease.look(rows[0], began); err != nil {
			return err
		}
		if o.lease.value != next {
			return fault.New(fault.Aborted, "another process has taken the lease of the outbox")
		}
		return nil
	}
	o.lease = leaseView{row: Row{Name: leaseName, Value: value, ETag: etag, Found: true}, value: next, since: began}
	return nil
}

// renewal keeps the lease while a session lasts.
type renewal struct {
	cancel context.CancelFunc
	done   sync.WaitGroup
}

// hold renews the lease until end is called, and calls lost when it cannot.
// Nobody else may use o.lease meanwhile.
func (o *Outbox) hold(ctx context.Context, lost func()) *renewal {
	ctx, cancel := context.WithCancel(ctx)
	r := &renewal{cancel: cancel}
	r.done.Go(func() {
		tick := time.NewTicker(renewEvery)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			err := o.claim(ctx, o.id)
			switch {
			case err == nil:
			case ctx.Err() != nil:
				return
			case fault.Is(err, fault.Aborted) && !o.stillMine(ctx), time.Since(o.lease.since) > mustRenew:
				lost()
				return
			}
		}
	})
	return r
}

// stillMine looks who has the lease after a write of it has failed: perhaps an
// earlier one that got no answer has happened.
func (o *Outbox) stillMine(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	rows, err := o.opts.Store.Read(ctx, []string{leaseName})
	if err != nil {
		return true // nobody knows; the time decides
	}
	before := o.lease.since
	if o.lease.look(rows[0], time.Now()) != nil || o.lease.value.Holder != o.id {
		return false
	}
	o.lease.since = before
	return true
}

// yield gives the lease back. If that fails the others wait until it is over.
func (o *Outbox) yield(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	err := o.claim(ctx, "")
	// The last renewal may have happened though nobody waited for its answer.
	if fault.Is(err, fault.Aborted) && o.stillMine(ctx) {
		_ = o.claim(ctx, "")
	}
}

func (r *renewal) end() {
	r.cancel()
	r.done.Wait()
}
