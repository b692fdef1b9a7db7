package statetest

import (
	"testing"
	"time"

	"github.com/proa-io/proa/block/state"
)

func ttls() []property {
	return []property{
		{"AnItemWithATTLExpires", expires},
		{"AnItemWithoutATTLSaysSo", noExpiry},
		{"TheExpiryIsReported", expiryReported},
		{"AWriteWithoutATTLEndsTheOldOne", ttlRemoved},
		{"AWriteWithATTLSetsItAnew", ttlReplaced},
		{"ALongTTLIsKept", longTTL},
		{"AnExpiredItemIsMissingToConditions", expiredConditions},
	}
}

// short is a TTL to wait for: long enough that an item is surely seen alive
// before, though some stores cut off up to a second.
const short = 3 * time.Second

// lag is how much later than promised an item may go: stores that look for
// expired items do so about once a second.
const lag = 10 * time.Second

// near reports whether two reports of one expiry agree: stores count in
// seconds, and the clocks of client and server differ.
func near(a, b time.Time) bool { return a.Sub(b).Abs() <= 2*time.Second }

func awaitGone(t *testing.T, d state.Driver, key string) {
	t.Helper()
	eventually(t, "an item with a short TTL is gone", short+lag, func() bool {
		_, found, err := d.Get(t.Context(), key, state.GetOptions{Consistency: state.Strong})
		if err != nil {
			t.Fatal(err)
		}
		return !found
	})
}

func expires(t *testing.T, d state.Driver) {
	put(t, d, "stays", "v", state.PutOptions{})
	put(t, d, "stays too", "v", state.PutOptions{TTL: time.Hour})
	put(t, d, "k", "v", state.PutOptions{TTL: short})
	wantValue(t, d, "k", "v")
	awaitGone(t, d, "k")
	wantValue(t, d, "stays", "v")
	wantValue(t, d, "stays too", "v")
	if bg, ok := d.(state.BulkGetter); ok {
		if r := bg.BulkGet(t.Context(), []string{"k"}, state.GetOptions{Consistency: state.Strong})[0]; r.Found || r.Err != nil {
			t.Errorf("BulkGet of an expired item = %+v", r)
		}
	}
	if l, ok := d.(state.Lister); ok {
		if keys, err := l.List(t.Context(), "k", "", 10); err != nil || len(keys) != 0 {
			t.Errorf("List shows an expired item: %q, %v", keys, err)
		}
	}
}

func noExpiry(t *testing.T, d state.Driver) {
	put(t, d, "k", "v", state.PutOptions{})
	if at := get(t, d, "k").Expires; !at.IsZero() {
		t.Errorf("expires at %v, want never", at)
	}
}

func expiryReported(t *testing.T, d state.Driver) {
	put(t, d, "k", "v", state.PutOptions{TTL: time.Minute})
	if at, want := get(t, d, "k").Expires, time.Now().Add(time.Minute); !near(at, want) {
		t.Errorf("expires at %v, want about %v", at, want)
	}
	if bg, ok := d.(state.BulkGetter); ok {
		r := bg.BulkGet(t.Context(), []string{"k"}, state.GetOptions{Consistency: state.Strong})[0]
		if want := time.Now().Add(time.Minute); !near(r.Item.Expires, want) {
			t.Errorf("BulkGet: expires at %v, want about %v", r.Item.Expires, want)
		}
	}
}

func ttlRemoved(t *testing.T, d state.Driver) {
	put(t, d, "k", "1", state.PutOptions{TTL: short})
	put(t, d, "k", "2", state.PutOptions{})
	if at := get(t, d, "k").Expires; !at.IsZero() {
		t.Fatalf("expires at %v, want never", at)
	}
	put(t, d, "measure", "v", state.PutOptions{TTL: short})
	awaitGone(t, d, "measure")
	wantValue(t, d, "k", "2")
}

func ttlReplaced(t *testing.T, d state.Driver) {
	put(t, d, "longer", "1", state.PutOptions{TTL: short})
	put(t, d, "longer", "2", state.PutOptions{TTL: time.Hour})
	put(t, d, "shorter", "1", state.PutOptions{})
	put(t, d, "shorter", "2", state.PutOptions{TTL: short, ETag: etagOf(t, d, "shorter")})
	wantValue(t, d, "shorter", "2")
	awaitGone(t, d, "shorter")
	wantValue(t, d, "longer", "2")
}

// longTTL tries what is beyond 30 days, where memcached begins to count
// otherwise, and the longest there is.
func longTTL(t *testing.T, d state.Driver) {
	for _, ttl := range []time.Duration{40 * 24 * time.Hour, 10 * 365 * 24 * time.Hour} {
		put(t, d, "k", "v", state.PutOptions{TTL: ttl})
		item := get(t, d, "k")
		if want := time.Now().Add(ttl); !near(item.Expires, want) {
			t.Errorf("TTL %v: expires at %v, want about %v", ttl, item.Expires, want)
		}
	}
}

func expiredConditions(t *testing.T, d state.Driver) {
	put(t, d, "k", "1", state.PutOptions{TTL: short})
	put(t, d, "l", "1", state.PutOptions{TTL: short})
	etag, other := etagOf(t, d, "k"), etagOf(t, d, "l")
	awaitGone(t, d, "k")
	awaitGone(t, d, "l")
	_, err := d.Put(t.Context(), "k", []byte("2"), state.PutOptions{ETag: etag})
	wantMismatch(t, err)
	wantMismatch(t, d.Delete(t.Context(), "l", state.DeleteOptions{ETag: other}))
	put(t, d, "k", "2", state.PutOptions{FirstWrite: true})
	wantValue(t, d, "k", "2")
	if err := d.Delete(t.Context(), "l", state.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
}
