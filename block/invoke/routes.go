package invoke

import (
	"maps"
	"sync"
	"sync/atomic"

	"github.com/proa-io/proa/policy"
)

// route is what was found out about an application that was invoked before: its
// id need not be read again.
type route struct {
	target    target
	operation *policy.Operation
	// endpoints are those that the id was looked for among.
	endpoints *map[string]*Endpoint
}

// routes are the routes by id. Those who look for one take no lock; a new one
// costs a copy of all, which is rare.
type routes struct {
	mu  sync.Mutex
	all atomic.Pointer[map[string]route]
}

// find returns the route of an id, if it still holds.
func (r *routes) find(id string, endpoints *map[string]*Endpoint) (route, bool) {
	all := r.all.Load()
	if all == nil {
		return route{}, false
	}
	found, ok := (*all)[id]
	return found, ok && found.endpoints == endpoints
}

// add adds a route, unless there are too many.
func (r *routes) add(id string, added route) {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := map[string]route{}
	if now := r.all.Load(); now != nil {
		all = *now
	}
	if _, known := all[id]; !known && len(all) >= maxTargets {
		return
	}
	all = maps.Clone(all)
	all[id] = added
	r.all.Store(&all)
}

// route finds the target of an id, and the policies around calls of it.
func (s *Service) route(id string) (route, error) {
	endpoints := s.endpoints.Load()
	if r, ok := s.routes.find(id, endpoints); ok {
		return r, nil
	}
	t, err := s.resolve(id)
	return route{target: t, endpoints: endpoints}, err
}

// bound gives a route that was not known the policies of its target, which is
// known to exist.
func (s *Service) bound(id string, r *route) *policy.Operation {
	if r.operation == nil {
		r.operation = s.operation(r.target.id)
		if r.target.endpoint == nil {
			if !r.target.self {
				r.target.cluster = s.opt.Balance.Cluster(r.target.service)
			}
			s.routes.add(id, *r)
		}
	}
	return r.operation
}
