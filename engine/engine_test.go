package engine

import (
	"context"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/internal/fastloop"
)

// run opens an engine and runs it until the returned stop is called or the
// test ends.
func run(t testing.TB, o Options) (*Engine, func()) {
	t.Helper()
	fastloop.Skip(t, "starts an engine")
	if o.Log == nil {
		o.Log = slog.New(slog.NewTextHandler(t.Output(), nil))
	}
	e, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var work sync.WaitGroup
	work.Go(func() {
		if err := e.Run(ctx); err != nil {
			t.Errorf("run: %v", err)
		}
	})
	stop := sync.OnceFunc(func() { cancel(); work.Wait() })
	t.Cleanup(stop)
	return e, stop
}

// deadline returns a context that ends a hanging test.
func deadline(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// insist calls fn until it does not fail with Unavailable, as the policy of a
// block does.
func insist[T any](ctx context.Context, fn func() (T, error)) (T, error) {
	for {
		v, err := fn()
		if !fault.Is(err, fault.Unavailable) || ctx.Err() != nil {
			return v, err
		}
		sleep(ctx, 5*time.Millisecond)
	}
}

func TestAWriteOfOneSidecarIsReadByAnotherAndSurvivesHandOver(t *testing.T) {
	ctx := deadline(t)
	dir := t.TempDir()
	a, stopA := run(t, Options{Dir: dir, Name: "a"})
	began := time.Now()
	ba, err := a.KeyValue(ctx, BucketConfig{Name: "b"})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("first bucket after %s", time.Since(began))
	rev, err := ba.Put(ctx, "k", []byte("v"), PutOptions{})
	if err != nil {
		t.Fatal(err)
	}
	b, _ := run(t, Options{Dir: dir, Name: "b"})
	bb, err := b.KeyValue(ctx, BucketConfig{Name: "b"})
	if err != nil {
		t.Fatal(err)
	}
	if a.Mode() != EmbeddedHolder || b.Mode() != EmbeddedClient {
		t.Fatalf("modes are %s and %s", a.Mode(), b.Mode())
	}
	got, err := bb.Get(ctx, "k", Strong)
	if err != nil || string(got.Value) != "v" || got.Revision != rev {
		t.Fatalf("got %+v, %v", got, err)
	}
	stopA()
	rev2, err := insist(ctx, func() (uint64, error) {
		return bb.Put(ctx, "k", []byte("w"), PutOptions{Expect: Revision(rev)})
	})
	if err != nil || rev2 != rev+1 {
		t.Fatalf("put after hand-over: %d, %v", rev2, err)
	}
	if b.Mode() != EmbeddedHolder {
		t.Fatalf("mode after hand-over is %s", b.Mode())
	}
}

func TestAWatchGoesOnOverAHandOverAndReportsWhatDisappeared(t *testing.T) {
	ctx := deadline(t)
	dir := t.TempDir()
	a, stopA := run(t, Options{Dir: dir, Name: "a"})
	ba, err := a.KeyValue(ctx, BucketConfig{Name: "b", KeyTTL: true})
	if err != nil {
		t.Fatal(err)
	}
	put := func(b *Bucket, key, value string) {
		t.Helper()
		if _, err := insist(ctx, func() (uint64, error) { return b.Put(ctx, key, []byte(value), PutOptions{}) }); err != nil {
			t.Fatal(err)
		}
	}
	put(ba, "x.1", "1")
	put(ba, "x.2", "2")
	put(ba, "y.1", "no")

	b, _ := run(t, Options{Dir: dir, Name: "b"})
	bb, err := b.KeyValue(ctx, BucketConfig{Name: "b", KeyTTL: true})
	if err != nil {
		t.Fatal(err)
	}
	updates := make(chan Update, 100)
	watching, endWatch := context.WithCancel(ctx)
	var work sync.WaitGroup
	work.Go(func() {
		if err := bb.Watch(watching, "x.*", func(u Update) error { updates <- u; return nil }); err != nil {
			t.Errorf("watch: %v", err)
		}
	})
	defer work.Wait()
	defer endWatch()
	expect := func(op Op, key, value string) {
		t.Helper()
		select {
		case u := <-updates:
			if u.Op != op || u.Key != key || string(u.Value) != value {
				t.Fatalf("got %d %q %q, want %d %q %q", u.Op, u.Key, u.Value, op, key, value)
			}
		case <-ctx.Done():
			t.Fatalf("no update, want %d %q", op, key)
		}
	}
	expect(OpPut, "x.1", "1")
	expect(OpPut, "x.2", "2")
	expect(OpSynced, "", "")
	put(ba, "x.3", "3")
	expect(OpPut, "x.3", "3")
	if err := ba.Delete(ctx, "x.1", Anything()); err != nil {
		t.Fatal(err)
	}
	expect(OpDelete, "x.1", "")
	stopA()
	put(bb, "x.4", "4")
	for synced, put := false, false; !synced || !put; { // the put may come before or after the second sync
		select {
		case u := <-updates:
			synced = synced || u.Op == OpSynced
			put = put || u.Op == OpPut && u.Key == "x.4"
			if u.Op == OpDelete || u.Op == OpPut && u.Key != "x.4" {
				t.Fatalf("reported again: %+v", u)
			}
		case <-ctx.Done():
			t.Fatalf("synced %v, put %v", synced, put)
		}
	}
}
