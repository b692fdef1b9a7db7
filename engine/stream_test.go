package engine

import (
	"errors"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/proa-io/proa/fault"
)

func TestAStreamIsCreatedUpdatedAndOtherwiseLeftAlone(t *testing.T) {
	ctx := deadline(t)
	e, _ := run(t, Options{Dir: t.TempDir()})
	js, err := e.JetStream(ctx)
	if err != nil {
		t.Fatal(err)
	}
	updates := 0
	sub, err := js.Conn().SubscribeSync("$JS.API.STREAM.*.S")
	if err != nil {
		t.Fatal(err)
	}
	ensure := func(cfg jetstream.StreamConfig) (jetstream.StreamConfig, error) {
		t.Helper()
		cfg.Name = "S"
		s, err := e.Stream(ctx, cfg)
		for { // the requests that were made for it
			m, err := sub.NextMsg(20 * time.Millisecond)
			if err != nil {
				break
			}
			if m.Subject == "$JS.API.STREAM.UPDATE.S" {
				updates++
			}
		}
		if err != nil {
			return jetstream.StreamConfig{}, err
		}
		return s.CachedInfo().Config, nil
	}
	base := jetstream.StreamConfig{Subjects: []string{"s.>"}, MaxAge: time.Hour, AllowMsgTTL: true}
	if _, err := ensure(base); err != nil {
		t.Fatal(err)
	}
	if got, err := ensure(base); err != nil || updates != 0 || got.Replicas != 1 {
		t.Fatalf("the same again: %d updates, %v", updates, err)
	}
	base.MaxAge, base.AllowMsgTTL = 2*time.Hour, false // what cannot be turned off stays on
	if got, err := ensure(base); err != nil || updates != 1 || got.MaxAge != 2*time.Hour || !got.AllowMsgTTL {
		t.Fatalf("another age: %d updates, %+v, %v", updates, got, err)
	}
	base.MaxAge = 0
	if got, err := ensure(base); err != nil || updates != 2 || got.MaxAge != 0 {
		t.Fatalf("no age: %d updates, %+v, %v", updates, got, err)
	}
	base.Storage = jetstream.MemoryStorage
	_, err = ensure(base)
	wantCode(t, err, fault.FailedPrecondition, "")
	mentions(t, fault.Message(err), `"S"`)
	_, err = e.Stream(ctx, jetstream.StreamConfig{Name: "T", Subjects: []string{"s.x"}})
	wantCode(t, err, fault.AlreadyExists, "")
	_, err = e.Stream(ctx, jetstream.StreamConfig{Name: "a.b"})
	wantCode(t, err, fault.InvalidArgument, "")
}

func TestABucketIsOneForTheClientLibraryToo(t *testing.T) {
	ctx := deadline(t)
	e, _ := run(t, Options{Dir: t.TempDir()})
	b := bucket(t, ctx, e, BucketConfig{Name: "b", KeyTTL: true, Description: "d"})
	if b.Name() != "b" || b.KV().Bucket() != "b" {
		t.Fatalf("names are %q and %q", b.Name(), b.KV().Bucket())
	}
	rev, err := b.Put(ctx, "k", []byte("ours"), PutOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := b.KV().Get(ctx, "k"); err != nil || string(got.Value()) != "ours" || got.Revision() != rev {
		t.Fatalf("the library reads %v, %v", got, err)
	}
	if rev, err = b.KV().Update(ctx, "k", []byte("theirs"), rev); err != nil {
		t.Fatal(err)
	}
	if got, err := b.Get(ctx, "k", Strong); err != nil || string(got.Value) != "theirs" || got.Revision != rev {
		t.Fatalf("we read %+v, %v", got, err)
	}
	if err := b.Delete(ctx, "k", Revision(rev)); err != nil {
		t.Fatal(err)
	}
	if _, err := b.KV().Get(ctx, "k"); !errors.Is(err, jetstream.ErrKeyNotFound) {
		t.Fatalf("the library reads a deleted key: %v", err)
	}
	if _, err := b.Put(ctx, "l", nil, PutOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, remove := range []func() error{
		func() error { return b.KV().Delete(ctx, "l") }, func() error { return b.KV().Purge(ctx, "l") },
	} {
		if err := remove(); err != nil {
			t.Fatal(err)
		}
		_, err = b.Get(ctx, "l", Strong)
		wantCode(t, err, fault.NotFound, "")
		if _, err := b.Put(ctx, "l", nil, PutOptions{Expect: Absent()}); err != nil {
			t.Fatalf("create over the library's tombstone: %v", err)
		}
	}
	if _, err := e.KeyValue(ctx, BucketConfig{Name: "bad.name"}); !fault.Is(err, fault.InvalidArgument) {
		t.Fatalf("a bad name: %v", err)
	}
	if _, err := e.KeyValue(ctx, BucketConfig{Name: "h", History: 5, KeyTTL: true}); !fault.Is(err, fault.InvalidArgument) {
		t.Fatalf("a history with a TTL per key: %v", err)
	}
	if _, err := e.KeyValue(ctx, BucketConfig{Name: "h", History: 100}); !fault.Is(err, fault.InvalidArgument) {
		t.Fatalf("a long history: %v", err)
	}
}
