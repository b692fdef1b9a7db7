package pubsub_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/proa-io/proa/block/pubsub"
)

func inBulk(most int, wait time.Duration) pubsub.SubscriptionSpec {
	return pubsub.SubscriptionSpec{Topic: "t", DefaultRoute: "/bulk", Bulk: pubsub.BulkSpec{Enabled: true, MaxMessages: most, MaxAwait: wait}}
}

// sizes returns how many entries each batch had.
func (a *app) sizes() []int {
	var out []int
	for _, b := range a.got().batches {
		out = append(out, len(b.Entries))
	}
	return out
}

func TestBatchesAreFullOrOld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, a := newBroker(t, openMemory(t), pubsub.Options{}), &app{}
		start(t, b, inBulk(10, time.Minute), a)
		for i := range 25 {
			publish(t, b, "t", fmt.Sprint(i), nil)
		}
		synctest.Wait()
		if got := a.sizes(); !slices.Equal(got, []int{10, 10}) {
			t.Errorf("batches of %v at once, want two full ones", got)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := a.sizes(); !slices.Equal(got, []int{10, 10, 5}) {
			t.Errorf("batches of %v after a minute, want the rest too", got)
		}
		seen := map[string]bool{}
		for _, batch := range a.got().batches {
			if batch.ID == "" || batch.Component != "bus" || batch.Topic != "t" {
				t.Errorf("batch %+v", batch)
			}
			for _, e := range batch.Entries {
				if e.EntryID == "" || seen[e.EntryID] || e.ContentType != pubsub.ContentTypeCloudEvents || e.Event.Source() != "shop" {
					t.Errorf("entry %+v", e)
				}
				seen[e.EntryID] = true
			}
		}
	})
}

func TestBatchesHaveDefaults(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, a := newBroker(t, openMemory(t), pubsub.Options{}), &app{}
		start(t, b, inBulk(0, 0), a)
		for i := range 101 {
			publish(t, b, "t", fmt.Sprint(i), nil)
		}
		time.Sleep(999 * time.Millisecond)
		if got := a.sizes(); !slices.Equal(got, []int{100}) {
			t.Errorf("batches of %v before a second is over, want 100", got)
		}
		time.Sleep(time.Millisecond)
		synctest.Wait()
		if got := a.sizes(); !slices.Equal(got, []int{100, 1}) {
			t.Errorf("batches of %v after a second", got)
		}
	})
}

func TestEachEntryOfABatchHasItsOwnFate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &app{bulk: func(_ context.Context, call int, b *pubsub.BulkEvent) ([]pubsub.EntryStatus, error) {
			var out []pubsub.EntryStatus
			for _, e := range b.Entries {
				s := pubsub.EntryStatus{EntryID: e.EntryID}
				switch string(e.Event.Data()) {
				case `"dropped"`:
					s.Status = pubsub.Drop
				case `"retried"`:
					s.Status = pubsub.Retry
					if call == 2 {
						s.Status = pubsub.Success
					}
				case `"hopeless"`:
					s.Status = pubsub.Retry
				case `"forgotten"`:
					continue
				}
				out = append(out, s)
			}
			return append(out, pubsub.EntryStatus{EntryID: "nobody's", Status: pubsub.Drop}), nil
		}}
		d := openMemory(t)
		b := newBroker(t, d, retries(1, time.Minute))
		spec := inBulk(5, time.Second)
		spec.DeadLetterTopic = "dead"
		start(t, b, spec, a)
		for _, data := range []string{`"done"`, `"dropped"`, `"retried"`, `"hopeless"`, `"forgotten"`} {
			publish(t, b, "t", data, nil)
		}
		dead := map[string]string{}
		for _, m := range letters(t, d, "dead", time.Hour) {
			dead[string(mustData(t, m))] = m.Metadata[pubsub.DeadLetterAttempts]
		}
		if got := a.sizes(); !slices.Equal(got, []int{5, 3}) {
			t.Errorf("batches of %v, want 5 and then the 3 that are not settled", got)
		}
		want := map[string]string{`dropped`: "1", `hopeless`: "2", `forgotten`: "2"}
		if fmt.Sprint(dead) != fmt.Sprint(want) {
			t.Errorf("dead letters %v, want %v", dead, want)
		}
	})
}

func mustData(t *testing.T, m *pubsub.Delivery) string {
	t.Helper()
	text, _ := members(t, m.Data)["data"].(string)
	return text
}

func TestABatchThatFailsAsAWholeComesAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &app{bulk: func(_ context.Context, call int, b *pubsub.BulkEvent) ([]pubsub.EntryStatus, error) {
			if call == 1 {
				return nil, errors.New("connection refused")
			}
			return all(b, pubsub.Success), nil
		}}
		b := newBroker(t, openMemory(t), pubsub.Options{})
		start(t, b, inBulk(3, time.Second), a)
		for i := range 3 {
			publish(t, b, "t", fmt.Sprint(i), nil)
		}
		time.Sleep(time.Hour)
		n := 0
		for _, size := range a.sizes() {
			n += size
		}
		if n != 6 {
			t.Errorf("batches of %v, want three entries twice", a.sizes())
		}
	})
}

func TestABatchHasOneRoute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, a := newBroker(t, openMemory(t), pubsub.Options{}), &app{}
		spec := inBulk(6, time.Second)
		spec.Rules = []pubsub.Rule{{Match: "event.data % 2 == 0", Path: "/even"}, {Match: "event.data == 5", Path: "/five"}}
		spec.DefaultRoute = ""
		start(t, b, spec, a)
		for i := range 8 { // 1, 3 and 7 match nothing and are in no batch
			publish(t, b, "t", fmt.Sprint(i), nil)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		got := map[string]int{}
		for i, batch := range a.got().batches {
			got[a.got().routes[i]] += len(batch.Entries)
		}
		if got["/even"] != 4 || got["/five"] != 1 || len(got) != 2 || len(a.got().batches) != 2 {
			t.Errorf("entries by route %v in %d batches", got, len(a.got().batches))
		}
	})
}

func TestRawPayloadsInABatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, a := newBroker(t, openMemory(t), pubsub.Options{}), &app{}
		spec := inBulk(2, time.Second)
		spec.RawPayload = true
		start(t, b, spec, a)
		publishAs(t, b, &pubsub.PublishRequest{Topic: "t", Data: []byte("a,b"), ContentType: "text/csv", Metadata: map[string]string{"rawPayload": "true"}})
		publishAs(t, b, &pubsub.PublishRequest{Topic: "t", Data: nil, Metadata: map[string]string{"rawPayload": "true"}})
		synctest.Wait()
		if len(a.got().batches) != 1 {
			t.Fatalf("%d batches", len(a.got().batches))
		}
		types := map[string]string{}
		for _, e := range a.got().batches[0].Entries {
			if e.Event.Raw == nil {
				t.Errorf("entry without raw payload: %s", e.Event.JSON)
			}
			types[string(e.Event.Raw)] = e.ContentType
		}
		if types["a,b"] != "text/csv" || types[""] != "application/octet-stream" {
			t.Errorf("content types %q", types)
		}
	})
}

func TestWhenABulkSubscriptionEndsWhatItHasGatheredGoesBackAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, a := openMemory(t), &app{}
		b := newBroker(t, d, pubsub.Options{})
		stop := start(t, b, inBulk(10, time.Hour), a)
		publish(t, b, "t", "1", nil)
		publish(t, b, "t", "2", nil)
		synctest.Wait()
		began := time.Now()
		stop()
		if took := time.Since(began); took != 0 || len(a.got().batches) != 0 {
			t.Errorf("ending took %s and delivered %v", took, a.sizes())
		}
		again := &app{}
		start(t, b, pubsub.SubscriptionSpec{Topic: "t"}, again)
		synctest.Wait()
		if n := len(again.calls()); n != 2 {
			t.Errorf("%d messages came back, want 2", n)
		}
	})
}
