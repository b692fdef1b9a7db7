package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestOnlyWhatIsWantedIsMeasured(t *testing.T) {
	for _, c := range []struct {
		only, name, contender string
		want                  bool
	}{
		{"", "HTTP invocation", "direct", true},
		{"HTTP", "HTTP invocation", "direct", true},
		{"gRPC, two sidecars", "HTTP invocation", "two sidecars", true},
		{"gRPC", "HTTP invocation", "two sidecars", false},
		{",", "HTTP invocation", "direct", false},
	} {
		if got := (options{only: c.only}).wants(c.name, c.contender); got != c.want {
			t.Errorf("--only %q: %s, %s: %v", c.only, c.name, c.contender, got)
		}
	}
	o := options{shapes: "16, 4x32"}
	for s, want := range map[shape]bool{{1, 1}: false, {16, 1}: true, {4, 32}: true, {4, 1}: false} {
		if got := o.wantsShape(s); got != want {
			t.Errorf("--shapes %q: %v: %v", o.shapes, s, got)
		}
	}
}

func TestRatiosAreToNginxAndToTheBetterOfBoth(t *testing.T) {
	rows := []*row{
		{contender: "direct", p50: []float64{10}},
		{contender: "nginx", costs: true, cpu: []float64{20, 40, 22}, p50: []float64{50}, allocs: -1},
		{contender: "haproxy", costs: true, cpu: []float64{10, 20, 11}, p50: []float64{40}, allocs: -1},
		{contender: "Proa", costs: true, cpu: []float64{15, 30, 17}, p50: []float64{60}, allocs: 3},
	}
	compare(rows, "direct")
	proa := rows[3]
	if proa.againstNginx != 0.75 || proa.againstBest != 1.5 {
		t.Errorf("%v x nginx, %v x best; want 0.75 and 1.5", proa.againstNginx, proa.againstBest)
	}
	if rows[2].againstBest != 1 || rows[0].againstBest != 0 {
		t.Errorf("the best is %v of itself, the direct call %v", rows[2].againstBest, rows[0].againstBest)
	}
	if got := proa.markdown(false); !strings.Contains(got, "| 50 | 17.0 | 3.0 |") {
		t.Errorf("added time, CPU time and allocations are not in %q", got)
	}
	for _, proxies := range []bool{false, true} { // whatever is empty, the columns are as many
		for _, r := range rows[1:] {
			if a, b := strings.Count(r.markdown(proxies), "|"), strings.Count(rows[0].markdown(proxies), "|"); a != b {
				t.Errorf("%s: %d columns, direct has %d", r.contender, a, b)
			}
		}
	}
}

func TestNotesOfPeopleStay(t *testing.T) {
	file := filepath.Join(t.TempDir(), "page.md")
	if got := keepNotes(file, "new\n"); got != "new\n" {
		t.Errorf("without a page before: %q", got)
	}
	if err := os.WriteFile(file, []byte("old\n"+notesMark+"\nby hand\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, want := keepNotes(file, "new\n"), "new\n"+notesMark+"\nby hand\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestEveryCaseHasATableAndABaseThatIsOneOfItsWays(t *testing.T) {
	names := map[string]bool{}
	for _, c := range cases() {
		if c.table == "" || names[c.name] || len(c.shapes) == 0 {
			t.Errorf("%s: no table, no shape, or there twice", c.name)
		}
		names[c.name] = true
		found := c.base == ""
		for _, con := range c.contenders {
			found = found || con.name == c.base
		}
		if !found {
			t.Errorf("%s: nobody is %q", c.name, c.base)
		}
	}
}
