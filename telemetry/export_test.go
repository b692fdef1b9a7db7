package telemetry_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/internal/testserver"
	"github.com/proa-io/proa/telemetry"
)

// endpoint is the collector, reached over one of its protocols.
func endpoint(c *testserver.Collector, http bool) *telemetry.OTLP {
	o := &telemetry.OTLP{HTTP: http, URL: &url.URL{Scheme: "http", Host: c.GRPC}}
	if http {
		o.URL.Host = c.HTTP
	}
	return o
}

// buffer is a log that may be read while it is written.
type buffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

func TestAllSignalsReachACollectorOverBothProtocols(t *testing.T) {
	t.Setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=test,team=a%20b")
	for name, http := range map[string]bool{"grpc": false, "http": true} {
		t.Run(name, func(t *testing.T) {
			c := testserver.StartCollector(t)
			about := telemetry.Service{Name: "shop", Namespace: "prod", Version: "1.2"}
			to := endpoint(c, http)
			to.Headers = func(context.Context) (map[string]string, error) { return map[string]string{"x-key": "k1"}, nil }
			tracing, err := telemetry.NewTracing(t.Context(), telemetry.TracingOptions{Service: about, SamplingRate: 1, OTLP: to})
			if err != nil {
				t.Fatal(err)
			}
			m := telemetry.NewMetrics("shop", "prod")
			m.Call("state", "orders", "get", false).Observe(telemetry.CallResult{Duration: 3 * time.Millisecond})
			export, err := telemetry.NewExport(t.Context(), telemetry.ExportOptions{Service: about, Metrics: to, Registry: m, Logs: to})
			if err != nil {
				t.Fatal(err)
			}
			var own buffer
			log := export.Log(slog.New(slog.NewTextHandler(&own, nil))).With("component", "orders")
			ctx := telemetry.WithTrace(t.Context(), tracing.Begin("", ""))
			ctx, span := tracing.Start(ctx, "work")
			log.WarnContext(ctx, "call failed", "attempts", 3)
			log.DebugContext(ctx, "not so")
			span.End(fault.New(fault.Unavailable, "broken"))
			if err := errors.Join(tracing.Shutdown(t.Context()), export.Shutdown(t.Context())); err != nil {
				t.Fatal(err)
			}
			spans, logs := c.Spans(), c.Logs()
			if len(spans) != 1 || len(logs) != 1 {
				t.Fatalf("spans %+v; log lines %+v", spans, logs)
			}
			s, l := spans[0], logs[0]
			if s.Name != "work" || s.Service != "shop" || !strings.Contains(s.Error, "broken") || s.Resource["service.namespace"] != "prod" ||
				s.Resource["service.version"] != "1.2" || s.Resource["team"] != "a b" || s.Resource["deployment.environment"] != "test" {
				t.Errorf("span %+v", s)
			}
			if l.Body != "call failed" || l.Severity != "WARN" || l.TraceID != s.TraceID || l.SpanID != s.ID || l.Attributes["attempts"] != "3" ||
				l.Attributes["component"] != "orders" || l.Resource["service.name"] != "shop" {
				t.Errorf("log line %+v of span %+v", l, s)
			}
			if text := own.String(); !strings.Contains(text, "trace_id="+s.TraceID+" span_id="+s.ID) || strings.Contains(text, "not so") {
				t.Errorf("its own log says %s", text)
			}
			calls, latencies := c.Metrics()["proa_calls_total"], c.Metrics()["dapr_component_state_latencies"]
			if !calls.Monotonic || !calls.Cumulative || calls.Resource["service.name"] != "shop" || !has(calls, 1, 0, "code", "ok", "component", "orders") {
				t.Errorf("calls %+v", calls)
			}
			if !latencies.Cumulative || !has(latencies, 3, 1, "operation", "get") {
				t.Errorf("latencies %+v", latencies)
			}
			if keys := c.Header("x-key"); len(keys) != 3 || keys[0] != "k1" {
				t.Errorf("headers %q", keys)
			}
		})
	}
}

// has reports whether a metric has a point with the value, the count, and the
// attributes, given as names and values.
func has(m testserver.Metric, value float64, count uint64, attributes ...string) bool {
next:
	for _, p := range m.Points {
		for i := 0; i < len(attributes); i += 2 {
			if p.Attributes[attributes[i]] != attributes[i+1] {
				continue next
			}
		}
		if p.Value == value && p.Count == count {
			return true
		}
	}
	return false
}

func TestZipkinGetsSpansInItsFormat(t *testing.T) {
	c := testserver.StartCollector(t)
	tracing, err := telemetry.NewTracing(t.Context(), telemetry.TracingOptions{Service: telemetry.Service{Name: "shop"}, SamplingRate: 1, ZipkinURL: c.Zipkin()})
	if err != nil {
		t.Fatal(err)
	}
	outer, span := tracing.Start(telemetry.WithTrace(t.Context(), tracing.Begin("", "")), "outer")
	_, inner := tracing.Start(outer, "inner")
	inner.End(nil)
	span.End(nil)
	if err := tracing.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	spans := c.Spans()
	if len(spans) != 2 || spans[0].Name != "inner" || spans[0].Parent != spans[1].ID || spans[0].TraceID != spans[1].TraceID ||
		spans[1].Service != "shop" || c.Header("Content-Type")[0] != "application/json" {
		t.Errorf("spans %+v, header %q", spans, c.Header("Content-Type"))
	}
}

func TestACollectorThatIsAwayHoldsNothingUp(t *testing.T) {
	for name, http := range map[string]bool{"grpc": false, "http": true} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("OTEL_BSP_SCHEDULE_DELAY", "10")
			t.Setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "200")
			c := testserver.StartCollector(t)
			c.Stop()
			var log buffer
			tracing, err := telemetry.NewTracing(t.Context(), telemetry.TracingOptions{
				Service: telemetry.Service{Name: "shop"}, SamplingRate: 1, OTLP: endpoint(c, http), Log: slog.New(slog.NewTextHandler(&log, nil)),
			})
			if err != nil {
				t.Fatal(err)
			}
			work := func(name string) {
				_, span := tracing.Start(telemetry.WithTrace(t.Context(), tracing.Begin("", "")), name)
				span.End(nil)
			}
			for i := range 10_000 { // several times what the queue holds
				work(fmt.Sprint("lost ", i))
			}
			c.Await(t, "a failed export to be logged", func() bool {
				return strings.Contains(log.String(), "the collector does not take telemetry") && strings.Contains(log.String(), "signal=traces")
			})
			if err := c.Start(); err != nil {
				t.Fatal(err)
			}
			c.Await(t, "spans after it came back", func() bool {
				work("after")
				for _, s := range c.Spans() {
					if s.Name == "after" {
						return true
					}
				}
				return false
			})
			if err := tracing.Shutdown(t.Context()); err != nil {
				t.Error(err)
			}
			if n := strings.Count(log.String(), "does not take telemetry"); n != 1 || !strings.Contains(log.String(), "takes telemetry again") {
				t.Errorf("%d warnings; the log is\n%s", n, log.String())
			}
		})
	}
}

func TestACollectorThatHangsDoesNotDelayTheEnd(t *testing.T) {
	for name, http := range map[string]bool{"grpc": false, "http": true} {
		t.Run(name, func(t *testing.T) {
			c := testserver.StartCollector(t)
			c.Hang(true)
			to := endpoint(c, http)
			tracing, err := telemetry.NewTracing(t.Context(), telemetry.TracingOptions{SamplingRate: 1, OTLP: to})
			if err != nil {
				t.Fatal(err)
			}
			export, err := telemetry.NewExport(t.Context(), telemetry.ExportOptions{Metrics: to, Registry: telemetry.NewMetrics("a", "b"), Logs: to})
			if err != nil {
				t.Fatal(err)
			}
			export.Log(slog.New(slog.DiscardHandler)).Error("x")
			_, span := tracing.Start(telemetry.WithTrace(t.Context(), tracing.Begin("", "")), "x")
			span.End(nil)
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			defer cancel()
			done := make(chan struct{})
			go func() {
				_ = tracing.Shutdown(ctx)
				_ = export.Shutdown(ctx)
				close(done)
			}()
			select {
			case <-done:
			case <-time.After(20 * time.Second):
				t.Error("shutting down waits for the collector")
			}
		})
	}
}

func TestHeadersThatCannotBeHadYetAreAskedForAgain(t *testing.T) {
	t.Setenv("OTEL_BSP_SCHEDULE_DELAY", "10")
	c := testserver.StartCollector(t)
	var mu sync.Mutex
	asked := 0
	to := endpoint(c, true)
	to.Headers = func(context.Context) (map[string]string, error) {
		mu.Lock()
		defer mu.Unlock()
		if asked++; asked < 3 {
			return nil, errors.New("the secret store is not open")
		}
		return map[string]string{"x-key": "secret"}, nil
	}
	tracing, err := telemetry.NewTracing(t.Context(), telemetry.TracingOptions{SamplingRate: 1, OTLP: to})
	if err != nil {
		t.Fatal(err)
	}
	c.Await(t, "spans with the header", func() bool {
		_, span := tracing.Start(telemetry.WithTrace(t.Context(), tracing.Begin("", "")), "x")
		span.End(nil)
		return len(c.Spans()) > 0
	})
	if err := tracing.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	if keys := c.Header("x-key"); len(keys) == 0 || keys[0] != "secret" {
		t.Errorf("headers %q", keys)
	}
}

func TestWhatIsReplacedSendsWhatItHas(t *testing.T) {
	before, after := testserver.StartCollector(t), testserver.StartCollector(t)
	export := func(c *testserver.Collector) *telemetry.Export {
		e, err := telemetry.NewExport(t.Context(), telemetry.ExportOptions{Logs: endpoint(c, true)})
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	e := export(before)
	log := e.Log(slog.New(slog.DiscardHandler)).With("a", "b")
	log.Error("one") // dropped, for the other handler takes nothing
	log = e.Log(slog.New(slog.NewTextHandler(&buffer{}, nil))).With("a", "b")
	log.Error("two")
	former := e.Replace(export(after))
	log.Error("three")
	if err := errors.Join(former.Shutdown(t.Context()), e.Shutdown(t.Context())); err != nil {
		t.Fatal(err)
	}
	for what, c := range map[string]*testserver.Collector{"two": before, "three": after} {
		if logs := c.Logs(); len(logs) != 1 || logs[0].Body != what || logs[0].Attributes["a"] != "b" {
			t.Errorf("want %s, got %+v", what, logs)
		}
	}
}

func TestPathsOfCollectorsOverHTTP(t *testing.T) {
	for text, want := range map[string]string{
		"": "/v1/traces", "/": "/v1/traces", "/below": "/below/v1/traces", "/below/": "/below/v1/traces", "/below/v1/metrics": "/below/v1/traces",
	} {
		c := testserver.StartCollector(t)
		to := endpoint(c, true)
		to.URL.Path = text
		tracing, err := telemetry.NewTracing(t.Context(), telemetry.TracingOptions{SamplingRate: 1, OTLP: to})
		if err != nil {
			t.Fatal(err)
		}
		_, span := tracing.Start(telemetry.WithTrace(t.Context(), tracing.Begin("", "")), "x")
		span.End(nil)
		if err := tracing.Shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
		if c.Requests(want) != 1 {
			t.Errorf("with path %q nothing came for %s", text, want)
		}
	}
}
