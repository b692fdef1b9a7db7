package statetest

import (
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/proa-io/proa/block/state"
	"github.com/proa-io/proa/fault"
)

func etags() []property {
	return []property{
		{"EveryWriteChangesTheETag", etagChanges},
		{"PutReturnsTheETagThatGetReturns", etagReturned},
		{"AMatchingETagWrites", matchingETag},
		{"AStaleETagIsAMismatch", staleETag},
		{"AnETagOfAMissingItemIsAMismatch", etagOfMissing},
		{"AMalformedETagIsRefused", malformedETag},
		{"AFirstWriteCreates", firstWriteCreates},
		{"ASecondFirstWriteIsAMismatch", secondFirstWrite},
		{"AFirstWriteWithTheRightETagWrites", firstWriteWithETag},
		{"ABlindWriteOverwritesAFirstWrite", blindWrite},
		{"ADeleteWithTheRightETagRemoves", deleteMatching},
		{"ADeleteWithAStaleETagIsAMismatch", deleteStale},
		{"ADeleteWithAnETagOfAMissingItemIsAMismatch", deleteMissingETag},
		{"ALostWriteLeavesTheItemAlone", lostWrite},
		{"OneOfManyWritersWins", oneWriter},
		{"OneOfManyCreatorsWins", oneCreator},
		{"OneOfManyDeletersWins", oneDeleter},
		{"CountingByETagLosesNothing", counting},
	}
}

func etagChanges(t *testing.T, d state.Driver) {
	seen := map[string]bool{}
	for range 5 {
		put(t, d, "k", "the same value", state.PutOptions{})
		etag := etagOf(t, d, "k")
		if etag == "" || seen[etag] {
			t.Fatalf("etag %q after %d writes, want a new one", etag, len(seen)+1)
		}
		seen[etag] = true
		if again := etagOf(t, d, "k"); again != etag {
			t.Fatalf("etag %q became %q without a write", etag, again)
		}
	}
}

func etagReturned(t *testing.T, d state.Driver) {
	for _, opt := range []state.PutOptions{{}, {TTL: time.Hour}, {FirstWrite: true}} {
		key := fmt.Sprintf("%v", opt)
		for range 2 {
			etag := put(t, d, key, "v", opt)
			if etag != "" && etag != etagOf(t, d, key) {
				t.Fatalf("Put returned etag %q, Get %q", etag, etagOf(t, d, key))
			}
			opt.ETag = etagOf(t, d, key)
		}
	}
}

func matchingETag(t *testing.T, d state.Driver) {
	put(t, d, "k", "0", state.PutOptions{})
	for i := range 5 {
		put(t, d, "k", fmt.Sprint(i), state.PutOptions{ETag: etagOf(t, d, "k")})
		wantValue(t, d, "k", fmt.Sprint(i))
	}
}

func staleETag(t *testing.T, d state.Driver) {
	put(t, d, "k", "1", state.PutOptions{})
	old := etagOf(t, d, "k")
	put(t, d, "k", "2", state.PutOptions{})
	for _, first := range []bool{false, true} {
		_, err := d.Put(t.Context(), "k", []byte("3"), state.PutOptions{ETag: old, FirstWrite: first})
		wantMismatch(t, err)
	}
	wantValue(t, d, "k", "2")
}

func etagOfMissing(t *testing.T, d state.Driver) {
	put(t, d, "k", "1", state.PutOptions{})
	etag := etagOf(t, d, "k")
	_, err := d.Put(t.Context(), "other", []byte("2"), state.PutOptions{ETag: etag})
	wantMismatch(t, err)
	wantMissing(t, d, "other")
	if err := d.Delete(t.Context(), "k", state.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	_, err = d.Put(t.Context(), "k", []byte("2"), state.PutOptions{ETag: etag})
	wantMismatch(t, err)
	wantMissing(t, d, "k")
}

func malformedETag(t *testing.T, d state.Driver) {
	put(t, d, "k", "1", state.PutOptions{})
	for _, etag := range []string{"not-an-etag", "-1", "1.5", " ", "\x00", "99999999999999999999999999", "null", `"1"`, "1 2", "0x1"} {
		_, err := d.Put(t.Context(), "k", []byte("2"), state.PutOptions{ETag: etag})
		wantRefused(t, err)
		wantRefused(t, d.Delete(t.Context(), "k", state.DeleteOptions{ETag: etag}))
		_, err = d.Put(t.Context(), "missing", []byte("2"), state.PutOptions{ETag: etag})
		wantRefused(t, err)
	}
	wantValue(t, d, "k", "1")
	wantMissing(t, d, "missing")
}

func firstWriteCreates(t *testing.T, d state.Driver) {
	put(t, d, "k", "1", state.PutOptions{FirstWrite: true})
	wantValue(t, d, "k", "1")
	if err := d.Delete(t.Context(), "k", state.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	put(t, d, "k", "2", state.PutOptions{FirstWrite: true})
	wantValue(t, d, "k", "2")
}

func secondFirstWrite(t *testing.T, d state.Driver) {
	put(t, d, "first", "1", state.PutOptions{FirstWrite: true})
	put(t, d, "blind", "1", state.PutOptions{})
	for _, key := range []string{"first", "blind"} {
		_, err := d.Put(t.Context(), key, []byte("2"), state.PutOptions{FirstWrite: true})
		wantMismatch(t, err)
		wantValue(t, d, key, "1")
	}
}

func firstWriteWithETag(t *testing.T, d state.Driver) {
	put(t, d, "k", "1", state.PutOptions{FirstWrite: true})
	for _, v := range []string{"2", "3"} {
		put(t, d, "k", v, state.PutOptions{FirstWrite: true, ETag: etagOf(t, d, "k")})
		wantValue(t, d, "k", v)
	}
}

func blindWrite(t *testing.T, d state.Driver) {
	put(t, d, "k", "1", state.PutOptions{FirstWrite: true})
	old := etagOf(t, d, "k")
	put(t, d, "k", "2", state.PutOptions{})
	wantValue(t, d, "k", "2")
	_, err := d.Put(t.Context(), "k", []byte("3"), state.PutOptions{FirstWrite: true, ETag: old})
	wantMismatch(t, err)
}

func deleteMatching(t *testing.T, d state.Driver) {
	put(t, d, "k", "1", state.PutOptions{})
	if err := d.Delete(t.Context(), "k", state.DeleteOptions{ETag: etagOf(t, d, "k")}); err != nil {
		t.Fatal(err)
	}
	wantMissing(t, d, "k")
}

func deleteStale(t *testing.T, d state.Driver) {
	put(t, d, "k", "1", state.PutOptions{})
	old := etagOf(t, d, "k")
	put(t, d, "k", "2", state.PutOptions{})
	wantMismatch(t, d.Delete(t.Context(), "k", state.DeleteOptions{ETag: old}))
	wantValue(t, d, "k", "2")
}

func deleteMissingETag(t *testing.T, d state.Driver) {
	put(t, d, "k", "1", state.PutOptions{})
	etag := etagOf(t, d, "k")
	wantMismatch(t, d.Delete(t.Context(), "other", state.DeleteOptions{ETag: etag}))
	if err := d.Delete(t.Context(), "k", state.DeleteOptions{ETag: etag}); err != nil {
		t.Fatal(err)
	}
	wantMismatch(t, d.Delete(t.Context(), "k", state.DeleteOptions{ETag: etag}))
}

func lostWrite(t *testing.T, d state.Driver) {
	put(t, d, "k", "1", state.PutOptions{})
	old := etagOf(t, d, "k")
	put(t, d, "k", "2", state.PutOptions{TTL: time.Hour})
	before := get(t, d, "k")
	_, err := d.Put(t.Context(), "k", []byte("3"), state.PutOptions{ETag: old})
	wantMismatch(t, err)
	_, err = d.Put(t.Context(), "k", []byte("3"), state.PutOptions{FirstWrite: true, TTL: time.Minute})
	wantMismatch(t, err)
	after := get(t, d, "k")
	if string(after.Value) != "2" || after.ETag != before.ETag || !near(after.Expires, before.Expires) {
		t.Errorf("the item became %+v, was %+v", after, before)
	}
}

// contend runs f in many goroutines at once and returns how many of them had no
// error. Any other error than a mismatch fails the test.
func contend(t *testing.T, f func(i int) error) int {
	t.Helper()
	var wins atomic.Int32
	var wg sync.WaitGroup
	start := make(chan struct{})
	for i := range 16 {
		wg.Go(func() {
			<-start
			switch err := f(i); {
			case err == nil:
				wins.Add(1)
			case !fault.Is(err, fault.Aborted):
				t.Errorf("a loser got %v, want aborted", err)
			}
		})
	}
	close(start)
	wg.Wait()
	return int(wins.Load())
}

func oneWriter(t *testing.T, d state.Driver) {
	put(t, d, "k", "start", state.PutOptions{})
	for range 10 {
		etag := etagOf(t, d, "k")
		wins := contend(t, func(i int) error {
			_, err := d.Put(t.Context(), "k", fmt.Append(nil, i), state.PutOptions{ETag: etag})
			return err
		})
		if wins != 1 {
			t.Fatalf("%d writers won, want 1", wins)
		}
	}
}

func oneCreator(t *testing.T, d state.Driver) {
	for round := range 10 {
		wins := contend(t, func(i int) error {
			_, err := d.Put(t.Context(), fmt.Sprint("k", round), fmt.Append(nil, i), state.PutOptions{FirstWrite: true})
			return err
		})
		if wins != 1 {
			t.Fatalf("%d creators won, want 1", wins)
		}
	}
}

func oneDeleter(t *testing.T, d state.Driver) {
	for range 10 {
		put(t, d, "k", "v", state.PutOptions{})
		etag := etagOf(t, d, "k")
		wins := contend(t, func(int) error { return d.Delete(t.Context(), "k", state.DeleteOptions{ETag: etag}) })
		if wins != 1 {
			t.Fatalf("%d deleters won, want 1", wins)
		}
		wantMissing(t, d, "k")
	}
}

func counting(t *testing.T, d state.Driver) {
	put(t, d, "k", "0", state.PutOptions{})
	const workers, each = 4, 20
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for done := 0; done < each; {
				item, _, err := d.Get(t.Context(), "k", state.GetOptions{Consistency: state.Strong})
				if err != nil {
					t.Error(err)
					return
				}
				n, _ := strconv.Atoi(string(item.Value))
				_, err = d.Put(t.Context(), "k", fmt.Append(nil, n+1), state.PutOptions{ETag: item.ETag})
				switch {
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
	wantValue(t, d, "k", fmt.Sprint(workers*each))
}
