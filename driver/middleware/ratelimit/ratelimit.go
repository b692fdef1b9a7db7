// Package ratelimit is the HTTP middleware that bounds how many requests a client
// may send.
package ratelimit

import (
	"container/list"
	"context"
	"math"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/proa-io/proa/block/middleware"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/mesh/proxy"
)

// Specs lists what this package offers to the building blocks.
func Specs() []component.Spec {
	return []component.Spec{
		middleware.Spec(component.Description{
			Name:    "ratelimit",
			Summary: "Bounds how many requests a client may send in a second.",
		}, Config{MaxRequestsPerSecond: 100}, Open),
	}
}

// Config configures a limit.
//
// Each client address has a budget of its own, from which a second's worth may
// be taken at once. Requests beyond it are answered 429, with Retry-After. The
// limit is one of this sidecar: others count for themselves.
type Config struct {
	// MaxRequestsPerSecond is how many requests a client may send in a second,
	// also less than one.
	MaxRequestsPerSecond float64 `setting:"maxRequestsPerSecond"`
}

// Validate reports settings that can never work.
func (c Config) Validate() error {
	if !(c.MaxRequestsPerSecond > 0) || math.IsInf(c.MaxRequestsPerSecond, 0) {
		return component.Invalid("maxRequestsPerSecond", "wants a number greater than 0")
	}
	return nil
}

// maxClients bounds how many clients are told apart. The one that was seen
// longest ago is forgotten first.
const maxClients = 10_000

// Limiter is a middleware.Driver.
type Limiter struct {
	rate  rate.Limit
	burst int

	mu      sync.Mutex
	clients map[netip.Addr]*list.Element
	order   *list.List // of *client, most recently seen first
}

type client struct {
	addr    netip.Addr
	limiter *rate.Limiter
}

// Open returns a limiter that has seen nobody.
func Open(_ context.Context, cfg Config, _ component.Env) (*Limiter, error) {
	return &Limiter{
		rate: rate.Limit(cfg.MaxRequestsPerSecond), burst: max(1, int(math.Ceil(cfg.MaxRequestsPerSecond))),
		clients: map[netip.Addr]*list.Element{}, order: list.New(),
	}, nil
}

// Handle implements middleware.Driver.
func (l *Limiter) Handle(ex proxy.Exchange, next proxy.Handler) {
	if wait := l.take(ex.Remote().Addr().Unmap()); wait > 0 {
		seconds := strconv.Itoa(int(math.Ceil(wait.Seconds())))
		middleware.Refuse(ex, 429, "ERR_RATE_LIMIT", "the client has sent more requests than it may: "+
			strconv.FormatFloat(float64(l.rate), 'g', -1, 64)+" per second", proxy.Field{Name: "Retry-After", Value: seconds})
		return
	}
	next(ex)
}

// take takes a request from the budget of a client. It returns how long the
// client has to wait when there is none, 0 when there is.
func (l *Limiter) take(addr netip.Addr) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	e, ok := l.clients[addr]
	if !ok {
		e = l.order.PushFront(&client{addr, rate.NewLimiter(l.rate, l.burst)})
		l.clients[addr] = e
		if l.order.Len() > maxClients {
			delete(l.clients, l.order.Remove(l.order.Back()).(*client).addr)
		}
	}
	l.order.MoveToFront(e)
	r := e.Value.(*client).limiter.Reserve()
	if d := r.Delay(); d > 0 {
		r.Cancel()
		return d
	}
	return 0
}

// Close implements io.Closer.
func (l *Limiter) Close() error { return nil }
