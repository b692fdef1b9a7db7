package runtime

import (
	"context"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/proa-io/proa/block/binding"
	"github.com/proa-io/proa/block/config"
	"github.com/proa-io/proa/block/conversation"
	"github.com/proa-io/proa/block/crypto"
	"github.com/proa-io/proa/block/job"
	"github.com/proa-io/proa/block/lock"
	"github.com/proa-io/proa/block/middleware"
	"github.com/proa-io/proa/block/pubsub"
	"github.com/proa-io/proa/block/ratelimit"
	"github.com/proa-io/proa/block/secret"
	"github.com/proa-io/proa/block/state"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/dialect/dapr"
	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/resource"
)

// components is a table of everything that resources make and calls reach, as
// it is at one moment. Once it is published nothing in it changes: reloading
// publishes another one, which shares the units that stay.
//
// Who looks something up in a table pins it, so that no unit is closed while
// somebody may hold a block on it.
type components struct {
	set       *resource.Set
	endpoints []*endpoint
	pipelines pipelines

	states      map[string]*state.Store
	brokers     map[string]*pubsub.Broker
	secrets     map[string]*secret.Store
	locks       map[string]*lock.Store
	limits      map[string]*ratelimit.Store
	configs     map[string]*config.Store
	bindings    map[string]*binding.Binding
	cryptos     map[string]*crypto.Provider
	models      map[string]*conversation.Model
	middlewares map[string]*middleware.Middleware
	jobs        *job.Store // nil for none
	delayed     *job.Store // the messages that wait; on the same component as jobs

	units []*unit // in the order they were declared

	pins  atomic.Int64  // and one while it is the table in use
	unset chan struct{} // closed when pins is 0, for good
}

func newComponents(set *resource.Set) *components {
	c := &components{
		set:    set,
		states: map[string]*state.Store{}, brokers: map[string]*pubsub.Broker{}, secrets: map[string]*secret.Store{},
		locks: map[string]*lock.Store{}, configs: map[string]*config.Store{}, bindings: map[string]*binding.Binding{},
		cryptos: map[string]*crypto.Provider{}, models: map[string]*conversation.Model{},
		middlewares: map[string]*middleware.Middleware{}, limits: map[string]*ratelimit.Store{},
		unset: make(chan struct{}),
	}
	c.pins.Store(1)
	return c
}

// add makes the block of u known. It is for tables that are not in use yet.
func (c *components) add(u *unit) {
	c.units = append(c.units, u)
	u.put(c)
}

// unit returns the component of the block with the name; nil when there is
// none.
func (c *components) unit(block, name string) *unit {
	if c == nil {
		return nil
	}
	for _, u := range c.units {
		if u.spec.Block == block && u.name == name {
			return u
		}
	}
	return nil
}

// pin keeps the units of c open until release is called. It reports false when
// c is no longer in use.
func (c *components) pin() bool {
	for {
		n := c.pins.Load()
		if n == 0 {
			return false
		}
		if c.pins.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

// release undoes one pin.
func (c *components) release() {
	if c.pins.Add(-1) == 0 {
		close(c.unset)
	}
}

// unit is one component: the handle that opens its driver and the block on it,
// built, replaced and closed together.
type unit struct {
	name string
	spec component.Spec
	// print is the fingerprint of what it is made from.
	print   string
	timeout time.Duration // of one attempt to open it
	until   time.Time     // it is waited for before the former one serves on
	refs    *references   // to secrets; nil for none
	later   bool          // it was not there when the process started
	chains  *owner
	// put makes the block known in a table, by its name.
	put func(*components)
	// replace hands over what goes on for long, such as subscriptions, to the
	// block of the same name in another table; nil for nothing to hand over.
	replace func(next *components)
	// drain waits until what was handed over is there, within its context; nil
	// for nothing to wait for.
	drain func(context.Context)
	// open keeps the component open until its context ends.
	open func(context.Context) error
	// block, if set, is what the block does by itself. It ends by itself some
	// time after replace, at the latest with its context.
	block func(context.Context) error
	// relay, if set, publishes what the component holds for that, such as an
	// outbox, until its context ends, and a little longer: it ends before the
	// component is closed.
	relay  func(context.Context) error
	status func() component.Status
	// capable is the driver, when it says itself what it can do.
	capable atomic.Pointer[component.Capable]
	// await waits until it is open or closed, or ctx ends.
	await func(context.Context) component.Status

	once    sync.Once
	quit    chan struct{} // closed to stop it
	relayed chan struct{} // closed when relay has returned
	done    chan struct{} // closed when it has been closed
}

// capabilities are what the driver says or, before it has been opened, its spec.
func (u *unit) capabilities() []string {
	if can := u.capable.Load(); can != nil {
		return (*can).Capabilities()
	}
	return u.spec.Capabilities
}

// run keeps the component open until ctx ends or stop is called, and returns
// when its block has ended too. Its relay ends with ebb, when that comes first.
func (u *unit) run(ctx context.Context, ebb <-chan struct{}) {
	var wg sync.WaitGroup
	defer wg.Wait()
	if u.block != nil {
		wg.Go(func() { _ = u.block(ctx) }) // nil when ctx has ended
	}
	defer close(u.done)
	defer u.chains.end()
	here, cancel := context.WithCancel(ctx)
	defer cancel()
	wg.Go(func() { u.runRelay(ctx, ebb) })
	wg.Go(func() {
		select {
		case <-u.quit:
			<-u.relayed
			cancel()
		case <-here.Done():
		}
	})
	_ = u.open(here) // as above
}

func (u *unit) runRelay(ctx context.Context, ebb <-chan struct{}) {
	defer close(u.relayed)
	if u.relay == nil {
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() {
		select {
		case <-u.quit:
		case <-ebb:
		case <-ctx.Done():
		}
		cancel()
	})
	_ = u.relay(ctx) // nil when ctx has ended
}

// stop makes run return.
func (u *unit) stop() { u.once.Do(func() { close(u.quit) }) }

// roster runs the units of a process.
type roster struct {
	spawn   chan *unit
	stopped chan struct{} // closed when run takes no more
	ebb     chan struct{} // closed when relays are to end

	mu    sync.Mutex
	units map[*unit]struct{} // that run
}

func newRoster() *roster {
	return &roster{
		spawn: make(chan *unit), stopped: make(chan struct{}), ebb: make(chan struct{}), units: map[*unit]struct{}{},
	}
}

// relays waits until ctx ends, and then for the relays of all units to publish
// what they still can: the components they need are open until it
// returns.
func (r *roster) relays(ctx context.Context) error {
	<-ctx.Done()
	close(r.ebb)
	r.mu.Lock()
	units := slices.Collect(maps.Keys(r.units))
	r.mu.Unlock()
	for _, u := range units {
		<-u.relayed
	}
	return nil
}

func (r *roster) runUnit(ctx context.Context, u *unit) {
	r.mu.Lock()
	r.units[u] = struct{}{}
	r.mu.Unlock()
	u.run(ctx, r.ebb)
	r.mu.Lock()
	delete(r.units, u)
	r.mu.Unlock()
}

// run runs the given units, and those that start is called with, until ctx
// ends; then it waits for them.
func (r *roster) run(ctx context.Context, units []*unit) error {
	var running sync.WaitGroup
	defer running.Wait()
	defer close(r.stopped)
	for _, u := range units {
		running.Go(func() { r.runUnit(ctx, u) })
	}
	for {
		select {
		case u := <-r.spawn:
			running.Go(func() { r.runUnit(ctx, u) })
		case <-ctx.Done():
			return nil
		}
	}
}

// start runs one more unit. It waits for run to be called, and reports false
// when that has returned.
func (r *roster) start(u *unit) bool {
	select {
	case r.spawn <- u:
		return true
	case <-r.stopped:
		return false
	}
}

// lookupSecret resolves the secretKeyRef of a component.
func (c *components) lookupSecret(ctx context.Context, store, name, key string) (string, error) {
	s, ok := c.secrets[store]
	if !ok {
		return "", fault.New(fault.FailedPrecondition, "there is no secret store %q", store)
	}
	value, err := s.Resolve(ctx, name, key)
	if err != nil {
		return "", err
	}
	return value.Reveal(), nil
}

// describe lists the components for the metadata API.
func (c *components) describe() []dapr.Component {
	var out []dapr.Component
	for _, u := range c.units {
		c := dapr.Component{
			Name: u.name, Type: u.spec.Type(), Version: u.spec.VersionOrDefault(), Capabilities: shownCapabilities(u.spec.Block, u.capabilities()),
		}
		if s := u.status(); s.State != component.Ready {
			c.Status = s.State.String()
			if s.Err != nil {
				c.Problem = fault.Message(s.Err)
			}
		}
		out = append(out, c)
	}
	return out
}

// shownCapabilities are those of a component as the metadata API shows them: a
// store that can hold actors says so.
func shownCapabilities(block string, list []string) []string {
	if block == state.Block && slices.Contains(list, "ETAG") && slices.Contains(list, "TRANSACTIONAL") && !slices.Contains(list, "ACTOR") {
		return append(slices.Clip(list), "ACTOR")
	}
	return list
}

// notReady names the components that have not been tried yet. One that failed
// does not count: it is tried again, and its calls say why. Nor does one that
// came later: a process that is ready stays so.
func (c *components) notReady() []string {
	var out []string
	for _, u := range c.units {
		if s := u.status(); s.State == component.Opening && s.Attempts == 0 && !u.later {
			out = append(out, u.name)
		}
	}
	return out
}
