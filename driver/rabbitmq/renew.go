package rabbitmq

import (
	"context"
	"sync"
)

// renewed is something that is made when it is needed, by one party at a time,
// and made again when it is needed after it broke.
type renewed[T any] struct {
	alive func(*T) bool
	drop  func(*T)      // disposes of what was made too late
	turn  chan struct{} // held by who makes it

	mu     sync.Mutex
	value  *T
	closed bool
}

func newRenewed[T any](alive func(*T) bool, drop func(*T)) *renewed[T] {
	return &renewed[T]{alive: alive, drop: drop, turn: make(chan struct{}, 1)}
}

// get returns the value, which it makes if there is none alive.
func (r *renewed[T]) get(ctx context.Context, make func(context.Context) (*T, error)) (*T, error) {
	if v, err := r.present(); v != nil || err != nil {
		return v, err
	}
	select {
	case r.turn <- struct{}{}:
		defer func() { <-r.turn }()
	case <-ctx.Done():
		return nil, classify(ctx, ctx.Err())
	}
	if v, err := r.present(); v != nil || err != nil {
		return v, err
	}
	v, err := make(ctx)
	if err != nil {
		return nil, err
	}
	if !r.put(v) {
		r.drop(v)
		return nil, errClosed()
	}
	return v, nil
}

func (r *renewed[T]) put(v *T) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.closed {
		r.value = v
	}
	return !r.closed
}

// present returns the value if it is alive.
func (r *renewed[T]) present() (*T, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil, errClosed()
	}
	if r.value != nil && !r.alive(r.value) {
		r.value = nil
	}
	return r.value, nil
}

// close lets nobody make a value any more, and returns the last one.
func (r *renewed[T]) close() *T {
	r.mu.Lock()
	defer r.mu.Unlock()
	v := r.value
	r.value, r.closed = nil, true
	return v
}
