package discovery_test

import (
	"context"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/proa-io/proa/mesh/discovery"
	"github.com/proa-io/proa/mesh/discovery/discoverytest"
)

// zone is a server of the DNS to which instances are added as those who keep a
// zone would.
type zone struct {
	mu      sync.Mutex
	broken  bool
	records map[string]map[string]dns.RR // by name and instance
}

func newZone(t *testing.T) (*zone, string) {
	t.Helper()
	z := &zone{records: map[string]map[string]dns.RR{}}
	pc, l := samePort(t)
	for _, srv := range []*dns.Server{{PacketConn: pc, Handler: z}, {Listener: l, Handler: z}} {
		ready, done := make(chan struct{}), make(chan struct{})
		srv.NotifyStartedFunc = func() { close(ready) }
		go func() { defer close(done); _ = srv.ActivateAndServe() }()
		<-ready
		t.Cleanup(func() { _ = srv.Shutdown(); <-done })
	}
	return z, pc.LocalAddr().String()
}

func (z *zone) ServeDNS(w dns.ResponseWriter, r *dns.Msg) {
	z.mu.Lock()
	m := new(dns.Msg).SetReply(r)
	m.Compress = true
	for _, rr := range z.records[strings.ToLower(r.Question[0].Name)] {
		if rr.Header().Rrtype == r.Question[0].Qtype {
			m.Answer = append(m.Answer, rr)
		}
	}
	if z.broken {
		m.Rcode, m.Answer = dns.RcodeServerFailure, nil
	}
	z.mu.Unlock()
	if w.LocalAddr().Network() == "udp" {
		m.Truncate(int(r.IsEdns0().UDPSize()))
	}
	_ = w.WriteMsg(m)
}

// keeper registers instances in a zone, under records that it makes of them.
type keeper struct {
	z    *zone
	name string
	rr   func(name string, ep discovery.Endpoint) (records map[string]string)
}

func (k keeper) Register(ctx context.Context, a *discovery.Announcement) error {
	name := strings.NewReplacer("{appID}", a.Service.AppID, "{namespace}", a.Service.Namespace).Replace(k.name)
	for {
		ep, changed := a.Endpoint()
		k.put(name, ep, true)
		select {
		case <-ctx.Done():
			k.put(name, ep, false)
			return nil
		case <-changed:
		}
	}
}

func (k keeper) put(name string, ep discovery.Endpoint, there bool) {
	k.z.mu.Lock()
	defer k.z.mu.Unlock()
	for at, text := range k.rr(name, ep) {
		if k.z.records[at] == nil {
			k.z.records[at] = map[string]dns.RR{}
		}
		k.z.records[at] = maps.Clone(k.z.records[at])
		delete(k.z.records[at], ep.Address)
		if rr, err := dns.NewRR(text); there && err == nil {
			k.z.records[at][ep.Address] = rr
		}
	}
}

func TestTheDNSConforms(t *testing.T) {
	for kind, tc := range map[string]struct {
		name    string
		many    int
		rr      func(name string, ep discovery.Endpoint) map[string]string
		carried func(discovery.Endpoint) discovery.Endpoint
	}{
		"addresses": {"{appID}.{namespace}.test.", 1000, func(name string, ep discovery.Endpoint) map[string]string {
			host, _, _ := net.SplitHostPort(ep.Address)
			return map[string]string{name: name + " 0 IN A " + host}
		}, func(ep discovery.Endpoint) discovery.Endpoint { return discovery.Endpoint{Address: ep.Address} }},
		"services": {"_proa._tcp.{appID}.{namespace}.test.", 200, func(name string, ep discovery.Endpoint) map[string]string {
			host, port, _ := net.SplitHostPort(ep.Address)
			target := "host-" + strings.ReplaceAll(host, ".", "-") + ".test."
			return map[string]string{
				name:   fmt.Sprintf("%s 0 IN SRV %d %d %s %s", name, ep.Priority, ep.Weight, port, target),
				target: target + " 0 IN A " + host,
			}
		}, func(ep discovery.Endpoint) discovery.Endpoint {
			return discovery.Endpoint{Address: ep.Address, Priority: ep.Priority, Weight: max(1, ep.Weight)}
		}},
	} {
		t.Run(kind, func(t *testing.T) {
			z, addr := newZone(t)
			broken := func(b bool) func(*testing.T) {
				return func(*testing.T) { z.mu.Lock(); defer z.mu.Unlock(); z.broken = b }
			}
			discoverytest.Run(t, discoverytest.Harness{
				Source: func(*testing.T) discovery.Source {
					return &discovery.DNS{
						Name: tc.name, Port: 7001, Resolvers: slices.Clone([]string{addr}), MinRefresh: 20 * time.Millisecond,
					}
				},
				Registrar: func(*testing.T) discovery.Registrar { return keeper{z, tc.name, tc.rr} },
				Stop:      broken(true), Start: broken(false),
				Carried: tc.carried, Many: tc.many, Plain: true,
			})
		})
	}
}

// samePort listens on a port that is free for both UDP and TCP.
func samePort(t *testing.T) (net.PacketConn, net.Listener) {
	t.Helper()
	for {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		if pc, err := net.ListenPacket("udp", l.Addr().String()); err == nil {
			return pc, l
		}
		_ = l.Close()
	}
}
