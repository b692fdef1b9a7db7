package nats

import (
	"strings"
	"testing"
	"time"

	"github.com/proa-io/proa/block/lock"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/internal/leak"
	"github.com/proa-io/proa/internal/testserver"
)

func TestComponentCanNameAServer(t *testing.T) {
	server := testserver.NATS(t, testserver.NATSOptions{User: "u", Password: "pw"})
	leak.Check(t)
	settings := component.Settings{{Name: "natsURL", Value: "nats://" + server.Addr()}, {Name: "user", Value: "u"}, {Name: "password", Value: "pw"}}
	env := component.Env{Name: "locks", AppID: "shop", Namespace: "test"}
	spec := specOf(t, lock.Block)
	first, err := component.Opener[lock.Driver](spec, settings, env)(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	second, err := component.Opener[lock.Driver](spec, settings, env)(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := first.Acquire(t.Context(), "l", "me", time.Hour); err != nil {
		t.Fatal(err)
	}
	if _, err := second.Acquire(t.Context(), "l", "you", time.Hour); fault.ReasonOf(err) != lock.ReasonHeld {
		t.Errorf("Acquire by another process: %v, want that it is held", err)
	}
	if err := first.Close(); err != nil {
		t.Error(err)
	}
	if err := second.Close(); err != nil {
		t.Error(err)
	}
	settings[2].Value = "wrong"
	_, err = component.Opener[lock.Driver](spec, settings, env)(t.Context())
	if err == nil || fault.CodeOf(err) == fault.Unknown || strings.Contains(err.Error(), "wrong") {
		t.Errorf("with a wrong password: %v", err)
	}
}

func TestWithoutEngineAndServerOpenSaysSo(t *testing.T) {
	_, err := specOf(t, lock.Block).Open(t.Context(), nil, component.Env{})
	if !fault.Is(err, fault.FailedPrecondition) || !strings.Contains(err.Error(), "names no url") {
		t.Errorf("error %v", err)
	}
}

func TestSettingsAreChecked(t *testing.T) {
	for _, c := range []struct{ settings, want string }{
		{"url=localhost:4222", `x.yaml:1: "url": wants nats://host:4222`},
		{"url=http://host", `x.yaml:1: "url": wants nats://host:4222`},
		{"url=nats://a,b", `x.yaml:1: "url": wants nats://host:4222`},
		{"token=t", `"url": is required`},
		{"url=nats://a token=t user=u", `at most one may be used`},
		{"url=nats://a cert=c.pem", `x.yaml:1: "cert": and key must be given together`},
		{"replicas=9", `x.yaml:1: "replicas": must be 1, 3 or 5`},
		{"bucket=a.b", `x.yaml:1: "bucket": `},
		{"bukket=a", `x.yaml:1: "bukket": there is no such setting`},
		{"url=nats://a jwt=j", `x.yaml:1: "jwt": and seedKey must be given together`},
	} {
		var settings component.Settings
		for kv := range strings.SplitSeq(c.settings, " ") {
			k, v, _ := strings.Cut(kv, "=")
			settings = append(settings, component.Setting{Name: k, Value: v, Pos: component.Position{File: "x.yaml", Line: 1}})
		}
		for _, spec := range Specs(nil) {
			if err := spec.Check(settings); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s %s: error %v, want %q", spec.Type(), c.settings, err, c.want)
			}
		}
	}
}

func specOf(t *testing.T, block string) component.Spec {
	t.Helper()
	for _, s := range Specs(nil) {
		if s.Block == block {
			return s
		}
	}
	t.Fatalf("there is no %s driver", block)
	return component.Spec{}
}
