package telemetry

import (
	"math"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// Bounds of what callers can make the process remember.
const (
	// MaxLabelValues is how many values a label of a metric has at most when
	// callers or the application choose them. All further values count as
	// OtherValue.
	MaxLabelValues = 200
	// maxSeries bounds the series of one family.
	maxSeries = 2000
	// maxAliases bounds the values that are remembered to count as another one.
	maxAliases = 1000
	// maxLabelBytes bounds a value that callers choose, in bytes.
	maxLabelBytes = 256
)

// OtherValue is the value of a label that stands for all that there was no more
// room for.
const OtherValue = "_other"

// maxLabels is the most labels that differ within a family.
const maxLabels = 5

// values are those of a definition's labels, in order; the rest is empty.
type values [maxLabels]string

// series is one of a family. It is safe for concurrent use.
type series struct {
	values     values // after rules and bounds
	labels     []*dto.LabelPair
	begun      *dto.Counter // its CreatedTimestamp
	number     atomic.Int64 // of a counter or a gauge
	*histogram              // nil for others
}

// vector is a family under certain settings. Series that are there are found
// without a lock.
type vector struct {
	def    *definition
	desc   *prometheus.Desc
	rules  []labelRule
	bounds *bounds // of a histogram; nil for others
	counts []countOf
	only   *series // of a family without labels that differ; nil for others

	series *table[values, *series] // also under values that count as others
	known  [maxLabels]*table[string, bool]

	mu      sync.Mutex   // held by who makes a series
	own     int          // how many series there are
	aliases atomic.Int64 // values that count as others
}

// countOf renders a derived counter.
type countOf struct {
	derived
	desc *prometheus.Desc
}

func newVector(m *Metrics, d *definition, s *MetricSettings, rules []labelRule) *vector {
	v := &vector{def: d, rules: rules}
	constant := prometheus.Labels{"app_id": m.appID}
	switch d.scope {
	case ofApp:
	case ofNamespace:
		constant["namespace"] = m.namespace
	case ofNobody:
		constant = nil
	}
	room := 64
	for i, l := range d.labels {
		if slices.Contains(d.open, l) {
			v.known[i] = newTable[string, bool](MaxLabelValues)
			room = maxSeries
		}
	}
	v.series = newTable[values, *series](room)
	v.series.most = math.MaxInt // bound and learn see to it
	v.desc = prometheus.NewDesc(d.name, d.help, d.labels, constant)
	switch d.kind {
	case counter, gauge:
	case latency:
		v.bounds = newBounds(s.LatencyBuckets)
	case size:
		v.bounds = newBounds(sizeBuckets())
	case seconds:
		v.bounds = newBounds(secondsBuckets())
	}
	for _, c := range d.counts {
		if c.detailed && !s.IncreasedCardinality {
			continue
		}
		labels := slices.DeleteFunc(slices.Clone(d.labels), func(l string) bool { return l == c.where })
		v.counts = append(v.counts, countOf{c, prometheus.NewDesc(c.name, c.help, labels, constant)})
	}
	if len(d.labels) == 0 {
		v.only, v.own = v.create(values{}), 1
		v.series.add(values{}, v.only)
	}
	return v
}

// sizeBuckets are those of Dapr, in bytes.
func sizeBuckets() []float64 {
	return []float64{
		1 << 10, 2 << 10, 4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20, 16 << 20, 64 << 20, 256 << 20, 1 << 30, 4 << 30,
	}
}

func secondsBuckets() []float64 {
	return []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30}
}

// with returns the series of some values. It allocates nothing and takes no lock
// when it knows them.
func (v *vector) with(vals values) *series {
	if v.only != nil {
		return v.only
	}
	if s := v.series.get(vals); s != nil {
		return s
	}
	return v.learn(vals)
}

func (v *vector) learn(raw values) *series {
	vals := raw
	for _, r := range v.rules {
		vals[r.label] = r.apply(vals[r.label])
	}
	for i := range v.def.labels {
		vals[i] = strings.ToValidUTF8(vals[i], "?")
	}
	if settled := vals; v.aliases.Load() >= maxAliases && v.settle(&settled) {
		if s := v.series.get(settled); s != nil {
			return s
		}
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.bound(&vals)
	s := v.series.get(vals)
	if s == nil {
		for i := range vals { // what a caller sent must not be kept alive, or change
			vals[i] = strings.Clone(vals[i])
		}
		s = v.create(vals)
		v.series.add(vals, s)
		v.own++
	}
	if raw != vals && v.aliases.Load() < maxAliases {
		for i := range raw {
			if len(raw[i]) > 2*maxLabelBytes {
				return s
			}
			raw[i] = strings.Clone(raw[i])
		}
		v.series.add(raw, s)
		v.aliases.Add(1)
	}
	return s
}

// settle does what bound does where that depends on nothing that changes: each
// value is known, or there is no more room for any. It reports whether it could.
func (v *vector) settle(vals *values) bool {
	for i := range v.def.labels {
		known := v.known[i]
		switch {
		case known == nil || vals[i] == "" || vals[i] == OtherValue || known.get(vals[i]):
		case !known.full():
			return false
		default:
			vals[i] = OtherValue
		}
	}
	return true
}

// bound replaces values that there is no more room for. v.mu is held.
func (v *vector) bound(vals *values) {
	full := v.own >= maxSeries && v.series.get(*vals) == nil
	for i := range v.def.labels {
		known := v.known[i]
		if known == nil || vals[i] == "" || vals[i] == OtherValue {
			continue
		}
		if known.get(vals[i]) && !full {
			continue
		}
		if full || known.full() || len(vals[i]) > maxLabelBytes {
			vals[i] = OtherValue
			continue
		}
		known.add(strings.Clone(vals[i]), true)
	}
}

func (v *vector) create(vals values) *series {
	list := vals[:len(v.def.labels)]
	s := &series{values: vals, labels: prometheus.MakeLabelPairs(v.desc, list), begun: &dto.Counter{}}
	var now dto.Metric
	begun, err := prometheus.NewConstMetricWithCreatedTimestamp(v.desc, prometheus.CounterValue, 0, time.Now(), list...)
	if err == nil && begun.Write(&now) == nil {
		s.begun = now.GetCounter()
	}
	if v.bounds != nil {
		s.histogram = newHistogram(v.bounds)
	}
	return s
}

// forget removes a series of a gauge.
func (v *vector) forget(vals values) {
	v.mu.Lock()
	defer v.mu.Unlock()
	s := v.series.get(vals)
	if s == nil || v.def.kind != gauge {
		return
	}
	v.series.remove(func(other *series) bool { return other == s })
	v.own--
}

// each calls yield with each series, once.
func (v *vector) each(yield func(*series)) {
	for vals, s := range v.series.all() {
		if vals == s.values {
			yield(s)
		}
	}
}

// collect sends all series, and the counters that go with them.
func (v *vector) collect(ch chan<- prometheus.Metric) {
	v.each(func(s *series) {
		n := float64(s.number.Load())
		switch v.def.kind {
		case counter:
			ch <- written{v.desc, &dto.Metric{Label: s.labels, Counter: &dto.Counter{Value: &n, CreatedTimestamp: s.begun.GetCreatedTimestamp()}}}
		case gauge:
			ch <- written{v.desc, &dto.Metric{Label: s.labels, Gauge: &dto.Gauge{Value: &n}}}
		default:
			v.collectHistogram(ch, s)
		}
	})
}

// collectHistogram sends one state of a histogram and of its counters, so that
// they agree.
func (v *vector) collectHistogram(ch chan<- prometheus.Metric, s *series) {
	now := s.read()
	now.CreatedTimestamp = s.begun.GetCreatedTimestamp()
	ch <- written{v.desc, &dto.Metric{Label: s.labels, Histogram: now}}
	for _, c := range v.counts {
		labels := s.labels
		if i := slices.Index(v.def.labels, c.where); i >= 0 {
			if s.values[i] != c.equals {
				continue
			}
			labels = slices.DeleteFunc(slices.Clone(labels), func(l *dto.LabelPair) bool { return l.GetName() == c.where })
		}
		n := float64(now.GetSampleCount())
		ch <- written{c.desc, &dto.Metric{Label: labels, Counter: &dto.Counter{Value: &n, CreatedTimestamp: s.begun.GetCreatedTimestamp()}}}
	}
}

// written is a metric as it was at one moment.
type written struct {
	desc *prometheus.Desc
	now  *dto.Metric
}

// Desc implements prometheus.Metric.
func (w written) Desc() *prometheus.Desc { return w.desc }

// Write implements prometheus.Metric.
func (w written) Write(to *dto.Metric) error {
	to.Label, to.Counter, to.Gauge, to.Histogram = w.now.GetLabel(), w.now.GetCounter(), w.now.GetGauge(), w.now.GetHistogram()
	return nil
}

// carry takes over the values of another vector of the same family.
func (v *vector) carry(from *vector) {
	if v.bounds != nil {
		return
	}
	from.each(func(s *series) {
		n := s.number.Load()
		if v.def.kind == counter {
			v.with(s.values).number.Add(n)
			return
		}
		v.with(s.values).number.Store(n)
	})
}
