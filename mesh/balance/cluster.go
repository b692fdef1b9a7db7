package balance

import (
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/mesh/discovery"
)

// Reasons of the errors of Pick.
const (
	// ReasonNoEndpoint: no endpoint may be used.
	ReasonNoEndpoint fault.Reason = "balance.no_endpoint"
	// ReasonOverflow: more is under way than the policy allows.
	ReasonOverflow fault.Reason = "balance.overflow"
)

// Options make a Cluster.
type Options struct {
	// Name is what errors and events call the target.
	Name string
	// Policy is what to do; DefaultPolicy when nil.
	Policy *Policy
	// Locality is where the caller is.
	Locality discovery.Locality
	// Random returns random numbers, at any time from any goroutine; those of
	// math/rand/v2 when nil.
	Random func() uint64
	// Notify, if set, is called with what happens to endpoints. It must return
	// soon.
	Notify func(Event)
}

// Cluster is one target: its endpoints, what is known of them, and how requests
// are spread over them. It is safe for concurrent use.
type Cluster struct {
	opt    Options
	random func() uint64
	epoch  time.Time
	state  atomic.Pointer[snapshot]
	source atomic.Pointer[discovery.Endpoints] // that Sync saw last

	// under and retries are what is under way, while there are limits.
	under, retries atomic.Int64
	swept          atomic.Int64 // when rates were looked at

	mu      sync.Mutex // guards the fields below, and the health of hosts
	policy  *Policy
	hosts   []*Host // sorted by address
	subsets []subset
	named   []int // the numbers of the policy's subsets
	turns   map[levelKey]*atomic.Uint32
	events  []Event // that wait to be told
}

// New returns a Cluster without endpoints.
func New(o Options) *Cluster {
	c := &Cluster{opt: o, random: o.Random, epoch: time.Now(), turns: map[levelKey]*atomic.Uint32{}}
	if c.random == nil {
		c.random = random
	}
	p := o.Policy
	if p == nil {
		d := DefaultPolicy()
		p = &d
	}
	c.Configure(p)
	return c
}

// Name returns Options.Name.
func (c *Cluster) Name() string { return c.opt.Name }

// Plain reports whether requests are all alike to the policy: Prepare has nothing
// to do.
func (c *Cluster) Plain() bool {
	s := c.state.Load()
	return !s.policy.Algorithm.consistent() && len(s.named) == 0
}

// now is the time as the cluster counts it: nanoseconds since it was made.
func (c *Cluster) now() int64 { return int64(time.Since(c.epoch)) }

// Policy returns what Configure was called with last.
func (c *Cluster) Policy() *Policy { return c.state.Load().policy }

// Configure replaces the policy. What is known of endpoints stays.
func (c *Cluster) Configure(p *Policy) {
	c.mu.Lock()
	defer c.unlock()
	if c.policy == p {
		return
	}
	c.policy = p
	c.named = c.named[:0:0]
	for _, s := range p.Subsets {
		c.named = append(c.named, c.subset(s.Labels, s.Fallback))
	}
	for _, h := range c.hosts {
		h.health.check.results = nil
		if len(p.Checks) == 0 {
			h.health.check = checkState{}
		}
		if !p.Outliers.enabled() {
			h.health.ejectedUntil = 0
		}
	}
	c.rebuild()
}

// Sync takes over a list of endpoints if it is not the one that was seen last.
// It is meant to be called with every request.
func (c *Cluster) Sync(eps *discovery.Endpoints) {
	if c.source.Load() == eps {
		return
	}
	c.mu.Lock()
	defer c.unlock()
	c.source.Store(eps)
	c.update(eps.List())
}

// Update replaces the list of endpoints. What is known of those that stay is
// kept.
func (c *Cluster) Update(list []discovery.Endpoint) {
	c.mu.Lock()
	defer c.unlock()
	c.update(list)
}

func (c *Cluster) update(list []discovery.Endpoint) {
	now, first := c.now(), len(c.hosts) == 0
	there := make(map[string]*Host, len(c.hosts))
	for _, h := range c.hosts {
		there[h.key] = h
	}
	hosts := make([]*Host, 0, len(list))
	for i := range list {
		ep := list[i]
		key := keyOf(ep.Address, ep.ID)
		h := there[key]
		delete(there, key)
		if h == nil {
			h = &Host{cluster: c, key: key, hash: HashOf(ep.Address)}
			if !first {
				h.begins(now, c.policy.SlowStart)
			}
		}
		if was := h.endpoint.Load(); was == nil || !was.Equal(ep) {
			h.endpoint.Store(&ep)
		}
		h.health.draining, h.health.unhealthy = ep.Health == discovery.Draining, ep.Health == discovery.Unhealthy
		hosts = append(hosts, h)
	}
	slices.SortFunc(hosts, func(a, b *Host) int { return strings.Compare(a.key, b.key) })
	c.hosts = slices.CompactFunc(hosts, func(a, b *Host) bool { return a.key == b.key })
	c.rebuild()
}

// unlock gives the mutex back and tells what has happened meanwhile.
func (c *Cluster) unlock() {
	events := c.events
	c.events = nil
	c.mu.Unlock()
	if c.opt.Notify != nil {
		for _, e := range events {
			c.opt.Notify(e)
		}
	}
}

// maxTried bounds how many endpoints a Request remembers.
const maxTried = 4

// Request is what a pick goes by. It is used for all attempts of one request and
// remembers the endpoints that have been picked for it.
type Request struct {
	// Key is the hash by which the consistent algorithms choose, if Keyed is
	// set; see Policy.Affinity.
	Key   uint64
	Keyed bool
	// Subset is the number of a subset, see Cluster.Subset; 0 for all endpoints.
	Subset int

	tried  [maxTried]*Host
	picked int
}

// met reports whether the request has been at a host.
func (r *Request) met(h *Host) bool {
	for _, t := range r.tried[:min(r.picked, maxTried)] {
		if t == h {
			return true
		}
	}
	return false
}

// Pick chooses the endpoint for an attempt at a request, another one than before
// while there is one, and counts the attempt as under way there until
// Attempt.Done is called. It fails with Unavailable when no endpoint may be
// used, and with ResourceExhausted when too much is under way.
func (c *Cluster) Pick(r *Request) (Attempt, error) {
	s, now := c.state.Load(), c.now()
	if s.until != 0 && now >= s.until {
		s = c.readmit(now)
	}
	a := Attempt{began: now, retry: r.picked > 0}
	if limits := &s.policy.Limits; limits.bounded() || s.policy.Bounded > 0 {
		if err := c.count(limits, &a); err != nil {
			return Attempt{}, err
		}
	}
	if r.Subset >= len(s.groups) {
		r.Subset = 0
	}
	g := &s.groups[r.Subset]
	if a.Host = g.only; a.Host == nil {
		if a.Host = c.choose(picking{s, g, now}, r); a.Host == nil {
			err := c.none(s, g)
			a.uncount(c)
			return Attempt{}, err
		}
	}
	r.tried[r.picked%maxTried] = a.Host
	r.picked++
	a.Host.active.Add(1)
	return a, nil
}

// count counts an attempt against the limits of the cluster.
func (c *Cluster) count(l *Limits, a *Attempt) error {
	a.counted = true
	n := c.under.Add(1)
	if a.retry {
		if m := c.retries.Add(1); l.Retries > 0 && m > int64(l.Retries) {
			a.uncount(c)
			return overflow(c.opt.Name, "retries", l.Retries, "maxParallelRetries")
		}
	}
	if l.Requests > 0 && n > int64(l.Requests) {
		a.uncount(c)
		return overflow(c.opt.Name, "requests", l.Requests, "maxParallelRequests")
	}
	return nil
}

func overflow(target, what string, n int, field string) error {
	return fault.New(fault.ResourceExhausted, "%q has %d %s under way, as many as its TrafficPolicy allows (connection.%s)", target, n, what, field).
		WithReason(ReasonOverflow)
}

// none says why no endpoint could be chosen.
func (c *Cluster) none(s *snapshot, g *group) error {
	switch {
	case g.size == 0 && len(s.hosts) > 0:
		return fault.New(fault.Unavailable, "none of the %d endpoints of %q has the labels of the subset asked for", len(s.hosts), c.opt.Name).
			WithReason(ReasonNoEndpoint)
	case g.size == 0:
		return fault.New(fault.Unavailable, "%q has no endpoint", c.opt.Name).WithReason(ReasonNoEndpoint)
	case len(g.levels) == 0:
		c.mu.Lock()
		why := s.hosts[0].health.reason(c.epoch)
		c.mu.Unlock()
		return fault.New(fault.Unavailable, "none of the %d endpoints of %q is healthy; %s %s", g.size, c.opt.Name, s.hosts[0].Endpoint().Address, why).
			WithReason(ReasonNoEndpoint)
	}
	return fault.New(fault.ResourceExhausted, "each of the %d endpoints of %q has %d requests under way, as many as its TrafficPolicy allows "+
		"(connection.perEndpoint.maxParallelRequests)", g.size, c.opt.Name, s.policy.Limits.PerEndpoint).WithReason(ReasonOverflow)
}

// picking is where and when a pick happens.
type picking struct {
	*snapshot
	g   *group
	now int64
}

// choose returns the host for a request; nil when there is none.
func (c *Cluster) choose(in picking, r *Request) *Host {
	g, at := in.g, 0
	if g.bounds != nil {
		x := uint32(c.random() >> 32)
		if r.Keyed && in.policy.Algorithm.consistent() {
			x = uint32(mix(r.Key)) // a key stays at its level
		}
		for at < len(g.bounds)-1 && x > g.bounds[at] {
			at++
		}
	}
	if len(g.levels) == 0 {
		return nil
	}
	if h := c.from(in, &g.levels[at], r); h != nil && !r.met(h) {
		return c.spill(in, at, h, r)
	}
	for i := range g.levels {
		if h := c.from(in, &g.levels[i], r); h != nil && !r.met(h) {
			return h
		}
	}
	// It has been everywhere: once more, then.
	again := Request{Key: r.Key, Keyed: r.Keyed}
	if r.picked > 0 {
		if h := c.from(in, &g.levels[at], &again); h != nil {
			return h
		}
	}
	for i := range g.levels {
		if h := c.from(in, &g.levels[i], &again); h != nil {
			return h
		}
	}
	return nil
}

// spill takes an endpoint of the next level instead of h when that has much to
// do and the other one is better off.
func (c *Cluster) spill(in picking, at int, h *Host, r *Request) *Host {
	levels, p := in.g.levels, in.policy
	most := int64(p.Locality.SpillAt)
	if most <= 0 || h.active.Load() < most || at+1 >= len(levels) ||
		levels[at+1].key.priority != levels[at].key.priority || p.Algorithm.consistent() {
		return h
	}
	next := c.from(in, &levels[at+1], r)
	if next == nil || r.met(next) {
		return h
	}
	better := next.load() < h.load()
	if p.Algorithm == PeakEWMA {
		better = next.cost(in.now, levels[at].average) < h.cost(in.now, levels[at].average)
	}
	if better {
		return next
	}
	return h
}

// from returns a host of a level that the request has not met, or nil.
func (c *Cluster) from(in picking, l *level, r *Request) *Host {
	p, now := in.policy, in.now
	if p.Algorithm.consistent() {
		return c.keyed(p, l, r)
	}
	var fallback *Host
	for range 4 {
		h := l.candidate(p.Algorithm, c.random, now)
		if h.avoid.Load() == 0 && r.picked == 0 && p.Limits.PerEndpoint == 0 {
			return h
		}
		if r.met(h) || p.full(h) {
			continue
		}
		if c.welcome(p, h, now) {
			return h
		}
		fallback = h
	}
	start := below(uint32(c.random()), len(l.hosts))
	for i := range l.hosts {
		h := l.hosts[(start+i)%len(l.hosts)]
		if r.met(h) || p.full(h) {
			continue
		}
		if c.welcome(p, h, now) {
			return h
		}
		fallback = h
	}
	return fallback
}

// welcome reports whether nothing speaks against a host now.
func (c *Cluster) welcome(p *Policy, h *Host, now int64) bool {
	if h.left(now) {
		return false
	}
	share := h.share(now, p.SlowStart)
	return share >= 1 || float64(c.random()>>11)/(1<<53) < share
}

// full reports whether a host has as much under way as it may.
func (p *Policy) full(h *Host) bool {
	return p.Limits.PerEndpoint > 0 && h.active.Load() >= int64(p.Limits.PerEndpoint)
}

// keyed returns the host for the key of a request.
func (c *Cluster) keyed(p *Policy, l *level, r *Request) *Host {
	key := r.Key
	if !r.Keyed {
		key = c.random()
	}
	if r.picked == 0 && p.Limits.PerEndpoint == 0 && p.Bounded == 0 {
		return l.consistent(key, func(*Host) bool { return true })
	}
	var bound float64
	if p.Bounded > 0 {
		// Of the attempts under way, this one included, by weight.
		bound = p.Bounded * float64(c.under.Load()) / (float64(len(l.hosts)) * l.average)
	}
	fits := func(h *Host) bool {
		return !r.met(h) && !p.full(h) && (bound == 0 || h.active.Load() < int64(max(1, bound*float64(h.weight())+0.999999)))
	}
	if h := l.consistent(key, fits); h != nil || bound == 0 {
		return h
	}
	bound = 0
	return l.consistent(key, fits)
}
