package discovery

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/miekg/dns"

	"github.com/proa-io/proa/fault"
)

// resolver asks servers of the DNS, as resolv.conf(5) says.
type resolver struct {
	config *dns.ClientConfig
	hosts  string // the file of the system's own names; "" for none
}

// Bounds of a resolver.
const (
	// udpSize is the largest answer that is asked for over UDP: one that passes
	// nearly everywhere unfragmented. Larger ones come over TCP.
	udpSize = 1232
	// maxHosts bounds the file of the system's own names, in bytes.
	maxHosts = 1 << 20
	// maxTargets bounds the hosts of one SRV name.
	maxTargets = 1000
)

func (d *DNS) resolver() (*resolver, error) {
	if len(d.Resolvers) > 0 {
		c := &dns.ClientConfig{Ndots: 1, Timeout: 5, Attempts: 2}
		for _, r := range d.Resolvers {
			c.Servers = append(c.Servers, resolverAddress(r))
		}
		return &resolver{config: c}, nil
	}
	c, err := dns.ClientConfigFromFile(cmp.Or(d.system, "/etc/resolv.conf"))
	if errors.Is(err, fs.ErrNotExist) { // as resolv.conf(5) says
		c, err = &dns.ClientConfig{Servers: []string{"127.0.0.1"}, Port: "53", Ndots: 1, Timeout: 5, Attempts: 2}, nil
	}
	if err != nil {
		return nil, fault.Wrap(err, fault.FailedPrecondition, "read which servers of the DNS the system asks")
	}
	for i, s := range c.Servers {
		c.Servers[i] = net.JoinHostPort(s, c.Port)
	}
	return &resolver{config: c, hosts: cmp.Or(d.hosts, "/etc/hosts")}, nil
}

// answer is what the DNS says of a name.
type answer struct {
	records []dns.RR // of the type that was asked for, however they are called
	extra   []dns.RR
	life    time.Duration
}

// ask asks about a name and, as far as it is not complete, that name in the
// search domains. An answer without records means that there are none.
func (r *resolver) ask(ctx context.Context, name string, kind uint16) (answer, error) {
	none := answer{life: time.Hour}
	for _, full := range r.config.NameList(name) {
		a, err := r.askServers(ctx, full, kind)
		if err != nil || len(a.records) > 0 {
			return a, err
		}
		none.life = min(none.life, a.life)
	}
	return none, nil
}

// askServers asks one server after the other until one gives an answer.
func (r *resolver) askServers(ctx context.Context, name string, kind uint16) (answer, error) {
	m := new(dns.Msg).SetQuestion(name, kind)
	m.SetEdns0(udpSize, false)
	var last error
	for range max(1, r.config.Attempts) {
		for _, server := range r.config.Servers {
			reply, err := r.exchange(ctx, m, server)
			switch {
			case ctx.Err() != nil:
				return answer{}, ctx.Err()
			case err != nil:
				last = fault.Wrap(err, fault.Unavailable, "ask %s about %s", server, name)
			case reply.Rcode == dns.RcodeSuccess || reply.Rcode == dns.RcodeNameError:
				return readAnswer(reply, kind), nil
			default:
				last = fault.New(fault.Unavailable, "%s answers the question about %s with %s", server, name, dns.RcodeToString[reply.Rcode])
			}
		}
	}
	if last == nil {
		last = fault.New(fault.FailedPrecondition, "there is no server of the DNS to ask about %s", name)
	}
	return answer{}, last
}

// exchange asks one server, over TCP if the answer is too long for UDP.
func (r *resolver) exchange(ctx context.Context, m *dns.Msg, server string) (*dns.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Duration(max(1, r.config.Timeout))*time.Second)
	defer cancel()
	m.Id = dns.Id()
	reply, _, err := (&dns.Client{UDPSize: udpSize}).ExchangeContext(ctx, m, server)
	if err == nil && !reply.Truncated {
		return reply, nil
	}
	if err != nil && reply == nil {
		return nil, err
	}
	reply, _, err = (&dns.Client{Net: "tcp"}).ExchangeContext(ctx, m, server)
	return reply, err
}

func readAnswer(m *dns.Msg, kind uint16) answer {
	a := answer{life: time.Hour, extra: m.Extra}
	for _, rr := range m.Answer {
		a.life = min(a.life, time.Duration(rr.Header().Ttl)*time.Second) // that of aliases too
		if rr.Header().Rrtype == kind {
			a.records = append(a.records, rr)
		}
	}
	if len(a.records) > 0 {
		return a
	}
	for _, rr := range m.Ns { // RFC 2308, section 5
		if soa, ok := rr.(*dns.SOA); ok {
			a.life = min(a.life, time.Duration(min(soa.Minttl, soa.Hdr.Ttl))*time.Second)
		}
	}
	return a
}

// addresses returns the addresses of a host, and how long they are good for.
func (r *resolver) addresses(ctx context.Context, name string) ([]netip.Addr, time.Duration, error) {
	if ip, err := netip.ParseAddr(strings.TrimSuffix(name, ".")); err == nil {
		return []netip.Addr{ip}, time.Hour, nil
	}
	if own := r.own(name); len(own) > 0 {
		return own, time.Minute, nil
	}
	var out []netip.Addr
	var failed error
	life, none := time.Hour, time.Hour // of what there is, and of there being nothing
	for _, kind := range []uint16{dns.TypeA, dns.TypeAAAA} {
		a, err := r.ask(ctx, name, kind)
		if err != nil {
			failed = err
			continue
		}
		if len(a.records) > 0 {
			life = min(life, a.life)
		} else {
			none = min(none, a.life)
		}
		out = append(out, addressesIn(a.records)...)
	}
	if failed != nil && len(out) == 0 {
		return nil, 0, failed
	}
	if len(out) == 0 {
		life = none
	}
	return out, life, nil
}

func addressesIn(records []dns.RR) []netip.Addr {
	var out []netip.Addr
	for _, rr := range records {
		var ip net.IP
		switch rr := rr.(type) {
		case *dns.A:
			ip = rr.A
		case *dns.AAAA:
			ip = rr.AAAA
		}
		if a, ok := netip.AddrFromSlice(ip); ok && !slices.Contains(out, a.Unmap()) {
			out = append(out, a.Unmap())
		}
	}
	return out
}

// own returns the addresses that the system itself knows for a name.
func (r *resolver) own(name string) []netip.Addr {
	if r.hosts == "" {
		return nil
	}
	f, err := os.Open(r.hosts)
	if err != nil {
		return nil
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || info.Size() > maxHosts {
		return nil
	}
	var out []netip.Addr
	name = strings.TrimSuffix(name, ".")
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		text, _, _ := strings.Cut(lines.Text(), "#")
		fields := strings.Fields(text)
		if len(fields) < 2 || !slices.ContainsFunc(fields[1:], func(n string) bool { return strings.EqualFold(n, name) }) {
			continue
		}
		if ip, err := netip.ParseAddr(fields[0]); err == nil {
			out = append(out, ip.Unmap())
		}
	}
	return out
}

// services returns the endpoints that the SRV records of a name (RFC 2782) stand
// for: one for each address of each target.
func (r *resolver) services(ctx context.Context, name string) ([]Endpoint, time.Duration, error) {
	a, err := r.ask(ctx, name, dns.TypeSRV)
	if err != nil {
		return nil, 0, err
	}
	if len(a.records) > maxTargets {
		a.records = a.records[:maxTargets]
	}
	life, known := a.life, map[string][]netip.Addr{}
	var list []Endpoint
	for _, rr := range a.records {
		srv, ok := rr.(*dns.SRV)
		if !ok || srv.Target == "." { // which says that there is no such service
			continue
		}
		addrs, seen := known[srv.Target]
		if !seen {
			addrs = addressesIn(slices.DeleteFunc(slices.Clone(a.extra), func(rr dns.RR) bool { return !strings.EqualFold(rr.Header().Name, srv.Target) }))
			if len(addrs) == 0 {
				var l time.Duration
				if addrs, l, err = r.addresses(ctx, srv.Target); err != nil {
					return nil, 0, err
				}
				life = min(life, l)
			}
			known[srv.Target] = addrs
		}
		for _, ip := range addrs {
			list = append(list, Endpoint{
				Address: net.JoinHostPort(ip.String(), strconv.Itoa(int(srv.Port))),
				// A weight of 0 is a very small one.
				Weight: uint32(max(1, srv.Weight)), Priority: uint32(srv.Priority),
			})
		}
	}
	return list, life, nil
}
