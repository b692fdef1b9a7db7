package telemetry

import (
	"context"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlplog/otlploggrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlplog/otlploghttp"
	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetricgrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetrichttp"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	sdklog "go.opentelemetry.io/otel/sdk/log"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

// OTLP is a collector that one signal is sent to. What it does not say comes
// from the environment variables OTEL_EXPORTER_OTLP_* (OpenTelemetry, "OTLP
// Exporter Configuration"): headers, timeout, compression, certificates.
type OTLP struct {
	// HTTP is true for protobuf over HTTP, and false for gRPC.
	HTTP bool
	// URL is where the collector is: http or https say whether the connection is
	// encrypted.
	URL *url.URL
	// Whole tells that the path of URL is that of the signal. If it is not set,
	// the signal's own path is added, /v1/traces for instance. gRPC has no paths.
	Whole bool
	// Headers, if set, returns what to send with each request. It is called
	// once, before the first export, and again when it failed.
	Headers func(context.Context) (map[string]string, error)
	Timeout time.Duration // of one export; 10 s when zero
}

// The paths of the signals (OTLP specification, "OTLP/HTTP Request").
const (
	tracesPath  = "/v1/traces"
	metricsPath = "/v1/metrics"
	logsPath    = "/v1/logs"
)

// address returns the URL that a signal goes to.
func (o *OTLP) address(path string) string {
	u := *o.URL
	if !o.HTTP {
		u.Path = ""
		return u.String()
	}
	if o.Whole {
		if u.Path == "" {
			u.Path = "/"
		}
		return u.String()
	}
	for _, known := range []string{tracesPath, metricsPath, logsPath} {
		u.Path = strings.TrimSuffix(strings.TrimSuffix(u.Path, "/"), known)
	}
	u.Path += path
	return u.String()
}

// settings are the options of one exporter, which have a type of their own for
// every signal and protocol.
type settings[O any] struct {
	url     func(string) O
	headers func(map[string]string) O
	timeout func(time.Duration) O
}

func (s settings[O]) options(o *OTLP, path string, headers map[string]string) []O {
	out := []O{s.url(o.address(path))}
	if len(headers) > 0 {
		out = append(out, s.headers(headers))
	}
	if o.Timeout > 0 {
		out = append(out, s.timeout(o.Timeout))
	}
	return out
}

// headers returns what Headers says.
func (o *OTLP) headers(ctx context.Context) (map[string]string, error) {
	if o.Headers == nil {
		return nil, nil
	}
	h, err := o.Headers(ctx)
	if err != nil {
		return nil, fmt.Errorf("headers for %s: %w", o.URL.Redacted(), err)
	}
	return h, nil
}

func (o *OTLP) spans(ctx context.Context) (sdktrace.SpanExporter, error) {
	h, err := o.headers(ctx)
	if err != nil {
		return nil, err
	}
	if o.HTTP {
		s := settings[otlptracehttp.Option]{otlptracehttp.WithEndpointURL, otlptracehttp.WithHeaders, otlptracehttp.WithTimeout}
		return otlptracehttp.New(ctx, s.options(o, tracesPath, h)...)
	}
	s := settings[otlptracegrpc.Option]{otlptracegrpc.WithEndpointURL, otlptracegrpc.WithHeaders, otlptracegrpc.WithTimeout}
	return otlptracegrpc.New(ctx, s.options(o, tracesPath, h)...)
}

func (o *OTLP) metrics(ctx context.Context) (sdkmetric.Exporter, error) {
	h, err := o.headers(ctx)
	if err != nil {
		return nil, err
	}
	if o.HTTP {
		s := settings[otlpmetrichttp.Option]{otlpmetrichttp.WithEndpointURL, otlpmetrichttp.WithHeaders, otlpmetrichttp.WithTimeout}
		return otlpmetrichttp.New(ctx, s.options(o, metricsPath, h)...)
	}
	s := settings[otlpmetricgrpc.Option]{otlpmetricgrpc.WithEndpointURL, otlpmetricgrpc.WithHeaders, otlpmetricgrpc.WithTimeout}
	return otlpmetricgrpc.New(ctx, s.options(o, metricsPath, h)...)
}

func (o *OTLP) logs(ctx context.Context) (sdklog.Exporter, error) {
	h, err := o.headers(ctx)
	if err != nil {
		return nil, err
	}
	if o.HTTP {
		s := settings[otlploghttp.Option]{otlploghttp.WithEndpointURL, otlploghttp.WithHeaders, otlploghttp.WithTimeout}
		return otlploghttp.New(ctx, s.options(o, logsPath, h)...)
	}
	s := settings[otlploggrpc.Option]{otlploggrpc.WithEndpointURL, otlploggrpc.WithHeaders, otlploggrpc.WithTimeout}
	return otlploggrpc.New(ctx, s.options(o, logsPath, h)...)
}

// exporter is what all exporters have.
type exporter interface {
	comparable
	Shutdown(context.Context) error
}

// lazy opens an exporter when something is exported for the first time, and
// reports what it could not deliver instead of handing errors to the SDK, which
// would hand them to the whole process. It is safe for concurrent use.
type lazy[E exporter] struct {
	open   func(context.Context) (E, error)
	report *reporter
	mu     sync.Mutex
	made   E
	closed bool
}

func (l *lazy[E]) get(ctx context.Context) (E, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var none E
	if l.closed {
		return none, errClosed
	}
	if l.made == none {
		made, err := l.open(ctx)
		if err != nil {
			return none, err
		}
		l.made = made
	}
	return l.made, nil
}

var errClosed = fmt.Errorf("the exporter is shut down")

// Shutdown implements the interfaces of all exporters.
func (l *lazy[E]) Shutdown(ctx context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	var none E
	if l.closed = true; l.made == none {
		return nil
	}
	return l.made.Shutdown(ctx)
}

// deliver exports n things through export.
func (l *lazy[E]) deliver(ctx context.Context, n int, export func(E) error) {
	e, err := l.get(ctx)
	if err == nil {
		err = export(e)
	}
	l.report.result(ctx, n, err)
}

type spanSink struct{ lazy[sdktrace.SpanExporter] }

// ExportSpans implements sdktrace.SpanExporter.
func (s *spanSink) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	s.deliver(ctx, len(spans), func(e sdktrace.SpanExporter) error { return e.ExportSpans(ctx, spans) })
	return nil
}

type logSink struct{ lazy[sdklog.Exporter] }

// Export implements sdklog.Exporter.
func (s *logSink) Export(ctx context.Context, records []sdklog.Record) error {
	s.deliver(ctx, len(records), func(e sdklog.Exporter) error { return e.Export(ctx, records) })
	return nil
}

// ForceFlush implements sdklog.Exporter; there is nothing kept.
func (s *logSink) ForceFlush(context.Context) error { return nil }

type metricSink struct{ lazy[sdkmetric.Exporter] }

// Export implements sdkmetric.Exporter.
func (s *metricSink) Export(ctx context.Context, m *metricdata.ResourceMetrics) error {
	n := 0
	for _, scope := range m.ScopeMetrics {
		n += len(scope.Metrics)
	}
	s.deliver(ctx, n, func(e sdkmetric.Exporter) error { return e.Export(ctx, m) })
	return nil
}

// ForceFlush implements sdkmetric.Exporter; there is nothing kept.
func (s *metricSink) ForceFlush(context.Context) error { return nil }

// Temporality implements sdkmetric.Exporter: what is counted is counted from
// the start of the process, as the registry does.
func (s *metricSink) Temporality(sdkmetric.InstrumentKind) metricdata.Temporality {
	return metricdata.CumulativeTemporality
}

// Aggregation implements sdkmetric.Exporter.
func (s *metricSink) Aggregation(kind sdkmetric.InstrumentKind) sdkmetric.Aggregation {
	return sdkmetric.DefaultAggregationSelector(kind)
}

// Service tells whose signals they are.
type Service struct {
	// Name is the application's id; OTEL_SERVICE_NAME and
	// OTEL_RESOURCE_ATTRIBUTES override it.
	Name, Namespace, Version string
}

func (s Service) resource(ctx context.Context) (*resource.Resource, error) {
	own := []attribute.KeyValue{attribute.String("service.name", s.Name)}
	for key, value := range map[string]string{"service.namespace": s.Namespace, "service.version": s.Version} {
		if value != "" {
			own = append(own, attribute.String(key, value))
		}
	}
	r, err := resource.New(ctx, resource.WithAttributes(own...), resource.WithTelemetrySDK(), resource.WithFromEnv())
	if err != nil {
		return nil, fmt.Errorf("OTEL_RESOURCE_ATTRIBUTES: %w", err)
	}
	return r, nil
}
