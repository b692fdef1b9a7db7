package pubsub_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/proa-io/proa/block/pubsub"
	"github.com/proa-io/proa/component"
)

// startRunner runs r until the test ends.
func startRunner(t *testing.T, r *pubsub.Runner) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	}
	t.Cleanup(stop)
	return stop
}

func oneBroker(b *pubsub.Broker) func(string) (*pubsub.Broker, bool) {
	return func(name string) (*pubsub.Broker, bool) { return b, name == "bus" }
}

func on(topic, route string) pubsub.SubscriptionSpec {
	return pubsub.SubscriptionSpec{PubSub: "bus", Topic: topic, DefaultRoute: route}
}

func TestRunnerFollowsItsSubscriptions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, a := newBroker(t, openMemory(t), pubsub.Options{}), &app{}
		r := pubsub.NewRunner(pubsub.RunnerOptions{Broker: oneBroker(b), App: a})
		startRunner(t, r)
		r.Set([]pubsub.SubscriptionSpec{on("a", "/a"), on("b", "/b")})
		synctest.Wait()
		for _, s := range r.Subscriptions() {
			if !s.Active || s.Err != nil {
				t.Errorf("status %+v", s)
			}
		}
		publish(t, b, "a", "1", nil)
		publish(t, b, "b", "1", nil)
		publish(t, b, "c", "1", nil)
		synctest.Wait()
		r.Set([]pubsub.SubscriptionSpec{on("b", "/other"), on("c", "/c")})
		synctest.Wait()
		publish(t, b, "a", "2", nil)
		publish(t, b, "b", "2", nil)
		synctest.Wait()
		got := slices.Sorted(slices.Values(a.got().routes))
		if want := []string{"/a", "/b", "/c", "/other"}; !slices.Equal(got, want) {
			t.Errorf("delivered to %q, want %q", got, want)
		}
	})
}

func TestAPausedRunnerReceivesNothingAndLosesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, a := newBroker(t, openMemory(t), pubsub.Options{}), &app{}
		r := pubsub.NewRunner(pubsub.RunnerOptions{Broker: oneBroker(b), App: a})
		startRunner(t, r)
		r.Set([]pubsub.SubscriptionSpec{on("t", "/t")})
		r.Pause()
		publish(t, b, "t", "1", nil)
		time.Sleep(time.Hour)
		if n := len(a.calls()); n != 0 || r.Subscriptions()[0].Active {
			t.Errorf("%d deliveries while paused, status %+v", n, r.Subscriptions())
		}
		for range 3 {
			r.Resume()
			r.Pause()
		}
		r.Resume()
		synctest.Wait()
		if n := len(a.calls()); n != 1 || !r.Subscriptions()[0].Active {
			t.Errorf("%d deliveries after the pause, status %+v", n, r.Subscriptions())
		}
	})
}

func TestResumeWhileTheOldDeliveriesStillDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBroker(t, openMemory(t), pubsub.Options{Grace: time.Minute})
		a := &app{answer: func(_ context.Context, call int, _ *pubsub.Event) (pubsub.Status, error) {
			if call == 1 {
				time.Sleep(30 * time.Second)
			}
			return pubsub.Success, nil
		}}
		r := pubsub.NewRunner(pubsub.RunnerOptions{Broker: oneBroker(b), App: a})
		startRunner(t, r)
		r.Set([]pubsub.SubscriptionSpec{on("t", "/t")})
		publish(t, b, "t", "1", nil)
		synctest.Wait()
		r.Pause()
		synctest.Wait()
		r.Resume()
		publish(t, b, "t", "2", nil)
		synctest.Wait()
		if got := a.payloads(); !slices.Equal(got, []string{"1", "2"}) {
			t.Errorf("delivered %q, want 2 while 1 is still with the application", got)
		}
		time.Sleep(time.Hour)
		if n := len(a.calls()); n != 2 {
			t.Errorf("%d deliveries in the end, want 2", n)
		}
	})
}

func TestRunWaitsForDeliveriesUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBroker(t, openMemory(t), pubsub.Options{})
		ended := false
		a := &app{answer: func(context.Context, int, *pubsub.Event) (pubsub.Status, error) {
			time.Sleep(3 * time.Second)
			ended = true
			return pubsub.Success, nil
		}}
		r := pubsub.NewRunner(pubsub.RunnerOptions{Broker: oneBroker(b), App: a})
		stop := startRunner(t, r)
		r.Set([]pubsub.SubscriptionSpec{on("t", "/t")})
		publish(t, b, "t", "1", nil)
		synctest.Wait()
		stop()
		if !ended {
			t.Error("Run returned while the application was at work")
		}
		if r.Subscriptions()[0].Active {
			t.Error("a subscription is active after Run")
		}
	})
}

func TestOneBadSubscriptionDoesNotStopTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, a := newBroker(t, openMemory(t), pubsub.Options{}), &app{}
		r := pubsub.NewRunner(pubsub.RunnerOptions{Broker: oneBroker(b), App: a})
		startRunner(t, r)
		bad := on("t", "/bad")
		bad.Rules = []pubsub.Rule{{Match: "event.", Path: "/x"}}
		nowhere := on("t", "/nowhere")
		nowhere.PubSub, nowhere.Pos = "bsu", component.Position{File: "sub.yaml", Line: 4}
		r.Set([]pubsub.SubscriptionSpec{bad, nowhere, on("t", "/good")})
		publish(t, b, "t", "1", nil)
		synctest.Wait()
		status := r.Subscriptions()
		if status[0].Err == nil || status[0].Active || !strings.Contains(fmt.Sprint(status[0].Err), "routing rule 1") {
			t.Errorf("status of the bad one %+v", status[0])
		}
		if status[1].Err == nil || !strings.Contains(fmt.Sprint(status[1].Err), `sub.yaml:4: subscription to topic "t" of "bsu": there is no pub/sub component "bsu"`) {
			t.Errorf("status of the one without component: %v", status[1].Err)
		}
		if !status[2].Active || !slices.Equal(a.got().routes, []string{"/good"}) {
			t.Errorf("status of the good one %+v, delivered to %q", status[2], a.got().routes)
		}
	})
}

func TestASubscriptionMovesWithItsComponent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		old, replaced := newBroker(t, openMemory(t), pubsub.Options{}), newBroker(t, openMemory(t), pubsub.Options{})
		now := old
		a := &app{}
		r := pubsub.NewRunner(pubsub.RunnerOptions{App: a, Broker: func(string) (*pubsub.Broker, bool) { return now, true }})
		startRunner(t, r)
		specs := []pubsub.SubscriptionSpec{on("t", "/t")}
		r.Set(specs)
		synctest.Wait()
		now = replaced
		r.Set(specs)
		publish(t, replaced, "t", `"new"`, nil)
		synctest.Wait()
		publish(t, old, "t", `"old"`, nil)
		synctest.Wait()
		if got := a.payloads(); !slices.Equal(got, []string{`"new"`}) {
			t.Errorf("delivered %q, want what the new component has only", got)
		}
	})
}

func TestMerge(t *testing.T) {
	declared := func(name, topic string, scopes ...string) pubsub.SubscriptionSpec {
		return pubsub.SubscriptionSpec{Name: name, PubSub: "bus", Topic: topic, DefaultRoute: "/" + name, Scopes: scopes}
	}
	merged, warnings := pubsub.Merge("shop",
		[]pubsub.SubscriptionSpec{
			declared("one", "a"), declared("two", "a"), declared("mine", "b", "other", "shop"), declared("theirs", "c", "other"), declared("taken", "d"),
		},
		[]pubsub.SubscriptionSpec{on("d", "/first"), on("e", "/e"), on("d", "/second")})
	var got []string
	for _, s := range merged {
		got = append(got, fmt.Sprintf("%s %s %s", s.Type, s.Topic, s.DefaultRoute))
	}
	want := []string{"PROGRAMMATIC d /second", "PROGRAMMATIC e /e", "DECLARATIVE a /one", "DECLARATIVE a /two", "DECLARATIVE b /mine"}
	if !slices.Equal(got, want) {
		t.Errorf("merged %q, want %q", got, want)
	}
	if len(warnings) != 2 || !strings.Contains(warnings[0], "replaces") || !strings.Contains(warnings[1], `"taken"`) {
		t.Errorf("warnings %q", warnings)
	}
}
