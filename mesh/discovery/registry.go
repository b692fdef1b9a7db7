package discovery

import (
	"context"
	"encoding/base32"
	"encoding/json"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/proa-io/proa/engine"
	"github.com/proa-io/proa/fault"
)

// Times of the registry: an instance says every Heartbeat that it is there,
// and is forgotten when it has not for Expiry.
const (
	Heartbeat = 3 * time.Second
	Expiry    = 10 * time.Second
)

// Registry is the registry of applications in the engine. It is a Source and a
// Registrar. An instance that stops withdraws; one that dies is forgotten
// after Expiry.
type Registry struct {
	engine *engine.Engine
	bucket func(context.Context) (*engine.Bucket, error)
}

// NewRegistry returns the registry of eng.
func NewRegistry(eng *engine.Engine) *Registry {
	r := &Registry{engine: eng}
	var mu sync.Mutex
	var bucket *engine.Bucket
	r.bucket = func(ctx context.Context) (*engine.Bucket, error) {
		mu.Lock()
		defer mu.Unlock()
		if bucket != nil {
			return bucket, nil
		}
		b, err := eng.KeyValue(ctx, engine.BucketConfig{
			Name: "proa_registry", Description: "instances of applications", MaxAge: Expiry,
		})
		if err == nil {
			bucket = b
		}
		return b, err
	}
	return r
}

// Close implements io.Closer.
func (r *Registry) Close() error { return nil }

// record is what stands in the registry.
type record struct {
	Endpoint
	// Renewed is when the instance was last heard of, for servers that do not
	// tell when a value ends.
	Renewed time.Time `json:"renewed"`
}

// Register implements Registrar. While the engine is away it goes on trying.
func (r *Registry) Register(ctx context.Context, a *Announcement) error {
	ep, changed := a.Endpoint()
	id := ep.ID
	if id == "" {
		id = uuid.NewString()
	}
	key := keyOf(a.Service, id)
	beat := time.NewTicker(Heartbeat)
	defer beat.Stop()
	for {
		err := r.put(ctx, key, ep)
		wait := beat.C
		if err != nil && ctx.Err() == nil {
			wait = time.After(firstDelay)
		}
		select {
		case <-ctx.Done():
			return r.withdraw(ctx, key)
		case <-wait:
		case <-changed:
			ep, changed = a.Endpoint()
		}
	}
}

func (r *Registry) put(ctx context.Context, key string, ep Endpoint) error {
	b, err := r.bucket(ctx)
	if err != nil {
		return err
	}
	value, err := json.Marshal(record{ep, time.Now().UTC()})
	if err != nil {
		return fault.Wrap(err, fault.Internal, "encode endpoint")
	}
	_, err = b.Put(ctx, key, value, engine.PutOptions{})
	return err
}

// withdraw removes the instance at once. If the engine is away already, the
// entry ends by itself.
func (r *Registry) withdraw(ctx context.Context, key string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	b, err := r.bucket(ctx)
	if err != nil {
		return nil //nolint:nilerr // see above
	}
	_ = b.Delete(ctx, key, engine.Anything())
	return nil
}

// Watch implements Source.
func (r *Registry) Watch(ctx context.Context, svc Service, update func([]Endpoint)) error {
	b, err := r.bucket(ctx)
	if ctx.Err() != nil {
		return nil
	}
	if err != nil {
		return err
	}
	v := &view{records: map[string]record{}, update: update, dirty: make(chan struct{}, 1)}
	expire := time.NewTicker(Expiry / 4)
	defer expire.Stop()
	done := make(chan error, 1)
	wctx, cancel := context.WithCancel(ctx)
	go func() { done <- b.Watch(wctx, keyOf(svc, "*"), v.apply) }()
	defer func() { cancel(); <-done }()
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-done:
			done <- nil
			if err == nil {
				err = fault.New(fault.Unavailable, "the watch of the registry ended")
			}
			return err
		case <-v.dirty:
			v.report()
		case now := <-expire.C:
			// Only while the engine answers: when it is away nobody can renew.
			if r.engine.Status().Ready {
				v.expire(now)
			} else {
				v.hold(now)
			}
		}
	}
}

// view is what one watch has seen.
type view struct {
	mu      sync.Mutex
	records map[string]record
	synced  bool
	update  func([]Endpoint)
	dirty   chan struct{} // has a token when there is something to report
}

// mark has what was seen reported. Much that changes at once is reported once.
func (v *view) mark() {
	select {
	case v.dirty <- struct{}{}:
	default:
	}
}

func (v *view) apply(u engine.Update) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	switch u.Op {
	case engine.OpPut:
		var rec record
		if err := json.Unmarshal(u.Value, &rec); err != nil || rec.Address == "" {
			return nil //nolint:nilerr // an entry of a later version: not for us
		}
		old, had := v.records[u.Key]
		rec.Renewed = time.Now() // by our own clock
		v.records[u.Key] = rec
		if had && old.Equal(rec.Endpoint) {
			return nil // only a heartbeat
		}
	case engine.OpDelete:
		rec, had := v.records[u.Key]
		if !had {
			return nil
		}
		if u.Revision == 0 {
			// It was gone when the watch came back. It may be that it could not
			// renew either: it has the time to do so now.
			rec.Renewed = time.Now()
			v.records[u.Key] = rec
			return nil
		}
		delete(v.records, u.Key)
	case engine.OpSynced:
		v.synced = true
	}
	v.mark()
	return nil
}

// hold keeps all instances from growing older.
func (v *view) hold(now time.Time) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for key, rec := range v.records {
		rec.Renewed = now
		v.records[key] = rec
	}
}

func (v *view) expire(now time.Time) {
	v.mu.Lock()
	defer v.mu.Unlock()
	gone := false
	for key, rec := range v.records {
		if now.Sub(rec.Renewed) > Expiry+Heartbeat {
			delete(v.records, key)
			gone = true
		}
	}
	if gone {
		v.mark()
	}
}

func (v *view) report() {
	v.mu.Lock()
	defer v.mu.Unlock()
	if !v.synced {
		return
	}
	// Of several records with one address, which an instance that died leaves
	// behind for a while, the last one counts.
	last := make(map[string]record, len(v.records))
	for _, rec := range v.records {
		if old, twice := last[rec.Address]; !twice || rec.Renewed.After(old.Renewed) {
			last[rec.Address] = rec
		}
	}
	list := make([]Endpoint, 0, len(last))
	for _, rec := range last {
		list = append(list, rec.Endpoint)
	}
	v.update(list)
}

// keyOf returns the key of an instance; the parts may hold any characters, and
// the instance "*" stands for all.
func keyOf(svc Service, instance string) string {
	if instance != "*" {
		instance = encode(instance)
	}
	return encode(svc.Namespace) + "." + encode(svc.AppID) + "." + instance
}

// encode makes a part of a key out of any text: names stay readable.
func encode(s string) string {
	plain := s != ""
	for i := range len(s) {
		c := s[i]
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_') {
			plain = false
		}
	}
	if plain && !strings.HasPrefix(s, "_x") {
		return s
	}
	return "_x" + base32.HexEncoding.WithPadding(base32.NoPadding).EncodeToString([]byte(s))
}
