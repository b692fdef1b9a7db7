package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/proa-io/proa/fault"
)

func testCommitChecks(t *testing.T, ctx context.Context, b *Bucket) {
	rev, err := b.Put(ctx, "check.there", nil, PutOptions{})
	if err != nil {
		t.Fatal(err)
	}
	check := func(key string, e Expect) Write {
		return Write{Key: key, Check: true, PutOptions: PutOptions{Expect: e}}
	}
	put := func(key string) Write { return Write{Key: key, Value: []byte("v")} }
	// More checks than writes, and writes with demands of their own.
	revs, err := b.Commit(ctx, []Write{
		check("check.there", Revision(rev)), put("check.a"), check("check.none", Absent()), check("check.b", Absent()),
		{Key: "check.c", PutOptions: PutOptions{Expect: Absent()}},
	})
	if err != nil || len(revs) != 5 || revs[0] != 0 || revs[2] != 0 || revs[4] != revs[1]+1 {
		t.Fatalf("commit: %v, %v", revs, err)
	}
	if e, err := b.Get(ctx, "check.c", Strong); err != nil || e.Revision != revs[4] {
		t.Errorf("check.c has revision %d, %v; want %d", e.Revision, err, revs[4])
	}
	if e, err := b.Get(ctx, "check.there", Strong); err != nil || e.Revision != rev {
		t.Errorf("a checked key has revision %d, %v; want %d", e.Revision, err, rev)
	}
	for name, w := range map[string]Write{
		"another revision": check("check.there", Revision(rev-1)), "presence": check("check.none", Present()), "absence": check("check.there", Absent()),
	} {
		_, err := b.Commit(ctx, []Write{put("check.lost"), w})
		if !fault.Is(err, fault.Aborted) || fault.ReasonOf(err) != ReasonConflict {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := b.Get(ctx, "check.lost", Strong); !fault.Is(err, fault.NotFound) {
			t.Errorf("%s: the write has happened: %v", name, err)
		}
	}
	if _, err := b.Put(ctx, "check.there", nil, PutOptions{Expect: Present()}); err != nil {
		t.Errorf("a put that demands a value: %v", err)
	}
	_, err = b.Put(ctx, "check.none", nil, PutOptions{Expect: Present()})
	wantCode(t, err, fault.Aborted, ReasonConflict)
	_, err = b.Commit(ctx, []Write{check("check.there", Present()), check("check.none", Absent())})
	wantCode(t, err, fault.InvalidArgument, "")
}

func testFollow(t *testing.T, ctx context.Context, b *Bucket) {
	for i := range 3 {
		if _, err := b.Put(ctx, fmt.Sprint("follow.", i), nil, PutOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Delete(ctx, "follow.2", Anything()); err != nil {
		t.Fatal(err)
	}
	enough := errors.New("enough")
	var got []string
	var point Point
	err := b.Follow(ctx, FollowOptions{Pattern: "follow.>", Initial: true}, func(u Update, p Point) error {
		got = append(got, fmt.Sprint(u.Op, u.Key))
		if u.Op == OpSynced {
			point = p
			return enough
		}
		return nil
	})
	if err != enough || !slices.Equal(got, []string{"0follow.0", "0follow.1", "2"}) {
		t.Fatalf("got %q, %v", got, err)
	}
	if err := b.Delete(ctx, "follow.1", Anything()); err != nil {
		t.Fatal(err)
	}
	parsed, err := ParsePoint(point.String())
	if err != nil {
		t.Fatal(err)
	}
	got = nil
	err = b.Follow(ctx, FollowOptions{Pattern: "follow.>", After: &parsed}, func(u Update, _ Point) error {
		if got = append(got, fmt.Sprint(u.Op, u.Key)); u.Key != "" {
			return enough
		}
		return nil
	})
	if err != enough || !slices.Equal(got, []string{"2", "1follow.1"}) {
		t.Errorf("after the point: %q, %v", got, err)
	}
	for name, p := range map[string]Point{
		"of a bucket that was made anew": {parsed.seq, parsed.at, parsed.created - 1},
		"in the future":                  {parsed.seq + 1000, parsed.at, parsed.created},
		"from long ago":                  {parsed.seq, parsed.at.Add(-time.Hour), parsed.created},
	} {
		err := b.Follow(ctx, FollowOptions{Pattern: "follow.>", After: &p}, func(Update, Point) error { return enough })
		if !fault.Is(err, fault.FailedPrecondition) || fault.ReasonOf(err) != ReasonForgotten {
			t.Errorf("a point %s: %v", name, err)
		}
	}
}

// An idle follow keeps its point fresh, so that it is good for the time of the
// next interruption.
func TestAnIdleFollowRefreshesItsPoint(t *testing.T) {
	now := time.Now()
	var points []Point
	f := &follower{bucket: &Bucket{keyTTL: true}, synced: true, point: Point{seq: 7, at: now.Add(-time.Minute), created: 1},
		fn: func(u Update, p Point) error {
			if u.Op != OpSynced {
				t.Errorf("reported %v", u)
			}
			points = append(points, p)
			return nil
		}}
	for range 2 {
		if err := f.idle(); err != nil {
			t.Fatal(err)
		}
	}
	if len(points) != 1 || points[0].seq != 7 || now.Sub(points[0].at) > watchHeartbeat+time.Second {
		t.Fatalf("points %v", points)
	}
	f.origin = Point{seq: 9, created: 1}
	if !f.remembers(&points[0], now.Add(30*time.Second)) || f.remembers(&points[0], now.Add(time.Minute)) {
		t.Error("a point is good for less than a minute, and for half of one")
	}
}

func TestOnlyPointsAreReadAsPoints(t *testing.T) {
	p := Point{seq: 1<<63 - 1, at: time.UnixMilli(1<<62 + 1), created: 1<<63 - 1}
	if again, err := ParsePoint(p.String()); err != nil || again.String() != p.String() || len(p.String()) > 64 {
		t.Errorf("%s: %v, %v", p, again, err)
	}
	for _, text := range []string{"", ".", "..", "1.2", "1.2.3.4", "-1.2.3", "1.x.3", "1.2.x", "18446744073709551615.1.1", "1.2.99999999999999999999"} {
		if _, err := ParsePoint(text); !fault.Is(err, fault.InvalidArgument) {
			t.Errorf("%q: %v", text, err)
		}
	}
}
