// Package discovery finds the sidecars of applications. Sources are watched in
// the background; looking up an application that has been looked up before
// costs one map access, and what was known last keeps serving when a source is
// gone.
package discovery

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/internal/coroutine"
)

// ReasonNotFound marks an application of which no instance is known.
const ReasonNotFound fault.Reason = "discovery.not_found"

// Service names an application.
type Service struct {
	Namespace string
	AppID     string
}

// String returns "app.namespace".
func (s Service) String() string { return s.AppID + "." + s.Namespace }

// Endpoint is one instance of an application: where its sidecar takes calls
// from other sidecars, or where it takes requests itself.
type Endpoint struct {
	// Address is "host:port", or "unix:/path".
	Address string `json:"address"`
	// ID tells instances apart; it is the address when empty.
	ID string `json:"id,omitempty"`
	// MTLS tells that it takes calls over mutual TLS.
	MTLS bool `json:"mtls,omitempty"`
	// Protocol is what an application without a sidecar speaks at the address;
	// empty when a sidecar is there.
	Protocol Protocol `json:"protocol,omitempty"`
	// Weight is its share of the requests relative to the others; 0 counts as 1.
	Weight uint32 `json:"weight,omitempty"`
	// Locality is where it is; the zero value is unknown.
	Locality Locality `json:"locality,omitzero"`
	// Priority orders groups of endpoints: those with a higher number are used
	// when too few with lower ones are healthy.
	Priority uint32 `json:"priority,omitempty"`
	// Labels say what it is, such as version: v2. They must not be changed.
	Labels map[string]string `json:"labels,omitempty"`
	// Health is what its source says of it.
	Health Health `json:"health,omitempty"`
}

// Equal reports whether the two say the same.
func (e Endpoint) Equal(o Endpoint) bool {
	return e.Address == o.Address && e.ID == o.ID && e.MTLS == o.MTLS && e.Protocol == o.Protocol && e.Weight == o.Weight &&
		e.Locality == o.Locality && e.Priority == o.Priority && e.Health == o.Health && maps.Equal(e.Labels, o.Labels)
}

// Protocol is what is spoken at an endpoint.
type Protocol string

// The protocols of endpoints.
const (
	Sidecar Protocol = ""         // that of sidecars among each other
	HTTP1   Protocol = "http/1.1" // RFC 9112
	HTTP2   Protocol = "h2c"      // RFC 9113 with prior knowledge, so gRPC too
	TCP     Protocol = "tcp"      // bytes
)

// Locality is where something runs; a part that is empty is unknown.
type Locality struct {
	Region  string `json:"region,omitempty"`
	Zone    string `json:"zone,omitempty"`
	SubZone string `json:"subZone,omitempty"`
}

// Health is what a source knows of the health of an endpoint.
type Health string

// The healths of endpoints. One that is unhealthy or draining is not in use,
// unless so many are that those left could not carry the load.
const (
	Healthy   Health = ""          // or not known to be anything else
	Unhealthy Health = "unhealthy" // its checks fail
	Draining  Health = "draining"  // finishes what it has, and takes nothing new
)

// Source is where endpoints are learned from.
type Source interface {
	// Watch calls update with all endpoints of svc, an empty list included, as
	// soon as they are known and whenever they change, until ctx ends, and
	// returns nil then. An error means that what was known last may be out of
	// date; Watch is called again after a while. update does not keep the
	// slice.
	Watch(ctx context.Context, svc Service, update func([]Endpoint)) error
}

// Registrar announces instances.
type Registrar interface {
	// Register announces a, and whatever becomes of it, until ctx ends, then
	// withdraws it and returns nil. While nobody can be told it goes on trying:
	// an error means that it will never work. Instances with the same ID, or
	// with none and the same address, are one.
	Register(ctx context.Context, a *Announcement) error
}

// Options configure a Directory.
type Options struct {
	// Sources are asked all; what any of them knows counts. Where several know
	// an endpoint of the same address, what an earlier one says of it goes
	// first, and the later ones say what it leaves open.
	Sources []Source
	// AppearWait is how long a lookup waits for the first instance of an
	// application of which none is known, so that applications can start in
	// any order; 2 s when zero.
	AppearWait time.Duration
	// IdleAfter ends the watch of an application that nobody has looked up
	// for so long; 10 min when zero.
	IdleAfter time.Duration
	Log       *slog.Logger
}

// Directory keeps the endpoints of the applications that are called. It is
// safe for concurrent use.
type Directory struct {
	opt Options

	known sync.Map // Service → *entry

	mu   sync.Mutex      // guards the fields below
	ctx  context.Context //nolint:containedctx // of Run, for the watches it owns
	wg   sync.WaitGroup
	wake chan struct{} // closed by Run once lookups may start watches
}

// New returns a Directory. Lookups work once Run has been called.
func New(o Options) *Directory {
	if o.AppearWait == 0 {
		o.AppearWait = 2 * time.Second
	}
	if o.IdleAfter == 0 {
		o.IdleAfter = 10 * time.Minute
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Directory{opt: o, wake: make(chan struct{})}
}

// Run owns the watches until ctx ends, and returns nil when they have stopped.
func (d *Directory) Run(ctx context.Context) error {
	d.mu.Lock()
	d.ctx = ctx
	close(d.wake)
	d.mu.Unlock()
	sweep := time.NewTicker(d.opt.IdleAfter / 4)
	defer sweep.Stop()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case now := <-sweep.C:
			d.sweep(now)
		}
	}
	d.wg.Wait()
	return nil
}

func (d *Directory) sweep(now time.Time) {
	d.known.Range(func(key, value any) bool {
		e := value.(*entry) //nolint:forcetypeassert // only entries are stored
		if now.Sub(time.Unix(0, e.used.Load())) > d.opt.IdleAfter {
			d.known.Delete(key)
			e.stop()
		}
		return true
	})
}

// Lookup returns the endpoints of svc, at least one. It waits for the first
// answer of the sources and then for an instance to appear, for as long as ctx
// and Options.AppearWait allow, and fails with NotFound then.
func (d *Directory) Lookup(ctx context.Context, svc Service) (*Endpoints, error) {
	if v, ok := d.known.Load(svc); ok {
		e := v.(*entry) //nolint:forcetypeassert // only entries are stored
		e.touch()
		if eps := e.endpoints.Load(); eps != nil && len(eps.list) > 0 {
			return eps, nil
		}
		return d.await(ctx, e)
	}
	coroutine.Detach(ctx)
	e, err := d.watch(ctx, svc)
	if err != nil {
		return nil, err
	}
	return d.await(ctx, e)
}

func (d *Directory) await(ctx context.Context, e *entry) (*Endpoints, error) {
	coroutine.Detach(ctx)
	t := time.NewTimer(d.opt.AppearWait)
	defer t.Stop()
	for {
		changed := e.changed()
		if eps := e.endpoints.Load(); eps != nil && len(eps.list) > 0 {
			return eps, nil
		}
		select {
		case <-changed:
			continue
		case <-ctx.Done():
			if ctx.Err() == context.Canceled {
				return nil, ctx.Err()
			}
		case <-t.C:
		}
		return nil, e.notFound()
	}
}

func (d *Directory) watch(ctx context.Context, svc Service) (*entry, error) {
	select {
	case <-d.wake:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if v, ok := d.known.Load(svc); ok {
		return v.(*entry), nil //nolint:forcetypeassert // only entries are stored
	}
	wctx, cancel := context.WithCancel(d.ctx)
	e := &entry{svc: svc, stop: cancel, change: make(chan struct{}), parts: make([][]Endpoint, len(d.opt.Sources)), errs: make([]error, len(d.opt.Sources))}
	e.touch()
	d.known.Store(svc, e)
	for i, src := range d.opt.Sources {
		d.wg.Go(func() { d.follow(wctx, e, i, src) })
	}
	return e, nil
}

// Back-off between watches of a source that fails.
const (
	firstDelay = 200 * time.Millisecond
	lastDelay  = 10 * time.Second
)

// follow keeps one source watched until ctx ends.
func (d *Directory) follow(ctx context.Context, e *entry, i int, src Source) {
	delay := firstDelay
	for {
		err := src.Watch(ctx, e.svc, func(list []Endpoint) {
			delay = firstDelay
			e.update(i, list)
		})
		if ctx.Err() != nil {
			return
		}
		e.failed(i, err)
		d.opt.Log.WarnContext(ctx, "watching an application failed; what was known last stays in use",
			"service", e.svc.String(), "retry_in", delay, "error", err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(delay):
		}
		delay = min(2*delay, lastDelay)
	}
}

// entry is what is known of one application.
type entry struct {
	svc       Service
	stop      context.CancelFunc
	used      atomic.Int64 // Unix nanoseconds of the last lookup
	endpoints atomic.Pointer[Endpoints]

	mu     sync.Mutex // guards the fields below
	change chan struct{}
	parts  [][]Endpoint // by source; nil before the first answer
	errs   []error      // by source
}

// touch marks the entry as used, to the second: writing the same word on every
// lookup would make all cores fight for it.
func (e *entry) touch() {
	now := time.Now().UnixNano()
	if now-e.used.Load() > int64(time.Second) {
		e.used.Store(now)
	}
}

func (e *entry) changed() <-chan struct{} {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.change
}

func (e *entry) update(i int, list []Endpoint) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.errs[i] = nil
	e.parts[i] = slices.Clone(list)
	e.endpoints.Store(newEndpoints(merge(e.parts)))
	close(e.change)
	e.change = make(chan struct{})
}

func (e *entry) failed(i int, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.errs[i] = err
}

func (e *entry) notFound() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, err := range e.errs {
		if err != nil {
			return fault.Wrap(err, fault.Unavailable, "no instance of application %q in namespace %q is known, and asking failed",
				e.svc.AppID, e.svc.Namespace).WithReason(ReasonNotFound)
		}
	}
	return fault.New(fault.NotFound, "no instance of application %q is running in namespace %q", e.svc.AppID, e.svc.Namespace).
		WithReason(ReasonNotFound)
}
