package etcd

import (
	"strings"
	"testing"

	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/internal/faultnet"
	"github.com/proa-io/proa/internal/testserver"
	"github.com/proa-io/proa/mesh/discovery"
	"github.com/proa-io/proa/mesh/discovery/discoverytest"
)

func names(t *testing.T, addr string) *Names {
	t.Helper()
	cfg := namesDefaults()
	cfg.Endpoints, cfg.KeyPrefixPath = []string{addr}, "proa"
	n, err := OpenNames(t.Context(), cfg, component.Env{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = n.Close() })
	return n
}

func TestNamesConform(t *testing.T) {
	own := testserver.Etcd(t)
	discoverytest.Run(t, discoverytest.Harness{
		Source:    func(t *testing.T) discovery.Source { return names(t, own.Addr()) },
		Registrar: func(t *testing.T) discovery.Registrar { return names(t, own.Addr()) },
		Dying: func(t *testing.T) (discovery.Registrar, func()) {
			link := faultnet.New(t, own.Addr())
			return names(t, link.Addr()), link.Refuse
		},
		Stop:  func(*testing.T) { own.Kill() },
		Start: func(*testing.T) { own.Restart() },
		Many:  300, // each has a lease of its own
	})
}

func TestNamesSettings(t *testing.T) {
	for value, want := range map[string]string{"1s": "2s to 1h", "2500ms": "whole seconds", "soon": "wants a duration"} {
		cfg := namesDefaults()
		err := component.Settings{{Name: "endpoints", Value: "h:1"}, {Name: "leaseTTL", Value: value}}.Decode(&cfg)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("leaseTTL %s: %v", value, err)
		}
	}
}
