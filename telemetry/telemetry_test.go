package telemetry_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
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

func TestWhatIsRecordedFollowsTheRateAndTheCaller(t *testing.T) {
	const unsampled = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00" // its id is at 0.64 of all
	tracing := func(o telemetry.TracingOptions) *telemetry.Tracing {
		t.Helper()
		o.Stdout = io.Discard
		tr, err := telemetry.NewTracing(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = tr.Shutdown(context.WithoutCancel(t.Context())) })
		return tr
	}
	for _, tc := range []struct {
		rate        float64
		parentBased bool
		came        string
		recorded    bool
	}{
		{0, false, parent, true}, {0, true, parent, true}, // what came recorded stays so
		{0, false, unsampled, false}, {0.7, false, unsampled, true}, {0.6, false, unsampled, false}, {1, false, unsampled, true},
		{1, true, unsampled, false},
		{1, false, "", true}, {1, true, "", true}, {0, false, "", false},
	} {
		tr := tracing(telemetry.TracingOptions{SamplingRate: tc.rate, ParentBased: tc.parentBased})
		came, _ := telemetry.ParseTraceparent(tc.came)
		for range 3 {
			got := tr.Decide(came)
			if got.Sampled() != tc.recorded || tc.came != "" && (got.TraceID != came.TraceID || got.SpanID != came.SpanID) ||
				tc.came == "" && got.IsValid() != tc.recorded {
				t.Errorf("rate %v, parent based %v, %q: %+v", tc.rate, tc.parentBased, tc.came, got)
			}
		}
	}
	tr, recorded := tracing(telemetry.TracingOptions{SamplingRate: 0.25}), 0
	for range 4000 {
		if tr.Decide(telemetry.TraceContext{}).Sampled() {
			recorded++
		}
	}
	if recorded < 800 || recorded > 1200 {
		t.Errorf("%d of 4000 are recorded at a rate of 0.25", recorded)
	}
}

func TestATraceThatBeginsHereHasARoot(t *testing.T) {
	var out bytes.Buffer
	tr, err := telemetry.NewTracing(t.Context(), telemetry.TracingOptions{Stdout: &out, SamplingRate: 1})
	if err != nil {
		t.Fatal(err)
	}
	ctx, span := tr.StartSpan(telemetry.WithTrace(t.Context(), tr.Decide(telemetry.TraceContext{})), telemetry.SpanInfo{
		Name: "na\xffme", Kind: telemetry.Server, Attributes: []string{"a", "b", "empty", "", "odd"},
	})
	span.Rename("renamed")
	span.Set("c", "\xff")
	span.Fail("broken")
	span.End(nil)
	tc, _ := telemetry.TraceFrom(ctx)
	if err := tr.Shutdown(context.WithoutCancel(t.Context())); err != nil {
		t.Fatal(err)
	}
	var got struct {
		Name        string
		SpanKind    int
		SpanContext struct{ TraceID, SpanID string }
		Parent      struct{ SpanID string }
		Attributes  []struct {
			Key   string
			Value struct{ Value string }
		}
		Status struct{ Code, Description string }
	}
	if err := json.Unmarshal(out.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	if got.Name != "renamed" || got.SpanKind != 2 || got.Parent.SpanID != "0000000000000000" || len(got.Attributes) != 2 ||
		got.Attributes[1].Value.Value != "\uFFFD" || got.Status.Description != "broken" || tc.Traceparent()[36:52] != got.SpanContext.SpanID {
		t.Errorf("%+v of %s", got, tc.Traceparent())
	}
}
