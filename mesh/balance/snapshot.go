package balance

import (
	"cmp"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"sync/atomic"

	"github.com/proa-io/proa/mesh/discovery"
)

// snapshot is what picks read: a Cluster as it is at one moment. It does not
// change.
type snapshot struct {
	policy *Policy
	hosts  []*Host // all, sorted
	groups []group // by the number of the subset; 0 is all endpoints
	named  []int   // the groups of the policy's subsets
	until  int64   // when somebody's ejection ends; 0 for never
}

// group is a subset.
type group struct {
	// only is the endpoint of a group that has no other, and no limits to keep.
	only   *Host
	levels []level
	// bounds say which level a random number is for: the first whose bound is
	// not below it. nil when all go to the first.
	bounds []uint32
	size   int // of endpoints, in use or not
}

// level is a part of a group whose endpoints are equally good.
type level struct {
	key levelKey
	*hostSet
}

// levelKey tells levels apart over snapshots.
type levelKey struct {
	group    int
	priority uint32
	distance uint8 // 0 is near
}

// overprovisioning is by how much the healthy endpoints of a level may be more
// loaded before a part of the requests goes to the next level.
const overprovisioning = 1.4

// rebuild makes a snapshot of what is known and takes it into use. The mutex is
// held.
func (c *Cluster) rebuild() {
	old := c.state.Load()
	s := &snapshot{policy: c.policy, hosts: c.hosts, named: c.named}
	for _, h := range c.hosts {
		if e := h.health.ejectedUntil; e != 0 && (s.until == 0 || e < s.until) {
			s.until = e
		}
	}
	s.groups = make([]group, 1+len(c.subsets))
	for i := range s.groups {
		hosts := c.hosts
		if i > 0 {
			sub := &c.subsets[i-1]
			hosts = withLabels(hosts, sub.labels)
			if len(hosts) == 0 && sub.fallback == AnyEndpoint {
				hosts = c.hosts
			}
		}
		s.groups[i] = c.group(i, hosts, old)
	}
	c.state.Store(s)
}

func withLabels(hosts []*Host, labels map[string]string) []*Host {
	return slices.DeleteFunc(slices.Clone(hosts), func(h *Host) bool {
		has := h.Endpoint().Labels
		for k, v := range labels {
			if got, ok := has[k]; !ok || got != v {
				return true
			}
		}
		return false
	})
}

// tier is a level while it is made.
type tier struct {
	key             levelKey
	all, healthy    []*Host
	available, load float64 // percent
}

func (c *Cluster) group(number int, hosts []*Host, old *snapshot) group {
	g := group{size: len(hosts)}
	tiers := c.tiers(number, hosts)
	loads(tiers, c.policy.Panic)
	at := 0.0
	for _, t := range tiers {
		use := t.healthy
		if t.load <= 0 || len(use) == 0 {
			continue
		}
		at += t.load
		g.bounds = append(g.bounds, uint32(min(at/100, 1)*math.MaxUint32))
		g.levels = append(g.levels, level{t.key, c.set(t.key, use, old)})
	}
	// Those that get nothing as long as nothing fails take what the others
	// refuse.
	for _, t := range tiers {
		if t.load <= 0 && len(t.healthy) > 0 {
			g.levels = append(g.levels, level{t.key, c.set(t.key, t.healthy, old)})
		}
	}
	if len(g.bounds) > 0 {
		g.bounds[len(g.bounds)-1] = math.MaxUint32
	}
	if len(g.bounds) == 1 {
		g.bounds = nil
	}
	if len(g.levels) == 1 && len(g.levels[0].hosts) == 1 && !c.policy.Limits.bounded() {
		g.only = g.levels[0].hosts[0]
	}
	return g
}

// tiers sorts hosts by priority and nearness. Those that are draining count only
// when there are no others.
func (c *Cluster) tiers(number int, hosts []*Host) []tier {
	staying := slices.DeleteFunc(slices.Clone(hosts), func(h *Host) bool { return h.health.draining })
	if len(staying) > 0 {
		hosts = staying
	}
	byKey := map[levelKey]*tier{}
	for _, h := range hosts {
		ep := h.Endpoint()
		key := levelKey{number, ep.Priority, distance(c.opt.Locality, ep.Locality, c.policy.Locality.Prefer)}
		t := byKey[key]
		if t == nil {
			t = &tier{key: key}
			byKey[key] = t
		}
		t.all = append(t.all, h)
		if h.health.usable() {
			t.healthy = append(t.healthy, h)
		}
	}
	out := make([]tier, 0, len(byKey))
	for _, t := range byKey {
		out = append(out, *t)
	}
	slices.SortFunc(out, func(a, b tier) int {
		return cmp.Or(cmp.Compare(a.key.priority, b.key.priority), cmp.Compare(a.key.distance, b.key.distance))
	})
	return out
}

// loads says which part of the requests each tier gets, and has those that are
// in panic use all their endpoints.
func loads(tiers []tier, panicBelow int) {
	sum, hosts := 0.0, 0
	for i := range tiers {
		t := &tiers[i]
		t.available = min(100, 100*overprovisioning*float64(len(t.healthy))/float64(len(t.all)))
		sum += t.available
		hosts += len(t.all)
	}
	sum = min(sum, 100)
	left := 100.0
	for i := range tiers {
		t := &tiers[i]
		if sum == 0 {
			t.load = 100 * float64(len(t.all)) / float64(hosts)
		} else {
			t.load = min(left, t.available*100/sum)
		}
		left -= t.load
		if sum < 100 && 100*len(t.healthy) < panicBelow*len(t.all) {
			t.healthy = t.all
		}
	}
}

// distance returns how far an endpoint is: 0 when it has in common with the
// caller what is preferred, more the less it has.
func distance(from, to discovery.Locality, prefer Proximity) uint8 {
	if prefer == Anywhere || from == (discovery.Locality{}) {
		return 0
	}
	return uint8(prefer - min(prefer, proximity(from, to)))
}

func proximity(a, b discovery.Locality) Proximity {
	switch {
	case a.Region != b.Region:
		return Anywhere
	case a.Zone == "" || a.Zone != b.Zone:
		if a.Region == "" {
			return Anywhere
		}
		return Region
	case a.SubZone == "" || a.SubZone != b.SubZone:
		return Zone
	}
	return SubZone
}

// set returns the set of a level: the one there is when it would be the same.
func (c *Cluster) set(key levelKey, hosts []*Host, old *snapshot) *hostSet {
	turn := c.turns[key]
	if turn == nil {
		turn = &atomic.Uint32{}
		turn.Store(uint32(c.random()))
		c.turns[key] = turn
	}
	if old != nil && old.policy == c.policy && key.group < len(old.groups) {
		for _, l := range old.groups[key.group].levels {
			if l.key == key && slices.Equal(l.hosts, hosts) && slices.Equal(l.weights, weightsOf(hosts)) {
				return l.hostSet
			}
		}
	}
	return newHostSet(hosts, c.policy, turn)
}

// Subset returns the number of a subset for Request.Subset: the endpoints that
// have all labels. Subsets are never forgotten; they come from configuration.
func (c *Cluster) Subset(labels map[string]string, fallback Fallback) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	known := len(c.subsets)
	number := c.subset(labels, fallback)
	if len(c.subsets) > known {
		c.rebuild()
	}
	return number
}

func (c *Cluster) subset(labels map[string]string, fallback Fallback) int {
	if len(labels) == 0 {
		return 0
	}
	for i, s := range c.subsets {
		if s.fallback == fallback && maps.Equal(s.labels, labels) {
			return i + 1
		}
	}
	c.subsets = append(c.subsets, subset{labels: maps.Clone(labels), fallback: fallback})
	return len(c.subsets)
}

type subset struct {
	labels   map[string]string
	fallback Fallback
}

// random is the default of Options.Random.
func random() uint64 { return rand.Uint64() }
