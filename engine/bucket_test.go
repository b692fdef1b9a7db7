package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/proa-io/proa/fault"
)

func bucket(t testing.TB, ctx context.Context, e *Engine, cfg BucketConfig) *Bucket {
	t.Helper()
	b, err := e.KeyValue(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func wantCode(t testing.TB, err error, code fault.Code, reason fault.Reason) {
	t.Helper()
	if !fault.Is(err, code) || fault.ReasonOf(err) != reason {
		t.Fatalf("got %v (%v, reason %q), want %v, reason %q", err, fault.CodeOf(orUnknown(err)), fault.ReasonOf(err), code, reason)
	}
}

func orUnknown(err error) error {
	if err == nil {
		return errors.New("no error")
	}
	return err
}

// TestBucket runs on the embedded engine and on whatever real server there is,
// with what that can do.
func TestBucket(t *testing.T) {
	servers := map[string]func(t *testing.T) Options{
		"embedded": func(t *testing.T) Options { return Options{Dir: t.TempDir()} },
		"external": func(t *testing.T) Options { return Options{URL: startNATS(t, t.TempDir(), freePort(t)).url} },
	}
	for name, options := range servers {
		t.Run(name, func(t *testing.T) {
			ctx := deadline(t)
			e, _ := run(t, options(t))
			if _, err := e.Conn(ctx); err != nil {
				t.Fatal(err)
			}
			cfg := BucketConfig{Name: "b", KeyTTL: e.Supports(MessageTTL), Atomic: e.Supports(AtomicBatch)}
			b := bucket(t, ctx, e, cfg)
			t.Run("write and read", func(t *testing.T) { testWriteAndRead(t, ctx, b) })
			t.Run("expectations", func(t *testing.T) { testExpectations(t, ctx, b) })
			t.Run("one winner", func(t *testing.T) { testOneWinner(t, ctx, b) })
			t.Run("odd keys", func(t *testing.T) { testOddKeys(t, ctx, b) })
			t.Run("each", func(t *testing.T) { testEach(t, ctx, b) })
			if cfg.KeyTTL {
				t.Run("ttl", func(t *testing.T) { testTTL(t, ctx, b) })
			} else {
				t.Run("ttl on an old server", func(t *testing.T) {
					_, err := e.KeyValue(ctx, BucketConfig{Name: "ttl", KeyTTL: true})
					wantCode(t, err, fault.Unimplemented, ReasonUnsupported)
					_, err = b.Put(ctx, "k", nil, PutOptions{TTL: time.Second})
					wantCode(t, err, fault.Unimplemented, ReasonUnsupported)
				})
			}
			if cfg.Atomic {
				t.Run("commit", func(t *testing.T) { testCommit(t, ctx, b) })
				t.Run("commit with checks", func(t *testing.T) { testCommitChecks(t, ctx, b) })
				t.Run("follow", func(t *testing.T) { testFollow(t, ctx, b) })
			} else {
				t.Run("commit on an old server", func(t *testing.T) {
					_, err := b.Commit(ctx, []Write{{Key: "c.1"}, {Key: "c.2"}})
					wantCode(t, err, fault.Unimplemented, ReasonUnsupported)
				})
			}
		})
	}
}

func testWriteAndRead(t *testing.T, ctx context.Context, b *Bucket) {
	values := map[string][]byte{
		"plain": []byte("v"), "empty": {}, "binary": {0, 1, 0xff, '\r', '\n'}, "large": bytes.Repeat([]byte("x"), 900<<10),
	}
	for key, value := range values {
		rev, err := b.Put(ctx, key, value, PutOptions{Header: nats.Header{"Kind": {"a b"}}})
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []Consistency{Strong, Eventual} {
			got, err := b.Get(ctx, key, want)
			if err != nil || got.Key != key || !bytes.Equal(got.Value, value) || got.Revision != rev {
				t.Errorf("%s: got %q revision %d of %d, %v", key, got.Value, got.Revision, rev, err)
			}
			if got.Header.Get("Kind") != "a b" || !got.Expires.IsZero() || time.Since(got.Created) > time.Minute {
				t.Errorf("%s: header %v, expires %v, created %v", key, got.Header, got.Expires, got.Created)
			}
		}
		// The leader's answer is another protocol; a single server gives both.
		c, err := b.engine.Conn(ctx)
		if err != nil {
			t.Fatal(err)
		}
		m, err := b.lastFromLeader(ctx, c, key)
		if err != nil || !bytes.Equal(m.data, value) || m.seq != rev || m.header.Get("Kind") != "a b" {
			t.Errorf("%s: the leader says %d %v, %v", key, m.seq, m.header, err)
		}
	}
	_, err := b.Get(ctx, "missing", Strong)
	wantCode(t, err, fault.NotFound, "")
	_, err = b.Get(ctx, "missing", Eventual)
	wantCode(t, err, fault.NotFound, "")
}

func testExpectations(t *testing.T, ctx context.Context, b *Bucket) {
	put := func(value string, expect Expect) (uint64, error) {
		return b.Put(ctx, "cas", []byte(value), PutOptions{Expect: expect})
	}
	first, err := put("1", Absent())
	if err != nil {
		t.Fatal(err)
	}
	_, err = put("2", Absent())
	wantCode(t, err, fault.Aborted, ReasonConflict)
	second, err := put("2", Revision(first))
	if err != nil || second <= first {
		t.Fatalf("revision %d after %d, %v", second, first, err)
	}
	_, err = put("3", Revision(first))
	wantCode(t, err, fault.Aborted, ReasonConflict)
	wantCode(t, b.Delete(ctx, "cas", Revision(first)), fault.Aborted, ReasonConflict)
	if err := b.Delete(ctx, "cas", Revision(second)); err != nil {
		t.Fatal(err)
	}
	_, err = b.Get(ctx, "cas", Strong)
	wantCode(t, err, fault.NotFound, "")
	if _, err := put("again", Absent()); err != nil {
		t.Fatalf("create over a tombstone: %v", err)
	}
	if got, err := b.Get(ctx, "cas", Strong); err != nil || string(got.Value) != "again" {
		t.Fatalf("got %q, %v", got.Value, err)
	}
	if err := b.Delete(ctx, "never.there", Anything()); err != nil {
		t.Fatalf("delete of a missing key: %v", err)
	}
}

func testOneWinner(t *testing.T, ctx context.Context, b *Bucket) {
	rev, err := b.Put(ctx, "race", []byte("0"), PutOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var won atomic.Int32
	var work sync.WaitGroup
	for i := range 16 {
		work.Go(func() {
			_, err := b.Put(ctx, "race", fmt.Append(nil, i), PutOptions{Expect: Revision(rev)})
			if err == nil {
				won.Add(1)
			} else if !fault.Is(err, fault.Aborted) {
				t.Errorf("loser got %v", err)
			}
		})
	}
	work.Wait()
	if won.Load() != 1 {
		t.Fatalf("%d writers won", won.Load())
	}
}

func testOddKeys(t *testing.T, ctx context.Context, b *Bucket) {
	for _, key := range []string{"a", "a.b", "ä.ö", "a|b", "a$b", "=/_-", strings.Repeat("k", 2000)} {
		if _, err := b.Put(ctx, key, []byte(key), PutOptions{}); err != nil {
			t.Errorf("put %.20q: %v", key, err)
			continue
		}
		if got, err := b.Get(ctx, key, Strong); err != nil || string(got.Value) != key {
			t.Errorf("get %.20q: %.20q, %v", key, got.Value, err)
		}
	}
	for _, key := range []string{"", ".", "a.", ".a", "a..b", "a b", "a\tb", "a\r\nPUB x 0", "a*", ">", strings.Repeat("k", 4000)} {
		_, err := b.Put(ctx, key, nil, PutOptions{})
		wantCode(t, err, fault.InvalidArgument, "")
		_, err = b.Get(ctx, key, Strong)
		wantCode(t, err, fault.InvalidArgument, "")
		wantCode(t, b.Delete(ctx, key, Anything()), fault.InvalidArgument, "")
		_, err = b.Commit(ctx, []Write{{Key: key}})
		wantCode(t, err, fault.InvalidArgument, "")
	}
	if _, err := b.Get(ctx, "a", Strong); err != nil {
		t.Fatalf("the connection did not survive: %v", err)
	}
	_, err := b.Put(ctx, "big", make([]byte, b.engine.MaxPayload()+1), PutOptions{})
	wantCode(t, err, fault.InvalidArgument, ReasonTooLarge)
}

func testEach(t *testing.T, ctx context.Context, b *Bucket) {
	want := map[string]string{}
	for i := range 300 {
		key := fmt.Sprintf("list.%d", i)
		if _, err := b.Put(ctx, key, fmt.Append(nil, i), PutOptions{}); err != nil {
			t.Fatal(err)
		}
		want[key] = fmt.Sprint(i)
	}
	if err := b.Delete(ctx, "list.7", Anything()); err != nil {
		t.Fatal(err)
	}
	delete(want, "list.7")
	got := map[string]string{}
	if err := b.Each(ctx, "list.*", func(e Entry) error { got[e.Key] = string(e.Value); return nil }); err != nil {
		t.Fatal(err)
	}
	if !maps.Equal(got, want) {
		t.Fatalf("got %d of %d", len(got), len(want))
	}
	if err := b.Each(ctx, "nothing.*", func(e Entry) error { t.Errorf("got %q", e.Key); return nil }); err != nil {
		t.Fatal(err)
	}
	boom := errors.New("boom")
	if err := b.Each(ctx, "list.*", func(Entry) error { return boom }); !errors.Is(err, boom) {
		t.Fatalf("got %v, want the callback's error", err)
	}
	js, err := b.engine.JetStream(ctx)
	if err != nil {
		t.Fatal(err)
	}
	s, err := js.Stream(ctx, "KV_b")
	if err != nil {
		t.Fatal(err)
	}
	for { // no list leaves its consumer behind
		info, err := s.Info(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if info.State.Consumers == 0 {
			break
		}
	}
	canceled, cancel := context.WithCancel(ctx)
	cancel()
	if err := b.Each(canceled, "list.*", func(Entry) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v, want canceled", err)
	}
}

func testTTL(t *testing.T, ctx context.Context, b *Bucket) {
	watching, stop := context.WithCancel(ctx)
	updates := make(chan Update, 16)
	var work sync.WaitGroup
	work.Go(func() {
		if err := b.Watch(watching, "lease.*", func(u Update) error { updates <- u; return nil }); err != nil {
			t.Errorf("watch: %v", err)
		}
	})
	defer work.Wait()
	defer stop()
	if u := <-updates; u.Op != OpSynced {
		t.Fatalf("got %+v, want synced", u)
	}
	rev, err := b.Put(ctx, "lease.a", []byte("me"), PutOptions{TTL: 300 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	got, err := b.Get(ctx, "lease.a", Strong)
	if err != nil {
		t.Fatal(err)
	}
	if d := got.Expires.Sub(got.Created); d != time.Second {
		t.Errorf("expires after %s, want the least of 1s", d)
	}
	// A renewal keeps the lease beyond its first second.
	if _, err = b.Put(ctx, "lease.a", []byte("me"), PutOptions{TTL: time.Second, Expect: Revision(rev)}); err != nil {
		t.Fatal(err)
	}
	want := []Op{OpPut, OpPut, OpDelete}
	var ops []Op
	for len(ops) < len(want) {
		select {
		case u := <-updates:
			ops = append(ops, u.Op)
		case <-ctx.Done():
			t.Fatalf("got %v, want %v", ops, want)
		}
	}
	if !slices.Equal(ops, want) {
		t.Fatalf("got %v, want %v", ops, want)
	}
	_, err = b.Get(ctx, "lease.a", Strong)
	wantCode(t, err, fault.NotFound, "")
	if _, err := b.Put(ctx, "lease.a", []byte("you"), PutOptions{TTL: time.Second, Expect: Absent()}); err != nil {
		t.Fatalf("take an ended lease: %v", err)
	}
}

func testCommit(t *testing.T, ctx context.Context, b *Bucket) {
	one, err := b.Put(ctx, "tx.1", []byte("old"), PutOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Delete(ctx, "tx.2", Anything()); err != nil {
		t.Fatal(err)
	}
	revs, err := b.Commit(ctx, []Write{
		{Key: "tx.1", Value: []byte("new"), PutOptions: PutOptions{Expect: Revision(one)}},
		{Key: "tx.2", Value: []byte("made"), PutOptions: PutOptions{Expect: Absent(), TTL: time.Hour}},
		{Key: "tx.3", Delete: true},
	})
	if err != nil || len(revs) != 3 {
		t.Fatalf("commit: %v, %v", revs, err)
	}
	for i, want := range []string{"new", "made"} {
		got, err := b.Get(ctx, fmt.Sprintf("tx.%d", i+1), Strong)
		if err != nil || string(got.Value) != want || got.Revision != revs[i] {
			t.Errorf("tx.%d: got %q revision %d of %v, %v", i+1, got.Value, got.Revision, revs, err)
		}
	}
	_, err = b.Commit(ctx, []Write{
		{Key: "tx.4", Value: []byte("x")},
		{Key: "tx.1", Value: []byte("x"), PutOptions: PutOptions{Expect: Revision(one)}},
	})
	wantCode(t, err, fault.Aborted, ReasonConflict)
	_, err = b.Get(ctx, "tx.4", Strong)
	wantCode(t, err, fault.NotFound, "")
	_, err = b.Commit(ctx, []Write{{Key: "tx.5"}, {Key: "tx.5"}})
	wantCode(t, err, fault.InvalidArgument, "")
	_, err = b.Commit(ctx, make([]Write, MaxCommit+1))
	wantCode(t, err, fault.InvalidArgument, "")
	if revs, err := b.Commit(ctx, nil); err != nil || revs != nil {
		t.Fatalf("an empty commit: %v, %v", revs, err)
	}
}

func TestABucketOfSomebodyElseIsOpenedAsItIs(t *testing.T) {
	ctx := deadline(t)
	e, _ := run(t, Options{Dir: t.TempDir()})
	if _, err := e.OpenKeyValue(ctx, "theirs"); !fault.Is(err, fault.NotFound) {
		t.Errorf("a bucket that is not there: %v, want not_found", err)
	}
	js, err := e.JetStream(ctx)
	if err != nil {
		t.Fatal(err)
	}
	made, err := js.CreateStream(ctx, jetstream.StreamConfig{
		Name: "KV_theirs", Subjects: []string{"$KV.theirs.>"}, MaxMsgsPerSubject: 3, MaxAge: time.Hour,
		Storage: jetstream.MemoryStorage, AllowRollup: true, Duplicates: time.Minute,
	})
	if err != nil {
		t.Fatal(err)
	}
	b, err := e.OpenKeyValue(ctx, "theirs")
	if err != nil {
		t.Fatal(err)
	}
	if b.KeyTTL() {
		t.Error("a bucket with a history offers a TTL per key")
	}
	if _, err := b.Put(ctx, "k", []byte("v"), PutOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []Consistency{Strong, Eventual} { // the stream answers no direct gets
		if got, err := b.Get(ctx, "k", want); err != nil || string(got.Value) != "v" {
			t.Errorf("Get = %q, %v", got.Value, err)
		}
	}
	info, err := made.Info(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if has, was := info.Config, made.CachedInfo().Config; has.MaxMsgsPerSubject != 3 || has.MaxAge != was.MaxAge || has.Storage != was.Storage || has.AllowDirect {
		t.Errorf("the bucket was changed to %+v", has)
	}
}

func TestEachKeyTellsAllButTheValues(t *testing.T) {
	ctx := deadline(t)
	e, _ := run(t, Options{Dir: t.TempDir()})
	b := bucket(t, ctx, e, BucketConfig{Name: "b", KeyTTL: true})
	for _, key := range []string{"a.1", "a.2", "b.1", "a.gone"} {
		if _, err := b.Put(ctx, key, []byte("value"), PutOptions{TTL: time.Hour, Header: nats.Header{"Mine": {key}}}); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Delete(ctx, "a.gone", Anything()); err != nil {
		t.Fatal(err)
	}
	var keys []string
	err := b.EachKey(ctx, "a.>", func(e Entry) error {
		if len(e.Value) != 0 || e.Revision == 0 || e.Expires.IsZero() || e.Header.Get("Mine") != e.Key {
			t.Errorf("entry %+v", e)
		}
		keys = append(keys, e.Key)
		return nil
	})
	slices.Sort(keys)
	if err != nil || !slices.Equal(keys, []string{"a.1", "a.2"}) {
		t.Errorf("keys %q, %v", keys, err)
	}
}
