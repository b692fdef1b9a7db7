package testserver

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	collogs "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	colmetrics "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	coltrace "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	metricspb "go.opentelemetry.io/proto/otlp/metrics/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	_ "google.golang.org/grpc/encoding/gzip" // exporters may compress
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
)

// Collector takes telemetry over OTLP, by gRPC and by HTTP with protobuf, and
// spans over Zipkin's API v2 with JSON, and keeps it in memory. It is safe for
// concurrent use.
type Collector struct {
	// GRPC and HTTP are the addresses, "host:port". They stay the same over Stop
	// and Start.
	GRPC, HTTP string

	mu      sync.Mutex
	spans   []Span
	metrics map[string]Metric
	logs    []LogLine
	headers http.Header // of all requests
	paths   map[string]int
	fail    int           // HTTP status of answers; 0 for success
	hang    chan struct{} // answers wait until it is closed; nil for not
	stop    func()
}

// Span is a span that a Collector was sent.
type Span struct {
	TraceID, ID, Parent string // in hexadecimal; Parent is "" for a root
	Name, Kind          string // Kind is that of Zipkin: "CLIENT", or "" for internal
	Service             string
	Resource            map[string]string // OTLP only
	Attributes          map[string]string // values as text
	Error               string            // of the status; "" without
	Start, End          time.Time
}

// Metric is the last value of a metric that a Collector was sent.
type Metric struct {
	Unit       string
	Monotonic  bool
	Cumulative bool
	Points     []Point
	Resource   map[string]string
}

// Point is one series of a metric. Value is the sum or the last value; Count is
// that of a histogram.
type Point struct {
	Attributes map[string]string
	Value      float64
	Count      uint64
}

// LogLine is a log record that a Collector was sent.
type LogLine struct {
	Body, Severity       string
	TraceID, SpanID      string
	Attributes, Resource map[string]string
}

// StartCollector starts a Collector that ends with the test.
func StartCollector(tb TB) *Collector {
	tb.Helper()
	c := &Collector{metrics: map[string]Metric{}, headers: http.Header{}, paths: map[string]int{}}
	c.GRPC, c.HTTP = "127.0.0.1:0", "127.0.0.1:0"
	if err := c.Start(); err != nil {
		tb.Fatalf("collector: %v", err)
	}
	tb.Cleanup(c.Stop)
	return c
}

// Start serves again after Stop, at the same addresses.
func (c *Collector) Start() error {
	var l net.ListenConfig
	a, err := l.Listen(context.Background(), "tcp", c.GRPC)
	if err != nil {
		return err
	}
	b, err := l.Listen(context.Background(), "tcp", c.HTTP)
	if err != nil {
		_ = a.Close()
		return err
	}
	c.GRPC, c.HTTP = a.Addr().String(), b.Addr().String()
	rpc := grpc.NewServer()
	coltrace.RegisterTraceServiceServer(rpc, traceService{c: c})
	colmetrics.RegisterMetricsServiceServer(rpc, metricsService{c: c})
	collogs.RegisterLogsServiceServer(rpc, logsService{c: c})
	web := &http.Server{Handler: c.routes(), ReadHeaderTimeout: time.Minute}
	var wg sync.WaitGroup
	wg.Go(func() { _ = rpc.Serve(a) }) // ends with Stop
	wg.Go(func() { _ = web.Serve(b) }) // as above
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stop = sync.OnceFunc(func() {
		rpc.Stop()
		_ = web.Close()
		wg.Wait()
	})
	return nil
}

// Stop ends all connections and takes no new ones.
func (c *Collector) Stop() {
	c.Hang(false)
	c.mu.Lock()
	stop := c.stop
	c.mu.Unlock()
	stop()
}

// Hang makes answers wait until Hang(false).
func (c *Collector) Hang(yes bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case yes && c.hang == nil:
		c.hang = make(chan struct{})
	case !yes && c.hang != nil:
		close(c.hang)
		c.hang = nil
	}
}

// Fail makes all answers over HTTP have the status; 0 for success again.
func (c *Collector) Fail(status int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fail = status
}

// Zipkin is the URL for spans in Zipkin's format.
func (c *Collector) Zipkin() string { return "http://" + c.HTTP + "/api/v2/spans" }

// Spans returns all spans so far.
func (c *Collector) Spans() []Span {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.spans)
}

// Metrics returns the metrics by name, as they were last sent.
func (c *Collector) Metrics() map[string]Metric {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.metrics)
}

// Logs returns all log records so far.
func (c *Collector) Logs() []LogLine {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.logs)
}

// Header returns the values of a header field of all requests so far.
func (c *Collector) Header(name string) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.headers.Values(name))
}

// Requests returns how many requests came for a path, or for the full name of a
// gRPC method.
func (c *Collector) Requests(path string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.paths[path]
}

// Await waits until done reports true, and fails the test when that takes too
// long.
func (c *Collector) Await(tb TB, what string, done func() bool) {
	tb.Helper()
	for deadline := time.Now().Add(30 * time.Second); !done(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			tb.Fatalf("the collector was not sent %s; spans: %+v", what, c.Spans())
		}
	}
}

// note records a request, and waits if it is to hang.
func (c *Collector) note(ctx context.Context, path string, h http.Header) {
	c.mu.Lock()
	c.paths[path]++
	for name, values := range h {
		for _, v := range values {
			c.headers.Add(name, v)
		}
	}
	hang := c.hang
	c.mu.Unlock()
	if hang != nil {
		select {
		case <-hang:
		case <-ctx.Done():
		}
	}
}

func (c *Collector) noteCall(ctx context.Context, method string) {
	md, _ := metadata.FromIncomingContext(ctx)
	h := http.Header{}
	for name, values := range md {
		for _, v := range values {
			h.Add(name, v)
		}
	}
	c.note(ctx, method, h)
}

func (c *Collector) routes() http.Handler {
	mux := http.NewServeMux()
	handle := func(path string, take func([]byte) error) {
		mux.HandleFunc("POST "+path, func(w http.ResponseWriter, r *http.Request) {
			body, err := io.ReadAll(r.Body)
			c.note(r.Context(), path, r.Header)
			c.mu.Lock()
			fail := c.fail
			c.mu.Unlock()
			if fail != 0 {
				w.WriteHeader(fail)
				return
			}
			if err == nil {
				err = take(body)
			}
			if err != nil {
				http.Error(w, err.Error(), http.StatusBadRequest)
			}
		})
	}
	// OTLP may also be mounted below a path.
	for _, prefix := range []string{"", "/below"} {
		handle(prefix+"/v1/traces", otlp(c.takeSpans))
		handle(prefix+"/v1/metrics", otlp(c.takeMetrics))
		handle(prefix+"/v1/logs", otlp(c.takeLogs))
	}
	handle("/api/v2/spans", c.takeZipkin)
	return mux
}

// otlp decodes a protobuf body.
func otlp[T any, P interface {
	*T
	proto.Message
}](take func(P)) func([]byte) error {
	return func(body []byte) error {
		m := P(new(T))
		if err := proto.Unmarshal(body, m); err != nil {
			return err
		}
		take(m)
		return nil
	}
}

type traceService struct {
	coltrace.UnimplementedTraceServiceServer
	c *Collector
}

func (s traceService) Export(ctx context.Context, r *coltrace.ExportTraceServiceRequest) (*coltrace.ExportTraceServiceResponse, error) {
	s.c.noteCall(ctx, "/opentelemetry.proto.collector.trace.v1.TraceService/Export")
	s.c.takeSpans(r)
	return &coltrace.ExportTraceServiceResponse{}, nil
}

type metricsService struct {
	colmetrics.UnimplementedMetricsServiceServer
	c *Collector
}

func (s metricsService) Export(ctx context.Context, r *colmetrics.ExportMetricsServiceRequest) (*colmetrics.ExportMetricsServiceResponse, error) {
	s.c.noteCall(ctx, "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export")
	s.c.takeMetrics(r)
	return &colmetrics.ExportMetricsServiceResponse{}, nil
}

type logsService struct {
	collogs.UnimplementedLogsServiceServer
	c *Collector
}

func (s logsService) Export(ctx context.Context, r *collogs.ExportLogsServiceRequest) (*collogs.ExportLogsServiceResponse, error) {
	s.c.noteCall(ctx, "/opentelemetry.proto.collector.logs.v1.LogsService/Export")
	s.c.takeLogs(r)
	return &collogs.ExportLogsServiceResponse{}, nil
}

func (c *Collector) takeSpans(r *coltrace.ExportTraceServiceRequest) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, rs := range r.GetResourceSpans() {
		about := attributes(rs.GetResource().GetAttributes())
		for _, ss := range rs.GetScopeSpans() {
			for _, s := range ss.GetSpans() {
				out := Span{
					TraceID: hex.EncodeToString(s.GetTraceId()), ID: hex.EncodeToString(s.GetSpanId()), Parent: hex.EncodeToString(s.GetParentSpanId()),
					Name: s.GetName(), Kind: kindOf(s.GetKind()), Service: about["service.name"], Resource: about,
					Attributes: attributes(s.GetAttributes()), Start: time.Unix(0, int64(s.GetStartTimeUnixNano())), End: time.Unix(0, int64(s.GetEndTimeUnixNano())),
				}
				if st := s.GetStatus(); st.GetCode() == tracepb.Status_STATUS_CODE_ERROR {
					out.Error = "error: " + st.GetMessage()
				}
				c.spans = append(c.spans, out)
			}
		}
	}
}

func kindOf(k tracepb.Span_SpanKind) string {
	switch k {
	case tracepb.Span_SPAN_KIND_CLIENT:
		return "CLIENT"
	case tracepb.Span_SPAN_KIND_SERVER:
		return "SERVER"
	case tracepb.Span_SPAN_KIND_PRODUCER:
		return "PRODUCER"
	case tracepb.Span_SPAN_KIND_CONSUMER:
		return "CONSUMER"
	}
	return ""
}

func (c *Collector) takeMetrics(r *colmetrics.ExportMetricsServiceRequest) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, rm := range r.GetResourceMetrics() {
		about := attributes(rm.GetResource().GetAttributes())
		for _, sm := range rm.GetScopeMetrics() {
			for _, m := range sm.GetMetrics() {
				out := metricOf(m)
				out.Resource = about
				c.metrics[m.GetName()] = out
			}
		}
	}
}

func metricOf(m *metricspb.Metric) Metric {
	out := Metric{Unit: m.GetUnit()}
	number := func(p *metricspb.NumberDataPoint) {
		value := p.GetAsDouble()
		if _, ok := p.GetValue().(*metricspb.NumberDataPoint_AsInt); ok {
			value = float64(p.GetAsInt())
		}
		out.Points = append(out.Points, Point{Attributes: attributes(p.GetAttributes()), Value: value})
	}
	switch d := m.GetData().(type) {
	case *metricspb.Metric_Sum:
		out.Monotonic = d.Sum.GetIsMonotonic()
		out.Cumulative = d.Sum.GetAggregationTemporality() == metricspb.AggregationTemporality_AGGREGATION_TEMPORALITY_CUMULATIVE
		for _, p := range d.Sum.GetDataPoints() {
			number(p)
		}
	case *metricspb.Metric_Gauge:
		for _, p := range d.Gauge.GetDataPoints() {
			number(p)
		}
	case *metricspb.Metric_Histogram:
		out.Cumulative = d.Histogram.GetAggregationTemporality() == metricspb.AggregationTemporality_AGGREGATION_TEMPORALITY_CUMULATIVE
		for _, p := range d.Histogram.GetDataPoints() {
			out.Points = append(out.Points, Point{Attributes: attributes(p.GetAttributes()), Value: p.GetSum(), Count: p.GetCount()})
		}
	}
	return out
}

func (c *Collector) takeLogs(r *collogs.ExportLogsServiceRequest) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, rl := range r.GetResourceLogs() {
		about := attributes(rl.GetResource().GetAttributes())
		for _, sl := range rl.GetScopeLogs() {
			for _, l := range sl.GetLogRecords() {
				c.logs = append(c.logs, LogLine{
					Body: text(l.GetBody()), Severity: l.GetSeverityText(), TraceID: hex.EncodeToString(l.GetTraceId()),
					SpanID: hex.EncodeToString(l.GetSpanId()), Attributes: attributes(l.GetAttributes()), Resource: about,
				})
			}
		}
	}
}

// takeZipkin takes spans in JSON (Zipkin API v2).
func (c *Collector) takeZipkin(body []byte) error {
	var list []struct {
		TraceID       string            `json:"traceId"`
		ID            string            `json:"id"`
		ParentID      string            `json:"parentId"`
		Name          string            `json:"name"`
		Kind          string            `json:"kind"`
		Timestamp     int64             `json:"timestamp"` // µs
		Duration      int64             `json:"duration"`  // µs
		Tags          map[string]string `json:"tags"`
		LocalEndpoint struct {
			ServiceName string `json:"serviceName"`
		} `json:"localEndpoint"`
	}
	if err := json.Unmarshal(body, &list); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range list {
		start := time.UnixMicro(s.Timestamp)
		c.spans = append(c.spans, Span{
			TraceID: s.TraceID, ID: s.ID, Parent: s.ParentID, Name: s.Name, Kind: s.Kind, Service: s.LocalEndpoint.ServiceName,
			Attributes: s.Tags, Error: s.Tags["error"], Start: start, End: start.Add(time.Duration(s.Duration) * time.Microsecond),
		})
	}
	return nil
}

func attributes(list []*commonpb.KeyValue) map[string]string {
	out := map[string]string{}
	for _, kv := range list {
		out[kv.GetKey()] = text(kv.GetValue())
	}
	return out
}

func text(v *commonpb.AnyValue) string {
	switch v := v.GetValue().(type) {
	case *commonpb.AnyValue_StringValue:
		return v.StringValue
	case *commonpb.AnyValue_IntValue:
		return fmt.Sprint(v.IntValue)
	case *commonpb.AnyValue_BoolValue:
		return fmt.Sprint(v.BoolValue)
	case *commonpb.AnyValue_DoubleValue:
		return fmt.Sprint(v.DoubleValue)
	}
	return fmt.Sprint(v)
}
