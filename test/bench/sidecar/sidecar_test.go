package sidecar

import (
	"slices"
	"testing"
)

func TestFiguresAreReadFromTheTextOfMetrics(t *testing.T) {
	const text = "# HELP a_total what\n# TYPE a_total counter\na_total 12\nb{x=\"1\"} 3\nb 4.5e+06\nab_total 7\n"
	got, err := figures(text, []string{"b", "a_total"})
	if err != nil || !slices.Equal(got, []float64{4.5e6, 12}) {
		t.Errorf("%v, %v", got, err)
	}
	if _, err := figures(text, []string{"a_total", "missing"}); err == nil {
		t.Error("a metric that is not there has a value")
	}
	if _, err := figures("a x\n", []string{"a"}); err == nil {
		t.Error("a metric that is no number has a value")
	}
}
