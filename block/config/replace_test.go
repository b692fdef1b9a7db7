package config_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/proa-io/proa/block/config"
	"github.com/proa-io/proa/fault"
)

func TestSubscriptionsGoOnWithTheStoreThatReplacesTheirs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		one, two := newShaky(t), newShaky(t)
		one.write(t, "a=1", "b=1", "c=1")
		two.write(t, "a=1", "b=2", "d=1") // version 1 of each
		old, next := running(t, one), running(t, two)
		var called, streamed inbox
		id, err := old.Subscribe(t.Context(), config.Query{}, called.take)
		if err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		var streamID string
		go func() {
			ended <- old.Stream(t.Context(), config.Query{}, func(ctx context.Context, u config.Update) error {
				streamID = u.ID
				return streamed.take(ctx, u)
			})
		}()
		synctest.Wait()
		old.Replace(next)
		called.want(t, "b=2", "-c", "d=1")
		streamed.want(t, "b=2", "-c", "d=1")
		one.write(t, "a=9") // the old store no longer counts
		two.write(t, "a=2")
		called.want(t, "a=2")
		streamed.want(t, "a=2")
		if err := next.Unsubscribe(t.Context(), id); err != nil {
			t.Errorf("unsubscribe where the subscription is now: %v", err)
		}
		if err := old.Unsubscribe(t.Context(), streamID); err != nil {
			t.Errorf("unsubscribe by somebody who looked up the old store: %v", err)
		}
		if err := <-ended; err != nil {
			t.Errorf("the stream ended with %v", err)
		}
		two.write(t, "a=3")
		called.want(t)
	})
}

func TestNoChangeIsLostWhenStoresReplaceEachOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newShaky(t) // all stores are on it
		d.write(t, "a=0")
		store, box := running(t, d), inbox{}
		if _, err := store.Subscribe(t.Context(), config.Query{}, box.take); err != nil {
			t.Fatal(err)
		}
		for range 20 {
			next := running(t, d)
			go d.write(t, "a=1", "a=2")
			store.Replace(next)
			store = next
			synctest.Wait()
		}
		d.write(t, "a=3")
		synctest.Wait()
		box.mu.Lock()
		defer box.mu.Unlock()
		if n := len(box.got); n < 2 || box.got[n-1] != "a=3" {
			t.Errorf("the subscriber got %q, want a=3 in the end", box.got)
		}
	})
}

func TestASubscriptionMovesAlsoWhileItsStoreIsDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		one, two := newShaky(t), newShaky(t)
		one.write(t, "a=1")
		two.write(t, "a=1")
		old, next := running(t, one), running(t, two)
		var box inbox
		if _, err := old.Subscribe(t.Context(), config.Query{}, box.take); err != nil {
			t.Fatal(err)
		}
		one.breakDown(outage)
		time.Sleep(time.Minute) // the pauses between tries are long by now
		old.Replace(next)
		two.write(t, "a=2")
		box.want(t, "a=2")
	})
}

func TestSubscriptionsEndWhenTheStoreIsRemoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, box := newShaky(t), inbox{}
		s := running(t, d)
		if _, err := s.Subscribe(t.Context(), config.Query{}, box.take); err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- s.Stream(t.Context(), config.Query{}, box.take) }()
		synctest.Wait()
		s.Replace(nil)
		if err := <-ended; !fault.Is(err, fault.NotFound) || fault.ReasonOf(err) != config.ReasonNoStore {
			t.Errorf("the stream ended with %v", err)
		}
		d.write(t, "a=1")
		box.want(t)
		if _, err := s.Subscribe(t.Context(), config.Query{}, box.take); !fault.Is(err, fault.NotFound) {
			t.Errorf("a late Subscribe: %v", err)
		}
		if err := s.Stream(t.Context(), config.Query{}, box.take); !fault.Is(err, fault.NotFound) {
			t.Errorf("a late Stream: %v", err)
		}
		if err := s.Unsubscribe(t.Context(), "x"); !fault.Is(err, fault.NotFound) {
			t.Errorf("a late Unsubscribe: %v", err)
		}
	})
}
