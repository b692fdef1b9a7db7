package configtest

import (
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"

	"github.com/proa-io/proa/block/config"
	"github.com/proa-io/proa/fault"
)

// write makes changes that must succeed.
func write(t *testing.T, s Store, writes ...config.Write) []string {
	t.Helper()
	versions, err := s.Write(t.Context(), writes)
	if err != nil {
		t.Fatalf("Write(%v): %v", writes, err)
	}
	if len(versions) != len(writes) {
		t.Fatalf("Write(%v) = %q, want a version for each", writes, versions)
	}
	for i, w := range writes {
		if (versions[i] == "") != w.Delete {
			t.Fatalf("Write(%v): version %q of item %d", writes, versions[i], i)
		}
	}
	return versions
}

// wantConflict makes changes that must fail and change nothing.
func wantConflict(t *testing.T, s Store, writes ...config.Write) {
	t.Helper()
	before := get(t, s)
	_, err := s.Write(t.Context(), writes)
	if !fault.Is(err, fault.Aborted) || fault.ReasonOf(err) != config.ReasonConflict {
		t.Fatalf("Write(%+v): error %v, want aborted with reason %q", writes, err, config.ReasonConflict)
	}
	if after := get(t, s); !maps.Equal(values(before), values(after)) {
		t.Fatalf("a conflict of Write(%+v) made of %v these: %v", writes, before, after)
	}
}

func noOldVersions(t *testing.T, s Store) {
	seen := map[string]bool{}
	for range 5 {
		v := set(t, s, "a", "1")
		if seen[v] {
			t.Fatalf("version %q again, of %v", v, seen)
		}
		seen[v] = true
		del(t, s, "a")
	}
}

func version(v string) config.Expect { return config.Expect{Version: v} }

func comparesVersion(t *testing.T, s Store) {
	wantConflict(t, s, config.Write{Key: "a", Value: "1", Expect: version("1")})
	v1 := set(t, s, "a", "1")
	set(t, s, "b", "1")
	v2 := write(t, s, config.Write{Key: "a", Value: "2", Expect: version(v1)})[0]
	wantConflict(t, s, config.Write{Key: "a", Value: "3", Expect: version(v1)})
	wantConflict(t, s, config.Write{Key: "a", Delete: true, Expect: version(v1)})
	if got := get(t, s, "a")["a"]; got.Value != "2" || got.Version != v2 {
		t.Fatalf("Get = %v, want 2 at version %q", got, v2)
	}
	write(t, s, config.Write{Key: "a", Delete: true, Expect: version(v2)})
	wantItems(t, get(t, s), map[string]string{"b": "1"})
	wantConflict(t, s, config.Write{Key: "a", Delete: true, Expect: version(v2)})
	wantConflict(t, s, config.Write{Key: "a", Value: "3", Expect: version(v2)})
}

func comparesAbsence(t *testing.T, s Store) {
	for range 2 {
		write(t, s, config.Write{Key: "a", Value: "1", Expect: config.Expect{Absent: true}})
		wantConflict(t, s, config.Write{Key: "a", Value: "2", Expect: config.Expect{Absent: true}})
		wantItems(t, get(t, s), map[string]string{"a": "1"})
		del(t, s, "a")
	}
}

func comparesOddVersion(t *testing.T, s Store) {
	set(t, s, "a", "1")
	for _, v := range []string{"0", "-1", "no such version", "1e3", "18446744073709551616", "\u00fc||\n"} {
		wantConflict(t, s, config.Write{Key: "a", Value: "2", Expect: version(v)})
	}
}

func oneWinner(t *testing.T, s Store) {
	expect := config.Expect{Absent: true}
	for round := range 5 {
		var mu sync.Mutex
		var winners []string
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				v, err := s.Write(t.Context(), []config.Write{{Key: "a", Value: fmt.Sprint(i), Expect: expect}})
				switch {
				case err == nil:
					mu.Lock()
					winners = append(winners, v...)
					mu.Unlock()
				case fault.ReasonOf(err) != config.ReasonConflict:
					t.Errorf("a loser got %v", err)
				}
			})
		}
		wg.Wait()
		if len(winners) != 1 {
			t.Fatalf("round %d: %d winners", round, len(winners))
		}
		expect = version(winners[0])
	}
}

// several reports whether a driver can change several items as one. What stands
// behind it may be too old for that; then it says so.
func several(t *testing.T, s Store) {
	t.Helper()
	_, err := s.Write(t.Context(), []config.Write{{Key: "x", Delete: true}, {Key: "y", Delete: true}})
	if fault.Is(err, fault.Unimplemented) {
		t.Skipf("the store cannot change several items as one: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func writesSeveral(t *testing.T, s Store) {
	several(t, s)
	set(t, s, "old", "1")
	v := set(t, s, "gone", "1")
	versions := write(t, s,
		config.Write{Key: "new", Value: "2", Expect: config.Expect{Absent: true}},
		config.Write{Key: "old", Value: "2"},
		config.Write{Key: "gone", Delete: true, Expect: version(v)},
		config.Write{Key: "never", Delete: true},
	)
	items := get(t, s)
	wantItems(t, items, map[string]string{"new": "2", "old": "2"})
	if items["new"].Version != versions[0] || items["old"].Version != versions[1] {
		t.Errorf("Get = %v, Write gave the versions %q", items, versions)
	}
	// One that is not as expected stops all, wherever it stands.
	others := []config.Write{{Key: "more", Value: "3"}, {Key: "old", Value: "3"}, {Key: "new", Delete: true}}
	for i := range len(others) + 1 {
		wantConflict(t, s, slices.Insert(slices.Clone(others), i, config.Write{Key: "gone", Value: "3", Expect: version(v)})...)
	}
	var many []config.Write
	want := map[string]string{"new": "2", "old": "2"}
	for i := range 300 {
		w := config.Write{Key: fmt.Sprint("key", i), Value: fmt.Sprint(i)}
		many, want[w.Key] = append(many, w), w.Value
	}
	write(t, s, many...)
	wantItems(t, get(t, s), want)
}

func watchSeveral(t *testing.T, s Store) {
	several(t, s)
	set(t, s, "a", "1")
	set(t, s, "b", "1")
	all, some := watch(t, s), watch(t, s, "b", "c")
	all.wait("what there is", map[string]string{"a": "1", "b": "1"})
	some.wait("what there is", map[string]string{"b": "1"})
	write(t, s, config.Write{Key: "a", Value: "2"}, config.Write{Key: "b", Delete: true}, config.Write{Key: "c", Value: "2"})
	all.wait("the changes", map[string]string{"a": "2", "c": "2"})
	some.wait("the changes", map[string]string{"c": "2"})
}
