package discovery_test

import (
	"context"
	"os"
	"os/exec"
	"slices"
	"testing"
	"time"

	"github.com/proa-io/proa/mesh/discovery"
	"github.com/proa-io/proa/mesh/discovery/discoverytest"
)

// TestMDNSFindsAndForgets runs itself in a network namespace of its own, whose
// loopback interface passes multicast.
func TestMDNSFindsAndForgets(t *testing.T) {
	if os.Getenv("PROA_TEST_NETNS") == "" {
		inNetworkNamespace(t)
		return
	}
	m := &discovery.MDNS{Refresh: 300 * time.Millisecond, Answer: 100 * time.Millisecond}
	rctx, withdraw := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- m.Register(rctx, discovery.Announce(shop, discovery.Endpoint{Address: "127.0.0.1:7001"}))
	}()
	other := discovery.Service{Namespace: "default", AppID: "other"}
	octx, stopOther := context.WithCancel(t.Context())
	go func() {
		done <- m.Register(octx, discovery.Announce(other, discovery.Endpoint{Address: "127.0.0.1:7002"}))
	}()

	d := start(t, discovery.Options{Sources: []discovery.Source{m}, AppearWait: 20 * time.Second})
	eps, err := d.Lookup(t.Context(), shop)
	if err != nil || !slices.Equal(addresses(eps), []string{"127.0.0.1:7001"}) {
		t.Fatalf("Lookup = %v, %v", eps, err)
	}
	withdraw()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	empty := make(chan struct{})
	wctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() {
		_ = m.Watch(wctx, shop, func(list []discovery.Endpoint) {
			if len(list) == 0 && wctx.Err() == nil {
				cancel()
				close(empty)
			}
		})
	}()
	<-empty
	stopOther()
	<-done

	discoverytest.Run(t, discoverytest.Harness{
		Source:    func(*testing.T) discovery.Source { return m },
		Registrar: func(*testing.T) discovery.Registrar { return m },
		Carried:   func(ep discovery.Endpoint) discovery.Endpoint { ep.ID = ""; return ep },
		Many:      20, // each is a server that sees every packet
	})
}

func inNetworkNamespace(t *testing.T) {
	t.Helper()
	const setup = `ip link set lo up && ip link set lo multicast on && ip route add 224.0.0.0/4 dev lo && exec "$0" -test.run '^TestMDNSFindsAndForgets$' -test.timeout 240s`
	cmd := exec.Command("unshare", "--net", "sh", "-c", setup, os.Args[0])
	if os.Geteuid() != 0 {
		cmd = exec.Command("unshare", "--user", "--map-root-user", "--net", "sh", "-c", setup, os.Args[0])
	}
	cmd.Env = append(os.Environ(), "PROA_TEST_NETNS=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("in a network namespace: %v\n%s", err, out)
	}
}
