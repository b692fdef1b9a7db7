package config_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/proa-io/proa/block/config"
	"github.com/proa-io/proa/block/config/configtest"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/driver/memory"
	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/policy"
)

// shaky is a store in memory whose watches can be broken.
type shaky struct {
	*memory.Config
	mu    sync.Mutex
	down  error                     // while set, Watch fails
	lines []context.CancelCauseFunc // of the watches under way
}

func newShaky(t *testing.T) *shaky {
	m, err := memory.OpenConfig(t.Context(), memory.ConfigConfig{}, component.Env{})
	if err != nil {
		t.Fatal(err)
	}
	return &shaky{Config: m}
}

func (s *shaky) Watch(ctx context.Context, q config.Query, report func(config.Event)) error {
	s.mu.Lock()
	if s.down != nil {
		defer s.mu.Unlock()
		return s.down
	}
	ctx, cancel := context.WithCancelCause(ctx)
	s.lines = append(s.lines, cancel)
	s.mu.Unlock()
	return s.Config.Watch(ctx, q, report)
}

func (s *shaky) breakDown(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.down = err
	for _, cancel := range s.lines {
		cancel(err)
	}
	s.lines = nil
}

func (s *shaky) recover() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.down = nil
}

func (s *shaky) write(t *testing.T, items ...string) {
	t.Helper()
	for _, kv := range items {
		k, v := kv[:1], kv[2:]
		if _, err := configtest.Set(t.Context(), s, k, v); err != nil {
			t.Error(err)
		}
	}
}

// running is a Store whose Run runs.
func running(t *testing.T, d config.Driver) *config.Store {
	t.Helper()
	s := config.New(component.Opened("settings", d), config.Options{Chains: policy.None{}})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return s
}

// inbox notes updates as "key=value" and "-key".
type inbox struct {
	mu  sync.Mutex
	got []string
}

func (b *inbox) take(_ context.Context, u config.Update) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, k := range slices.Sorted(maps.Keys(u.Items)) {
		if c := u.Items[k]; c.Deleted {
			b.got = append(b.got, "-"+k)
		} else {
			b.got = append(b.got, k+"="+c.Value)
		}
	}
	return nil
}

func (b *inbox) want(t *testing.T, want ...string) {
	t.Helper()
	synctest.Wait()
	b.mu.Lock()
	defer b.mu.Unlock()
	if !slices.Equal(b.got, want) {
		t.Errorf("the subscriber got %q, want %q", b.got, want)
	}
	b.got = nil
}

var outage = fault.New(fault.Unavailable, "connection reset")

func TestSubscriberIsToldWhatChangesAfterSubscribe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newShaky(t)
		d.write(t, "a=1", "b=1", "c=1")
		s := running(t, d)
		var all, some inbox
		if _, err := s.Subscribe(t.Context(), config.Query{}, all.take); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Subscribe(t.Context(), config.Query{Keys: []string{"a", "x"}}, some.take); err != nil {
			t.Fatal(err)
		}
		all.want(t)
		some.want(t)
		d.write(t, "a=2", "b=2", "x=1")
		_ = configtest.Delete(t.Context(), d, "a")
		all.want(t, "a=2", "b=2", "x=1", "-a")
		some.want(t, "a=2", "x=1", "-a")
	})
}

func TestUpdateCarriesTheIdAndTheVersion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newShaky(t)
		s := running(t, d)
		var got config.Update
		id, err := s.Subscribe(t.Context(), config.Query{}, func(_ context.Context, u config.Update) error { got = u; return nil })
		if err != nil || id == "" {
			t.Fatalf("Subscribe = %q, %v", id, err)
		}
		version, _ := configtest.Set(t.Context(), d, "a", "1")
		synctest.Wait()
		if got.ID != id || got.Items["a"].Version != version {
			t.Errorf("update %+v, want id %q and version %q", got, id, version)
		}
	})
}

func TestUnsubscribeEndsIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newShaky(t)
		s := running(t, d)
		var kept, ended inbox
		_, err1 := s.Subscribe(t.Context(), config.Query{}, kept.take)
		id, err2 := s.Subscribe(t.Context(), config.Query{}, ended.take)
		if err := errors.Join(err1, err2, s.Unsubscribe(t.Context(), id)); err != nil {
			t.Fatal(err)
		}
		d.write(t, "a=1")
		kept.want(t, "a=1")
		ended.want(t)
		for _, unknown := range []string{id, "no-such-id", ""} {
			if err := s.Unsubscribe(t.Context(), unknown); !fault.Is(err, fault.NotFound) || fault.ReasonOf(err) != config.ReasonNoSubscription {
				t.Errorf("Unsubscribe(%q): %v, want not_found", unknown, err)
			}
		}
	})
}

func TestStreamBeginsWithItsId(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newShaky(t)
		d.write(t, "a=1")
		s := config.New(component.Opened[config.Driver]("settings", d), config.Options{Chains: policy.None{}})
		ids, box, done := make(chan string, 1), inbox{}, make(chan error, 1)
		go func() {
			done <- s.Stream(t.Context(), config.Query{}, func(ctx context.Context, u config.Update) error {
				if u.Items == nil {
					ids <- u.ID
				}
				return box.take(ctx, u)
			})
		}()
		id := <-ids
		d.write(t, "a=2")
		box.want(t, "a=2")
		if err := s.Unsubscribe(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		if err := <-done; err != nil {
			t.Errorf("Stream = %v after Unsubscribe, want nil", err)
		}
	})
}

func TestStreamEndsWithItsContextAndItsSubscriber(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newShaky(t)
		s := config.New(component.Opened[config.Driver]("settings", d), config.Options{Chains: policy.None{}})
		ctx, cancel := context.WithCancel(t.Context())
		err := s.Stream(ctx, config.Query{}, func(context.Context, config.Update) error { cancel(); return nil })
		if !errors.Is(err, context.Canceled) {
			t.Errorf("Stream = %v after the end of its context", err)
		}
		gone := fault.New(fault.Unavailable, "client is gone")
		err = s.Stream(t.Context(), config.Query{}, func(_ context.Context, u config.Update) error {
			if u.Items == nil {
				go d.write(t, "a=1")
				return nil
			}
			return gone
		})
		if !errors.Is(err, gone) {
			t.Errorf("Stream = %v, want what the subscriber returned", err)
		}
	})
}

func TestNothingIsLostOverAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newShaky(t)
		d.write(t, "a=1", "b=1", "c=1")
		s := running(t, d)
		var box inbox
		if _, err := s.Subscribe(t.Context(), config.Query{}, box.take); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			d.breakDown(outage)
			d.write(t, "a=2", "a=3", "d=1")
			_ = configtest.Delete(t.Context(), d, "b")
			time.Sleep(10 * time.Minute)
			box.want(t)
			d.recover()
			time.Sleep(time.Minute)
			box.want(t, "a=3", "-b", "d=1")
			d.write(t, "b=1", "a=1")
			_ = configtest.Delete(t.Context(), d, "d")
			box.want(t, "b=1", "a=1", "-d")
		}
		// An interruption without a change says nothing.
		d.breakDown(outage)
		d.recover()
		time.Sleep(time.Minute)
		box.want(t)
	})
}

func TestSubscribeFailsWhenTheStoreCannotBeWatched(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newShaky(t)
		d.breakDown(fault.New(fault.FailedPrecondition, "notifications are off"))
		s := running(t, d)
		var box inbox
		_, err := s.Subscribe(t.Context(), config.Query{}, box.take)
		if !fault.Is(err, fault.FailedPrecondition) || err.Error() != `watch configuration store "settings": notifications are off` {
			t.Errorf("Subscribe: %v", err)
		}
		err = s.Stream(t.Context(), config.Query{}, box.take)
		if !fault.Is(err, fault.FailedPrecondition) {
			t.Errorf("Stream: %v", err)
		}
		d.recover()
		d.write(t, "a=1")
		time.Sleep(time.Hour)
		box.want(t)
	})
}

// silent is a store whose watches never report.
type silent struct{ *memory.Config }

func (silent) Watch(ctx context.Context, _ config.Query, _ func(config.Event)) error {
	<-ctx.Done()
	return ctx.Err()
}

func TestSubscribeEndsWithItsContextWhenTheStoreIsSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := running(t, silent{newShaky(t).Config})
		for _, patience := range []time.Duration{time.Second, time.Hour} {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			begun := time.Now()
			_, err := s.Subscribe(ctx, config.Query{}, func(context.Context, config.Update) error { return nil })
			cancel()
			if !fault.Is(err, fault.DeadlineExceeded) {
				t.Errorf("Subscribe: %v, want deadline_exceeded", err)
			}
			if took := time.Since(begun); took > min(patience, 10*time.Second) {
				t.Errorf("Subscribe took %v of %v", took, patience)
			}
		}
	})
}

func TestSubscriptionOutlivesTheRequestThatMadeIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newShaky(t)
		s := running(t, d)
		var box inbox
		ctx, cancel := context.WithCancel(t.Context())
		if _, err := s.Subscribe(ctx, config.Query{}, box.take); err != nil {
			t.Fatal(err)
		}
		cancel()
		synctest.Wait()
		d.write(t, "a=1")
		box.want(t, "a=1")
	})
}

func TestPoliciesGoAroundTheBeginningOfAWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newShaky(t)
		d.breakDown(outage)
		attempts := 0
		chains := chainOf(func(op policy.Op, next policy.Handler) policy.Handler {
			if op.Name != "watch" {
				return next
			}
			return func(ctx context.Context, c *policy.Call) error { // a retry with a timeout
				for {
					attempts++
					try, cancel := context.WithTimeout(ctx, time.Second)
					err := next(try, c)
					cancel()
					if err == nil {
						return nil
					}
					d.recover()
				}
			}
		})
		s := config.New(component.Opened[config.Driver]("settings", d), config.Options{Chains: chains})
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go s.Run(ctx) //nolint:errcheck // always nil
		var box inbox
		if _, err := s.Subscribe(ctx, config.Query{}, box.take); err != nil || attempts != 2 {
			t.Fatalf("Subscribe: %v after %d attempts", err, attempts)
		}
		time.Sleep(time.Hour) // the timeout is over and must not matter
		d.write(t, "a=1")
		box.want(t, "a=1")
		cancel()
		synctest.Wait()
	})
}

func TestUpdateThatTheApplicationCannotTakeNowIsDeliveredAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newShaky(t)
		s := running(t, d)
		var box inbox
		var up atomic.Bool
		var tries atomic.Int32
		_, err := s.Subscribe(t.Context(), config.Query{}, func(ctx context.Context, u config.Update) error {
			if tries.Add(1); !up.Load() {
				return outage
			}
			return box.take(ctx, u)
		})
		if err != nil {
			t.Fatal(err)
		}
		d.write(t, "a=1")
		time.Sleep(time.Minute)
		if n := tries.Load(); n < 3 {
			t.Errorf("%d tries in a minute", n)
		}
		d.write(t, "b=1", "a=2")
		synctest.Wait()
		up.Store(true)
		time.Sleep(time.Minute)
		box.want(t, "b=1", "a=2")
	})
}

func TestUpdateThatTheApplicationRefusesIsDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newShaky(t)
		s := running(t, d)
		var box inbox
		_, err := s.Subscribe(t.Context(), config.Query{}, func(ctx context.Context, u config.Update) error {
			if _, ok := u.Items["a"]; ok {
				return fault.New(fault.NotFound, "no such route")
			}
			return box.take(ctx, u)
		})
		if err != nil {
			t.Fatal(err)
		}
		d.write(t, "a=1", "b=1")
		time.Sleep(time.Hour)
		box.want(t, "b=1")
	})
}

func TestSlowSubscriberGetsTheLatestOfEachKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newShaky(t)
		s := running(t, d)
		last, updates := map[string]string{}, 0
		_, err := s.Subscribe(t.Context(), config.Query{}, func(_ context.Context, u config.Update) error {
			time.Sleep(time.Minute)
			updates++
			for k, c := range u.Items {
				last[k] = c.Value
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		for i := range 5000 {
			d.write(t, fmt.Sprintf("%c=%d", 'a'+i%5, i))
			synctest.Wait()
		}
		time.Sleep(24 * time.Hour)
		synctest.Wait()
		want := map[string]string{"a": "4995", "b": "4996", "c": "4997", "d": "4998", "e": "4999"}
		if !maps.Equal(last, want) || updates > 600 {
			t.Errorf("%d updates add up to %v, want %v", updates, last, want)
		}
	})
}

func TestRunEndsEverySubscription(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newShaky(t)
		s := config.New(component.Opened[config.Driver]("settings", d), config.Options{Chains: policy.None{}})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- s.Run(ctx) }()
		var box inbox
		id, err := s.Subscribe(t.Context(), config.Query{}, box.take)
		if err != nil {
			t.Fatal(err)
		}
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run = %v", err)
		}
		d.write(t, "a=1")
		box.want(t)
		if err := s.Unsubscribe(t.Context(), id); !fault.Is(err, fault.NotFound) {
			t.Errorf("Unsubscribe after Run: %v, want not_found", err)
		}
		if _, err := s.Subscribe(t.Context(), config.Query{}, box.take); !fault.Is(err, fault.Unavailable) {
			t.Errorf("Subscribe after Run: %v, want unavailable", err)
		}
	})
}

func TestSubscriptionsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := running(t, newShaky(t))
		var box inbox
		var last string
		for {
			id, err := s.Subscribe(t.Context(), config.Query{}, box.take)
			if err == nil {
				last = id
				continue
			}
			if !fault.Is(err, fault.ResourceExhausted) {
				t.Errorf("Subscribe: %v, want resource_exhausted", err)
			}
			break
		}
		if err := s.Unsubscribe(t.Context(), last); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Subscribe(t.Context(), config.Query{}, box.take); err != nil {
			t.Errorf("Subscribe after Unsubscribe: %v", err)
		}
	})
}

func TestReadsAndWritesGoToTheDriver(t *testing.T) {
	d := newShaky(t)
	s := config.New(component.Opened[config.Driver]("settings", d), config.Options{Chains: policy.None{}})
	versions, err := s.Write(t.Context(), []config.Write{{Key: "a", Value: "1"}, {Key: "b", Value: "2"}})
	if err != nil {
		t.Fatal(err)
	}
	got, err := s.Get(t.Context(), config.Query{Keys: []string{"a", "c"}})
	if err != nil || len(got) != 1 || got["a"].Value != "1" || got["a"].Version != versions[0] {
		t.Errorf("Get = %v, %v", got, err)
	}
	deletion := []config.Write{{Key: "b", Delete: true, Expect: config.Expect{Version: versions[1]}}}
	if _, err := s.Write(t.Context(), deletion); err != nil {
		t.Fatal(err)
	}
	_, err = s.Write(t.Context(), deletion)
	if !fault.Is(err, fault.Aborted) || fault.ReasonOf(err) != config.ReasonConflict ||
		err.Error() != `write to configuration store "settings": item "b" does not have the version that was expected` {
		t.Errorf("the second deletion: %v, want a conflict", err)
	}
	if got, err := s.Get(t.Context(), config.Query{}); err != nil || len(got) != 1 {
		t.Errorf("Get = %v, %v after the deletion", got, err)
	}
	if versions, err := s.Write(t.Context(), nil); err != nil || len(versions) != 0 {
		t.Errorf("Write of nothing = %q, %v", versions, err)
	}
}

func TestChangesThatNoStoreCouldMakeAreInvalid(t *testing.T) {
	s := config.New(component.Opened[config.Driver]("settings", newShaky(t)), config.Options{Chains: policy.None{}})
	many := make([]config.Write, config.MaxWrites+1)
	for i := range many {
		many[i].Key = fmt.Sprint(i)
	}
	for want, writes := range map[string][]config.Write{
		"the key of change 2 is empty":                                                {{Key: "a"}, {Value: "x"}},
		`key "a" is changed twice`:                                                    {{Key: "a"}, {Key: "b"}, {Key: "a", Delete: true}},
		"the key or the value of change 1 (\"\\xff\") is not UTF-8":                   {{Key: "\xff"}},
		`the key or the value of change 1 ("a") is not UTF-8`:                         {{Key: "a", Value: "\xff"}},
		`key "a" cannot be expected to be absent and to have a version`:               {{Key: "a", Expect: config.Expect{Absent: true, Version: "1"}}},
		`key "a" is to be deleted and yet expected to be absent`:                      {{Key: "a", Delete: true, Expect: config.Expect{Absent: true}}},
		fmt.Sprint(config.MaxWrites+1, " changes at once are too many: at most 1000"): many,
	} {
		_, err := s.Write(t.Context(), writes)
		if !fault.Is(err, fault.InvalidArgument) || fault.ReasonOf(err) != config.ReasonBadWrite ||
			err.Error() != `configuration store "settings": `+want {
			t.Errorf("error %v, want invalid_argument: %s", err, want)
		}
	}
}

func TestItemsThatAreNoTextAreNotHandedOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newShaky(t)
		s := running(t, d)
		var box inbox
		if _, err := s.Subscribe(t.Context(), config.Query{}, box.take); err != nil {
			t.Fatal(err)
		}
		for key, value := range map[string]string{"a": "x\xffy", "b": "1", "bad\xff": "1"} {
			if _, err := configtest.Set(t.Context(), d, key, value); err != nil {
				t.Fatal(err)
			}
		}
		_, err := s.Get(t.Context(), config.Query{Keys: []string{"b", "a"}})
		if !fault.Is(err, fault.FailedPrecondition) || fault.ReasonOf(err) != config.ReasonNotText ||
			err.Error() != `item "a" of configuration store "settings" is not text (UTF-8)` {
			t.Errorf("Get of it: %v", err)
		}
		got, err := s.Get(t.Context(), config.Query{})
		if err != nil || len(got) != 1 || got["b"].Value != "1" {
			t.Errorf("Get of all = %v, %v; want the text", got, err)
		}
		box.want(t, "b=1")
		// To a subscriber it appears and goes away.
		for _, value := range []string{"text", "x\xff"} {
			if _, err := configtest.Set(t.Context(), d, "a", value); err != nil {
				t.Fatal(err)
			}
		}
		box.want(t, "a=text", "-a")
	})
}

func TestSubscriptionsOfSomebodyWhoIsGoneEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newShaky(t)
		s := running(t, d)
		var first, second, streamed inbox
		old, err := s.Subscribe(t.Context(), config.Query{}, first.take)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go func() { _ = s.Stream(ctx, config.Query{}, streamed.take) }()
		time.Sleep(time.Minute)
		moment := time.Now()
		time.Sleep(time.Second)
		if _, err := s.Subscribe(t.Context(), config.Query{}, second.take); err != nil {
			t.Fatal(err)
		}
		if n := s.EndSubscriptions(moment); n != 1 {
			t.Errorf("%d subscriptions ended, want 1", n)
		}
		d.write(t, "a=1")
		first.want(t)
		second.want(t, "a=1")
		streamed.want(t, "a=1")
		if err := s.Unsubscribe(t.Context(), old); !fault.Is(err, fault.NotFound) {
			t.Errorf("Unsubscribe of one that was ended: %v", err)
		}
	})
}

// readOnly hides the write methods of a driver.
type readOnly struct{ config.Driver }

func TestWritingAStoreThatCannotIsUnimplemented(t *testing.T) {
	s := config.New(component.Opened[config.Driver]("settings", readOnly{newShaky(t)}), config.Options{Chains: policy.None{}})
	_, err := s.Write(t.Context(), []config.Write{{Key: "a", Value: "1"}})
	if !fault.Is(err, fault.Unimplemented) || fault.ReasonOf(err) != config.ReasonCannotWrite {
		t.Errorf("error %v, want unimplemented", err)
	}
}

// chainOf is a Chains with one policy.
type chainOf policy.Policy

func (c chainOf) Component(string, string, bool) policy.Chain { return policy.Chain{policy.Policy(c)} }
func (c chainOf) App(string) policy.Chain                     { return nil }
