package main

import (
	"math/rand/v2"
	"strings"
	"testing"
)

// generate makes a series of n values.
func generate(n int, f func(i int) float64) series {
	s := series{name: "memory", unit: "MB", share: 0.1, amount: 5}
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
		{"constant", generate(10, func(int) float64 { return 80 }), ""},
		{"noise", generate(10, func(int) float64 { return 80 + noise(8) }), ""},
		{"a saw, as of a collected heap", generate(12, func(i int) float64 { return 78 + float64(i%3)*2 }), ""},
		{"single peaks", generate(10, func(i int) float64 {
			if i == 7 {
				return 1000
			}
			return 80
		}), ""},
		{"falling", generate(10, func(i int) float64 { return 200 - float64(i)*9 }), ""},
		{"a little of it, within the bound", generate(10, func(i int) float64 { return 80 + float64(i)/2 }), ""},
		{"rising", generate(10, func(i int) float64 { return 80 + float64(i)*3 }), "at most 8.6 more would be flat"},
		{"rising under noise", generate(10, func(i int) float64 { return 80 + float64(i)*3 + noise(4) }), "memory rises"},
		{"a step", generate(10, func(i int) float64 {
			if i < 5 {
				return 80
			}
			return 95
		}), "memory rises: 80.0 MB in the first half, 95.0 in the second"},
		{"rising slowly all the time", generate(10, func(i int) float64 { return 80 + float64(i) }), "memory rises from round to round, by 9.0 MB"},
		{"small figures, within the amount", generate(10, func(i int) float64 { return 4 + float64(i)/3 }), ""},
		{"too short", generate(4, func(int) float64 { return 80 }), "let it run longer"},
	} {
		got := judge(c.s).complaint
		if (got == "") != (c.complaint == "") || !strings.Contains(got, c.complaint) {
			t.Errorf("%s: complaint %q, want %q", c.name, got, c.complaint)
		}
	}
}

func TestWarmUpEndsWhenMemoryStandsStill(t *testing.T) {
	for _, c := range []struct {
		name string
		heap func(i int) float64
		want int
	}{
		{"from the start", func(int) float64 { return 20 }, 1},
		{"after some rounds", func(i int) float64 { return min(20, 8+float64(i)*4) }, 4},
		{"never, as with a leak", func(i int) float64 { return 8 + float64(i)*4 }, 5},
	} {
		var rounds []round
		for i := range 15 {
			rounds = append(rounds, round{"front": {heap: c.heap(i), held: 50}, "shop": {heap: 3, held: 40}})
		}
		if got := warm(rounds); got != c.want {
			t.Errorf("%s: warm after %d rounds, want %d", c.name, got, c.want)
		}
	}
}
