package outbox

import (
	"context"
	"sync"
)

// keyLocks lets one transaction at a time have a key.
type keyLocks struct {
	mu   sync.Mutex
	held map[string]chan struct{} // closed when the key is free again
}

// lock takes all keys, which are sorted and differ, or none when ctx ends.
func (l *keyLocks) lock(ctx context.Context, keys []string) error {
	for i, key := range keys {
		for {
			l.mu.Lock()
			wait, taken := l.held[key]
			if !taken {
				l.held[key] = make(chan struct{})
			}
			l.mu.Unlock()
			if !taken {
				break
			}
			select {
			case <-wait:
			case <-ctx.Done():
				l.unlock(keys[:i])
				return ctx.Err()
			}
		}
	}
	return nil
}

func (l *keyLocks) unlock(keys []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, key := range keys {
		close(l.held[key])
		delete(l.held, key)
	}
}
