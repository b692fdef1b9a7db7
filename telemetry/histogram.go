package telemetry

import (
	"math"
	"math/bits"
	"sync/atomic"

	dto "github.com/prometheus/client_model/go"
)

// histogram counts observations by size. To observe costs a search without
// branches and two atomic operations. It is safe for concurrent use.
type histogram struct {
	bounds *bounds
	sum    atomic.Uint64   // the bits of a float64
	counts []atomic.Uint64 // of each bound, and of what is above all of them
}

// bounds are the upper bounds of the buckets of histograms, ascending. They do
// not change.
//
// To find a bucket, the numbers are cut into cells: those whose exponent and
// first bits of the mantissa are the same. A cell tells how many bounds are
// below it, and only the few that are within it are looked at.
type bounds struct {
	upper []float64
	// sorted are the bits of upper, which ascend as the numbers do since none is
	// negative, and what nothing is above.
	sorted []uint64
	first  int      // cell of the first bound
	below  []uint16 // by cell from first on
	within int      // the most bounds in one cell
}

// cellShift leaves the exponent of a float64 and the first three bits of its
// mantissa: eight cells from 1 to 2.
const cellShift = 52 - 3

func cellOf(of uint64) int { return int(of >> cellShift) } //nolint:gosec // it has 15 bits

func newBounds(upper []float64) *bounds {
	b := &bounds{upper: upper, first: cellOf(math.Float64bits(upper[0]))}
	b.below = make([]uint16, cellOf(math.Float64bits(upper[len(upper)-1]))-b.first+1)
	in := make([]int, len(b.below))
	for _, x := range upper {
		b.sorted = append(b.sorted, math.Float64bits(x))
		in[cellOf(math.Float64bits(x))-b.first]++
	}
	b.sorted = append(b.sorted, math.MaxUint64)
	n := 0
	for i := range b.below {
		b.below[i] = uint16(n) //nolint:gosec // at most maxBuckets
		n += in[i]
		b.within = max(b.within, in[i])
	}
	return b
}

// bucket returns how many bounds are below x, which is not negative.
func (b *bounds) bucket(x float64) int {
	of := math.Float64bits(x)
	at := int(b.below[min(max(cellOf(of)-b.first, 0), len(b.below)-1)])
	for range b.within {
		_, below := bits.Sub64(b.sorted[at], of, 0) // 1 when the bound is below
		at += int(below)                            //nolint:gosec // 0 or 1
	}
	return at
}

func newHistogram(b *bounds) *histogram {
	return &histogram{bounds: b, counts: make([]atomic.Uint64, len(b.upper)+1)}
}

// observe counts x; what is negative counts as 0.
func (h *histogram) observe(x float64) {
	if !(x > 0) {
		x = 0
	}
	h.counts[h.bounds.bucket(x)].Add(1)
	for {
		old := h.sum.Load()
		if h.sum.CompareAndSwap(old, math.Float64bits(math.Float64frombits(old)+x)) {
			return
		}
	}
}

// read returns what was observed so far. The buckets and the count agree with
// each other always, and with the sum but for observations under way.
func (h *histogram) read() *dto.Histogram {
	out := &dto.Histogram{Bucket: make([]*dto.Bucket, len(h.bounds.upper))}
	n := uint64(0)
	for i := range h.counts {
		n += h.counts[i].Load()
		if i < len(out.Bucket) {
			soFar, bound := n, h.bounds.upper[i]
			out.Bucket[i] = &dto.Bucket{CumulativeCount: &soFar, UpperBound: &bound}
		}
	}
	sum := math.Float64frombits(h.sum.Load())
	out.SampleCount, out.SampleSum = &n, &sum
	return out
}
