package conversation

import (
	"container/list"
	"crypto/sha256"
	"encoding/json"
	"sync"
	"time"
)

// maxCached bounds how many answers are remembered.
const maxCached = 1000

// cache remembers answers for a while; the least recently used go first. A nil
// cache remembers nothing.
type cache struct {
	ttl time.Duration

	mu    sync.Mutex
	byKey map[cacheKey]*list.Element
	order *list.List // of *cached, most recently used first
}

type cacheKey [sha256.Size]byte

type cached struct {
	key     cacheKey
	reply   *Reply
	expires time.Time
}

func newCache(ttl time.Duration) *cache {
	return &cache{ttl: ttl, byKey: map[cacheKey]*list.Element{}, order: list.New()}
}

// get returns the answer to a request; nil when it is not known. The key is for
// put.
func (c *cache) get(r *Request) (cacheKey, *Reply) {
	if c == nil {
		return cacheKey{}, nil
	}
	text, err := json.Marshal(r)
	if err != nil {
		return cacheKey{}, nil // what cannot be written cannot be asked either
	}
	key := cacheKey(sha256.Sum256(text))
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.byKey[key]
	if !ok {
		return key, nil
	}
	if it := e.Value.(*cached); time.Now().Before(it.expires) {
		c.order.MoveToFront(e)
		return key, it.reply
	}
	c.remove(e)
	return key, nil
}

// put remembers an answer.
func (c *cache) put(key cacheKey, r *Reply) {
	if c == nil || key == (cacheKey{}) {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if e, ok := c.byKey[key]; ok {
		c.remove(e)
	}
	c.byKey[key] = c.order.PushFront(&cached{key, r, time.Now().Add(c.ttl)})
	if c.order.Len() > maxCached {
		c.remove(c.order.Back())
	}
}

func (c *cache) remove(e *list.Element) { delete(c.byKey, c.order.Remove(e).(*cached).key) }
