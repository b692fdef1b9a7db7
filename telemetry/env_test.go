package telemetry_test

import (
	"strings"
	"testing"

	"github.com/proa-io/proa/telemetry"
)

// describe returns where a signal goes.
func describe(o *telemetry.OTLP) string {
	if o == nil {
		return ""
	}
	out := "grpc "
	if o.HTTP {
		out = "http "
	}
	if o.Whole {
		out += "whole "
	}
	return out + o.URL.String()
}

func TestVariablesOfOpenTelemetry(t *testing.T) {
	const general = "OTEL_EXPORTER_OTLP_ENDPOINT=http://c:1"
	for _, tc := range []struct {
		variables             string // separated by blanks
		traces, metrics, logs string
		zipkin                string
		console, disabled     bool
		rate                  float64
	}{
		{variables: "", rate: -1},
		{variables: general, traces: "grpc http://c:1", rate: -1},
		{variables: general + " OTEL_METRICS_EXPORTER=otlp OTEL_LOGS_EXPORTER=otlp OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf",
			traces: "http http://c:1", metrics: "http http://c:1", logs: "http http://c:1", rate: -1},
		{variables: general + " OTEL_TRACES_EXPORTER=none OTEL_METRICS_EXPORTER=prometheus,none", rate: -1},
		{variables: general + " OTEL_SDK_DISABLED=true", disabled: true, rate: -1},
		{variables: "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=https://c:1/x OTEL_EXPORTER_OTLP_TRACES_PROTOCOL=http/protobuf", traces: "http whole https://c:1/x", rate: -1},
		{variables: general + " OTEL_EXPORTER_OTLP_METRICS_ENDPOINT=http://m:2/m OTEL_EXPORTER_OTLP_LOGS_ENDPOINT=http://l:3/l OTEL_EXPORTER_OTLP_LOGS_PROTOCOL=http/protobuf",
			traces: "grpc http://c:1", metrics: "grpc whole http://m:2/m", logs: "http whole http://l:3/l", rate: -1},
		{variables: "OTEL_EXPORTER_OTLP_ENDPOINT=c:1", traces: "grpc https://c:1", rate: -1},
		{variables: "OTEL_EXPORTER_OTLP_ENDPOINT=c:4318 OTEL_EXPORTER_OTLP_INSECURE=true", traces: "http http://c:4318", rate: -1},
		{variables: "OTEL_TRACES_EXPORTER=otlp OTEL_LOGS_EXPORTER=otlp OTEL_EXPORTER_OTLP_LOGS_PROTOCOL=http/protobuf",
			traces: "grpc http://localhost:4317", logs: "http http://localhost:4318", rate: -1},
		{variables: "OTEL_TRACES_EXPORTER=zipkin,console", zipkin: "http://localhost:9411/api/v2/spans", console: true, rate: -1},
		{variables: "OTEL_TRACES_EXPORTER=zipkin OTEL_EXPORTER_ZIPKIN_ENDPOINT=http://z/spans", zipkin: "http://z/spans", rate: -1},
		{variables: "OTEL_TRACES_SAMPLER=always_off", rate: 0},
		{variables: "OTEL_TRACES_SAMPLER=parentbased_always_on", rate: 1},
		{variables: "OTEL_TRACES_SAMPLER=parentbased_traceidratio OTEL_TRACES_SAMPLER_ARG=0.25", rate: 0.25},
		{variables: "OTEL_TRACES_SAMPLER=traceidratio", rate: 1},
	} {
		got, err := telemetry.ReadEnvironment(getenv(tc.variables))
		if err != nil {
			t.Errorf("%s: %v", tc.variables, err)
			continue
		}
		if describe(got.Traces) != tc.traces || describe(got.Metrics) != tc.metrics || describe(got.Logs) != tc.logs ||
			got.Zipkin != tc.zipkin || got.Console != tc.console || got.Disabled != tc.disabled || got.SamplingRate != tc.rate {
			t.Errorf("%s: %+v; traces %q, metrics %q, logs %q", tc.variables, got, describe(got.Traces), describe(got.Metrics), describe(got.Logs))
		}
	}
}

func TestVariablesThatCannotBeHonouredAreRefusedByName(t *testing.T) {
	for variables, want := range map[string]string{
		"OTEL_TRACES_EXPORTER=jaeger":                                                        `OTEL_TRACES_EXPORTER "jaeger" is not supported; there is otlp, zipkin, console, none`,
		"OTEL_METRICS_EXPORTER=console":                                                      `OTEL_METRICS_EXPORTER "console"`,
		"OTEL_LOGS_EXPORTER=stdout":                                                          `OTEL_LOGS_EXPORTER "stdout"`,
		"OTEL_EXPORTER_OTLP_ENDPOINT=ftp://c":                                                "OTEL_EXPORTER_OTLP_ENDPOINT wants a URL",
		"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=http://":                                         "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT wants a URL",
		"OTEL_TRACES_EXPORTER=otlp OTEL_EXPORTER_OTLP_PROTOCOL=thrift":                       `OTEL_EXPORTER_OTLP_PROTOCOL "thrift" is not supported`,
		"OTEL_TRACES_SAMPLER=jaeger_remote":                                                  `OTEL_TRACES_SAMPLER "jaeger_remote" is not supported`,
		"OTEL_TRACES_SAMPLER=traceidratio OTEL_TRACES_SAMPLER_ARG=NaN":                       "OTEL_TRACES_SAMPLER_ARG wants a number from 0 to 1",
		"OTEL_METRICS_EXPORTER=otlp OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE=delta": "metrics are cumulative",
	} {
		if _, err := telemetry.ReadEnvironment(getenv(variables)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", variables, err, want)
		}
	}
}

// getenv looks up in text, "NAME=value NAME=value".
func getenv(text string) func(string) string {
	return func(name string) string {
		for part := range strings.FieldsSeq(text) {
			if n, value, _ := strings.Cut(part, "="); n == name {
				return value
			}
		}
		return ""
	}
}
