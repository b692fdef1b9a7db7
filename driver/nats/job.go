package nats

import (
	"context"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/proa-io/proa/block/job"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/engine"
	"github.com/proa-io/proa/fault"
)

// JobsConfig configures a jobs store on the engine.
type JobsConfig struct {
	Server
	// Bucket is the key-value bucket that holds the jobs; by default one for
	// each namespace. Letters, digits, _ and - only.
	Bucket string `setting:"bucket"`
}

// Validate reports settings that can never work.
func (c JobsConfig) Validate() error {
	if err := c.Server.Validate(); err != nil {
		return err
	}
	return checkBucket(c.Bucket)
}

// Jobs is a job.Driver. Each entry is a key "kind.namespace.app.name".
type Jobs struct {
	connection
	bucket *engine.Bucket
}

// OpenJobs opens the bucket, and creates it when it does not exist. It uses
// shared unless cfg names a server.
func OpenJobs(ctx context.Context, shared *engine.Engine, cfg JobsConfig, env component.Env) (*Jobs, error) {
	c, err := cfg.connect(ctx, shared, env)
	if err != nil {
		return nil, err
	}
	if cfg.Bucket == "" {
		cfg.Bucket = bucketName("jobs", env.Namespace)
	}
	ttl := c.engine.Supports(engine.MessageTTL)
	b, err := c.engine.KeyValue(ctx, engine.BucketConfig{Name: cfg.Bucket, Description: "jobs", KeyTTL: ttl})
	if err == nil && !ttl {
		err = forgetDeletions(ctx, b, time.Minute)
	}
	if err != nil {
		c.stop()
		return nil, err
	}
	return &Jobs{c, b}, nil
}

// forgetDeletions removes the marks that deleted keys leave for ever on servers
// without a TTL for them, as every job that has ended does. Those that are
// younger than age stay, for watchers that are behind.
func forgetDeletions(ctx context.Context, b *engine.Bucket, age time.Duration) error {
	return engine.Classify(b.KV().PurgeDeletes(ctx, jetstream.DeleteMarkersOlderThan(age)))
}

func jobScope(s job.Scope) string {
	return encodePart(s.Kind) + "." + encodePart(s.Namespace) + "." + encodePart(s.AppID) + "."
}

func jobKey(k job.Key) string { return jobScope(k.Scope) + encodeKey(k.Name) }

// Get implements job.Driver.
func (j *Jobs) Get(ctx context.Context, key job.Key) (job.Entry, error) {
	if err := ctx.Err(); err != nil {
		return job.Entry{}, err
	}
	e, err := j.bucket.Get(ctx, jobKey(key), engine.Strong)
	if fault.Is(err, fault.NotFound) {
		return job.Entry{}, job.ErrNotFound()
	}
	if err != nil {
		return job.Entry{}, err
	}
	return job.Entry{Name: key.Name, Value: e.Value, Revision: e.Revision}, nil
}

// Put implements job.Driver.
func (j *Jobs) Put(ctx context.Context, key job.Key, value []byte, expect job.Expect) (uint64, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	revision, err := j.bucket.Put(ctx, jobKey(key), value, engine.PutOptions{Expect: expectation(expect)})
	return revision, asConflict(err)
}

// Delete implements job.Driver.
func (j *Jobs) Delete(ctx context.Context, key job.Key, expect job.Expect) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return asConflict(j.bucket.Delete(ctx, jobKey(key), expectation(expect)))
}

func expectation(e job.Expect) engine.Expect {
	switch rev, set := e.Value(); {
	case !set:
		return engine.Anything()
	case rev == 0:
		return engine.Absent()
	default:
		return engine.Revision(rev)
	}
}

func asConflict(err error) error {
	if conflict(err) {
		return job.ErrConflict()
	}
	return err
}

// Watch implements job.Driver. The engine resumes a watch that was interrupted
// and reports what was missed.
func (j *Jobs) Watch(ctx context.Context, scope job.Scope, report func(job.Change)) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	prefix := jobScope(scope)
	err := j.bucket.Watch(ctx, prefix+">", func(u engine.Update) error {
		if u.Op == engine.OpSynced {
			report(job.Change{Op: job.OpSynced})
			return nil
		}
		name, ok := decodeKey(strings.TrimPrefix(u.Key, prefix))
		if !ok {
			return nil // nobody who names entries has written it
		}
		c := job.Change{Op: job.OpDelete, Entry: job.Entry{Name: name}}
		if u.Op == engine.OpPut {
			c = job.Change{Op: job.OpPut, Entry: job.Entry{Name: name, Value: u.Value, Revision: u.Revision}}
		}
		report(c)
		return nil
	})
	if err != nil {
		return err
	}
	return context.Cause(ctx)
}

// Close implements io.Closer. A shared engine stays open.
func (j *Jobs) Close() error {
	j.stop()
	return nil
}
