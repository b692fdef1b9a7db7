package load

import (
	"errors"
	"math"
	"slices"
	"testing"
	"time"
)

func TestPercentilesAreThoseOfWhatWasRecorded(t *testing.T) {
	var h, other Histogram
	var all []time.Duration
	for i := range 10_000 {
		d := time.Duration(i*i) * 37 * time.Nanosecond
		all = append(all, d)
		if i%2 == 0 {
			h.Record(d)
		} else {
			other.Record(d)
		}
	}
	h.Add(&other)
	slices.Sort(all)
	if h.Count() != len(all) {
		t.Fatalf("%d were recorded, of %d", h.Count(), len(all))
	}
	for _, p := range []float64{0, 1, 50, 90, 99, 99.9, 100} {
		want := all[max(0, int(math.Ceil(p/100*float64(len(all))))-1)]
		if got := h.Percentile(p); math.Abs(float64(got-want)) > float64(want)/64+1 {
			t.Errorf("percentile %g: %v, want %v", p, got, want)
		}
	}
}

func TestBucketsFollowEachOtherWithoutAGap(t *testing.T) {
	last := -1
	for v := uint64(0); v < 1<<20; v++ {
		b := bucket(v)
		if b != last && b != last+1 {
			t.Fatalf("%d is in bucket %d, after %d", v, b, last)
		}
		last = b
	}
	var h Histogram
	h.Record(math.MaxInt64)
	h.Record(-1)
	if h.Percentile(50) != 0 || h.Percentile(100) < math.MaxInt64/64*63 {
		t.Errorf("the ends are %v and %v", h.Percentile(50), h.Percentile(100))
	}
	if (&Histogram{}).Percentile(50) != 0 {
		t.Error("an empty histogram has a percentile")
	}
}

func TestMediansAndRatios(t *testing.T) {
	for _, c := range []struct {
		values []float64
		want   float64
	}{{nil, 0}, {[]float64{3}, 3}, {[]float64{9, 1, 2}, 2}, {[]float64{4, 1, 3, 2}, 2.5}} {
		if got := Median(c.values); got != c.want {
			t.Errorf("Median(%v) = %v, want %v", c.values, got, c.want)
		}
	}
	// The machine was half as fast in the second round: the ratio stays.
	if got := Ratio([]float64{10, 20, 11}, []float64{20, 40, 20}); got != 0.5 {
		t.Errorf("the ratio is %v, want 0.5", got)
	}
	if got := Ratio([]float64{1}, []float64{0}); got != 0 {
		t.Errorf("a ratio to nothing is %v", got)
	}
}

// counting is a worker whose calls take no time.
type counting struct {
	calls  int
	err    error
	closed *int
}

func (c *counting) Run(_ time.Time, h *Histogram) error {
	for range c.calls {
		h.Record(time.Millisecond)
	}
	return c.err
}

func (c *counting) Close() error {
	*c.closed++
	return nil
}

func TestAPoolCountsTheCallsOfAllWorkersAndTellsOfTheirErrors(t *testing.T) {
	closed := 0
	calls := 0
	p, err := NewPool(3, func() (Worker, error) {
		calls++
		return &counting{calls: calls, closed: &closed}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second run begins anew
		res, err := p.Run(0)
		if err != nil || res.Latency.Count() != 6 {
			t.Fatalf("%d calls, %v; want 6", res.Latency.Count(), err)
		}
	}
	broken := errors.New("broken")
	p.workers[1].(*counting).err = broken
	if _, err := p.Run(0); !errors.Is(err, broken) {
		t.Errorf("the error is %v", err)
	}
	if err := p.Close(); err != nil || closed != 3 {
		t.Errorf("%d are closed, %v", closed, err)
	}
}

func TestAPoolThatCannotDialClosesWhatItHas(t *testing.T) {
	closed, n := 0, 0
	_, err := NewPool(3, func() (Worker, error) {
		if n++; n == 3 {
			return nil, errors.New("refused")
		}
		return &counting{closed: &closed}, nil
	})
	if err == nil || closed != 2 {
		t.Errorf("%v, %d closed", err, closed)
	}
}

func TestARunWithoutACallIsAnError(t *testing.T) {
	closed := 0
	p, err := NewPool(1, func() (Worker, error) { return &counting{closed: &closed}, nil })
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Run(0); err == nil {
		t.Error("nothing was measured, and nothing said so")
	}
}
