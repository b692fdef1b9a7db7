package pubsub_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/proa-io/proa/block/pubsub"
	"github.com/proa-io/proa/fault"
)

func TestSubscriptionsMoveToTheBrokerThatReplacesTheirs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &app{answer: func(context.Context, int, *pubsub.Event) (pubsub.Status, error) {
			time.Sleep(20 * time.Millisecond)
			return pubsub.Success, nil
		}}
		brokers := []*pubsub.Broker{newBroker(t, openMemory(t), pubsub.Options{})}
		stop := start(t, brokers[0], pubsub.SubscriptionSpec{Topic: "t"}, a)
		synctest.Wait()
		var want []string
		for round := range 5 {
			old := brokers[round]
			for i := range 20 { // more than is delivered before the change
				text := fmt.Sprint(round, "-", i)
				publish(t, old, "t", text, nil)
				want = append(want, strconv.Quote(text))
			}
			next := newBroker(t, openMemory(t), pubsub.Options{})
			old.Replace(next)
			brokers = append(brokers, next)
			publish(t, old, "t", fmt.Sprint(round, "-late"), nil) // by a call that was under way
			want = append(want, strconv.Quote(fmt.Sprint(round, "-late")))
			old.Drain(t.Context())
			publish(t, next, "t", fmt.Sprint(round, "-next"), nil)
			want = append(want, strconv.Quote(fmt.Sprint(round, "-next")))
		}
		time.Sleep(time.Minute)
		got := a.payloads()
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("delivered %q, want %q", got, want)
		}
		stop()
	})
}

func TestASubscriptionThatIsLateStopsAtEachBroker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &app{}
		line := []*pubsub.Broker{newBroker(t, openMemory(t), pubsub.Options{})}
		stop := start(t, line[0], pubsub.SubscriptionSpec{Topic: "t"}, a)
		synctest.Wait()
		var drained sync.WaitGroup
		var want []string
		for n := range 5 { // the subscription has no time to move in between
			next := newBroker(t, openMemory(t), pubsub.Options{})
			line[n].Replace(next)
			publish(t, next, "t", fmt.Sprint("number ", n), nil)
			want = append(want, strconv.Quote(fmt.Sprint("number ", n)))
			line = append(line, next)
		}
		for _, old := range line[:5] {
			drained.Go(func() { old.Drain(t.Context()) })
		}
		drained.Wait()
		time.Sleep(time.Minute)
		got := a.payloads()
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("delivered %q, want %q", got, want)
		}
		stop()
	})
}

func TestNobodyWaitsForASubscriptionThatEndsBeforeItMoves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first, second, third := newBroker(t, openMemory(t), pubsub.Options{}), newBroker(t, openMemory(t), pubsub.Options{}),
			newBroker(t, openMemory(t), pubsub.Options{})
		stop := start(t, first, pubsub.SubscriptionSpec{Topic: "t"}, &app{})
		synctest.Wait()
		first.Replace(second)
		second.Replace(third)
		stop()
		third.Replace(nil)
		for _, b := range []*pubsub.Broker{first, second, third} {
			b.Drain(t.Context())
		}
	})
}

func TestABrokerUnderLoadIsDrainedWhenItsTimeIsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		old, next := newBroker(t, openMemory(t), pubsub.Options{}), newBroker(t, openMemory(t), pubsub.Options{})
		start(t, old, pubsub.SubscriptionSpec{Topic: "t"}, &app{})
		synctest.Wait()
		old.Replace(next)
		ctx, cancel := context.WithCancel(t.Context())
		var publishing sync.WaitGroup
		publishing.Go(func() {
			for ctx.Err() == nil {
				publish(t, old, "t", "1", nil)
				time.Sleep(100 * time.Millisecond)
			}
		})
		by, late := context.WithTimeout(t.Context(), 3*time.Second)
		defer late()
		began := time.Now()
		old.Drain(by)
		if took := time.Since(began); took < 3*time.Second || took > 4*time.Second {
			t.Errorf("drained after %v", took)
		}
		cancel()
		publishing.Wait()
	})
}

func TestAStreamGoesOnWithTheBrokerThatReplacesItsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		old, next := newBroker(t, openMemory(t), pubsub.Options{}), newBroker(t, openMemory(t), pubsub.Options{})
		c := newClient()
		startStream(t, old, pubsub.SubscriptionSpec{Topic: "t"}, c.Stream)
		publish(t, old, "t", "1", withID("before"))
		synctest.Wait()
		old.Replace(next)
		publish(t, next, "t", "2", withID("after"))
		go old.Drain(t.Context())
		synctest.Wait()
		if got := c.ids(); !slices.Equal(got, []string{"before", "after"}) {
			t.Fatalf("%q are out", got)
		}
		time.Sleep(time.Second)
		// What came by the old broker can still be settled there.
		if !c.Settle("before", pubsub.Success) || !c.Settle("after", pubsub.Success) {
			t.Error("an event that is out could not be settled")
		}
		time.Sleep(time.Hour)
		if got := c.ids(); len(got) != 2 {
			t.Errorf("%q were sent, want each once", got)
		}
	})
}

func TestASubscriptionEndsWhenItsBrokerIsRemovedOrRefusesIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, c := range []struct {
			next *pubsub.Broker
			code fault.Code
		}{
			{nil, fault.NotFound},
			{newBroker(t, openMemory(t), pubsub.Options{AppID: "shop", Config: pubsub.Config{SubscriptionScopes: "shop=other"}}), fault.PermissionDenied},
		} {
			old := newBroker(t, openMemory(t), pubsub.Options{AppID: "shop"})
			ended := make(chan error, 1)
			go func() { ended <- old.Subscribe(t.Context(), &pubsub.SubscriptionSpec{Topic: "t"}, &app{}) }()
			synctest.Wait()
			old.Replace(c.next)
			if err := <-ended; !fault.Is(err, c.code) {
				t.Errorf("the subscription ended with %v, want %v", err, c.code)
			}
			old.Drain(t.Context())
			err := old.Subscribe(t.Context(), &pubsub.SubscriptionSpec{Topic: "t"}, &app{}) // somebody who looked it up before
			if !fault.Is(err, c.code) || errors.Is(err, context.Canceled) {
				t.Errorf("a late subscription ended with %v, want %v", err, c.code)
			}
		}
	})
}

func TestTheRunnerTriesAgainWhatTheFormerBrokerRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		forbids := newBroker(t, openMemory(t), pubsub.Options{AppID: "shop", Config: pubsub.Config{SubscriptionScopes: "shop=other"}})
		permits := newBroker(t, openMemory(t), pubsub.Options{AppID: "shop"})
		now, a := forbids, &app{}
		r := pubsub.NewRunner(pubsub.RunnerOptions{App: a, Broker: func(string) (*pubsub.Broker, bool) { return now, true }})
		startRunner(t, r)
		specs := []pubsub.SubscriptionSpec{on("t", "/t")}
		r.Set(specs)
		synctest.Wait()
		if s := r.Subscriptions()[0]; s.Err == nil {
			t.Fatal("the subscription is not refused")
		}
		now = permits
		forbids.Replace(permits)
		r.Set(specs)
		synctest.Wait()
		publish(t, permits, "t", "1", nil)
		synctest.Wait()
		if s := r.Subscriptions()[0]; s.Err != nil || !s.Active || len(a.calls()) != 1 {
			t.Errorf("status %+v, %d deliveries", s, len(a.calls()))
		}
	})
}
