package discovery

import (
	"maps"
	"slices"
	"strings"
	"sync/atomic"
)

// Endpoints is an unchanging list of endpoints, and whose turn it is. It is
// safe for concurrent use.
type Endpoints struct {
	list []Endpoint
	use  []Endpoint // those that are healthy; all of them when none is
	next atomic.Uint32
}

func newEndpoints(list []Endpoint) *Endpoints {
	e := &Endpoints{list: list, use: list}
	sick := func(ep Endpoint) bool { return ep.Health != Healthy }
	if slices.ContainsFunc(list, sick) {
		if well := slices.DeleteFunc(slices.Clone(list), sick); len(well) > 0 {
			e.use = well
		}
	}
	return e
}

// List returns all endpoints, sorted by address. It must not be changed.
func (e *Endpoints) List() []Endpoint { return e.list }

// Next returns the endpoint for an attempt (counting from 1): the one whose
// turn it is, or for a later attempt another one while there is one. One that is
// not healthy is returned only when none is.
func (e *Endpoints) Next(attempt int) Endpoint {
	if len(e.use) == 1 {
		return e.use[0]
	}
	if attempt > 1 { // another than last time
		return e.use[(int(e.next.Load())+attempt-1)%len(e.use)]
	}
	return e.use[int(e.next.Add(1))%len(e.use)]
}

// merge makes one list, sorted by address, of what sources know.
func merge(parts [][]Endpoint) []Endpoint {
	n := 0
	for _, part := range parts {
		n += len(part)
	}
	all := make([]Endpoint, 0, n)
	at := make(map[string]int, n) // address → index in all
	for _, part := range parts {
		for _, ep := range part {
			if i, known := at[ep.Address]; known {
				all[i].complete(ep)
				continue
			}
			at[ep.Address] = len(all)
			all = append(all, ep)
		}
	}
	slices.SortFunc(all, func(a, b Endpoint) int { return strings.Compare(a.Address, b.Address) })
	return all
}

// complete takes over what o says and e leaves open.
func (e *Endpoint) complete(o Endpoint) {
	fill(&e.ID, o.ID)
	fill(&e.MTLS, o.MTLS)
	fill(&e.Protocol, o.Protocol)
	fill(&e.Weight, o.Weight)
	fill(&e.Locality, o.Locality)
	fill(&e.Priority, o.Priority)
	fill(&e.Health, o.Health)
	if len(o.Labels) == 0 {
		return
	}
	labels := maps.Clone(o.Labels)
	maps.Copy(labels, e.Labels)
	e.Labels = labels
}

func fill[T comparable](dst *T, src T) {
	var none T
	if *dst == none {
		*dst = src
	}
}
