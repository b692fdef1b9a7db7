package statetest

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/proa-io/proa/block/state"
	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/internal/fastloop"
	"github.com/proa-io/proa/internal/faultnet"
)

// OpenAt opens a driver on the server at addr ("127.0.0.1:port"), as
// component.Handle would: it returns what opening returned. The suite closes
// the driver.
type OpenAt func(ctx context.Context, t *testing.T, addr string) (state.Driver, error)

// RunBadNetwork proves that a driver of the server at upstream survives a bad
// network: every call ends within its deadline with Unavailable or
// DeadlineExceeded, no answer is taken for another one's, and all is well again
// when the network is.
func RunBadNetwork(t *testing.T, upstream string, open OpenAt) {
	fastloop.Skip(t, "waits for networks to fail and heal")
	for _, f := range []struct {
		name string
		set  func(*faultnet.Proxy)
	}{
		{"Refuse", (*faultnet.Proxy).Refuse},
		{"Reset", (*faultnet.Proxy).Reset},
		{"Stall", func(p *faultnet.Proxy) { p.Stall() }},
		{"StalledAnswers", func(p *faultnet.Proxy) { p.Stall(faultnet.Downstream) }},
		{"Blackhole", func(p *faultnet.Proxy) { p.Blackhole() }},
		{"LostAnswers", func(p *faultnet.Proxy) { p.Blackhole(faultnet.Downstream) }},
	} {
		n := badNetwork{open: open, upstream: upstream, set: f.set}
		t.Run(f.name+"/EveryCallFailsInTimeAndRecovers", n.failsAndRecovers)
		t.Run(f.name+"/OpeningFailsInTime", n.openingFails)
	}
	n := badNetwork{open: open, upstream: upstream}
	t.Run("Stall/CancelEndsACall", n.cancelEnds)
	t.Run("Stall/AnswersAreNotMixedUp", n.notMixedUp)
	t.Run("Cut/HalfAnAnswerIsNone", n.cutAnswers)
	t.Run("Reset/AWatchEndsAndAnotherGoesOn", n.watchEnds)
}

type badNetwork struct {
	open     OpenAt
	upstream string
	set      func(*faultnet.Proxy)
}

const (
	// patience is the deadline of calls that cannot succeed.
	patience = 150 * time.Millisecond
	// hang is when a call counts as not coming back, so much later than its
	// deadline that no slow machine is to blame.
	hang = 20 * time.Second
)

// through opens a driver behind a proxy that forwards.
func (n badNetwork) through(t *testing.T) (*faultnet.Proxy, state.Driver) {
	t.Helper()
	p := faultnet.New(t, n.upstream)
	d, err := n.open(t.Context(), t, p.Addr())
	if err != nil {
		t.Fatalf("opening through a network without fault: %v", err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return p, d
}

// bounded runs f with a deadline and fails the test if it does not come back.
func bounded(t *testing.T, what string, within time.Duration, f func(ctx context.Context) error) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- f(ctx) }()
	select {
	case err := <-done:
		return err
	case <-time.After(within + hang):
		t.Fatalf("%s hangs: it had %v and did not come back within %v more", what, within, hang)
		return nil
	}
}

func unreachable(err error) bool {
	return fault.Is(err, fault.Unavailable) || fault.Is(err, fault.DeadlineExceeded)
}

func (n badNetwork) failsAndRecovers(t *testing.T) {
	p, d := n.through(t)
	put(t, d, "before", "value", state.PutOptions{})
	all := able(t, d)
	n.set(p)
	for _, c := range all {
		err := bounded(t, c.name, patience, func(ctx context.Context) error { return c.do(ctx, d) })
		if !unreachable(err) {
			t.Errorf("%s: %v, want unavailable or deadline_exceeded", c.name, err)
		}
	}
	p.Heal()
	recovered(t, d)
	wantValue(t, d, "before", "value")
}

// recovered waits until a driver serves again, and then expects it to go on
// doing so.
func recovered(t *testing.T, d state.Driver) {
	t.Helper()
	eventually(t, "recovery of the driver", 30*time.Second, func() bool {
		err := bounded(t, "Put", 2*time.Second, func(ctx context.Context) error {
			_, err := d.Put(ctx, "after", []byte("value"), state.PutOptions{})
			return err
		})
		if err != nil && !unreachable(err) {
			t.Fatalf("Put after the fault: %v", err)
		}
		return err == nil
	})
	eventually(t, "reads after recovery", 30*time.Second, func() bool {
		var item state.Item
		err := bounded(t, "Get", 2*time.Second, func(ctx context.Context) (err error) {
			item, _, err = d.Get(ctx, "after", strong())
			return err
		})
		if err != nil && !unreachable(err) {
			t.Fatalf("Get after the fault: %v", err)
		}
		return err == nil && string(item.Value) == "value"
	})
}

func (n badNetwork) openingFails(t *testing.T) {
	p := faultnet.New(t, n.upstream)
	n.set(p)
	err := bounded(t, "opening", patience, func(ctx context.Context) error {
		d, err := n.open(ctx, t, p.Addr())
		if err == nil {
			_ = d.Close()
		}
		return err
	})
	if !unreachable(err) {
		t.Errorf("opening: %v, want unavailable or deadline_exceeded", err)
	}
}

func (n badNetwork) cancelEnds(t *testing.T) {
	p, d := n.through(t)
	put(t, d, "k", "v", state.PutOptions{})
	all := able(t, d)
	p.Stall()
	for _, c := range all {
		err := bounded(t, c.name, time.Minute, func(ctx context.Context) error {
			ctx, cancel := context.WithCancel(ctx)
			defer time.AfterFunc(patience/5, cancel).Stop()
			return c.do(ctx, d)
		})
		if !fault.Is(err, fault.Canceled) {
			t.Errorf("%s, canceled: %v, want canceled", c.name, err)
		}
	}
}

// notMixedUp gives up on many reads whose answers are on their way, and then
// expects every later read to get its own answer.
func (n badNetwork) notMixedUp(t *testing.T) {
	p, d := n.through(t)
	const items = 20
	for i := range items {
		put(t, d, fmt.Sprint("k", i), fmt.Sprint("value ", i), state.PutOptions{})
	}
	for range 3 {
		p.Stall(faultnet.Downstream)
		for i := range items / 4 {
			err := bounded(t, "Get", patience/5, func(ctx context.Context) error {
				_, _, err := d.Get(ctx, fmt.Sprint("k", i), strong())
				return err
			})
			if !unreachable(err) {
				t.Fatalf("Get while answers stall: %v", err)
			}
		}
		p.Heal()
		recovered(t, d)
		for i := range items {
			wantValue(t, d, fmt.Sprint("k", i), fmt.Sprint("value ", i))
		}
	}
}

func (n badNetwork) cutAnswers(t *testing.T) {
	p, d := n.through(t)
	value := make([]byte, 100_000)
	put(t, d, "k", string(value), state.PutOptions{})
	p.CutAfter(faultnet.Downstream, 1000)
	err := bounded(t, "Get", 10*time.Second, func(ctx context.Context) error {
		item, found, err := d.Get(ctx, "k", strong())
		if err == nil {
			t.Errorf("Get of half an answer: %d bytes, found %v", len(item.Value), found)
		}
		return err
	})
	if err != nil && !unreachable(err) {
		t.Errorf("Get of half an answer: %v, want unavailable", err)
	}
	p.Heal()
	recovered(t, d)
	wantValue(t, d, "k", string(value))
}

// watchEnds breaks the connection of a watch, which must not go on as if nothing
// had happened.
func (n badNetwork) watchEnds(t *testing.T) {
	p, d := n.through(t)
	w := watch(t, d, "after", state.WatchOptions{})
	last := w.synced().Revision
	p.Reset()
	if err := w.ended(); !unreachable(err) {
		t.Errorf("the watch ended with %v, want unavailable", err)
	}
	p.Heal()
	recovered(t, d) // it writes
	opt := state.WatchOptions{After: last}
	if last == "" {
		opt = state.WatchOptions{Initial: true}
	}
	again := watch(t, d, "after", opt)
	again.put(d, "after", "value")
}
