package telemetry

import (
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// Environment is what the environment variables of OpenTelemetry ask for
// (OpenTelemetry, "Environment Variable Specification"). Those that configure
// batches, headers, timeouts, compression, certificates and resource attributes
// are read where they are used.
type Environment struct {
	// Disabled tells that nothing is traced or sent: OTEL_SDK_DISABLED.
	Disabled bool
	// Traces, Metrics and Logs are where the signals go; nil for nowhere.
	Traces, Metrics, Logs *OTLP
	// Zipkin is a collector of spans and Console tells to write spans to
	// standard output, when OTEL_TRACES_EXPORTER names them.
	Zipkin  string
	Console bool
	// SamplingRate is that of OTEL_TRACES_SAMPLER; negative when it is not set.
	SamplingRate float64
	// ParentBased tells that OTEL_TRACES_SAMPLER is one of those that leave
	// alone what came not sampled.
	ParentBased bool
}

// ReadEnvironment reads the variables that getenv returns. The error names the
// variable and what it should be.
func ReadEnvironment(getenv func(string) string) (Environment, error) {
	e := Environment{SamplingRate: -1, Disabled: strings.EqualFold(getenv("OTEL_SDK_DISABLED"), "true")}
	if e.Disabled {
		return e, nil
	}
	v := variables(getenv)
	traces, err := v.exporters("TRACES", true, "otlp", "zipkin", "console", "none")
	if err != nil {
		return e, err
	}
	metrics, err := v.exporters("METRICS", false, "otlp", "prometheus", "none")
	if err != nil {
		return e, err
	}
	logs, err := v.exporters("LOGS", false, "otlp", "none")
	if err != nil {
		return e, err
	}
	for _, s := range []struct {
		name string
		on   bool
		to   **OTLP
	}{
		{"TRACES", slices.Contains(traces, "otlp"), &e.Traces}, {"METRICS", slices.Contains(metrics, "otlp"), &e.Metrics},
		{"LOGS", slices.Contains(logs, "otlp"), &e.Logs},
	} {
		if !s.on {
			continue
		}
		if *s.to, err = v.collector(s.name); err != nil {
			return e, err
		}
	}
	if t := getenv("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE"); t != "" && !strings.EqualFold(t, "cumulative") && e.Metrics != nil {
		return e, fmt.Errorf("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE %q is not supported; metrics are cumulative", t)
	}
	if slices.Contains(traces, "zipkin") {
		if e.Zipkin = getenv("OTEL_EXPORTER_ZIPKIN_ENDPOINT"); e.Zipkin == "" {
			e.Zipkin = "http://localhost:9411/api/v2/spans"
		}
	}
	e.Console = slices.Contains(traces, "console")
	return e, v.sampler(&e)
}

// variables looks variables up.
type variables func(string) string

// exporters returns the names in OTEL_<signal>_EXPORTER. When it is not set,
// the signal goes to a collector whose address is set: traces to that of all
// signals, others only to one of their own.
func (v variables) exporters(signal string, byEndpoint bool, known ...string) ([]string, error) {
	name := "OTEL_" + signal + "_EXPORTER"
	text := v(name)
	if text == "" {
		if v("OTEL_EXPORTER_OTLP_"+signal+"_ENDPOINT") != "" || byEndpoint && v("OTEL_EXPORTER_OTLP_ENDPOINT") != "" {
			return []string{"otlp"}, nil
		}
		return nil, nil
	}
	var out []string
	for part := range strings.SplitSeq(text, ",") {
		part = strings.ToLower(strings.TrimSpace(part))
		if !slices.Contains(known, part) {
			return nil, fmt.Errorf("%s %q is not supported; there is %s", name, part, strings.Join(known, ", "))
		}
		out = append(out, part)
	}
	return out, nil
}

// The ports of OTLP (OTLP specification).
const (
	portGRPC = "4317"
	portHTTP = "4318"
)

// ReadCollector returns the collector of a signal, "TRACES", "METRICS" or
// "LOGS", whether or not the variables switch the signal on.
func ReadCollector(signal string, getenv func(string) string) (*OTLP, error) {
	return variables(getenv).collector(signal)
}

func (v variables) collector(signal string) (*OTLP, error) {
	either := func(what string) (value, name string) {
		if name = "OTEL_EXPORTER_OTLP_" + signal + "_" + what; v(name) != "" {
			return v(name), name
		}
		name = "OTEL_EXPORTER_OTLP_" + what
		return v(name), name
	}
	o := &OTLP{}
	address, addressName := either("ENDPOINT")
	protocol, protocolName := either("PROTOCOL")
	o.Whole = address != "" && addressName != "OTEL_EXPORTER_OTLP_ENDPOINT"
	if address != "" {
		insecure, _ := either("INSECURE")
		if !strings.Contains(address, "://") {
			scheme := "https://"
			if strings.EqualFold(insecure, "true") {
				scheme = "http://"
			}
			address, o.Whole = scheme+address, false
		}
		u, err := url.Parse(address)
		if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			return nil, fmt.Errorf(`%s wants a URL with http:// or https://, or "host:port"`, addressName)
		}
		o.URL = u
	}
	switch protocol {
	case "":
		o.HTTP = o.URL != nil && o.URL.Port() == portHTTP
	case "grpc":
	case "http", "http/protobuf":
		o.HTTP = true
	default:
		return nil, fmt.Errorf(`%s %q is not supported; there is "grpc" and "http/protobuf"`, protocolName, protocol)
	}
	if o.URL == nil {
		o.URL = &url.URL{Scheme: "http", Host: "localhost:" + portGRPC}
		if o.HTTP {
			o.URL.Host = "localhost:" + portHTTP
		}
	}
	return o, nil
}

// sampler reads OTEL_TRACES_SAMPLER.
func (v variables) sampler(e *Environment) error {
	name := v("OTEL_TRACES_SAMPLER")
	e.ParentBased = strings.HasPrefix(name, "parentbased_")
	switch strings.TrimPrefix(name, "parentbased_") {
	case "":
	case "always_on":
		e.SamplingRate = 1
	case "always_off":
		e.SamplingRate = 0
	case "traceidratio":
		arg := v("OTEL_TRACES_SAMPLER_ARG")
		rate, err := strconv.ParseFloat(arg, 64)
		switch {
		case arg == "":
			rate = 1
		case err != nil || !(rate >= 0 && rate <= 1):
			return fmt.Errorf("OTEL_TRACES_SAMPLER_ARG wants a number from 0 to 1, not %q", arg)
		}
		e.SamplingRate = rate
	default:
		return fmt.Errorf("OTEL_TRACES_SAMPLER %q is not supported; there is always_on, always_off, traceidratio and these with parentbased_", name)
	}
	return nil
}
