package nats

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/proa-io/proa/block/state"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/engine"
	"github.com/proa-io/proa/fault"
)

// StateConfig configures a state store on the engine.
type StateConfig struct {
	Server
	// Bucket is the key-value bucket that holds the items; by default one for
	// each component and namespace. Letters, digits, _ and - only. A bucket
	// that exists is used as it is.
	Bucket string `setting:"bucket"`
	// Name is what the server calls the connection; the app id by default.
	Name string `setting:"name"`
}

// Validate reports settings that can never work.
func (c StateConfig) Validate() error {
	if err := c.Server.Validate(); err != nil {
		return err
	}
	return checkBucket(c.Bucket)
}

// State is a state.Driver on a key-value bucket. The etag of an item is the
// revision of its key.
//
// What it can do depends on the server. Transactions of more than one key need
// version 2.12. On one server, as opposed to a cluster, one takes milliseconds;
// those that come at the same time are committed together. A TTL is kept by servers of version 2.11 and newer. With
// older ones, and in buckets made by others with a history, this driver writes
// the end of an item's life into a header, takes an item that is over for
// missing, and removes it within minutes; the clocks of the sidecars decide.
type State struct {
	connection
	bucket  *engine.Bucket
	closed  atomic.Bool
	closing chan struct{} // closed by Close
	old     *undertaker   // removes what the server does not; nil if it does
	groups  groups
}

// OpenState opens the bucket, and creates it when it does not exist. It uses
// shared unless cfg names a server.
func OpenState(ctx context.Context, shared *engine.Engine, cfg StateConfig, env component.Env) (*State, error) {
	if cfg.Name != "" {
		env.AppID = cfg.Name
	}
	c, err := cfg.connect(ctx, shared, env)
	if err != nil {
		return nil, err
	}
	b, err := stateBucket(ctx, c.engine, cfg.Bucket, env)
	if err != nil {
		c.stop()
		return nil, err
	}
	s := &State{connection: c, bucket: b, closing: make(chan struct{})}
	s.groups.commit = s.commitNow
	if b.KeyTTL() {
		return s, nil
	}
	if s.old, err = newUndertaker(ctx, c.engine, b); err != nil {
		c.stop()
		return nil, err
	}
	return s, nil
}

// stateBucket opens the bucket called name, or makes it, with all that the
// server can do.
func stateBucket(ctx context.Context, e *engine.Engine, name string, env component.Env) (*engine.Bucket, error) {
	if name != "" {
		b, err := e.OpenKeyValue(ctx, name)
		if !fault.Is(err, fault.NotFound) {
			return b, err
		}
	} else {
		// Neither part has two _ in a row.
		name = bucketName("state", env.Namespace) + "_" + strings.TrimPrefix(bucketName("", env.Name), "proa_")
	}
	return e.KeyValue(ctx, engine.BucketConfig{
		Name: name, Description: "state", KeyTTL: e.Supports(engine.MessageTTL), Atomic: e.Supports(engine.AtomicBatch),
	})
}

func (s *State) usable(ctx context.Context) error {
	if s.closed.Load() {
		return state.ErrClosed()
	}
	return ctx.Err()
}

// Get implements state.Driver.
func (s *State) Get(ctx context.Context, key string, opt state.GetOptions) (state.Item, bool, error) {
	if err := s.usable(ctx); err != nil {
		return state.Item{}, false, err
	}
	want := engine.Strong
	if opt.Consistency == state.Eventual {
		want = engine.Eventual
	}
	written, _ := encodeStateKey(key)
	e, err := s.bucket.Get(ctx, written, want)
	switch {
	case fault.Is(err, fault.NotFound):
		return state.Item{}, false, nil
	case err != nil:
		return state.Item{}, false, err
	}
	item := state.Item{Value: e.Value, ETag: strconv.FormatUint(e.Revision, 10), Expires: endOf(e)}
	if over(e) {
		return state.Item{}, false, nil
	}
	return item, true, nil
}

// Put implements state.Driver.
func (s *State) Put(ctx context.Context, key string, value []byte, opt state.PutOptions) (string, error) {
	if err := s.usable(ctx); err != nil {
		return "", err
	}
	w, err := s.write(ctx, key, value, opt)
	if err != nil {
		return "", err
	}
	revision, err := s.bucket.Put(ctx, w.Key, w.Value, w.PutOptions)
	if err != nil {
		return "", lost(err, opt)
	}
	return strconv.FormatUint(revision, 10), nil
}

// write returns a write as the engine wants it.
func (s *State) write(ctx context.Context, key string, value []byte, opt state.PutOptions) (engine.Write, error) {
	written, hashed := encodeStateKey(key)
	w := engine.Write{Key: written, Value: value}
	if hashed {
		w.Header = nats.Header{keyHeader: {spellStateKey(key)}}
	}
	if opt.TTL > 0 && s.old == nil {
		w.TTL = opt.TTL
	} else if opt.TTL > 0 {
		if w.Header == nil {
			w.Header = nats.Header{}
		}
		w.Header[endHeader] = []string{strconv.FormatInt(time.Now().Add(opt.TTL).UnixMilli(), 10)}
		s.old.expect()
	}
	var err error
	w.Expect, err = s.condition(ctx, written, opt.ETag, opt.FirstWrite)
	return w, err
}

// condition returns what a write demands. Where the server does not remove
// items that are over, it looks whether there is one: that counts as missing.
func (s *State) condition(ctx context.Context, written, etag string, first bool) (engine.Expect, error) {
	revision, err := revisionOf(etag)
	if err != nil || etag == "" && !first {
		return engine.Anything(), err
	}
	if s.old != nil {
		e, err := s.bucket.Get(ctx, written, engine.Strong)
		switch {
		case fault.Is(err, fault.NotFound):
		case err != nil:
			return engine.Anything(), err
		case over(e) && etag != "":
			return engine.Anything(), state.ErrETagMismatch()
		case over(e):
			return engine.Revision(e.Revision), nil
		}
	}
	if etag == "" {
		return engine.Absent(), nil
	}
	return engine.Revision(revision), nil
}

// revisionOf reads an etag; it is 0 for "". Revisions count from 1.
func revisionOf(etag string) (uint64, error) {
	if etag == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(etag, 10, 64)
	if err != nil {
		return 0, state.ErrETagInvalid("a whole number")
	}
	if n == 0 || strconv.FormatUint(n, 10) != etag {
		return 0, state.ErrETagMismatch()
	}
	return n, nil
}

// lost translates the conflict of a write under opt. It returns nil for nil.
func lost(err error, opt state.PutOptions) error {
	switch {
	case err == nil:
		return nil
	case fault.ReasonOf(err) != engine.ReasonConflict:
		return err
	case opt.ETag == "":
		return state.ErrExists()
	}
	return state.ErrETagMismatch()
}

// Delete implements state.Driver.
func (s *State) Delete(ctx context.Context, key string, opt state.DeleteOptions) error {
	if err := s.usable(ctx); err != nil {
		return err
	}
	written, hashed := encodeStateKey(key)
	expect, err := s.condition(ctx, written, opt.ETag, false)
	switch {
	case err != nil:
		return err
	case s.old == nil && hashed:
		err = s.deleteHashed(ctx, key, expect)
	case s.old == nil:
		err = s.bucket.Delete(ctx, written, expect)
	case opt.ETag == "":
		err = s.old.purge(ctx, written, 0)
	default:
		revision, _ := revisionOf(opt.ETag) // condition has read it
		err = s.old.remove(ctx, written, revision)
	}
	return lost(err, state.PutOptions{ETag: opt.ETag})
}

// deleteHashed leaves a mark that tells watches which key it is about.
func (s *State) deleteHashed(ctx context.Context, key string, expect engine.Expect) error {
	written, _ := encodeStateKey(key)
	_, err := s.bucket.Commit(ctx, []engine.Write{{
		Key: written, Delete: true, PutOptions: engine.PutOptions{Expect: expect, Header: nats.Header{keyHeader: {spellStateKey(key)}}},
	}})
	if fault.Is(err, fault.ResourceExhausted) {
		return s.bucket.Delete(ctx, written, expect) // which makes room first
	}
	return err
}

// List implements state.Lister. It visits the keys of one application when
// prefix holds its id, and otherwise all of the bucket.
func (s *State) List(ctx context.Context, prefix, after string, limit int) ([]string, error) {
	if err := s.usable(ctx); err != nil {
		return nil, err
	}
	var keys []string
	err := s.bucket.EachKey(ctx, patternOf(prefix), func(e engine.Entry) error {
		key, ok := decodeStateKey(e.Key, e.Header.Get(keyHeader))
		if ok && key > after && strings.HasPrefix(key, prefix) && !over(e) {
			keys = append(keys, key)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	slices.Sort(keys)
	return keys[:min(limit, len(keys))], nil
}

// Close implements io.Closer. A shared engine stays open.
func (s *State) Close() error {
	if s.closed.Swap(true) {
		return nil
	}
	close(s.closing)
	if s.old != nil {
		s.old.stop()
	}
	s.groups.close()
	s.stop()
	return nil
}
