package balance

import (
	"context"
	"sync"
	"time"

	"github.com/proa-io/proa/mesh/discovery"
)

// Policies are those of all targets. They must not be changed once they are in
// use.
type Policies struct {
	// Default is for targets that Of does not have; DefaultPolicy when nil.
	Default *Policy
	Of      map[discovery.Service]*Policy
}

func (p *Policies) of(svc discovery.Service) *Policy {
	if own := p.Of[svc]; own != nil {
		return own
	}
	return p.Default
}

// TableOptions make a Table.
type TableOptions struct {
	// Locality is where the caller is.
	Locality discovery.Locality
	// Probe sends the requests of health checks; nil for none. See Prober.
	Probe Prober
	// Notify, if set, is called with what happens to endpoints. It must return
	// soon.
	Notify func(Event)
}

// Table holds the clusters of a process, one for each application that is
// called. It is safe for concurrent use.
type Table struct {
	opt      TableOptions
	clusters sync.Map // discovery.Service → *Cluster

	mu       sync.Mutex // guards what follows, and adding clusters
	policies *Policies
	changed  chan struct{} // closed when clusters or policies change
}

// NewTable returns a Table without clusters, with default policies.
func NewTable(o TableOptions) *Table {
	t := &Table{opt: o, changed: make(chan struct{})}
	t.Configure(&Policies{})
	return t
}

// Configure replaces the policies. What is known of endpoints stays.
func (t *Table) Configure(p *Policies) {
	t.mu.Lock()
	defer t.mu.Unlock()
	policies := *p
	if policies.Default == nil {
		d := DefaultPolicy()
		policies.Default = &d
	}
	t.policies = &policies
	t.clusters.Range(func(svc, c any) bool {
		c.(*Cluster).Configure(policies.of(svc.(discovery.Service))) //nolint:forcetypeassert // only these are stored
		return true
	})
	t.signal()
}

// signal tells Run that something has changed. The mutex is held.
func (t *Table) signal() {
	close(t.changed)
	t.changed = make(chan struct{})
}

// Cluster returns the cluster of an application, a new one when there is none.
func (t *Table) Cluster(svc discovery.Service) *Cluster {
	if c, ok := t.clusters.Load(svc); ok {
		return c.(*Cluster) //nolint:forcetypeassert // only clusters are stored
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if c, ok := t.clusters.Load(svc); ok {
		return c.(*Cluster) //nolint:forcetypeassert // only clusters are stored
	}
	c := New(Options{Name: svc.String(), Policy: t.policies.of(svc), Locality: t.opt.Locality, Notify: t.opt.Notify})
	t.clusters.Store(svc, c)
	t.signal()
	return c
}

// All calls f with each cluster until it returns false.
func (t *Table) All(f func(discovery.Service, *Cluster) bool) {
	t.clusters.Range(func(svc, c any) bool {
		return f(svc.(discovery.Service), c.(*Cluster)) //nolint:forcetypeassert // only these are stored
	})
}

// Run checks the health of all endpoints whose policies say so, until ctx ends,
// and returns nil then.
func (t *Table) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	running := map[*Cluster]func(){}
	for ctx.Err() == nil {
		t.mu.Lock()
		changed := t.changed
		t.mu.Unlock()
		t.All(func(svc discovery.Service, c *Cluster) bool {
			stop, runs := running[c]
			checks := len(c.Policy().Checks) > 0 && t.opt.Probe != nil
			switch {
			case checks && !runs:
				own, cancel := context.WithCancel(ctx)
				done := make(chan struct{})
				running[c] = func() { cancel(); <-done }
				wg.Go(func() { defer close(done); c.check(own, svc, t.opt.Probe) })
			case !checks && runs:
				stop()
				delete(running, c)
			}
			return true
		})
		select {
		case <-changed:
		case <-ctx.Done():
		}
	}
	return nil
}

// sweepEvery is how often a checker looks for endpoints that came or went.
const sweepEvery = 250 * time.Millisecond
