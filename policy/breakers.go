package policy

import (
	"container/list"
	"context"
	"strings"
	"sync"
	"sync/atomic"
)

// Breakers is a circuit breaker for each key of a target, such as each path of
// an application, so that one that fails does not keep callers from those that
// work. It remembers the breakers of the keys that were asked for last. It is
// safe for concurrent use.
type Breakers struct {
	opt  BreakerOptions
	size int

	front atomic.Pointer[keyed] // the one used last

	mu    sync.Mutex
	byKey map[string]*list.Element // of keyed
	order *list.List               // the one used last is in front
}

type keyed struct {
	key     string
	breaker *CircuitBreaker
}

// NewBreakers returns breakers for up to size keys at a time.
func NewBreakers(size int, o BreakerOptions) *Breakers {
	return &Breakers{opt: o, size: max(size, 1), byKey: map[string]*list.Element{}, order: list.New()}
}

// Policy is a Policy that passes each call through the breaker of its
// Call.Key, of which it looks at what comes before a "?".
func (b *Breakers) Policy(op Op, next Handler) Handler {
	return func(ctx context.Context, c *Call) error {
		key, _, _ := strings.Cut(c.Key, "?")
		return b.of(key).run(ctx, op, c, next)
	}
}

// of returns the breaker of a key.
func (b *Breakers) of(key string) *CircuitBreaker {
	if k := b.front.Load(); k != nil && k.key == key {
		return k.breaker
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	k := b.find(key)
	b.front.Store(k)
	return k.breaker
}

// find moves the breaker of a key to the front. b.mu is held.
func (b *Breakers) find(key string) *keyed {
	if e, ok := b.byKey[key]; ok {
		b.order.MoveToFront(e)
		return e.Value.(*keyed) //nolint:forcetypeassert // only these are in it
	}
	if b.order.Len() >= b.size {
		last := b.order.Back()
		delete(b.byKey, last.Value.(*keyed).key) //nolint:forcetypeassert // as above
		b.order.Remove(last)
	}
	k := &keyed{key: strings.Clone(key), breaker: NewCircuitBreaker(b.opt)}
	b.byKey[k.key] = b.order.PushFront(k)
	return k
}
