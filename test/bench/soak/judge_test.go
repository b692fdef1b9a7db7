package main

import (
	"math/rand/v2"
	"strings"
	"testing"
)

// generate makes a series of n values.
func generate(n int, f func(i int) float64) series {
	s := series{name: "memory", unit: "MB", rule: rule{share: 0.1, amount: 5}}
	for i := range n {
		s.values = append(s.values, f(i))
	}
	return s
}

func TestARisingSeriesFailsAndAFlatOnePasses(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // noise that is the same each time
	noise := func(width float64) float64 { return (random.Float64() - 0.5) * width }
	for _, c := range []struct {
		name      string
		s         series
		complaint string
	}{
		{"constant", generate(200, func(int) float64 { return 80 }), ""},
		{"noise", generate(200, func(int) float64 { return 80 + noise(30) }), ""},
		{"a saw, as of a collected heap", generate(200, func(i int) float64 { return 60 + float64(i%13)*3 }), ""},
		{"warming up, then flat", generate(200, func(i int) float64 { return min(80, 20+float64(i)*4) }), ""},
		{"single peaks", generate(200, func(i int) float64 {
			if i%40 == 39 {
				return 1000
			}
			return 80
		}), ""},
		{"falling", generate(200, func(i int) float64 { return 200 - float64(i)/2 }), ""},
		{"a little of it, within the bound", generate(200, func(i int) float64 { return 80 + float64(i)/50 }), ""},
		{"rising", generate(200, func(i int) float64 { return 80 + float64(i)/5 }), "at most 9.3 more would be flat"},
		{"rising under noise", generate(200, func(i int) float64 { return 80 + float64(i)/5 + noise(20) }), "memory rises"},
		{"a step", generate(200, func(i int) float64 {
			if i < 120 {
				return 80
			}
			return 95
		}), "memory rises: 80.0 MB in the first half, 95.0 in the second"},
		{"rising late", generate(200, func(i int) float64 { return 80 + max(0, float64(i-140))/3 }), "memory rises"},
		{"small figures, within the amount", generate(200, func(i int) float64 { return 4 + float64(i)/50 }), ""},
		{"too short", generate(8, func(int) float64 { return 80 }), "let it run longer"},
	} {
		got := judge(c.s).complaint
		if (got == "") != (c.complaint == "") || !strings.Contains(got, c.complaint) {
			t.Errorf("%s: complaint %q, want %q", c.name, got, c.complaint)
		}
	}
}

func TestWhatDoesNotComeBackFails(t *testing.T) {
	if got := returned("goroutines", 100, 120, 32); got != "" {
		t.Error(got)
	}
	if got := returned("goroutines", 100, 133, 32); !strings.Contains(got, "100 before the load, 133 after it") {
		t.Errorf("complaint %q", got)
	}
}
