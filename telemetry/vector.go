package telemetry

import (
	"slices"
	"strings"
	"sync"

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

// series is one of a family. One field is set.
type series struct {
	values    values // after rules and bounds
	counter   prometheus.Counter
	gauge     prometheus.Gauge
	histogram prometheus.Observer
}

// vector is a family under certain settings.
type vector struct {
	def      *definition
	rules    []labelRule
	counters *prometheus.CounterVec
	gauges   *prometheus.GaugeVec
	hists    *prometheus.HistogramVec
	counts   []countOf
	only     *series // of a family without labels that differ; nil for others

	mu      sync.RWMutex
	series  map[values]*series // also under values that count as others
	own     int                // how many series there are
	aliases int
	known   [maxLabels]map[string]struct{} // of open labels
}

// countOf renders a derived counter.
type countOf struct {
	derived
	desc *prometheus.Desc
}

func newVector(m *Metrics, d *definition, s *MetricSettings, rules []labelRule) *vector {
	v := &vector{def: d, rules: rules, series: map[values]*series{}}
	constant := prometheus.Labels{"app_id": m.appID}
	switch d.scope {
	case ofApp:
	case ofNamespace:
		constant["namespace"] = m.namespace
	case ofNobody:
		constant = nil
	}
	for i, l := range d.labels {
		if slices.Contains(d.open, l) {
			v.known[i] = map[string]struct{}{}
		}
	}
	histogram := func(buckets []float64) {
		v.hists = prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: d.name, Help: d.help, ConstLabels: constant, Buckets: buckets}, d.labels)
		for _, c := range d.counts {
			if c.detailed && !s.IncreasedCardinality {
				continue
			}
			labels := slices.DeleteFunc(slices.Clone(d.labels), func(l string) bool { return l == c.where })
			v.counts = append(v.counts, countOf{c, prometheus.NewDesc(c.name, c.help, labels, constant)})
		}
	}
	switch d.kind {
	case counter:
		v.counters = prometheus.NewCounterVec(prometheus.CounterOpts{Name: d.name, Help: d.help, ConstLabels: constant}, d.labels)
	case gauge:
		v.gauges = prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: d.name, Help: d.help, ConstLabels: constant}, d.labels)
	case latency:
		histogram(s.LatencyBuckets)
	case size:
		histogram(sizeBuckets())
	case seconds:
		histogram(secondsBuckets())
	}
	if len(d.labels) == 0 {
		v.only, v.own = v.create(values{}), 1
		v.series[values{}] = v.only
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

// with returns the series of some values. It allocates nothing when it knows
// them.
func (v *vector) with(vals values) *series {
	if v.only != nil {
		return v.only
	}
	v.mu.RLock()
	s := v.series[vals]
	v.mu.RUnlock()
	if s == nil {
		s = v.learn(vals)
	}
	return s
}

func (v *vector) learn(raw values) *series {
	vals := raw
	for _, r := range v.rules {
		vals[r.label] = r.apply(vals[r.label])
	}
	for i := range v.def.labels {
		vals[i] = strings.ToValidUTF8(vals[i], "?")
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.bound(&vals)
	s := v.series[vals]
	if s == nil {
		for i := range vals { // what a caller sent must not be kept alive, or change
			vals[i] = strings.Clone(vals[i])
		}
		s = v.create(vals)
		v.series[vals] = s
		v.own++
	}
	if raw != vals && v.aliases < maxAliases {
		for i := range raw {
			if len(raw[i]) > 2*maxLabelBytes {
				return s
			}
			raw[i] = strings.Clone(raw[i])
		}
		v.series[raw] = s
		v.aliases++
	}
	return s
}

// bound replaces values that there is no more room for. v.mu is held.
func (v *vector) bound(vals *values) {
	full := v.own >= maxSeries && v.series[*vals] == nil
	for i := range v.def.labels {
		known := v.known[i]
		if known == nil || vals[i] == "" || vals[i] == OtherValue {
			continue
		}
		if _, ok := known[vals[i]]; ok && !full {
			continue
		}
		if full || len(known) >= MaxLabelValues || len(vals[i]) > maxLabelBytes {
			vals[i] = OtherValue
			continue
		}
		known[strings.Clone(vals[i])] = struct{}{}
	}
}

func (v *vector) create(vals values) *series {
	list := vals[:len(v.def.labels)]
	s := &series{values: vals}
	switch {
	case v.counters != nil:
		s.counter = v.counters.WithLabelValues(list...)
	case v.gauges != nil:
		s.gauge = v.gauges.WithLabelValues(list...)
	default:
		s.histogram = v.hists.WithLabelValues(list...)
	}
	return s
}

// forget removes a series.
func (v *vector) forget(vals values) {
	v.mu.Lock()
	defer v.mu.Unlock()
	s := v.series[vals]
	if s == nil || v.gauges == nil {
		return
	}
	v.gauges.DeleteLabelValues(s.values[:len(v.def.labels)]...)
	for k, other := range v.series {
		if other == s {
			delete(v.series, k)
		}
	}
	v.own--
}

// collect sends all series, and the counters that go with them.
func (v *vector) collect(ch chan<- prometheus.Metric) {
	switch {
	case v.counters != nil:
		v.counters.Collect(ch)
		return
	case v.gauges != nil:
		v.gauges.Collect(ch)
		return
	}
	v.mu.RLock()
	all := make([]*series, 0, v.own)
	for vals, s := range v.series {
		if vals == s.values {
			all = append(all, s)
		}
	}
	v.mu.RUnlock()
	for _, s := range all {
		v.collectHistogram(ch, s)
	}
}

// collectHistogram sends one state of a histogram and of its counters, so that
// they agree.
func (v *vector) collectHistogram(ch chan<- prometheus.Metric, s *series) {
	m, ok := s.histogram.(prometheus.Metric)
	if !ok {
		return
	}
	var now dto.Metric
	if err := m.Write(&now); err != nil {
		ch <- prometheus.NewInvalidMetric(m.Desc(), err)
		return
	}
	ch <- written{m.Desc(), &now}
	for _, c := range v.counts {
		list := make([]string, 0, maxLabels)
		wanted := true
		for i, l := range v.def.labels {
			if l == c.where {
				wanted = s.values[i] == c.equals
				continue
			}
			list = append(list, s.values[i])
		}
		if wanted {
			ch <- prometheus.MustNewConstMetric(c.desc, prometheus.CounterValue, float64(now.GetHistogram().GetSampleCount()), list...)
		}
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
	to.Label, to.Histogram = w.now.GetLabel(), w.now.GetHistogram()
	return nil
}

// carry takes over the values of another vector of the same family.
func (v *vector) carry(from *vector) {
	if v.hists != nil {
		return
	}
	from.mu.RLock()
	defer from.mu.RUnlock()
	for vals, s := range from.series {
		if vals != s.values {
			continue
		}
		var now dto.Metric
		if s.counter != nil && s.counter.Write(&now) == nil {
			v.with(vals).counter.Add(now.GetCounter().GetValue())
		}
		if s.gauge != nil && s.gauge.Write(&now) == nil {
			v.with(vals).gauge.Set(now.GetGauge().GetValue())
		}
	}
}
