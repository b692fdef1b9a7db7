package memory

import (
	"context"
	"crypto/rand"
	"hash/maphash"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/proa-io/proa/block/state"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
)

// StateConfig configures a state store in memory.
type StateConfig struct {
	// MaxItems bounds how many items there may be. A write beyond it fails
	// with resource_exhausted.
	MaxItems int64 `setting:"maxItems"`
	// MaxBytes bounds the size of all keys and values together. A write beyond
	// it fails with resource_exhausted.
	MaxBytes component.Size `setting:"maxBytes"`
}

// Validate reports settings that can never work.
func (c StateConfig) Validate() error {
	if c.MaxItems <= 0 {
		return component.Invalid("maxItems", "wants a number above 0")
	}
	if c.MaxBytes <= 0 {
		return component.Invalid("maxBytes", "wants a size above 0")
	}
	return nil
}

// numShards is how many parts the items are spread over, each with its own
// lock, so that callers seldom wait for each other.
const numShards = 64

// State is a state.Driver in memory.
//
// An expired item counts as gone at once. Its memory is given back by a later
// write to the same shard, or by any write when the store is full; so no timer
// and no goroutine is needed.
type State struct {
	cfg    StateConfig
	seed   maphash.Seed
	seq    atomic.Uint64 // of etags
	items  atomic.Int64
	bytes  atomic.Int64
	closed atomic.Bool
	log    changes
	shards [numShards]shard
}

type shard struct {
	mu    sync.RWMutex // guards what follows
	items map[string]*entry
	dying expiryHeap // the items that expire, the next one first
	log   *changes

	_ [64]byte // keeps the locks of two shards out of one cache line
}

// An entry is never changed once it is in the map, but for place.
type entry struct {
	key     string
	value   []byte
	etag    string
	expires time.Time // zero for never
	place   int       // in the heap; -1 when not there
}

func (e *entry) live(now time.Time) bool { return e.expires.IsZero() || now.Before(e.expires) }

func (e *entry) size() int64 { return int64(len(e.key) + len(e.value)) }

// OpenState returns an empty store.
func OpenState(_ context.Context, cfg StateConfig, _ component.Env) (*State, error) {
	s := &State{cfg: cfg, seed: maphash.MakeSeed()}
	// Etags of an earlier process, which callers may still hold, must not
	// come again.
	s.seq.Store(uint64(time.Now().UnixNano()))
	s.log.epoch = rand.Text()
	for i := range s.shards {
		s.shards[i].items, s.shards[i].log = map[string]*entry{}, &s.log
	}
	return s, nil
}

func (s *State) shardOf(key string) int { return int(maphash.String(s.seed, key) % numShards) }

func (s *State) usable(ctx context.Context) error {
	if s.closed.Load() {
		return state.ErrClosed()
	}
	return ctx.Err()
}

// Get implements state.Driver.
func (s *State) Get(ctx context.Context, key string, _ state.GetOptions) (state.Item, bool, error) {
	if err := s.usable(ctx); err != nil {
		return state.Item{}, false, err
	}
	sh := &s.shards[s.shardOf(key)]
	sh.mu.RLock()
	e := sh.items[key]
	sh.mu.RUnlock()
	if e == nil || !e.expires.IsZero() && !time.Now().Before(e.expires) {
		return state.Item{}, false, nil
	}
	return state.Item{Value: e.value, ETag: e.etag, Expires: e.expires}, true, nil
}

// Put implements state.Driver.
func (s *State) Put(ctx context.Context, key string, value []byte, opt state.PutOptions) (string, error) {
	if err := s.usable(ctx); err != nil {
		return "", err
	}
	now := time.Now()
	e := s.newEntry(key, value, opt.TTL, now)
	for swept := false; ; swept = true {
		err := s.tryPut(e, opt, now)
		if err == nil {
			return e.etag, nil
		}
		if swept || !fault.Is(err, fault.ResourceExhausted) {
			return "", err
		}
		s.sweep(now)
	}
}

func (s *State) tryPut(e *entry, opt state.PutOptions, now time.Time) error {
	sh := &s.shards[s.shardOf(e.key)]
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if err := sh.check(e.key, opt.ETag, opt.FirstWrite, now); err != nil {
		return err
	}
	items, bytes := growth(sh.items[e.key], e)
	if err := s.reserve(items, bytes); err != nil {
		return err
	}
	sh.put(e)
	s.release(sh.bury(now))
	return nil
}

// Delete implements state.Driver.
func (s *State) Delete(ctx context.Context, key string, opt state.DeleteOptions) error {
	if err := s.usable(ctx); err != nil {
		return err
	}
	sh := &s.shards[s.shardOf(key)]
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if err := sh.check(key, opt.ETag, false, time.Now()); err != nil {
		return err
	}
	s.release(sh.remove(key))
	return nil
}

// BulkGet implements state.BulkGetter.
func (s *State) BulkGet(ctx context.Context, keys []string, opt state.GetOptions) []state.GetResult {
	out := make([]state.GetResult, len(keys))
	for i, k := range keys {
		out[i].Item, out[i].Found, out[i].Err = s.Get(ctx, k, opt)
	}
	return out
}

// BulkPut implements state.BulkPutter.
func (s *State) BulkPut(ctx context.Context, puts []state.PutOp) []state.PutResult {
	out := make([]state.PutResult, len(puts))
	for i, p := range puts {
		out[i].ETag, out[i].Err = s.Put(ctx, p.Key, p.Value, p.PutOptions)
	}
	return out
}

// BulkDelete implements state.BulkDeleter.
func (s *State) BulkDelete(ctx context.Context, deletes []state.DeleteOp) []error {
	out := make([]error, len(deletes))
	for i, d := range deletes {
		out[i] = s.Delete(ctx, d.Key, d.DeleteOptions)
	}
	return out
}

// MaxTransaction implements state.Transactor: there is no limit.
func (s *State) MaxTransaction() int { return 0 }

// Transact implements state.Transactor.
func (s *State) Transact(ctx context.Context, ops []state.Op, _ state.TransactOptions) error {
	if err := s.usable(ctx); err != nil {
		return err
	}
	now := time.Now()
	for swept := false; ; swept = true {
		err := s.tryTransact(ops, now)
		if swept || !fault.Is(err, fault.ResourceExhausted) {
			return err
		}
		s.sweep(now)
	}
}

func (s *State) tryTransact(ops []state.Op, now time.Time) error {
	defer s.lockFor(ops)()
	after := make(map[string]*entry, len(ops)) // what will be there; nil for nothing
	for i, op := range ops {
		if !s.shards[s.shardOf(op.Key)].admits(&op, now) {
			return &state.OpError{Index: i, Err: op.Lost()}
		}
		if op.Check != state.NoCheck {
			continue
		}
		after[op.Key] = nil
		if !op.Delete {
			after[op.Key] = s.newEntry(op.Key, op.Value, op.TTL, now)
		}
	}
	var items, bytes int64
	for k, e := range after {
		n, b := growth(s.shards[s.shardOf(k)].items[k], e)
		items, bytes = items+n, bytes+b
	}
	if err := s.reserve(items, bytes); err != nil {
		return err
	}
	for k, e := range after {
		sh := &s.shards[s.shardOf(k)]
		if e == nil {
			sh.remove(k)
		} else {
			sh.put(e)
		}
	}
	return nil
}

// lockFor locks the shards of all operations, in the same order whoever
// comes, and returns what unlocks them.
func (s *State) lockFor(ops []state.Op) (unlock func()) {
	var used [numShards]bool
	for _, op := range ops {
		used[s.shardOf(op.Key)] = true
	}
	for i := range used {
		if used[i] {
			s.shards[i].mu.Lock()
		}
	}
	return func() {
		for i := range used {
			if used[i] {
				s.shards[i].mu.Unlock()
			}
		}
	}
}

// List implements state.Lister.
func (s *State) List(ctx context.Context, prefix, after string, limit int) ([]string, error) {
	if err := s.usable(ctx); err != nil {
		return nil, err
	}
	var keys []string
	now := time.Now()
	for i := range s.shards {
		sh := &s.shards[i]
		sh.mu.RLock()
		for k, e := range sh.items {
			if k > after && strings.HasPrefix(k, prefix) && e.live(now) {
				keys = append(keys, k)
			}
		}
		sh.mu.RUnlock()
	}
	slices.Sort(keys)
	return keys[:min(limit, len(keys))], nil
}

// Close drops all items and ends all watches.
func (s *State) Close() error {
	s.closed.Store(true)
	s.log.close()
	for i := range s.shards {
		sh := &s.shards[i]
		sh.mu.Lock()
		sh.items, sh.dying = map[string]*entry{}, nil
		sh.mu.Unlock()
	}
	return nil
}

func (s *State) newEntry(key string, value []byte, ttl time.Duration, now time.Time) *entry {
	e := &entry{key: key, value: slices.Clone(value), etag: strconv.FormatUint(s.seq.Add(1), 36), place: -1}
	if ttl > 0 {
		e.expires = now.Add(ttl)
	}
	return e
}

// growth returns what the store gains when next takes the place of old; either
// may be nil.
func growth(old, next *entry) (items, bytes int64) {
	if next != nil {
		items, bytes = 1, next.size()
	}
	if old != nil {
		items, bytes = items-1, bytes-old.size()
	}
	return items, bytes
}

// reserve counts what is about to be stored, or fails when there is no room.
func (s *State) reserve(items, bytes int64) error {
	n, b := s.items.Add(items), s.bytes.Add(bytes)
	if items > 0 && n > s.cfg.MaxItems || bytes > 0 && b > int64(s.cfg.MaxBytes) {
		s.release(items, bytes)
		return fault.New(fault.ResourceExhausted, "the store is full: it may hold %d items and %d bytes",
			s.cfg.MaxItems, int64(s.cfg.MaxBytes))
	}
	return nil
}

func (s *State) release(items, bytes int64) {
	s.items.Add(-items)
	s.bytes.Add(-bytes)
}

// sweep buries what has expired in all shards.
func (s *State) sweep(now time.Time) {
	for i := range s.shards {
		sh := &s.shards[i]
		sh.mu.Lock()
		s.release(sh.bury(now))
		sh.mu.Unlock()
	}
}

// admits reports whether the condition of an operation holds.
func (sh *shard) admits(op *state.Op, now time.Time) bool {
	switch e := sh.live(op.Key, now); op.Check {
	case state.CheckExists:
		return e != nil
	case state.CheckAbsent:
		return e == nil
	case state.CheckETag:
		return e != nil && e.etag == op.ETag
	}
	return sh.check(op.Key, op.ETag, op.FirstWrite && !op.Delete, now) == nil
}

// live returns the item at key; nil if there is none or it has expired.
func (sh *shard) live(key string, now time.Time) *entry {
	if e := sh.items[key]; e != nil && e.live(now) {
		return e
	}
	return nil
}

// check reports whether a write under these conditions would lose.
func (sh *shard) check(key, etag string, firstWrite bool, now time.Time) error {
	if etag == "" && !firstWrite {
		return nil
	}
	e := sh.live(key, now)
	switch {
	case etag == "" && e != nil:
		return state.ErrExists()
	case etag != "" && (e == nil || e.etag != etag):
		return state.ErrETagMismatch()
	}
	return nil
}

func (sh *shard) put(e *entry) {
	if old := sh.items[e.key]; old != nil {
		sh.dying.remove(old)
	}
	sh.items[e.key] = e
	if !e.expires.IsZero() {
		sh.dying.add(e)
	}
	sh.log.add(e.key)
}

// remove takes an item out and returns what the store has lost.
func (sh *shard) remove(key string) (items, bytes int64) {
	e := sh.items[key]
	if e == nil {
		return 0, 0
	}
	delete(sh.items, key)
	sh.dying.remove(e)
	sh.log.add(key)
	return 1, e.size()
}

// bury removes what has expired and returns what the store has lost.
func (sh *shard) bury(now time.Time) (items, bytes int64) {
	for len(sh.dying) > 0 && !sh.dying[0].live(now) {
		n, b := sh.remove(sh.dying[0].key)
		items, bytes = items+n, bytes+b
	}
	return items, bytes
}
