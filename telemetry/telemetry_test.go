package telemetry_test

import (
	"bytes"
	"context"
	"strings"
	"testing"

	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/telemetry"
)

const parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

func TestTraceparentRoundTrip(t *testing.T) {
	tc, ok := telemetry.ParseTraceparent(parent)
	if !ok || !tc.Sampled() || tc.Traceparent() != parent {
		t.Errorf("parsed %+v, %v; written %s", tc, ok, tc.Traceparent())
	}
}

func TestTraceparentsOfTheSpecification(t *testing.T) {
	for text, want := range map[string]bool{
		"": false, "00": false,
		"ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01":       false, // reserved version
		"00-00000000000000000000000000000000-00f067aa0ba902b7-01":       false,
		"00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01":       false,
		"00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01":       false, // upper case
		"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-extra": false,
		"cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-extra": true, // a future version
		"cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01x":      false,
		"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0g":       false,
		"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00":       true,
	} {
		if _, ok := telemetry.ParseTraceparent(text); ok != want {
			t.Errorf("ParseTraceparent(%q) is %v, want %v", text, ok, want)
		}
	}
}

func TestOnlySampledCallsAreExported(t *testing.T) {
	var out bytes.Buffer
	tr, err := telemetry.NewTracing(t.Context(), telemetry.TracingOptions{Service: telemetry.Service{Name: "shop"}, Stdout: &out, SamplingRate: 0})
	if err != nil {
		t.Fatal(err)
	}
	ctx := telemetry.WithTrace(t.Context(), tr.Begin("", ""))
	_, span := tr.Start(ctx, "unsampled")
	span.End(nil)
	ctx = telemetry.WithTrace(t.Context(), tr.Begin(parent, "a=b"))
	inner, span := tr.Start(ctx, "sampled")
	if got, _ := telemetry.TraceFrom(inner); got.Traceparent() == parent || !strings.HasPrefix(got.Traceparent(), parent[:36]) {
		t.Errorf("the span's context is %s", got.Traceparent())
	}
	span.End(fault.New(fault.Unavailable, "redis is down"))
	if err := tr.Shutdown(context.WithoutCancel(t.Context())); err != nil {
		t.Fatal(err)
	}
	text := out.String()
	if strings.Contains(text, "unsampled") || !strings.Contains(text, `"sampled"`) || !strings.Contains(text, "redis is down") ||
		!strings.Contains(text, "4bf92f3577b34da6a3ce929d0e0e4736") {
		t.Errorf("exported:\n%s", text)
	}
}

func TestWithoutExportersNothingNewIsSampled(t *testing.T) {
	tr, err := telemetry.NewTracing(t.Context(), telemetry.TracingOptions{SamplingRate: 1})
	if err != nil {
		t.Fatal(err)
	}
	if tc := tr.Begin("", ""); tc.Sampled() || !tc.IsValid() {
		t.Errorf("a new trace is %+v", tc)
	}
	if tc := tr.Begin("garbage", ""); !tc.IsValid() {
		t.Error("a broken traceparent does not begin a new trace")
	}
}

func TestUnknownLogLevelsAreRefused(t *testing.T) {
	if _, err := telemetry.NewLogger(telemetry.LogOptions{Level: "loud", Writer: &bytes.Buffer{}}); err == nil {
		t.Error("level loud was accepted")
	}
}

func FuzzTraceparent(f *testing.F) {
	f.Add(parent)
	f.Fuzz(func(t *testing.T, s string) {
		if tc, ok := telemetry.ParseTraceparent(s); ok && s[:2] == "00" && tc.Traceparent() != s {
			t.Errorf("%q became %q", s, tc.Traceparent())
		}
	})
}

func TestLinesHaveTheFieldsOfDapr(t *testing.T) {
	for _, asJSON := range []bool{true, false} {
		var out bytes.Buffer
		log, err := telemetry.NewLogger(telemetry.LogOptions{Level: "debug", JSON: asJSON, AppID: "shop", Version: "1.2", Writer: &out})
		if err != nil {
			t.Fatal(err)
		}
		log.Debug("one")
		log.Warn("two", "key", "value")
		want := []string{`level=debug msg=one app_id=shop instance=`, ` scope=proa.runtime type=log ver=1.2`, `level=warning msg=two`, ` key=value`}
		if asJSON {
			want = []string{`"level":"debug","msg":"one","app_id":"shop","instance":"`, `"scope":"proa.runtime","type":"log","ver":"1.2"`, `"level":"warning"`, `"key":"value"`}
		}
		for _, w := range want {
			if !strings.Contains(out.String(), w) {
				t.Errorf("no %s in\n%s", w, out.String())
			}
		}
	}
}
