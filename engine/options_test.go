package engine

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
)

func TestOpenRefusesOptionsThatCanNeverWork(t *testing.T) {
	const secret = "hunter2"
	tests := map[string]struct {
		options Options
		want    string
	}{
		"durability":            {Options{Durability: "maybe"}, `"maybe"`},
		"negative connections":  {Options{Conns: -1}, "-1"},
		"many connections":      {Options{Conns: 1000}, "1000"},
		"negative wait":         {Options{Wait: -time.Second}, "-1s"},
		"embedded replicas":     {Options{Replicas: 3}, "external cluster"},
		"replicas":              {Options{URL: "nats://h:4222", Replicas: 7}, "7"},
		"negative store":        {Options{MaxStore: -1}, "-1"},
		"payload":               {Options{MaxPayload: 1 << 30}, "payload"},
		"credentials, no URL":   {Options{Auth: Auth{Token: component.NewSecret(secret)}}, "no URL"},
		"websocket":             {Options{URL: "ws://h:80"}, `"ws"`},
		"no scheme":             {Options{URL: "h:4222"}, "nats://"},
		"no host":               {Options{URL: "nats://"}, "nats://"},
		"one bad of two":        {Options{URL: "nats://h:4222,http://u:" + secret + "@g"}, `"http"`},
		"unparsable":            {Options{URL: "nats://u:" + secret + "@h:port"}, "nats://"},
		"unparsable password":   {Options{URL: "nats://u:%zz" + secret + "@h:4222"}, "nats://"},
		"a path":                {Options{URL: "nats://h:4222/x"}, "more than"},
		"two ways to authorize": {Options{URL: "nats://h:4222", Auth: Auth{User: "u", NKey: "f"}}, "more than one"},
		"certificate, no key":   {Options{URL: "tls://h:4222", Auth: Auth{Cert: "c.pem"}}, "together"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			tt.options.Dir = t.TempDir()
			_, err := Open(t.Context(), tt.options)
			wantCode(t, err, fault.InvalidArgument, "")
			mentions(t, err.Error(), tt.want)
			if strings.Contains(err.Error(), secret) {
				t.Fatalf("the error shows the password: %v", err)
			}
		})
	}
}

func TestTheHomeComesFromTheOptionTheEnvironmentOrTheUser(t *testing.T) {
	t.Setenv("HOME", "/home/u")
	t.Setenv("PROA_HOME", "")
	want := func(o Options, dir string) {
		t.Helper()
		e, err := Open(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		if e.Status().Location != dir {
			t.Errorf("got %s, want %s", e.Status().Location, dir)
		}
	}
	want(Options{}, "/home/u/.local/share/proa")
	t.Setenv("PROA_HOME", "/srv/proa")
	want(Options{}, "/srv/proa")
	here, err := filepath.Abs("x")
	if err != nil {
		t.Fatal(err)
	}
	want(Options{Dir: "x"}, here)
	t.Setenv("PROA_HOME", "")
	t.Setenv("HOME", "")
	_, err = Open(t.Context(), Options{})
	wantCode(t, err, fault.InvalidArgument, "")
	mentions(t, err.Error(), "PROA_HOME")
}

func TestFeaturesFollowTheServerVersion(t *testing.T) {
	tests := []struct {
		version string
		has     []Feature
	}{
		{"2.9.10", nil},
		{"2.10.0", []Feature{MultipleFilters}},
		{"2.11.0-preview.2", []Feature{MultipleFilters, MessageTTL, BatchGet}},
		{"v2.12.1", []Feature{MultipleFilters, MessageTTL, BatchGet, AtomicBatch, Counters, DelayedMessage}},
		{"2.14.0", []Feature{MultipleFilters, MessageTTL, BatchGet, AtomicBatch, Counters, DelayedMessage, RepeatingSchedules}},
		{"3.0", []Feature{MultipleFilters, MessageTTL, BatchGet, AtomicBatch, Counters, DelayedMessage, RepeatingSchedules}},
		{"", nil}, {"nonsense", nil},
	}
	for _, tt := range tests {
		e, err := Open(t.Context(), Options{Dir: t.TempDir()})
		if err != nil {
			t.Fatal(err)
		}
		e.server.Store(&serverFacts{version: tt.version, parsed: parseVersion(tt.version)})
		n := 0
		for f := range numFeatures {
			if e.Supports(f) {
				n++
			}
			if f.String() == "" || parseVersion(f.Since()) == (version{}) {
				t.Errorf("feature %d has no name or version", f)
			}
		}
		for _, f := range tt.has {
			if !e.Supports(f) {
				t.Errorf("%q lacks %s", tt.version, f)
			}
		}
		if n != len(tt.has) {
			t.Errorf("%q has %d features, want %d", tt.version, n, len(tt.has))
		}
	}
	if e, _ := Open(t.Context(), Options{Dir: t.TempDir()}); e.Supports(MessageTTL) || e.Supports(numFeatures) {
		t.Error("an engine that never connected supports nothing")
	}
}

func TestRedactHidesTheUserPart(t *testing.T) {
	tests := map[string]string{
		"nats://h:4222":                     "nats://h:4222",
		"nats://u:p@h:4222":                 "nats://[redacted]@h:4222",
		"nats://tok@h, tls://u:p@i@j:1":     "nats://[redacted]@h,tls://[redacted]@j:1",
		"u:p@h":                             "[redacted]@h",
		"nats://u:p%zz@h:4222,nats://h2:80": "nats://[redacted]@h:4222,nats://h2:80",
	}
	for in, want := range tests {
		if got := redact(in); got != want {
			t.Errorf("redact(%q) = %q, want %q", in, got, want)
		}
	}
}
