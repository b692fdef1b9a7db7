package discovery

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
)

// nameserver is a real server of the DNS, over UDP and TCP, for the zone test.
type nameserver struct {
	addr      string
	udp, tcp  atomic.Int32 // questions
	servfail  atomic.Bool
	mu        sync.Mutex
	records   map[string][]string // "name type" → records
	questions []string
}

func newNameserver(t *testing.T) *nameserver {
	t.Helper()
	n := &nameserver{records: map[string][]string{}}
	pc, l := samePort(t)
	n.addr = pc.LocalAddr().String()
	for _, srv := range []*dns.Server{{PacketConn: pc, Handler: n}, {Listener: l, Handler: n}} {
		ready, done := make(chan struct{}), make(chan struct{})
		srv.NotifyStartedFunc = func() { close(ready) }
		go func() { defer close(done); _ = srv.ActivateAndServe() }()
		<-ready
		t.Cleanup(func() { _ = srv.Shutdown(); <-done })
	}
	return n
}

func (n *nameserver) set(name, kind string, records ...string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.records[name+" "+kind] = records
}

func (n *nameserver) ServeDNS(w dns.ResponseWriter, r *dns.Msg) {
	overUDP := w.LocalAddr().Network() == "udp"
	if overUDP {
		n.udp.Add(1)
	} else {
		n.tcp.Add(1)
	}
	q := r.Question[0]
	m := new(dns.Msg).SetReply(r)
	n.mu.Lock()
	n.questions = append(n.questions, q.Name)
	for _, text := range n.records[q.Name+" "+dns.TypeToString[q.Qtype]] {
		rr, err := dns.NewRR(text)
		if err != nil {
			panic(err)
		}
		m.Answer = append(m.Answer, rr)
	}
	known := slices.ContainsFunc([]string{"A", "AAAA", "SRV"}, func(k string) bool { _, ok := n.records[q.Name+" "+k]; return ok })
	n.mu.Unlock()
	switch {
	case n.servfail.Load():
		m.Rcode, m.Answer = dns.RcodeServerFailure, nil
	case !known:
		m.Rcode = dns.RcodeNameError
	}
	if len(m.Answer) == 0 {
		soa, _ := dns.NewRR("test. 60 IN SOA ns.test. root.test. 1 60 60 60 2")
		m.Ns = append(m.Ns, soa)
	}
	if overUDP {
		size := dns.MinMsgSize
		if o := r.IsEdns0(); o != nil {
			size = int(o.UDPSize())
		}
		m.Truncate(size)
	}
	_ = w.WriteMsg(m)
}

func TestDNSAnswers(t *testing.T) {
	n := newNameserver(t)
	n.set("two.test.", "A", "two.test. 7 IN A 127.0.0.9", "two.test. 7 IN A 127.0.0.8")
	n.set("six.test.", "AAAA", "six.test. 20 IN AAAA ::1")
	n.set("both.test.", "A", "both.test. 20 IN A 127.0.0.9")
	n.set("both.test.", "AAAA", "both.test. 9 IN AAAA ::1")
	n.set("alias.test.", "A", "alias.test. 5 IN CNAME two.test.", "two.test. 7 IN A 127.0.0.9")
	n.set("_proa._tcp.test.", "SRV", "_proa._tcp.test. 30 IN SRV 10 60 7001 two.test.", "_proa._tcp.test. 30 IN SRV 20 0 7002 both.test.")
	n.set("_none._tcp.test.", "SRV", "_none._tcp.test. 30 IN SRV 0 0 0 .")
	d := &DNS{Port: 50002, Resolvers: []string{n.addr}}
	for name, tc := range map[string]struct {
		want []string
		life time.Duration
	}{
		"two.test":        {[]string{"127.0.0.8:50002", "127.0.0.9:50002"}, 7 * time.Second},
		"six.test":        {[]string{"[::1]:50002"}, 20 * time.Second},
		"both.test.":      {[]string{"127.0.0.9:50002", "[::1]:50002"}, 9 * time.Second},
		"alias.test":      {[]string{"127.0.0.9:50002"}, 5 * time.Second},
		"nobody.test":     {nil, 2 * time.Second}, // as the SOA says
		"_none._tcp.test": {nil, 30 * time.Second},
		"_proa._tcp.test": {[]string{"127.0.0.8:7001 10 60", "127.0.0.9:7001 10 60", "127.0.0.9:7002 20 1", "[::1]:7002 20 1"}, 7 * time.Second},
		"127.0.0.7":       {[]string{"127.0.0.7:50002"}, time.Hour},
	} {
		list, life, err := d.lookup(t.Context(), name)
		var got []string
		for _, ep := range list {
			text := ep.Address
			if ep.Weight > 0 {
				text = fmt.Sprintf("%s %d %d", text, ep.Priority, ep.Weight)
			}
			got = append(got, text)
		}
		slices.Sort(got)
		if err != nil || !slices.Equal(got, tc.want) || life != tc.life {
			t.Errorf("%s: %v for %v, %v, want %v for %v", name, got, life, err, tc.want, tc.life)
		}
	}
}

func TestDNSAnswersThatAreTooLongForUDPComeOverTCP(t *testing.T) {
	n := newNameserver(t)
	var records []string
	for i := range 500 {
		records = append(records, fmt.Sprintf("many.test. 7 IN A 127.1.%d.%d", i/250, i%250))
	}
	n.set("many.test.", "A", records...)
	list, _, err := (&DNS{Port: 1, Resolvers: []string{n.addr}}).lookup(t.Context(), "many.test")
	if err != nil || len(list) != 500 || n.tcp.Load() != 1 {
		t.Errorf("%d addresses, %v, %d questions over TCP", len(list), err, n.tcp.Load())
	}
}

func TestDNSAsksLikeTheSystem(t *testing.T) {
	n := newNameserver(t)
	n.set("shop.team.test.", "A", "shop.team.test. 7 IN A 127.0.0.9")
	n.set("a.b.test.", "A", "a.b.test. 7 IN A 127.0.0.10")
	dir := t.TempDir()
	host, port, _ := net.SplitHostPort(n.addr)
	conf, err := os.Create(filepath.Join(dir, "resolv.conf"))
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(conf, "nameserver %s\nsearch other.test team.test\noptions ndots:2 timeout:1\n", host)
	_ = conf.Close()
	hosts := filepath.Join(dir, "hosts")
	if err := os.WriteFile(hosts, []byte("127.0.0.1 localhost\n10.0.0.1 db DB.internal # ours\nfe80::1 db\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	d := &DNS{Port: 1, system: conf.Name(), hosts: hosts}
	for name, want := range map[string][]string{
		"shop": {"127.0.0.9:1"}, "a.b.test": {"127.0.0.10:1"}, "shop.": nil, "db": {"10.0.0.1:1", "[fe80::1]:1"}, "db.internal": {"10.0.0.1:1"},
	} {
		r, err := d.resolver()
		if err != nil {
			t.Fatal(err)
		}
		for i := range r.config.Servers { // resolv.conf has no ports
			r.config.Servers[i] = net.JoinHostPort(host, port)
		}
		addrs, _, err := r.addresses(t.Context(), name)
		var got []string
		for _, a := range addrs {
			got = append(got, net.JoinHostPort(a.String(), "1"))
		}
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %v, %v, want %v", name, got, err, want)
		}
	}
}

func TestDNSThatFailsIsNotANameWithoutAddresses(t *testing.T) {
	n := newNameserver(t)
	n.servfail.Store(true)
	_, _, err := (&DNS{Port: 1, Resolvers: []string{n.addr}}).lookup(t.Context(), "shop.test")
	if !fault.Is(err, fault.Unavailable) || !strings.Contains(err.Error(), "SERVFAIL") {
		t.Errorf("lookup = %v", err)
	}
	for app, want := range map[string]fault.Code{"a b": fault.InvalidArgument, "a/../b": fault.InvalidArgument} {
		err := (&DNS{Name: "{appID}.test", Resolvers: []string{n.addr}}).Watch(t.Context(), Service{AppID: app}, func([]Endpoint) {})
		if !fault.Is(err, want) {
			t.Errorf("Watch of %q = %v", app, err)
		}
	}
}

func TestDNSSettings(t *testing.T) {
	spec := Specs(nil)[2]
	for name, settings := range map[string]component.Settings{
		`with {appid} in it`:      {{Name: "format", Value: "shop.internal"}},
		`"port": wants a port`:    {{Name: "format", Value: "{appid}"}, {Name: "port", Value: "70000"}},
		`wants addresses such as`: {{Name: "format", Value: "{appid}"}, {Name: "resolvers", Value: "ns1.example.com"}},
		`must not be less than`:   {{Name: "format", Value: "{appid}"}, {Name: "maxRefresh", Value: "1ms"}},
		`did you mean "format"?`:  {{Name: "fromat", Value: "{appid}"}},
	} {
		if err := spec.Check(settings); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
	d, err := spec.Open(t.Context(), component.Settings{{Name: "name", Value: "{appid}.{namespace}"}}, component.Env{InternalPort: 7})
	if err != nil || d.(*DNS).Port != 7 || d.(*DNS).Name != "{appID}.{namespace}" {
		t.Errorf("opened %+v, %v", d, err)
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
