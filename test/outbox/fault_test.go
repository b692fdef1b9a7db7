package outbox_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/proa-io/proa/internal/testserver"
	"github.com/proa-io/proa/runtime"
)

// TestABrokerThatIsKilledGetsEverythingOnceItIsBack kills the broker under
// load, again and again. Transactions go on meanwhile.
func TestABrokerThatIsKilledGetsEverythingOnceItIsBack(t *testing.T) {
	t.Parallel()
	broker := testserver.Redis(t, testserver.RedisOptions{AppendOnly: true})
	r := newRig(t, pair{natsStore, func(testing.TB) part {
		return part{"pubsub.redis", map[string]string{"redisHost": broker.Addr()}}
	}}, nil)
	s := r.start(t)
	n := 0
	commit := func(count int) {
		for range count {
			mustTransact(t, s, upsert("k", n, nil))
			n++
		}
	}
	for range 3 {
		commit(20)
		broker.Kill()
		commit(20)
		broker.Restart()
	}
	commit(1)
	list := r.follow(t, r.topic).awaitCount(t, n)
	wantCounted(t, list, n)
}

// wantCounted wants events with the numbers below n in order, but for those
// that come again.
func wantCounted(t *testing.T, list []event, n int) {
	t.Helper()
	seen, next := map[string]bool{}, 0
	for _, e := range list {
		if seen[e.ID] {
			continue
		}
		seen[e.ID] = true
		if e.Data != strconv.Itoa(next) {
			t.Fatalf("event %d is %v", next, e.Data)
		}
		next++
	}
	if next != n {
		t.Errorf("%d different events, want %d", next, n)
	}
}

// TestAStoreThatIsKilledLosesNoEvent kills the store under load, again and
// again. Of a transaction that failed nobody knows whether it has happened: its
// event arrives if it has.
func TestAStoreThatIsKilledLosesNoEvent(t *testing.T) {
	t.Parallel()
	store := testserver.Redis(t, testserver.RedisOptions{AppendOnly: true})
	r := newRig(t, pair{func(testing.TB) part {
		return part{"state.redis", map[string]string{"redisHost": store.Addr()}}
	}, natsBroker}, nil)
	s := r.start(t)
	events := r.follow(t, r.topic)
	const writers = 4
	var acked [writers][]int
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				name := fmt.Sprint("writer-", w)
				status, _ := s.transact(upsert(name, i, map[string]string{"subject": name}),
					upsert(fmt.Sprintf("item-%d-%d", w, i), i, map[string]string{"outbox.publish": "false"}))
				if status == http.StatusNoContent {
					acked[w] = append(acked[w], i)
				}
			}
		})
	}
	for n := range 3 {
		events.awaitCount(t, 100*(n+1))
		store.Kill()
		store.Restart()
	}
	events.awaitCount(t, 500)
	close(stop)
	wg.Wait()
	mustTransact(t, s, upsert("end", "end", nil))
	list := events.await(t, func(list []event) error { return arrived(list, acked[:]) })
	checkEvents(t, s, list, writers)
}

// TestTheOutboxInMemory runs everything in one process: store, broker and
// application.
func TestTheOutboxInMemory(t *testing.T) {
	t.Parallel()
	r := newRig(t, pair{
		func(testing.TB) part { return part{"state.in-memory", nil} },
		func(testing.TB) part { return part{"pubsub.in-memory", nil} },
	}, nil)
	var mu sync.Mutex
	var got []string
	mux := http.NewServeMux()
	mux.HandleFunc("GET /dapr/subscribe", func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode([]map[string]any{
			{"pubsubname": "broker", "topic": r.topic, "route": "/on"}, {"pubsubname": "broker", "topic": "mail", "route": "/on"},
		})
	})
	mux.HandleFunc("POST /on", func(_ http.ResponseWriter, req *http.Request) {
		var e map[string]any
		_ = json.NewDecoder(req.Body).Decode(&e)
		mu.Lock()
		defer mu.Unlock()
		got = append(got, fmt.Sprint(e["topic"], " ", e["data"]))
	})
	app := httptest.NewServer(mux)
	defer app.Close()
	ports := make(chan int, 1)
	cfg := sidecarConfig(r.dir, func(a runtime.Addresses) { ports <- a.HTTPPort })
	_, port, _ := strings.Cut(app.Listener.Addr().String(), ":")
	cfg.AppPort, _ = strconv.Atoi(port)
	rt, err := runtime.New(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- rt.Run(ctx) }()
	s := &sidecar{port: <-ports}
	const count = 500
	for i := range count {
		mustTransact(t, s, upsert("k", i, nil), upsert("k", "mail", map[string]string{"outbox.projection": "true", "outbox.topic": "mail"}))
	}
	for deadline := time.Now().Add(within); ; time.Sleep(10 * time.Millisecond) {
		mu.Lock()
		n := len(got)
		mu.Unlock()
		if n >= 2*count || time.Now().After(deadline) {
			break
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	mu.Lock()
	defer mu.Unlock()
	seen := map[string]int{}
	for _, e := range got {
		seen[e]++
	}
	for i := range count {
		if n := seen[fmt.Sprint(r.topic, " ", i)]; n != 1 {
			t.Errorf("event %d came %d times", i, n)
		}
	}
	if seen["mail mail"] != count {
		t.Errorf("%d projections, want %d", seen["mail mail"], count)
	}
}
