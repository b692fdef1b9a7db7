package nats

import (
	"context"
	"errors"
	"slices"
	"strconv"

	"github.com/proa-io/proa/block/config"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/engine"
	"github.com/proa-io/proa/fault"
)

// ConfigConfig configures a configuration store on the engine.
type ConfigConfig struct {
	Server
	// Bucket is the key-value bucket that holds the items; by default one for
	// each namespace. Letters, digits, _ and - only. Items may be written
	// with any tool for NATS: "nats kv put BUCKET KEY VALUE".
	Bucket string `setting:"bucket"`
}

// Validate reports settings that can never work.
func (c ConfigConfig) Validate() error {
	if err := c.Server.Validate(); err != nil {
		return err
	}
	return checkBucket(c.Bucket)
}

// Config is a config.Driver and a config.Writer. The version of an item is the
// revision of its key.
type Config struct {
	connection
	bucket *engine.Bucket
}

// OpenConfig opens the bucket, and creates it when it does not exist. It uses
// shared unless cfg names a server.
func OpenConfig(ctx context.Context, shared *engine.Engine, cfg ConfigConfig, env component.Env) (*Config, error) {
	c, err := cfg.connect(ctx, shared, env)
	if err != nil {
		return nil, err
	}
	if cfg.Bucket == "" {
		cfg.Bucket = bucketName("config", env.Namespace)
	}
	b, err := c.engine.KeyValue(ctx, engine.BucketConfig{Name: cfg.Bucket, Description: "configuration", Atomic: c.engine.Supports(engine.AtomicBatch)})
	if err != nil {
		c.stop()
		return nil, err
	}
	return &Config{c, b}, nil
}

// Get implements config.Driver.
func (c *Config) Get(ctx context.Context, q config.Query) (map[string]config.Item, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if len(q.Keys) == 0 {
		return c.all(ctx)
	}
	out := make(map[string]config.Item, len(q.Keys))
	for _, key := range q.Keys {
		e, err := c.bucket.Get(ctx, encodeKey(key), engine.Strong)
		switch {
		case err == nil:
			out[key] = itemOf(e)
		case !fault.Is(err, fault.NotFound):
			return nil, err
		}
	}
	return out, nil
}

func itemOf(e engine.Entry) config.Item {
	return config.Item{Value: string(e.Value), Version: strconv.FormatUint(e.Revision, 10)}
}

// errSynced ends a watch that has reported everything.
var errSynced = errors.New("synced")

// all returns every item: what a watch reports first.
func (c *Config) all(ctx context.Context) (map[string]config.Item, error) {
	r := reporter{items: map[string]config.Item{}}
	err := c.bucket.Watch(ctx, ">", func(u engine.Update) error {
		if u.Op == engine.OpSynced {
			return errSynced
		}
		r.collect(u)
		return nil
	})
	switch {
	case errors.Is(err, errSynced):
		return r.items, nil
	case err == nil:
		return nil, context.Cause(ctx)
	}
	return nil, err
}

// Watch implements config.Driver. The engine resumes a watch that was
// interrupted and reports what was missed.
func (c *Config) Watch(ctx context.Context, q config.Query, report func(config.Event)) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	pattern := ">"
	if len(q.Keys) == 1 {
		pattern = encodeKey(q.Keys[0])
	}
	r := reporter{keys: q.Keys, items: map[string]config.Item{}, report: report}
	if err := c.bucket.Watch(ctx, pattern, r.take); err != nil {
		return err
	}
	return context.Cause(ctx)
}

// reporter turns the steps of a watch into events.
type reporter struct {
	keys   []string
	items  map[string]config.Item // until everything there was has been reported; then nil
	report func(config.Event)
}

func (r *reporter) take(u engine.Update) error {
	switch {
	case r.items == nil:
		r.pass(u)
	case u.Op == engine.OpSynced:
		r.report(config.Event{Complete: true, Items: r.items})
		r.items = nil
	default:
		r.collect(u)
	}
	return nil
}

func (r *reporter) wants(u engine.Update) (key string, ok bool) {
	key, ok = decodeKey(u.Key)
	return key, ok && (len(r.keys) == 0 || slices.Contains(r.keys, key))
}

func (r *reporter) collect(u engine.Update) {
	key, ok := r.wants(u)
	switch {
	case !ok:
	case u.Op == engine.OpPut:
		r.items[key] = itemOf(u.Entry)
	case u.Op == engine.OpDelete:
		delete(r.items, key)
	}
}

func (r *reporter) pass(u engine.Update) {
	key, ok := r.wants(u)
	switch {
	case !ok || u.Op == engine.OpSynced:
	case u.Op == engine.OpPut:
		r.report(config.Event{Items: map[string]config.Item{key: itemOf(u.Entry)}})
	case u.Op == engine.OpDelete:
		r.report(config.Event{Deleted: []string{key}})
	}
}

// Write implements config.Writer. A server older than 2.12 cannot change several
// items as one.
func (c *Config) Write(ctx context.Context, writes []config.Write) ([]string, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	commit := make([]engine.Write, len(writes))
	for i, w := range writes {
		expect, ok := expectOf(w.Expect)
		if !ok {
			return nil, config.ErrConflict(w.Key)
		}
		commit[i] = engine.Write{
			Key: encodeKey(w.Key), Value: []byte(w.Value), Delete: w.Delete, PutOptions: engine.PutOptions{Expect: expect},
		}
	}
	revisions, err := c.commit(ctx, commit)
	switch {
	case conflict(err) && len(writes) == 1:
		return nil, config.ErrConflict(writes[0].Key)
	case conflict(err):
		return nil, config.ErrConflict("")
	case err != nil:
		return nil, err
	}
	versions := make([]string, len(writes))
	for i, w := range writes {
		if !w.Delete {
			versions[i] = strconv.FormatUint(revisions[i], 10)
		}
	}
	return versions, nil
}

func (c *Config) commit(ctx context.Context, writes []engine.Write) ([]uint64, error) {
	if len(writes) > 1 {
		return c.bucket.Commit(ctx, writes)
	}
	w := writes[0]
	if w.Delete {
		return nil, c.bucket.Delete(ctx, w.Key, w.Expect)
	}
	revision, err := c.bucket.Put(ctx, w.Key, w.Value, w.PutOptions)
	return []uint64{revision}, err
}

// expectOf returns what the bucket has to expect, and false for a version
// that none of its items has.
func expectOf(e config.Expect) (engine.Expect, bool) {
	switch {
	case e.Absent:
		return engine.Absent(), true
	case e.Version == "":
		return engine.Anything(), true
	}
	revision, err := strconv.ParseUint(e.Version, 10, 64)
	return engine.Revision(revision), err == nil && revision > 0
}

// Close implements io.Closer. A shared engine stays open.
func (c *Config) Close() error {
	c.stop()
	return nil
}
