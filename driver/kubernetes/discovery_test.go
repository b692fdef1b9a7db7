package kubernetes

import (
	"context"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"maps"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/internal/faultnet"
	"github.com/proa-io/proa/internal/testserver"
	"github.com/proa-io/proa/mesh/discovery"
	"github.com/proa-io/proa/mesh/discovery/discoverytest"
)

// names opens a driver on the server at addr, whose certificate is k's.
func names(t *testing.T, k *testserver.EndpointSlicesStandIn, addr string) *Names {
	t.Helper()
	path := filepath.Join(t.TempDir(), "kubeconfig")
	ca := base64.StdEncoding.EncodeToString(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: k.CA()}))
	write(t, path, fmt.Sprintf(`{"current-context": "c", "contexts": [{"name": "c", "context": {"cluster": "x", "user": "u"}}],
		"clusters": [{"name": "x", "cluster": {"server": "https://%s", "certificate-authority-data": "%s"}}],
		"users": [{"name": "u", "user": {"token": "right"}}]}`, addr, ca))
	cfg := namesDefaults()
	cfg.KubeconfigPath = path
	n, err := OpenNames(t.Context(), cfg, component.Env{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = n.Close() })
	return n
}

// controller keeps the slices of Services as the one of a cluster would: each
// slice has some of the endpoints.
type controller struct {
	k  *testserver.EndpointSlicesStandIn
	mu *sync.Mutex
	// slices are endpoints by address, by "namespace/slice".
	slices map[string]map[string]map[string]any
}

func (c controller) Register(ctx context.Context, a *discovery.Announcement) error {
	for {
		ep, changed := a.Endpoint()
		c.set(a.Service, ep, true)
		select {
		case <-ctx.Done():
			c.set(a.Service, ep, false)
			return nil
		case <-changed:
		}
	}
}

func (c controller) set(svc discovery.Service, ep discovery.Endpoint, there bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	host, _, _ := net.SplitHostPort(ep.Address)
	service := svc.AppID + "-dapr"
	name := fmt.Sprintf("%s-%s", service, strings.Split(host, ".")[2])
	key := svc.Namespace + "/" + name
	if c.slices[key] == nil {
		c.slices[key] = map[string]map[string]any{}
	}
	delete(c.slices[key], host)
	if there {
		c.slices[key][host] = map[string]any{
			"addresses": []string{host}, "zone": ep.Locality.Zone, "targetRef": map[string]any{"kind": "Pod", "name": ep.ID},
			"conditions": map[string]any{"ready": ep.Health == discovery.Healthy, "terminating": ep.Health == discovery.Draining},
		}
	}
	var object map[string]any
	if len(c.slices[key]) > 0 {
		object = map[string]any{
			"addressType": "IPv4", "endpoints": slices.Collect(maps.Values(c.slices[key])),
			"ports": []map[string]any{{"name": "other", "port": 1, "protocol": "TCP"}, {"name": "dapr-internal-grpc", "port": 7001, "protocol": "TCP"}},
		}
	}
	c.k.Set(svc.Namespace, name, service, object)
}

func TestEndpointSlicesConform(t *testing.T) {
	k := testserver.EndpointSlices(t, "right")
	link := faultnet.New(t, k.Addr())
	c := controller{k, &sync.Mutex{}, map[string]map[string]map[string]any{}}
	discoverytest.Run(t, discoverytest.Harness{
		Source:    func(t *testing.T) discovery.Source { return names(t, k, link.Addr()) },
		Registrar: func(*testing.T) discovery.Registrar { return c },
		Stop:      func(*testing.T) { link.Refuse() },
		Start:     func(*testing.T) { link.Heal() },
		Carried: func(ep discovery.Endpoint) discovery.Endpoint {
			return discovery.Endpoint{Address: ep.Address, ID: ep.ID, Locality: discovery.Locality{Zone: ep.Locality.Zone}, Health: ep.Health}
		},
		Many: 150, Plain: true, // for each of which a whole slice is sent
	})
}

func TestWatchesOfSlicesGoOnWhereTheyEnded(t *testing.T) {
	k := testserver.EndpointSlices(t, "right")
	n := names(t, k, k.Addr())
	object := func(ip string) map[string]any {
		return map[string]any{"endpoints": []map[string]any{{"addresses": []string{ip}, "nodeName": "n1", "zone": "a",
			"hints": map[string]any{"forZones": []map[string]any{{"name": "b"}}}}}}
	}
	k.Set("default", "s1", "shop-dapr", object("10.0.0.1"))
	ctx, cancel := context.WithCancel(t.Context())
	lists, done := make(chan []discovery.Endpoint, 10), make(chan error, 1)
	go func() {
		done <- n.Watch(ctx, discovery.Service{Namespace: "default", AppID: "shop"}, func(l []discovery.Endpoint) { lists <- l })
	}()
	next := func(want string) {
		t.Helper()
		select {
		case l := <-lists:
			if len(l) != 1 || l[0].Address != want || l[0].Locality.Zone != "b" || l[0].Labels["node"] != "n1" {
				t.Fatalf("found %+v, want %s", l, want)
			}
		case <-time.After(30 * time.Second):
			t.Fatalf("no list with %s", want)
		}
	}
	next("10.0.0.1:50002")
	k.Bookmark() // which is where the watch is to go on
	k.Set("default", "other", "other-dapr", object("10.9.9.9"))
	for { // until the watch has the bookmark, and has been begun anew
		k.EndWatches()
		if asked, watches := k.Asked(); asked == 1 && len(watches) > 1 && watches[len(watches)-1] == "102" {
			break
		}
		select {
		case err := <-done:
			t.Fatal(err)
		case <-time.After(60 * time.Millisecond): // a watch that ends sooner is taken for a failure
		}
	}
	k.Set("default", "s1", "shop-dapr", object("10.0.0.2"))
	next("10.0.0.2:50002")
	k.Forget()
	k.EndWatches()
	k.Set("default", "s1", "shop-dapr", object("10.0.0.3"))
	next("10.0.0.3:50002")
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestSettingsOfSlices(t *testing.T) {
	for setting, want := range map[string]string{"service=shop": "with {appid} in it", "port=0": "wants a port", "protocol=udp": "wants http/1.1, h2c or tcp"} {
		name, value, _ := strings.Cut(setting, "=")
		cfg := namesDefaults()
		if err := (component.Settings{{Name: name, Value: value}}).Decode(&cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", setting, err)
		}
	}
}
