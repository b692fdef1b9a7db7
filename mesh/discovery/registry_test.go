package discovery_test

import (
	"context"
	"testing"
	"time"

	"github.com/proa-io/proa/engine"
	"github.com/proa-io/proa/internal/faultnet"
	"github.com/proa-io/proa/internal/testserver"
	"github.com/proa-io/proa/mesh/discovery"
	"github.com/proa-io/proa/mesh/discovery/discoverytest"
)

// registryAt returns the registry of an engine that runs at a URL.
func registryAt(t *testing.T, url string) *discovery.Registry {
	t.Helper()
	eng, err := engine.Open(t.Context(), engine.Options{URL: url, Name: "test", Conns: 1, Wait: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	ran := make(chan error, 1)
	go func() { ran <- eng.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ran; err != nil {
			t.Error(err)
		}
	})
	return discovery.NewRegistry(eng)
}

func TestTheRegistryOfTheEngineConforms(t *testing.T) {
	server := testserver.NATS(t, testserver.NATSOptions{})
	discoverytest.Run(t, discoverytest.Harness{
		Source:    func(t *testing.T) discovery.Source { return registryAt(t, server.URL()) },
		Registrar: func(t *testing.T) discovery.Registrar { return registryAt(t, server.URL()) },
		Dying: func(t *testing.T) (discovery.Registrar, func()) {
			link := faultnet.New(t, server.Addr())
			return registryAt(t, "nats://"+link.Addr()), link.Refuse
		},
		Stop:  func(*testing.T) { server.Kill() },
		Start: func(*testing.T) { server.Restart() },
	})
}
