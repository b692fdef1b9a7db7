package statetest

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/proa-io/proa/block/state"
	"github.com/proa-io/proa/fault"
)

func exists(key string) state.Op { return state.Op{Key: key, Check: state.CheckExists} }
func absent(key string) state.Op { return state.Op{Key: key, Check: state.CheckAbsent} }
func hasETag(key, etag string) state.Op {
	return state.Op{Key: key, Check: state.CheckETag, PutOptions: state.PutOptions{ETag: etag}}
}

// checker returns the driver, if its transactions can have checks.
func checker(t *testing.T, d state.Driver) state.Transactor {
	t.Helper()
	tx := transactor(t, d)
	err := tx.Transact(t.Context(), []state.Op{absent("probe"), {Key: "probe too", Delete: true}}, state.TransactOptions{})
	if fault.Is(err, fault.Unimplemented) {
		t.Skipf("this server has no checks: %v", err)
	}
	return tx
}

// wantUnmet expects the error of a check that does not hold.
func wantUnmet(t *testing.T, err error, index int) {
	t.Helper()
	if !fault.Is(err, fault.Aborted) || fault.ReasonOf(err) != state.ReasonConditionFailed {
		t.Errorf("error %v (reason %q), want aborted for a condition", err, reason(err))
	}
	wantBlame(t, err, index)
}

func checkHolds(t *testing.T, d state.Driver) {
	tx := checker(t, d)
	put(t, d, "a", "1", state.PutOptions{})
	put(t, d, "lives", "1", state.PutOptions{TTL: time.Hour})
	put(t, d, "was", "1", state.PutOptions{})
	if err := d.Delete(t.Context(), "was", state.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	before, life := etagOf(t, d, "a"), get(t, d, "lives")
	for _, check := range []state.Op{
		exists("a"), hasETag("a", before), absent("none"), absent("was"), exists("lives"), hasETag("lives", life.ETag),
	} {
		value := fmt.Sprint(check.Key, check.Check)
		mustTransact(t, tx, check, state.Op{Key: "b", Value: []byte(value)})
		wantValue(t, d, "b", value)
		mustTransact(t, tx, state.Op{Key: "b", Delete: true}, check)
		wantMissing(t, d, "b")
	}
	if after := etagOf(t, d, "a"); after != before {
		t.Errorf("the etag of a checked item became %q, was %q", after, before)
	}
	if after := get(t, d, "lives"); after.ETag != life.ETag || !near(after.Expires, life.Expires) {
		t.Errorf("a checked item became %+v, was %+v", after, life)
	}
	wantMissing(t, d, "none")
	wantMissing(t, d, "was")
}

func checkFails(t *testing.T, d state.Driver) {
	tx := checker(t, d)
	put(t, d, "a", "1", state.PutOptions{})
	stale := etagOf(t, d, "a")
	put(t, d, "a", "2", state.PutOptions{})
	put(t, d, "was", "1", state.PutOptions{})
	gone := etagOf(t, d, "was")
	if err := d.Delete(t.Context(), "was", state.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	put(t, d, "stays", "1", state.PutOptions{})
	before := etagOf(t, d, "stays")
	for _, check := range []state.Op{
		absent("a"), exists("none"), exists("was"), hasETag("a", stale), hasETag("none", stale), hasETag("was", gone),
	} {
		err := tx.Transact(t.Context(), []state.Op{
			{Key: "new", Value: []byte("1")}, exists("a"), check, {Key: "stays", Delete: true},
		}, state.TransactOptions{})
		t.Logf("check %d of %q: %v", check.Check, check.Key, err)
		wantUnmet(t, err, 2)
		wantMissing(t, d, "new")
		wantValue(t, d, "stays", "1")
		if after := etagOf(t, d, "stays"); after != before {
			t.Errorf("the etag of an untouched item became %q, was %q", after, before)
		}
	}
	err := tx.Transact(t.Context(), []state.Op{{Key: "new"}, hasETag("a", "not an etag")}, state.TransactOptions{})
	wantBlame(t, err, 1)
	if fault.ReasonOf(err) != state.ReasonETagInvalid {
		wantUnmet(t, err, 1)
	}
	wantMissing(t, d, "new")
}

func checkExpired(t *testing.T, d state.Driver) {
	tx := checker(t, d)
	put(t, d, "short", "1", state.PutOptions{TTL: short})
	etag := etagOf(t, d, "short")
	awaitGone(t, d, "short")
	wantUnmet(t, tx.Transact(t.Context(), []state.Op{{Key: "b"}, exists("short")}, state.TransactOptions{}), 1)
	wantUnmet(t, tx.Transact(t.Context(), []state.Op{{Key: "b"}, hasETag("short", etag)}, state.TransactOptions{}), 1)
	wantMissing(t, d, "b")
	mustTransact(t, tx, state.Op{Key: "b", Value: []byte("1")}, absent("short"))
	wantValue(t, d, "b", "1")
}

func checkSameKey(t *testing.T, d state.Driver) {
	tx := checker(t, d)
	fails := func(index int, ops ...state.Op) {
		t.Helper()
		err := tx.Transact(t.Context(), append(ops, state.Op{Key: "other"}), state.TransactOptions{})
		if !fault.Is(err, fault.Aborted) {
			t.Errorf("error %v, want aborted", err)
		}
		wantBlame(t, err, index)
		wantMissing(t, d, "other")
	}
	write := func(value string) state.Op { return state.Op{Key: "a", Value: []byte(value)} }
	fails(0, exists("a"), write("0"))
	fails(1, write("0"), exists("a"))
	wantMissing(t, d, "a")
	mustTransact(t, tx, absent("a"), write("1"), state.Op{Key: "b"})
	wantValue(t, d, "a", "1")
	fails(1, write("0"), absent("a"))
	mustTransact(t, tx, write("2"), exists("a"), state.Op{Key: "b"})
	wantValue(t, d, "a", "2")
	etag := etagOf(t, d, "a")
	mustTransact(t, tx, exists("a"), hasETag("a", etag), write("3"), state.Op{Key: "b"})
	wantValue(t, d, "a", "3")
	fails(0, hasETag("a", etag), write("0"))
	mustTransact(t, tx, exists("a"), write("4"))
	mustTransact(t, tx, state.Op{Key: "a", Delete: true}, exists("a"))
	wantMissing(t, d, "a")
}

func checkMany(t *testing.T, d state.Driver) {
	tx := checker(t, d)
	n := 50
	if limit := tx.MaxTransaction(); limit > 0 {
		n = min(n, limit-1)
	}
	var ops []state.Op
	for i := range n {
		key := fmt.Sprint("item ", i)
		if i%3 == 0 {
			ops = append(ops, absent(key))
			continue
		}
		put(t, d, key, "v", state.PutOptions{})
		if i%3 == 1 {
			ops = append(ops, exists(key))
		} else {
			ops = append(ops, hasETag(key, etagOf(t, d, key)))
		}
	}
	write := func(value string) []state.Op { return append(ops[:n:n], state.Op{Key: "k", Value: []byte(value)}) }
	mustTransact(t, tx, write("1")...)
	wantValue(t, d, "k", "1")
	put(t, d, "item 0", "v", state.PutOptions{})
	wantUnmet(t, tx.Transact(t.Context(), write("2"), state.TransactOptions{}), 0)
	wantValue(t, d, "k", "1")
	if l, ok := d.(state.Lister); ok { // checks leave nothing behind that can be seen
		keys, err := l.List(t.Context(), "", "", 1000)
		if err != nil {
			t.Fatal(err)
		}
		if want := n - n/3 + 1; len(keys) != want {
			t.Errorf("there are %d keys %q, want %d", len(keys), keys, want)
		}
	}
}

// checkOneWinner has several callers each write keys of their own, if nobody
// was first: they meet in the check and in the write of one key.
func checkOneWinner(t *testing.T, d state.Driver) {
	tx := checker(t, d)
	var won atomic.Int64
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			err := tx.Transact(t.Context(), []state.Op{
				absent("winner"), {Key: fmt.Sprint("prize ", w)}, {Key: "winner", Value: fmt.Append(nil, w)},
			}, state.TransactOptions{})
			switch {
			case err == nil:
				won.Add(1)
			case !fault.Is(err, fault.Aborted):
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if won.Load() != 1 {
		t.Fatalf("%d of 8 won, want 1", won.Load())
	}
	winner := string(get(t, d, "winner").Value)
	for w := range 8 {
		if key := fmt.Sprint("prize ", w); fmt.Sprint(w) == winner {
			wantValue(t, d, key, "")
		} else {
			wantMissing(t, d, key)
		}
	}
}

// checkWriteSkew is the anomaly that conditions on the written keys cannot
// prevent: two callers each see both of two items and remove one of them,
// provided that the other stays. One must stay.
func checkWriteSkew(t *testing.T, d state.Driver) {
	tx := checker(t, d)
	for range 10 {
		put(t, d, "a", "1", state.PutOptions{})
		put(t, d, "b", "1", state.PutOptions{})
		a, b := etagOf(t, d, "a"), etagOf(t, d, "b")
		var done atomic.Int64
		var wg sync.WaitGroup
		for _, ops := range [][]state.Op{
			{hasETag("a", a), {Key: "b", Delete: true}},
			{hasETag("b", b), {Key: "a", Delete: true}},
		} {
			wg.Go(func() {
				switch err := tx.Transact(t.Context(), ops, state.TransactOptions{}); {
				case err == nil:
					done.Add(1)
				case !fault.Is(err, fault.Aborted):
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if done.Load() > 1 {
			t.Fatal("both items were removed")
		}
	}
}
