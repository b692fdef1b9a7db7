// Package jobtest is the contract of job.Driver as tests, and proof that jobs
// on a driver are triggered as they should be.
package jobtest

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/proa-io/proa/block/job"
	"github.com/proa-io/proa/fault"
)

// Open returns a driver on a store without entries. Use t.Cleanup for what
// must be undone. It is called
// concurrently: the tests run in parallel.
type Open func(t testing.TB) job.Driver

// Run proves that a driver keeps the contract.
func Run(t *testing.T, open Open) {
	for _, p := range []struct {
		name string
		test func(*testing.T, job.Driver)
	}{
		{"GetReturnsWhatWasPut", getReturnsWhatWasPut},
		{"MissingEntryIsNotFound", missing},
		{"RevisionsGrow", revisionsGrow},
		{"AbsentEntryIsPutOnce", absentOnce},
		{"PutAtAStaleRevisionIsAConflict", staleRevision},
		{"DeletedEntryIsGone", deleted},
		{"DeleteAtAStaleRevisionIsAConflict", staleDelete},
		{"DeletedEntryIsAbsent", deletedIsAbsent},
		{"AnyNameAndValueWillDo", oddNames},
		{"ScopesAreApart", scopesAreApart},
		{"OneWinnerUnderContention", oneWinner},
		{"WhatIsGivenAndReturnedIsCopied", copies},
		{"WatchBeginsWithWhatThereIs", watchBegins},
		{"WatchOfNothingIsSyncedAtOnce", watchOfNothing},
		{"WatchReportsChangesInOrder", watchInOrder},
		{"WatchIgnoresOtherScopes", watchIgnoresOthers},
		{"NoChangeIsLostWhileAWatchBegins", noneLostAtBegin},
		{"SlowWatcherEndsUpRight", slowWatcher},
		{"WatchEndsWithItsContext", watchEnds},
		{"CanceledContextReturnsCanceled", canceled},
		{"JobsAreTriggeredOnce", triggeredOnce},
		{"JobsOfADeadReplicaAreTakenOver", takenOver},
	} {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			p.test(t, open(t))
		})
	}
}

// key returns the key of an entry of the scope that most tests use.
func key(name string) job.Key { return job.Key{Scope: shop, Name: name} }

var shop = job.Scope{Kind: "job", Namespace: "default", AppID: "shop"}

func put(t testing.TB, d job.Driver, k job.Key, value string, expect job.Expect) uint64 {
	t.Helper()
	rev, err := d.Put(t.Context(), k, []byte(value), expect)
	if err != nil {
		t.Fatalf("Put %q: %v", k.Name, err)
	}
	return rev
}

func wantConflict(t testing.TB, what string, err error) {
	t.Helper()
	if !fault.Is(err, fault.Aborted) || fault.ReasonOf(err) != job.ReasonConflict {
		t.Errorf("%s: error %v, want a conflict", what, err)
	}
}

func wantValue(t testing.TB, d job.Driver, k job.Key, value string, rev uint64) {
	t.Helper()
	e, err := d.Get(t.Context(), k)
	if err != nil || string(e.Value) != value || e.Revision != rev || e.Name != k.Name {
		t.Errorf("Get %q = %q %q at %d, %v; want %q at %d", k.Name, e.Name, e.Value, e.Revision, err, value, rev)
	}
}

func getReturnsWhatWasPut(t *testing.T, d job.Driver) {
	a := put(t, d, key("a"), "1", job.Anything())
	b := put(t, d, key("b"), "2", job.Absent())
	wantValue(t, d, key("a"), "1", a)
	wantValue(t, d, key("b"), "2", b)
	a = put(t, d, key("a"), "3", job.Anything())
	wantValue(t, d, key("a"), "3", a)
	wantValue(t, d, key("b"), "2", b)
}

func missing(t *testing.T, d job.Driver) {
	if e, err := d.Get(t.Context(), key("a")); !fault.Is(err, fault.NotFound) {
		t.Errorf("Get = %v, %v; want not_found", e, err)
	}
	if err := d.Delete(t.Context(), key("a"), job.Anything()); err != nil {
		t.Errorf("Delete: %v", err)
	}
	_, err := d.Put(t.Context(), key("a"), nil, job.Revision(7))
	wantConflict(t, "Put at a revision", err)
}

func revisionsGrow(t *testing.T, d job.Driver) {
	last := uint64(0)
	for i := range 5 {
		expect := job.Anything()
		if i > 2 {
			expect = job.Revision(last)
		}
		rev := put(t, d, key("a"), "same", expect)
		if rev <= last {
			t.Fatalf("revision %d after %d", rev, last)
		}
		last = rev
	}
	if err := d.Delete(t.Context(), key("a"), job.Revision(last)); err != nil {
		t.Fatal(err)
	}
	if rev := put(t, d, key("a"), "new", job.Absent()); rev <= last {
		t.Errorf("revision %d after %d and a deletion", rev, last)
	}
}

func absentOnce(t *testing.T, d job.Driver) {
	rev := put(t, d, key("a"), "1", job.Absent())
	_, err := d.Put(t.Context(), key("a"), []byte("2"), job.Absent())
	wantConflict(t, "Put of what must be absent", err)
	wantValue(t, d, key("a"), "1", rev)
}

func staleRevision(t *testing.T, d job.Driver) {
	stale := put(t, d, key("a"), "1", job.Anything())
	rev := put(t, d, key("a"), "2", job.Revision(stale))
	_, err := d.Put(t.Context(), key("a"), []byte("3"), job.Revision(stale))
	wantConflict(t, "Put at a stale revision", err)
	_, err = d.Put(t.Context(), key("a"), []byte("3"), job.Revision(rev+1))
	wantConflict(t, "Put at a revision to come", err)
	wantValue(t, d, key("a"), "2", rev)
}

func deleted(t *testing.T, d job.Driver) {
	put(t, d, key("a"), "1", job.Anything())
	b := put(t, d, key("b"), "2", job.Anything())
	if err := d.Delete(t.Context(), key("a"), job.Anything()); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Get(t.Context(), key("a")); !fault.Is(err, fault.NotFound) {
		t.Errorf("Get: %v, want not_found", err)
	}
	wantValue(t, d, key("b"), "2", b)
}

func staleDelete(t *testing.T, d job.Driver) {
	stale := put(t, d, key("a"), "1", job.Anything())
	rev := put(t, d, key("a"), "2", job.Anything())
	wantConflict(t, "Delete at a stale revision", d.Delete(t.Context(), key("a"), job.Revision(stale)))
	wantValue(t, d, key("a"), "2", rev)
	if err := d.Delete(t.Context(), key("a"), job.Revision(rev)); err != nil {
		t.Errorf("Delete: %v", err)
	}
	wantConflict(t, "Delete of what is gone", d.Delete(t.Context(), key("a"), job.Revision(rev)))
}

func deletedIsAbsent(t *testing.T, d job.Driver) {
	for range 3 {
		rev := put(t, d, key("a"), "1", job.Absent())
		if err := d.Delete(t.Context(), key("a"), job.Revision(rev)); err != nil {
			t.Fatal(err)
		}
		_, err := d.Put(t.Context(), key("a"), nil, job.Revision(rev))
		wantConflict(t, "Put at the revision of what is gone", err)
	}
}

func oddNames(t *testing.T, d job.Driver) {
	values := map[string]string{"binary": "\x00\xff\n", "empty": "", "large": strings.Repeat("x", 100<<10)}
	revs := map[string]uint64{}
	for _, name := range []string{
		"a", "A", "a b", "a.b", ".a", "a.", "a..b", "*", ">", "$", "a|b", "a||b", "my|job@name", "ünïcödé", "日本", "=", "=41", "%41",
		"a\tb", "'", `"`, "\\", "/session/x", "\x00", strings.Repeat("n", job.MaxName), "ends with a blank ",
	} {
		values[name] = "value of " + name
	}
	for name, value := range values {
		revs[name] = put(t, d, key(name), value, job.Absent())
	}
	for name, value := range values {
		wantValue(t, d, key(name), value, revs[name])
	}
	w := watch(t, d, shop)
	w.wait(func(got map[string]string) bool { return len(got) == len(values) })
	for name, value := range w.got() {
		if values[name] != value {
			t.Errorf("Watch reports %q = %.50q, want %.50q", name, value, values[name])
		}
	}
	for name := range values {
		if err := d.Delete(t.Context(), key(name), job.Revision(revs[name])); err != nil {
			t.Errorf("Delete %q: %v", name, err)
		}
	}
	w.wait(func(got map[string]string) bool { return len(got) == 0 })
}

func scopesAreApart(t *testing.T, d job.Driver) {
	scopes := []job.Scope{
		shop, {Kind: "delayed", Namespace: "default", AppID: "shop"}, {Kind: "job", Namespace: "default", AppID: "shop2"},
		{Kind: "job", Namespace: "prod", AppID: "shop"}, {Kind: "job", Namespace: "default", AppID: "shop.a"},
		{Kind: "job", Namespace: "default.shop", AppID: "a"}, {Kind: "job", Namespace: "", AppID: "shop"},
		{Kind: "job", Namespace: "default", AppID: "sh*p"}, {Kind: "job", Namespace: "default", AppID: "Shop"},
	}
	revs := make([]uint64, len(scopes))
	for i, s := range scopes {
		revs[i] = put(t, d, job.Key{Scope: s, Name: "a"}, fmt.Sprint(i), job.Absent())
	}
	for i, s := range scopes {
		wantValue(t, d, job.Key{Scope: s, Name: "a"}, fmt.Sprint(i), revs[i])
		w := watch(t, d, s)
		w.synced()
		if got := w.got(); len(got) != 1 || got["a"] != fmt.Sprint(i) {
			t.Errorf("Watch of %+v reports %v", s, got)
		}
	}
}

func oneWinner(t *testing.T, d job.Driver) {
	rev := put(t, d, key("a"), "0", job.Anything())
	for round := range 10 {
		var wg sync.WaitGroup
		var mu sync.Mutex
		var winners []uint64
		for i := range 8 {
			wg.Go(func() {
				got, err := d.Put(t.Context(), key("a"), fmt.Appendf(nil, "%d of %d", i, round), job.Revision(rev))
				switch {
				case err == nil:
					mu.Lock()
					winners = append(winners, got)
					mu.Unlock()
				case fault.ReasonOf(err) != job.ReasonConflict:
					t.Errorf("Put: %v", err)
				}
			})
		}
		wg.Wait()
		if len(winners) != 1 {
			t.Fatalf("round %d has %d winners", round, len(winners))
		}
		rev = winners[0]
	}
}

func copies(t *testing.T, d job.Driver) {
	value := []byte("1")
	rev, err := d.Put(t.Context(), key("a"), value, job.Anything())
	if err != nil {
		t.Fatal(err)
	}
	value[0] = '2'
	e, err := d.Get(t.Context(), key("a"))
	if err != nil || !bytes.Equal(e.Value, []byte("1")) {
		t.Fatalf("Get = %q, %v", e.Value, err)
	}
	e.Value[0] = '3'
	wantValue(t, d, key("a"), "1", rev)
}

func canceled(t *testing.T, d job.Driver) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, getErr := d.Get(ctx, key("a"))
	_, putErr := d.Put(ctx, key("a"), nil, job.Anything())
	for what, err := range map[string]error{
		"Get": getErr, "Put": putErr, "Delete": d.Delete(ctx, key("a"), job.Anything()),
		"Watch": d.Watch(ctx, shop, func(job.Change) {}),
	} {
		if err == nil || fault.CodeOf(err) != fault.Canceled {
			t.Errorf("%s: %v, want canceled", what, err)
		}
	}
	if _, err := d.Get(t.Context(), key("a")); !fault.Is(err, fault.NotFound) {
		t.Errorf("after a Put that was canceled: %v, want not_found", err)
	}
}

// patience bounds waits for what must come.
const patience = 60 * time.Second
