package balance

import (
	"cmp"
	"math"
	"slices"
	"sync/atomic"
)

// hostSet is the endpoints of a level that are in use, made ready for one
// algorithm. It does not change.
type hostSet struct {
	hosts   []*Host
	weights []uint32
	average float64        // of the weights
	alias   []alias        // to draw by weight; nil when all weigh the same
	order   []uint32       // whose turn it is, by weight; nil when all weigh the same
	turn    *atomic.Uint32 // of RoundRobin; shared with the sets before and after
	ring    []point        // sorted; of RingHash
	table   []uint32       // of Maglev
}

// alias is a column of the alias method (Walker, Vose): its own host up to the
// threshold, another one above.
type alias struct {
	threshold uint32
	other     uint32
}

// newHostSet makes a set of at least one host.
func newHostSet(hosts []*Host, p *Policy, turn *atomic.Uint32) *hostSet {
	s := &hostSet{hosts: hosts, weights: weightsOf(hosts), turn: turn}
	var sum float64
	even := true
	for _, w := range s.weights {
		sum += float64(w)
		even = even && w == s.weights[0]
	}
	s.average = sum / float64(len(hosts))
	switch p.Algorithm {
	case RingHash:
		s.ring = newRing(hosts, s.weights, p.RingSize)
	case Maglev:
		s.table = newTable(hosts, s.weights, p.TableSize)
	case RoundRobin:
		if !even {
			s.order = newOrder(s.weights)
		}
	default:
		if !even {
			s.alias = newAliases(s.weights, sum)
		}
	}
	return s
}

func weightsOf(hosts []*Host) []uint32 {
	out := make([]uint32, len(hosts))
	for i, h := range hosts {
		out[i] = h.weight()
	}
	return out
}

func newAliases(weights []uint32, sum float64) []alias {
	n := len(weights)
	out := make([]alias, n)
	scaled := make([]float64, n)
	var small, large []int
	for i, w := range weights {
		scaled[i] = float64(w) * float64(n) / sum
		if scaled[i] < 1 {
			small = append(small, i)
		} else {
			large = append(large, i)
		}
	}
	for len(small) > 0 && len(large) > 0 {
		s, l := small[len(small)-1], large[len(large)-1]
		small = small[:len(small)-1]
		out[s] = alias{uint32(scaled[s] * math.MaxUint32), uint32(l)}
		if scaled[l] -= 1 - scaled[s]; scaled[l] < 1 {
			large = large[:len(large)-1]
			small = append(small, l)
		}
	}
	for _, i := range slices.Concat(small, large) {
		out[i] = alias{math.MaxUint32, uint32(i)}
	}
	return out
}

// maxOrder bounds the length of a cycle of RoundRobin; weights that would make a
// longer one are rounded.
const maxOrder = 8192

// newOrder returns a cycle in which each host has as many places as its weight,
// spread evenly: the k-th place of a host with the weight w belongs at the time
// (k+o)/w, where o differs from host to host (by the golden ratio), so that those
// with the same weight do not meet.
func newOrder(weights []uint32) []uint32 {
	divisor, sum := uint32(0), 0.0
	for _, w := range weights {
		divisor = gcd(w, divisor)
		sum += float64(w)
	}
	scale := 1 / float64(divisor)
	if sum*scale > maxOrder {
		scale = maxOrder / sum
	}
	type place struct {
		time float64
		host uint32
	}
	var places []place
	for i, w := range weights {
		n := max(1, int(math.Round(float64(w)*scale)))
		_, offset := math.Modf(float64(i) * (math.Phi - 1))
		for k := range n {
			places = append(places, place{(float64(k) + offset) / float64(n), uint32(i)})
		}
	}
	slices.SortFunc(places, func(a, b place) int { return cmp.Or(cmp.Compare(a.time, b.time), cmp.Compare(a.host, b.host)) })
	out := make([]uint32, len(places))
	for i, p := range places {
		out[i] = p.host
	}
	return out
}

func gcd(a, b uint32) uint32 {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

// below returns a number below n out of 32 random bits.
func below(random uint32, n int) int { return int(uint64(random) * uint64(n) >> 32) }

// draw returns a host by weight.
func (s *hostSet) draw(random uint64) int {
	i := below(uint32(random), len(s.hosts))
	if s.alias != nil && uint32(random>>32) > s.alias[i].threshold {
		return int(s.alias[i].other)
	}
	return i
}

// candidate returns the choice of an algorithm that goes by no key.
func (s *hostSet) candidate(a Algorithm, random func() uint64, now int64) *Host {
	if len(s.hosts) == 1 {
		return s.hosts[0]
	}
	switch a {
	case Random:
		return s.hosts[s.draw(random())]
	case RoundRobin:
		turn := s.turn.Add(1)
		if s.order != nil {
			return s.hosts[s.order[int(turn)%len(s.order)]]
		}
		return s.hosts[int(turn)%len(s.hosts)]
	}
	first, second := s.two(random)
	if a == LeastRequest {
		if second.load() < first.load() {
			return second
		}
		return first
	}
	// Latencies that are nearly the same must not draw everything to one.
	if x, y := first.cost(now, s.average), second.cost(now, s.average); y < x-x/8 {
		return second
	}
	return first
}

// two draws two hosts by weight that are not the same.
func (s *hostSet) two(random func() uint64) (first, second *Host) {
	n, r := len(s.hosts), random()
	if s.alias == nil {
		i, j := below(uint32(r), n), below(uint32(r>>32), n-1)
		if j >= i {
			j++
		}
		return s.hosts[i], s.hosts[j]
	}
	i, j := s.draw(r), s.draw(random())
	if i == j {
		j = below(uint32(random()), n-1)
		if j >= i {
			j++
		}
	}
	return s.hosts[i], s.hosts[j]
}
