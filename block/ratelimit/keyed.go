package ratelimit

import (
	"hash/maphash"
	"sync"
	"time"
)

// keyed holds something for each key, at most so many: what is as good as new
// is forgotten first, and then anything. It is safe for concurrent use.
type keyed[T any] struct {
	seed   maphash.Seed
	most   int // in each shard
	fresh  func() *T
	asNew  func(v *T, now time.Time) bool // whether v may be forgotten
	shards [shards]shard[T]
}

type shard[T any] struct {
	mu    sync.Mutex
	all   map[string]*T
	sweep int // size at which what is as good as new is forgotten
}

const (
	shards   = 16
	minSweep = 64
)

// newKeyed returns a keyed for most keys.
func newKeyed[T any](most int, fresh func() *T, asNew func(*T, time.Time) bool) *keyed[T] {
	return &keyed[T]{seed: maphash.MakeSeed(), most: max(most/shards, 1), fresh: fresh, asNew: asNew}
}

// of returns what is held for a key.
func (k *keyed[T]) of(key string, now time.Time) *T {
	s := &k.shards[maphash.String(k.seed, key)%shards]
	s.mu.Lock()
	defer s.mu.Unlock()
	if v, ok := s.all[key]; ok {
		return v
	}
	if s.all == nil {
		s.all, s.sweep = map[string]*T{}, minSweep
	}
	if len(s.all) >= min(s.sweep, k.most) {
		s.forget(k, now)
	}
	v := k.fresh()
	s.all[key] = v
	return v
}

// forget makes room for one more. s.mu is held.
func (s *shard[T]) forget(k *keyed[T], now time.Time) {
	for key, v := range s.all {
		if k.asNew(v, now) {
			delete(s.all, key)
		}
	}
	for key := range s.all {
		if len(s.all) < k.most {
			break
		}
		delete(s.all, key)
	}
	s.sweep = max(minSweep, 2*len(s.all))
}

// len returns how many keys there are.
func (k *keyed[T]) len() (n int) {
	for i := range k.shards {
		s := &k.shards[i]
		s.mu.Lock()
		n += len(s.all)
		s.mu.Unlock()
	}
	return n
}
