package outbox_test

import (
	"fmt"
	"net/http"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func TestOutbox(t *testing.T) {
	for name, p := range pairs() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			t.Run("ATransactionPublishesWhatItStores", func(t *testing.T) { t.Parallel(); publishes(t, p) })
			t.Run("AProjectionIsPublishedAndNotStored", func(t *testing.T) { t.Parallel(); projects(t, p) })
			t.Run("OneTransactionPublishesToManyTopics", func(t *testing.T) { t.Parallel(); spreads(t, p) })
			t.Run("ATransactionThatFailsPublishesNothing", func(t *testing.T) { t.Parallel(); fails(t, p) })
			t.Run("NothingIsLostAndNothingInventedWhenSidecarsAreKilled", func(t *testing.T) { t.Parallel(); killed(t, p) })
			t.Run("ReplicasKeepTheOrderOfAKey", func(t *testing.T) { t.Parallel(); replicas(t, p) })
		})
	}
}

func mustTransact(t *testing.T, s *sidecar, ops ...operation) {
	t.Helper()
	if status, answer := s.transact(ops...); status != http.StatusNoContent {
		t.Fatalf("transaction: %d %s", status, answer)
	}
}

func wantState(t *testing.T, s *sidecar, key, want string) {
	t.Helper()
	status, answer := s.call(http.MethodGet, "/v1.0/state/store/"+key, nil)
	if answer != want || status != http.StatusOK && status != http.StatusNoContent {
		t.Errorf("state %s: %d %s, want %s", key, status, answer, want)
	}
}

func publishes(t *testing.T, p pair) {
	r := newRig(t, p, nil)
	s, events := r.start(t), r.follow(t, r.topic)
	mustTransact(t, s,
		upsert("1", "text", nil), upsert("2", map[string]any{"a": 1}, map[string]string{"cloudevent.type": "created", "subject": "s"}),
		operation{"delete", request{Key: "3"}}, upsert("4", "quiet", map[string]string{"outbox.publish": "false"}))
	list := events.awaitCount(t, 2)
	first, second := list[0], list[1]
	if first.Data != "text" || first.Attributes["datacontenttype"] != "text/plain" || first.Attributes["type"] != "com.dapr.event.sent" ||
		first.Attributes["source"] != "shop" || first.Attributes["topic"] != r.topic || first.Attributes["pubsubname"] != "broker" ||
		!strings.HasPrefix(first.ID, "outbox-") {
		t.Errorf("the event is %v", first.Attributes)
	}
	if !reflect.DeepEqual(second.Data, map[string]any{"a": 1.0}) || second.Attributes["type"] != "created" || second.Attributes["subject"] != "s" {
		t.Errorf("the event is %v", second.Attributes)
	}
	wantState(t, s, "1", `"text"`)
	wantState(t, s, "4", `"quiet"`)
	s.stop(t)
	if n := len(events.all()); n != 2 {
		t.Errorf("%d events, want 2", n)
	}
}

func projects(t *testing.T, p pair) {
	r := newRig(t, p, nil)
	s, events := r.start(t), r.follow(t, r.topic)
	mustTransact(t, s, upsert("1", "2", nil), upsert("1", "3", map[string]string{"outbox.projection": "true"}))
	if list := events.awaitCount(t, 1); list[0].Data != "3" {
		t.Errorf("published %v, want 3", list[0].Data)
	}
	wantState(t, s, "1", `"2"`)
}

func spreads(t *testing.T, p pair) {
	r := newRig(t, p, nil)
	s := r.start(t)
	projection := func(topic string) map[string]string {
		return map[string]string{"outbox.projection": "true", "outbox.topic": topic}
	}
	topics := map[string]*events{r.topic: r.follow(t, r.topic)}
	ops := []operation{upsert("1", "stored", nil)}
	for i := range 5 {
		topic := fmt.Sprint(r.topic, "-", i)
		topics[topic] = r.follow(t, topic)
		ops = append(ops, upsert("1", "for "+topic, projection(topic)))
	}
	mustTransact(t, s, ops...)
	for topic, events := range topics {
		want := "for " + topic
		if topic == r.topic {
			want = "stored"
		}
		if list := events.awaitCount(t, 1); list[0].Data != want {
			t.Errorf("published to %s: %v, want %s", topic, list[0].Data, want)
		}
	}
	wantState(t, s, "1", `"stored"`)
}

func fails(t *testing.T, p pair) {
	r := newRig(t, p, nil)
	s, events := r.start(t), r.follow(t, r.topic)
	mustTransact(t, s, upsert("1", "first", nil))
	for range 100 {
		status, answer := s.transact(operation{"upsert", request{Key: "1", Value: "never", ETag: "999999999"}}, upsert("2", "never", nil))
		if status != http.StatusInternalServerError || !strings.Contains(answer, "etag") {
			t.Fatalf("a transaction with a stale etag: %d %s", status, answer)
		}
	}
	if status, answer := s.transact(upsert("1", "x", map[string]string{"outbox.pubsub": "nowhere"})); status != http.StatusInternalServerError ||
		!strings.Contains(answer, "ERR_PUBLISH_OUTBOX") || !strings.Contains(answer, "nowhere") {
		t.Errorf("a transaction for a broker that there is not: %d %s", status, answer)
	}
	mustTransact(t, s, upsert("1", "last", nil))
	if list := events.awaitCount(t, 2); list[0].Data != "first" || list[1].Data != "last" {
		t.Errorf("published %v", list)
	}
	wantState(t, s, "2", "")
}

// killed writes through a sidecar that is killed again and again. Each writer
// counts at a key of its own.
func killed(t *testing.T, p pair) {
	const writers, rounds, perRound = 4, 3, 40
	r := newRig(t, p, nil)
	events := r.follow(t, r.topic)
	var acked [writers][]int
	var tried [writers]int
	for range rounds {
		s := r.start(t)
		var n atomic.Int64
		var wg sync.WaitGroup
		for w := range writers {
			wg.Go(func() {
				for {
					i := tried[w]
					tried[w]++
					status, answer := s.transact(
						upsert(fmt.Sprint("writer-", w), i, map[string]string{"subject": fmt.Sprint("writer-", w)}),
						upsert(fmt.Sprintf("item-%d-%d", w, i), i, map[string]string{"outbox.publish": "false"}))
					if status == 0 { // it is dead
						return
					}
					if status != http.StatusNoContent {
						t.Errorf("transaction: %d %s", status, answer)
						return
					}
					acked[w] = append(acked[w], i)
					if n.Add(1) == writers*perRound {
						s.kill()
					}
				}
			})
		}
		wg.Wait()
		s.kill()
	}
	s := r.start(t)
	mustTransact(t, s, upsert("end", "end", nil))
	list := events.await(t, func(list []event) error { return arrived(list, acked[:]) })
	checkEvents(t, s, list, writers)
	s.stop(t)
}

// arrived wants the event of every transaction that was answered.
func arrived(list []event, acked [][]int) error {
	seen := map[string]bool{}
	for _, e := range list {
		seen[fmt.Sprint(writerOf(e), "=", e.Data)] = true
	}
	total, missing := 0, 0
	for w := range acked {
		for _, i := range acked[w] {
			total++
			if !seen[fmt.Sprint("writer-", w, "=", i)] {
				missing++
			}
		}
	}
	if missing > 0 {
		return fmt.Errorf("the events of %d of %d transactions have not arrived", missing, total)
	}
	return nil
}

// writerOf tells which key an event is about: brokers keep it in their ways, so
// the test reads it from what the events say.
func writerOf(e event) any { return e.Attributes["subject"] }

// checkEvents wants events of one key in order, but for those that come again,
// and each of a transaction that has happened.
func checkEvents(t *testing.T, s *sidecar, list []event, writers int) {
	t.Helper()
	last := map[any]int{}
	seen := map[string]bool{}
	again := 0
	for _, e := range list {
		if seen[e.ID] {
			again++
			continue
		}
		seen[e.ID] = true
		var i, w int
		if _, err := fmt.Sscanf(fmt.Sprint(writerOf(e), " ", e.Data), "writer-%d %d", &w, &i); err != nil {
			continue // the end
		}
		if before, ok := last[w]; ok && i <= before {
			t.Errorf("writer %d: event %d came after event %d", w, i, before)
		}
		last[w] = i
		if status, _ := s.call(http.MethodGet, fmt.Sprintf("/v1.0/state/store/item-%d-%d", w, i), nil); status != http.StatusOK {
			t.Errorf("writer %d: event %d is of a transaction that has not happened", w, i)
		}
	}
	t.Logf("%d events, %d of them again", len(list), again)
}

// replicas sends the transactions of one key through two sidecars in turn, of
// which one is stopped in the middle.
func replicas(t *testing.T, p pair) {
	r := newRig(t, p, nil)
	events := r.follow(t, r.topic)
	sidecars := []*sidecar{r.start(t), r.start(t)}
	const count = 200
	for i := range count {
		mustTransact(t, sidecars[i%len(sidecars)], upsert("k", i, nil))
		if i == count/2 {
			sidecars[0].stop(t)
			sidecars = sidecars[1:]
		}
	}
	list := events.awaitCount(t, count)
	for i, e := range list {
		if e.Data != fmt.Sprint(i) {
			t.Fatalf("event %d is %v", i, e.Data)
		}
	}
	time.Sleep(100 * time.Millisecond)
	if n := len(events.all()); n != count {
		t.Errorf("%d events, want %d", n, count)
	}
}
