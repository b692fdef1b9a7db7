package telemetry

import (
	"fmt"
	"maps"
	"math"
	"regexp"
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
)

// MetricSettings say what is measured, and how closely. See
// DefaultMetricSettings.
type MetricSettings struct {
	// Disabled measures nothing.
	Disabled bool
	// IncreasedCardinality gives HTTP metrics the label path.
	IncreasedCardinality bool
	// PathMatching are templates such as "/orders/{id}" that paths are reduced
	// to in HTTP metrics.
	PathMatching []string
	// ExcludeVerbs leaves the label method out of HTTP metrics.
	ExcludeVerbs bool
	// Rules rewrite values of labels.
	Rules []MetricRule
	// LatencyBuckets are the upper bounds of the histograms of latencies, in
	// milliseconds, ascending.
	LatencyBuckets []float64
	// RecordErrorCodes counts the errors that the API answers with.
	RecordErrorCodes bool
}

// MetricRule rewrites one label of one metric.
type MetricRule struct {
	// Metric is its name, with or without "dapr_"; "/" and "_" are the same.
	Metric, Label string
	// Replace maps what to put to the regular expression of what it stands
	// for. They are applied in the order of the former.
	Replace map[string]string
}

// DefaultMetricSettings returns those that count when nothing is said.
func DefaultMetricSettings() MetricSettings {
	return MetricSettings{
		IncreasedCardinality: true,
		LatencyBuckets: []float64{
			1, 2, 3, 4, 5, 6, 8, 10, 13, 16, 20, 25, 30, 40, 50, 65, 80, 100, 130, 160, 200, 250, 300, 400, 500, 650, 800,
			1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000,
		},
	}
}

// CheckMetricSettings returns why settings can never work, or nil.
func CheckMetricSettings(s MetricSettings) error {
	_, err := newGeneration(&Metrics{}, s)
	return err
}

// generation is everything that certain settings measure.
type generation struct {
	settings MetricSettings
	paths    *pathTemplates // nil for none
	vectors  [numMetrics]*vector

	// What requests need, by what tells them apart: the label of the path, the
	// gRPC method, the application at the other end, the decision.
	byPath, byMethod, byApp keyed
	decisions               *table[AccessDecision, *series]
}

func newGeneration(m *Metrics, s MetricSettings) (*generation, error) {
	if len(s.LatencyBuckets) == 0 {
		s.LatencyBuckets = DefaultMetricSettings().LatencyBuckets
	}
	if err := checkBuckets(s.LatencyBuckets); err != nil {
		return nil, err
	}
	g := &generation{
		settings: s, byPath: newKeyed(), byMethod: newKeyed(), byApp: newKeyed(), decisions: newTable[AccessDecision, *series](maxKeyed),
	}
	var err error
	if g.paths, err = newPathTemplates(s.PathMatching); err != nil {
		return nil, err
	}
	defs := definitions()
	for i := range defs {
		rules, err := rulesOf(&defs[i], s.Rules)
		if err != nil {
			return nil, err
		}
		g.vectors[i] = newVector(m, &defs[i], &s, rules)
	}
	return g, nil
}

// maxBuckets bounds the buckets of a histogram.
const maxBuckets = 200

func checkBuckets(list []float64) error {
	if len(list) > maxBuckets {
		return fmt.Errorf("there are %d latency buckets; the most is %d", len(list), maxBuckets)
	}
	for i, b := range list {
		if !(b > 0) || math.IsInf(b, 1) || i > 0 && b <= list[i-1] {
			return fmt.Errorf("latency buckets want numbers above 0 that ascend; %v does not", b)
		}
	}
	return nil
}

// labelRule is a MetricRule for one label, compiled.
type labelRule struct {
	label   int
	pattern *regexp.Regexp
	replace string
}

func (r *labelRule) apply(value string) string {
	if value == "" {
		return ""
	}
	return r.pattern.ReplaceAllString(value, r.replace)
}

// rulesOf returns the rules that are for a family, under any of its names.
func rulesOf(d *definition, all []MetricRule) ([]labelRule, error) {
	var out []labelRule
	for _, r := range all {
		i := slices.Index(d.labels, r.Label)
		if i < 0 || !d.isCalled(r.Metric) {
			continue
		}
		for _, replace := range slices.Sorted(maps.Keys(r.Replace)) {
			pattern, err := regexp.Compile(r.Replace[replace])
			if err != nil {
				return nil, fmt.Errorf("the rule for label %q of metric %q: %w", r.Label, r.Metric, err)
			}
			out = append(out, labelRule{i, pattern, replace})
		}
	}
	return out, nil
}

func (d *definition) isCalled(name string) bool {
	name = plainName(name)
	return plainName(d.name) == name || slices.ContainsFunc(d.counts, func(c derived) bool { return plainName(c.name) == name })
}

// plainName is a name without what differs between ways to write it.
func plainName(name string) string {
	return strings.NewReplacer("/", "_", ".", "_").Replace(strings.TrimPrefix(name, "dapr_"))
}

// HasMetric reports whether there is a metric of that name, in any of the ways
// that MetricRule.Metric may have it, with that label.
func HasMetric(name, label string) bool {
	for _, d := range definitions() {
		if d.isCalled(name) && slices.Contains(d.labels, label) {
			return true
		}
	}
	return false
}

// keep looks up a series that of does not have yet under n, and adds it.
func (g *generation) keep(of *few, n int, m metric, v values) *series {
	s := g.with(m, v)
	of.add(n, s)
	return s
}

func (g *generation) with(m metric, v values) *series { return g.vectors[m].with(v) }

func (g *generation) count(m metric, n int64, v values) {
	if !g.settings.Disabled {
		g.with(m, v).number.Add(n)
	}
}

func (g *generation) set(m metric, n int64, v values) { g.with(m, v).number.Store(n) }

func (g *generation) observe(m metric, x float64, v values) {
	if !g.settings.Disabled {
		g.with(m, v).observe(x)
	}
}

func (g *generation) collect(ch chan<- prometheus.Metric) {
	if g.settings.Disabled {
		return
	}
	for _, v := range g.vectors {
		v.collect(ch)
	}
}

func (g *generation) carry(from *generation) {
	for i, v := range g.vectors {
		v.carry(from.vectors[i])
	}
}
