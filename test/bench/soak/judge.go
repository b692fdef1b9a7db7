package main

import (
	"fmt"
	"slices"

	"github.com/proa-io/proa/test/bench/load"
)

// series is a figure that was sampled in even distances while the load was on.
type series struct {
	name   string
	unit   string
	values []float64
	rule   rule
}

// rule says when a series is flat.
type rule struct {
	// share and amount bound how much the second half may be above the first: a
	// share of the first half, or an amount, whichever is more.
	share, amount float64
}

// verdict is what a series says.
type verdict struct {
	first, second float64 // medians of the halves
	slope         float64 // by which the second half rises, from its start to its end
	limit         float64
	complaint     string // "" when the series is flat
}

const (
	// warmUp is the part of a series that says nothing: caches fill, pools grow.
	warmUp = 0.1
	// leastSamples are needed to say anything.
	leastSamples = 10
)

// judge compares the second half of a series with the first. Medians do not see
// single peaks; the slope within the second half sees what began to rise late.
func judge(s series) verdict {
	from := int(float64(len(s.values)) * warmUp)
	values := s.values[from:]
	if len(values) < leastSamples {
		return verdict{complaint: fmt.Sprintf("%s: %d samples say nothing; let it run longer", s.name, len(s.values))}
	}
	half := len(values) / 2
	v := verdict{first: load.Median(values[:half]), second: load.Median(values[half:])}
	v.slope = slope(values[half:]) * float64(len(values)-half-1)
	v.limit = max(s.rule.amount, s.rule.share*v.first)
	switch {
	case v.second-v.first > v.limit:
		v.complaint = fmt.Sprintf("%s rises: %.1f %s in the first half, %.1f in the second; at most %.1f more would be flat",
			s.name, v.first, s.unit, v.second, v.limit)
	case v.slope > v.limit:
		v.complaint = fmt.Sprintf("%s rises within the second half, by %.1f %s; at most %.1f would be flat", s.name, v.slope, s.unit, v.limit)
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
	slices.Sort(all)
	return load.Median(all)
}

// returned compares a figure after the load with the one before. It returns a
// complaint, or "".
func returned(name string, before, after, slack float64) string {
	if after <= before+slack {
		return ""
	}
	return fmt.Sprintf("%s do not come back: %.0f before the load, %.0f after it; at most %.0f more would do", name, before, after, slack)
}
