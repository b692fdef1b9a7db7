package balance

import (
	"cmp"
	"math"
	"slices"
	"strconv"
)

// HashOf returns the hash of a text, the same in every process, so that all of
// them send a key to the same endpoint.
func HashOf(text string) uint64 {
	h := uint64(14695981039346656037) // FNV-1a
	for i := range len(text) {
		h = (h ^ uint64(text[i])) * 1099511628211
	}
	return mix(h)
}

// mix spreads every bit over all others (the finalizer of MurmurHash3).
func mix(h uint64) uint64 {
	h ^= h >> 33
	h *= 0xff51afd7ed558ccd
	h ^= h >> 33
	h *= 0xc4ceb9fe1a85ec53
	return h ^ h>>33
}

// point is a place on the ring.
type point struct {
	hash uint64
	host uint32
}

// maxRing bounds the ring: 16 bytes for each point.
const maxRing = 1 << 20

// newRing gives every host as many points as its weight says, at least one, of
// about size to twice of that in all. A host keeps its points when others come and
// go, until the number of all passes a power of two.
func newRing(hosts []*Host, weights []uint32, size int) []point {
	var sum float64
	for _, w := range weights {
		sum += float64(w)
	}
	size = min(max(size, len(hosts)), maxRing)
	perWeight := math.Exp2(math.Ceil(math.Log2(float64(size) / sum)))
	out := make([]point, 0, 2*size)
	for i, h := range hosts {
		n := max(1, int(math.Round(perWeight*float64(weights[i]))))
		for k := range n {
			out = append(out, point{mix(h.hash + uint64(k)*0x9e3779b97f4a7c15), uint32(i)})
		}
	}
	slices.SortFunc(out, func(a, b point) int { return cmp.Or(cmp.Compare(a.hash, b.hash), cmp.Compare(a.host, b.host)) })
	return out
}

// onRing returns the place of the first point at or behind a hash.
func (s *hostSet) onRing(hash uint64) int {
	lo, hi := 0, len(s.ring)
	for lo < hi {
		mid := int(uint(lo+hi) >> 1)
		if s.ring[mid].hash < hash {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	if lo == len(s.ring) {
		return 0
	}
	return lo
}

// newTable fills Maglev's table: the hosts take turns, as often as their weight
// says, in taking the next free place of a permutation of their own (Eisenbud et
// al., Maglev, NSDI 2016, section 3.4).
func newTable(hosts []*Host, weights []uint32, size int) []uint32 {
	const free = math.MaxUint32
	most := float64(slices.Max(weights))
	type permutation struct{ at, skip uint64 }
	m := uint64(size)
	perms := make([]permutation, len(hosts))
	for i, h := range hosts {
		perms[i] = permutation{at: mix(h.hash) % m, skip: mix(h.hash^0x9e3779b97f4a7c15)%(m-1) + 1}
	}
	table := slices.Repeat([]uint32{free}, size)
	due := make([]float64, len(hosts))
	for filled := 0; ; {
		for i := range perms {
			if due[i] += float64(weights[i]) / most; due[i] < 1 {
				continue
			}
			due[i]--
			p := &perms[i]
			for table[p.at] != free {
				p.at = (p.at + p.skip) % m
			}
			table[p.at] = uint32(i)
			if filled++; filled == size {
				return table
			}
		}
	}
}

// IsPrime reports whether n is a prime, which Maglev's table wants.
func IsPrime(n int) bool {
	if n < 2 {
		return false
	}
	for d := 2; d*d <= n; d++ {
		if n%d == 0 {
			return false
		}
	}
	return true
}

// consistent returns the host for a key that accept takes, or nil: the one that
// the key belongs to or, when that is not taken, the one that it would belong to
// without it.
func (s *hostSet) consistent(key uint64, accept func(*Host) bool) *Host {
	if s.ring != nil {
		at := s.onRing(key)
		for i := range s.ring {
			if at+i == len(s.ring) {
				at -= len(s.ring)
			}
			if h := s.hosts[s.ring[at+i].host]; accept(h) {
				return h
			}
		}
		return nil
	}
	for try := range uint64(4 * len(s.hosts)) {
		if h := s.hosts[s.table[mix(key+try)%uint64(len(s.table))]]; accept(h) {
			return h
		}
	}
	for _, h := range s.hosts {
		if accept(h) {
			return h
		}
	}
	return nil
}

// keyOf tells an endpoint from others: another instance at the same address is
// another one.
func keyOf(address, id string) string {
	if id == "" {
		return address
	}
	return address + " " + strconv.Quote(id)
}
