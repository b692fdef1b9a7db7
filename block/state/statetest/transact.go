package statetest

import (
	"errors"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/proa-io/proa/block/state"
	"github.com/proa-io/proa/fault"
)

func transactions() []property {
	return []property{
		{"ATransactionWritesAndDeletes", transact},
		{"ATransactionOfOddKeysAndValues", transactOdd},
		{"ATransactionIsAllOrNothing", transactAtomic},
		{"ATransactionHonoursFirstWrite", transactFirstWrite},
		{"ATransactionHonoursMatchingETags", transactETags},
		{"ATransactionHonoursTTLs", transactTTL},
		{"TheLastOperationOnAKeyOfATransactionStays", transactSameKey},
		{"ATransactionOfManyOperations", transactMany},
		{"ATransactionOfNothingSucceeds", transactNothing},
		{"TransactionsDoNotMix", transactIsolated},
		{"TransfersByETagLoseNothing", transfers},
		{"ACheckThatHoldsLetsTheOthersBe", checkHolds},
		{"ACheckThatDoesNotHoldStopsTheOthers", checkFails},
		{"AnExpiredItemIsAbsentToAllChecks", checkExpired},
		{"ChecksAndWritesOfOneKeyGoTogether", checkSameKey},
		{"ATransactionCanHaveMoreChecksThanWrites", checkMany},
		{"OneOfManyWinsByACheck", checkOneWinner},
		{"AWriteSkewIsPreventedByChecks", checkWriteSkew},
	}
}

func transactor(t *testing.T, d state.Driver) state.Transactor {
	t.Helper()
	tx, ok := d.(state.Transactor)
	if !ok {
		t.Skip("the driver is not a state.Transactor")
	}
	// A driver whose server may be too old for transactions says so per call.
	err := tx.Transact(t.Context(), []state.Op{{Key: "probe", Delete: true}, {Key: "probe too", Delete: true}}, state.TransactOptions{})
	if fault.Is(err, fault.Unimplemented) {
		t.Skipf("this server has no transactions: %v", err)
	}
	return tx
}

func mustTransact(t *testing.T, tx state.Transactor, ops ...state.Op) {
	t.Helper()
	if err := tx.Transact(t.Context(), ops, state.TransactOptions{}); err != nil {
		t.Fatalf("Transact: %v", err)
	}
}

func transact(t *testing.T, d state.Driver) {
	tx := transactor(t, d)
	put(t, d, "a", "1", state.PutOptions{})
	put(t, d, "gone", "1", state.PutOptions{})
	mustTransact(t, tx,
		state.Op{Key: "a", Value: []byte("2")},
		state.Op{Key: "b", Value: []byte("3")},
		state.Op{Key: "gone", Delete: true},
		state.Op{Key: "missing", Delete: true},
		state.Op{Key: "empty"})
	wantValue(t, d, "a", "2")
	wantValue(t, d, "b", "3")
	wantValue(t, d, "empty", "")
	wantMissing(t, d, "gone")
	wantMissing(t, d, "missing")
	put(t, d, "a", "4", state.PutOptions{ETag: etagOf(t, d, "a")})
	wantValue(t, d, "a", "4")
}

func transactOdd(t *testing.T, d state.Driver) {
	tx := transactor(t, d)
	var ops []state.Op
	for _, k := range oddKeys() {
		ops = append(ops, state.Op{Key: k, Value: []byte("\x00\r\n" + k)})
	}
	mustTransact(t, tx, ops...)
	for _, k := range oddKeys() {
		wantValue(t, d, k, "\x00\r\n"+k)
	}
}

// wantBlame expects the error of operation index.
func wantBlame(t *testing.T, err error, index int) {
	t.Helper()
	if oe, ok := errors.AsType[*state.OpError](err); !ok || oe.Index != index {
		t.Errorf("error %v (%T), want an OpError for operation %d", err, err, index)
	}
}

func transactAtomic(t *testing.T, d state.Driver) {
	tx := transactor(t, d)
	put(t, d, "old", "1", state.PutOptions{})
	stale := etagOf(t, d, "old")
	put(t, d, "old", "2", state.PutOptions{})
	put(t, d, "stays", "1", state.PutOptions{})
	before := etagOf(t, d, "stays")
	for name, bad := range map[string]state.Op{
		"a stale etag":              {Key: "old", Value: []byte("3"), PutOptions: state.PutOptions{ETag: stale}},
		"an etag of a missing item": {Key: "none", PutOptions: state.PutOptions{ETag: stale}},
		"a malformed etag":          {Key: "old", PutOptions: state.PutOptions{ETag: "not an etag"}},
		"a delete with a stale etag": {Key: "old", Delete: true,
			PutOptions: state.PutOptions{ETag: stale}},
		"a first write of what exists": {Key: "old", PutOptions: state.PutOptions{FirstWrite: true}},
	} {
		err := tx.Transact(t.Context(), []state.Op{
			{Key: "new", Value: []byte("1")}, {Key: "stays", Value: []byte("2")}, bad, {Key: "stays", Delete: true},
		}, state.TransactOptions{})
		t.Logf("%s: %v", name, err)
		wantRefused(t, err)
		wantBlame(t, err, 2)
		wantMissing(t, d, "new")
		wantMissing(t, d, "none")
		wantValue(t, d, "old", "2")
		wantValue(t, d, "stays", "1")
		if etag := etagOf(t, d, "stays"); etag != before {
			t.Errorf("%s: the etag of an untouched item became %q, was %q", name, etag, before)
		}
	}
}

func transactFirstWrite(t *testing.T, d state.Driver) {
	tx := transactor(t, d)
	first := state.PutOptions{FirstWrite: true}
	mustTransact(t, tx, state.Op{Key: "a", Value: []byte("1"), PutOptions: first}, state.Op{Key: "b", PutOptions: first})
	err := tx.Transact(t.Context(), []state.Op{{Key: "c"}, {Key: "a", PutOptions: first}}, state.TransactOptions{})
	wantMismatch(t, err)
	wantValue(t, d, "a", "1")
	wantMissing(t, d, "c")
}

func transactETags(t *testing.T, d state.Driver) {
	tx := transactor(t, d)
	put(t, d, "a", "1", state.PutOptions{})
	put(t, d, "b", "1", state.PutOptions{})
	mustTransact(t, tx,
		state.Op{Key: "a", Value: []byte("2"), PutOptions: state.PutOptions{ETag: etagOf(t, d, "a")}},
		state.Op{Key: "b", Delete: true, PutOptions: state.PutOptions{ETag: etagOf(t, d, "b")}})
	wantValue(t, d, "a", "2")
	wantMissing(t, d, "b")
}

func transactTTL(t *testing.T, d state.Driver) {
	tx := transactor(t, d)
	put(t, d, "had", "1", state.PutOptions{TTL: time.Hour})
	mustTransact(t, tx,
		state.Op{Key: "short", PutOptions: state.PutOptions{TTL: short}},
		state.Op{Key: "long", PutOptions: state.PutOptions{TTL: time.Hour}},
		state.Op{Key: "had", Value: []byte("2")})
	if at := get(t, d, "long").Expires; !near(at, time.Now().Add(time.Hour)) {
		t.Errorf("expires at %v, want in an hour", at)
	}
	if at := get(t, d, "had").Expires; !at.IsZero() {
		t.Errorf("an item written without a TTL expires at %v", at)
	}
	awaitGone(t, d, "short")
	wantValue(t, d, "had", "2")
}

func transactSameKey(t *testing.T, d state.Driver) {
	tx := transactor(t, d)
	put(t, d, "match", "1", state.PutOptions{})
	etag := state.PutOptions{ETag: etagOf(t, d, "match")}
	mustTransact(t, tx,
		state.Op{Key: "twice", Value: []byte("1")}, state.Op{Key: "twice", Value: []byte("2")},
		state.Op{Key: "gone", Value: []byte("1")}, state.Op{Key: "gone", Delete: true},
		state.Op{Key: "back", Delete: true}, state.Op{Key: "back", Value: []byte("1")},
		state.Op{Key: "match", Value: []byte("2"), PutOptions: etag}, state.Op{Key: "match", Value: []byte("3"), PutOptions: etag})
	wantValue(t, d, "twice", "2")
	wantMissing(t, d, "gone")
	wantValue(t, d, "back", "1")
	wantValue(t, d, "match", "3")
}

func transactMany(t *testing.T, d state.Driver) {
	tx := transactor(t, d)
	n := 1000
	if limit := tx.MaxTransaction(); limit > 0 {
		n = min(n, limit)
	}
	ops := make([]state.Op, n)
	for i := range ops {
		ops[i] = state.Op{Key: fmt.Sprint("item ", i), Value: fmt.Append(nil, i)}
	}
	mustTransact(t, tx, ops...)
	for i := 0; i < n; i += 31 {
		wantValue(t, d, fmt.Sprint("item ", i), fmt.Sprint(i))
	}
}

func transactNothing(t *testing.T, d state.Driver) {
	mustTransact(t, transactor(t, d))
}

// transactIsolated has each transaction write the same value to several keys;
// afterwards they must agree.
func transactIsolated(t *testing.T, d state.Driver) {
	tx := transactor(t, d)
	keys := []string{"a", "b", "c", "d"}
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := range 10 {
				var ops []state.Op
				for j := range keys {
					ops = append(ops, state.Op{Key: keys[(j+w)%len(keys)], Value: fmt.Append(nil, w, " ", i)})
				}
				if err := tx.Transact(t.Context(), ops, state.TransactOptions{}); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	want := string(get(t, d, "a").Value)
	for _, k := range keys {
		wantValue(t, d, k, want)
	}
}

// transfers moves amounts between accounts; the sum must stay.
func transfers(t *testing.T, d state.Driver) {
	tx := transactor(t, d)
	const accounts, start, workers, each = 4, 100, 4, 10
	account := func(i int) string { return fmt.Sprint("account ", i%accounts) }
	for i := range accounts {
		put(t, d, account(i), fmt.Sprint(start), state.PutOptions{})
	}
	move := func(from, to string) error {
		a, _, err := d.Get(t.Context(), from, strong())
		if err != nil {
			return err
		}
		b, _, err := d.Get(t.Context(), to, strong())
		if err != nil {
			return err
		}
		have, _ := strconv.Atoi(string(a.Value))
		has, _ := strconv.Atoi(string(b.Value))
		return tx.Transact(t.Context(), []state.Op{
			{Key: from, Value: fmt.Append(nil, have-1), PutOptions: state.PutOptions{ETag: a.ETag}},
			{Key: to, Value: fmt.Append(nil, has+1), PutOptions: state.PutOptions{ETag: b.ETag, FirstWrite: true}},
		}, state.TransactOptions{})
	}
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for done := 0; done < each; {
				switch err := move(account(w+done), account(w+done+1)); {
				case err == nil:
					done++
				case !fault.Is(err, fault.Aborted):
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	sum := 0
	for i := range accounts {
		n, _ := strconv.Atoi(string(get(t, d, account(i)).Value))
		sum += n
	}
	if sum != accounts*start {
		t.Errorf("the accounts sum up to %d, want %d", sum, accounts*start)
	}
}
