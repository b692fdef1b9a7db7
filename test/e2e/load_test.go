package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
)

// writers is how many writers a load has.
const writers = 8

// load writes state and publishes events, half of them to be delivered later, as
// fast as it is acknowledged, and remembers what was.
type load struct {
	acked atomic.Int64 // writes and events

	mu     sync.Mutex
	stored map[string]string // key → value
	events []string
	counts [writers]int // value of each writer's counter that was acknowledged last
	errs   []error      // what no caller should see
}

// run lets the writers write through the sidecars, in turn, until ctx ends.
func (l *load) run(ctx context.Context, round string, sidecars ...*sidecar) {
	if l.stored == nil {
		l.stored = map[string]string{}
	}
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				l.step(sidecars[(w+i)%len(sidecars)], w, fmt.Sprintf("%s-%d-%d", round, w, i))
			}
		})
	}
	wg.Wait()
}

// step stores a value at a key of its own, counts, and publishes two events.
func (l *load) step(s *sidecar, writer int, id string) {
	l.mu.Lock()
	count := l.counts[writer] + 1
	l.mu.Unlock()
	body := fmt.Sprintf(`[{"key": %q, "value": %q}]`, id, "value of "+id)
	if l.try(s, "/v1.0/state/statestore", body) {
		l.mu.Lock()
		l.stored[id] = "value of " + id
		l.mu.Unlock()
	}
	if l.try(s, "/v1.0/state/statestore", fmt.Sprintf(`[{"key": "count-%d", "value": %d}]`, writer, count)) {
		l.mu.Lock()
		l.counts[writer] = count
		l.mu.Unlock()
	}
	for id, query := range map[string]string{id: "", id + "-late": fmt.Sprintf("?metadata.delayInSeconds=%dms", rand.IntN(1000))} {
		if l.try(s, "/v1.0/publish/pubsub/orders"+query, strconv.Quote(id)) {
			l.mu.Lock()
			l.events = append(l.events, id)
			l.mu.Unlock()
		}
	}
}

// try makes one request and reports whether it was acknowledged. A sidecar that
// is gone or says why it cannot is fine; one that hangs is not.
func (l *load) try(s *sidecar, path, body string) bool {
	status, answer, err := s.call(http.MethodPost, path, []byte(body))
	switch {
	case err == nil && status == http.StatusNoContent:
		l.acked.Add(1)
		return true
	case err == nil && (status == http.StatusInternalServerError || status == http.StatusServiceUnavailable) && answer != "":
		return false
	case err != nil && !isTimeout(err):
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.errs = append(l.errs, fmt.Errorf("%s of %s: %d %q %w", path, s.name, status, answer, err))
	return false
}

func isTimeout(err error) bool {
	ue, ok := errors.AsType[*url.Error](err)
	return ok && ue.Timeout()
}

// until waits until so much more was acknowledged.
func (l *load) until(tb testing.TB, more int64) {
	tb.Helper()
	want := l.acked.Load() + more
	if err := eventually(func() error {
		if n := l.acked.Load(); n < want {
			return fmt.Errorf("%d of %d writes and events were acknowledged", n, want)
		}
		return nil
	}); err != nil {
		tb.Fatal(err)
	}
}

// check wants everything that was acknowledged to be there.
func (l *load) check(tb testing.TB, s *sidecar, app *subscriber) {
	tb.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, err := range l.errs {
		tb.Error(err)
	}
	for key, value := range l.stored {
		if got := s.must(tb, "GET", "/v1.0/state/statestore/"+key, "", http.StatusOK); got != strconv.Quote(value) {
			tb.Errorf("%s is %s, and %q was acknowledged", key, got, value)
		}
	}
	for w, count := range l.counts {
		got := s.must(tb, "GET", fmt.Sprintf("/v1.0/state/statestore/count-%d", w), "", http.StatusOK)
		// One more may have been written and not acknowledged.
		if n, err := strconv.Atoi(got); err != nil || n < count || n > count+1 {
			tb.Errorf("the counter of writer %d is %s, and %d was acknowledged", w, got, count)
		}
	}
	if err := eventually(func() error {
		if left := app.missing(l.events); len(left) > 0 {
			return fmt.Errorf("%d of %d events acknowledged did not arrive, such as %s", len(left), len(l.events), left[0])
		}
		return nil
	}); err != nil {
		tb.Error(err)
	}
	tb.Logf("%d values and %d events were acknowledged and are there", len(l.stored), len(l.events))
}
