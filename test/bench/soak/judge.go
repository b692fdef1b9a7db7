package main

import (
	"fmt"

	"github.com/proa-io/proa/test/bench/load"
)

// series is one figure, round after round.
type series struct {
	name   string
	unit   string
	values []float64
	// share and amount bound by how much it may rise: a share of what it is, or
	// an amount, whichever is more.
	share, amount float64
}

// verdict is what a series says.
type verdict struct {
	first, second float64 // medians of the halves
	rise          float64 // from the first round to the last, by the slope
	limit         float64
	complaint     string // "" when the series is flat
}

// leastRounds are needed, once everything is warm, to say anything.
const leastRounds = 5

// judge says whether a series is flat: neither its second half is above the
// first, nor does it rise from the first round to the last. A leak does both.
// Medians do not see single peaks.
func judge(s series) verdict {
	if len(s.values) < leastRounds {
		return verdict{complaint: fmt.Sprintf("%s: %d rounds say nothing; let it run longer", s.name, len(s.values))}
	}
	half := len(s.values) / 2
	v := verdict{first: load.Median(s.values[:half]), second: load.Median(s.values[half:])}
	v.rise = slope(s.values) * float64(len(s.values)-1)
	v.limit = max(s.amount, s.share*v.first)
	switch {
	case v.second-v.first > v.limit:
		v.complaint = fmt.Sprintf("%s rises: %.1f %s in the first half, %.1f in the second; at most %.1f more would be flat",
			s.name, v.first, s.unit, v.second, v.limit)
	case v.rise > v.limit:
		v.complaint = fmt.Sprintf("%s rises from round to round, by %.1f %s in all; at most %.1f would be flat", s.name, v.rise, s.unit, v.limit)
	}
	return v
}

// slope returns by how much values rise from one to the next: the median of the
// slopes of all pairs (Theil and Sen), which single peaks do not change.
func slope(values []float64) float64 {
	var all []float64
	for i := range values {
		for j := i + 1; j < len(values); j++ {
			all = append(all, (values[j]-values[i])/float64(j-i))
		}
	}
	return load.Median(all)
}

// What memory may still grow by in a round that is no longer one of warming up:
// a share, or megabytes.
const (
	warmShare  = 0.04
	warmAmount = 0.7
)

// warm returns how many rounds at the start are warm-up: caches fill, pools and
// tables grow, the program is paged in. It is over with the first round after
// which no process holds noticeably more than after the round before. A leak
// never lets it be over, which is why it may take no more than a third of all.
func warm(rounds []round) int {
	for i := 1; i < len(rounds)/3; i++ {
		still := true
		for name, f := range rounds[i] {
			before := rounds[i-1][name]
			still = still && f.heap-before.heap <= max(warmAmount, warmShare*before.heap) &&
				f.held-before.held <= max(warmAmount, warmShare*before.held)
		}
		if still {
			return i
		}
	}
	return len(rounds) / 3
}
