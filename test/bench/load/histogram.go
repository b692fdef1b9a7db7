package load

import (
	"math/bits"
	"time"
)

// A Histogram counts durations in buckets that are at most a sixty-fourth of
// their value wide, so that every percentile is exact to 1.6 %, and what is
// recorded costs no memory. The zero value is empty. It is for one goroutine.
type Histogram struct {
	counts [(64 - subBits) << subBits]uint64
	n      uint64
}

// subBits is the base-two logarithm of the buckets per power of two.
const subBits = 6

// Record counts one duration; a negative one counts as none.
func (h *Histogram) Record(d time.Duration) {
	h.counts[bucket(uint64(max(d, 0)))]++
	h.n++
}

// Add counts what another histogram has counted.
func (h *Histogram) Add(other *Histogram) {
	for i, c := range other.counts {
		h.counts[i] += c
	}
	h.n += other.n
}

// Count returns how many durations were recorded.
func (h *Histogram) Count() int { return int(h.n) } //nolint:gosec // far fewer

// Percentile returns the duration that p percent of what was recorded do not
// exceed; 0 when nothing was.
func (h *Histogram) Percentile(p float64) time.Duration {
	if h.n == 0 {
		return 0
	}
	rank := max(1, uint64(p/100*float64(h.n)+0.999999))
	seen := uint64(0)
	for i, c := range h.counts {
		if seen += c; seen >= rank {
			return time.Duration(middle(i)) //nolint:gosec // it came from a duration
		}
	}
	return 0
}

// bucket returns the index of the bucket for v: its highest bit, and the subBits
// bits below.
func bucket(v uint64) int {
	exp := bits.Len64(v >> subBits)
	if exp == 0 {
		return int(v) //nolint:gosec // below 1<<subBits
	}
	return exp<<subBits + int(v>>(exp-1)&(1<<subBits-1)) //nolint:gosec // a few bits
}

// middle returns the value in the middle of a bucket.
func middle(i int) uint64 {
	exp, low := i>>subBits, uint64(i&(1<<subBits-1)) //nolint:gosec // an index
	if exp == 0 {
		return low
	}
	return (1<<subBits|low)<<(exp-1) + 1<<(exp-1)>>1
}
