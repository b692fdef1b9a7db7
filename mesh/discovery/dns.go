package discovery

import (
	"cmp"
	"context"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/miekg/dns"

	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
)

// DNS finds applications by name in the DNS. It asks again when what it was told
// has lived its time.
type DNS struct {
	// Name is the name to look up; {appID} and {namespace} are filled in. A
	// name that starts with "_" is looked up as SRV (RFC 2782), which brings
	// ports, weights and priorities; any other as addresses (A and AAAA).
	Name string
	// Port is where sidecars take calls, for names that bring no port.
	Port int
	// MinRefresh and MaxRefresh bound how long an answer is believed, whatever
	// its time to live; 1 s and 1 min when zero.
	MinRefresh, MaxRefresh time.Duration
	// Negative bounds how long it is believed that there is nobody; 5 s when
	// zero.
	Negative time.Duration
	// Resolvers are the servers to ask, "10.0.0.53" or "10.0.0.53:53"; those of
	// the system, with its search domains, when empty.
	Resolvers []string

	// system is the file that names the system's resolvers, and hosts that of
	// its own names; those of Unix when empty.
	system, hosts string
}

// DNSConfig says by which name applications are found.
type DNSConfig struct {
	// Format is the name, with {appid} and perhaps {namespace} in it, such as
	// "{appid}.{namespace}.internal". One that begins with an underscore,
	// "_proa._tcp.{appid}.internal", is looked up as SRV and brings ports,
	// weights and priorities; any other as addresses.
	Format string `setting:"format,name,required"`
	// Port is where sidecars take calls from each other, for names that bring no
	// port: when 0 that of this sidecar if it is set, or else 50002.
	Port int `setting:"port"`
	// Resolvers are the servers to ask, "10.0.0.53" or "10.0.0.53:53"; those of
	// the system, with its search domains and its own names, when empty.
	Resolvers []string `setting:"resolvers"`
	// MinRefresh is how long an answer is believed at least, whatever its time
	// to live.
	MinRefresh component.Duration `setting:"minRefresh"`
	// MaxRefresh is how long an answer is believed at most.
	MaxRefresh component.Duration `setting:"maxRefresh"`
	// NegativeRefresh is how long it is believed at most that there is nobody.
	NegativeRefresh component.Duration `setting:"negativeRefresh"`
}

func dnsDefaults() DNSConfig {
	return DNSConfig{
		MinRefresh: component.Duration(time.Second), MaxRefresh: component.Duration(time.Minute), NegativeRefresh: component.Duration(5 * time.Second),
	}
}

// Validate reports settings that can never work.
func (c DNSConfig) Validate() error {
	if !strings.Contains(strings.ToLower(c.Format), "{appid}") {
		return component.Invalid("format", `wants a name with {appid} in it, such as "{appid}.internal", not %q`, c.Format)
	}
	return c.bounds()
}

func (c DNSConfig) bounds() error {
	switch {
	case c.Port < 0 || c.Port > 65535:
		return component.Invalid("port", "wants a port, not %d", c.Port)
	case c.MinRefresh <= 0:
		return component.Invalid("minRefresh", "must be longer than nothing")
	case c.MaxRefresh < c.MinRefresh:
		return component.Invalid("maxRefresh", "must not be less than minRefresh")
	case c.NegativeRefresh <= 0:
		return component.Invalid("negativeRefresh", "must be longer than nothing")
	}
	for _, r := range c.Resolvers {
		if _, err := netip.ParseAddrPort(resolverAddress(r)); err != nil {
			return component.Invalid("resolvers", `wants addresses such as "10.0.0.53" or "10.0.0.53:53", not %q`, r)
		}
	}
	return nil
}

// resolverAddress adds the port of the DNS.
func resolverAddress(r string) string {
	if ip, err := netip.ParseAddr(r); err == nil {
		return netip.AddrPortFrom(ip, 53).String()
	}
	return r
}

// defaultInternalPort is where sidecars take calls from each other where nothing
// else is said, as in Kubernetes.
const defaultInternalPort = 50002

func openDNS(_ context.Context, cfg DNSConfig, env component.Env) (*DNS, error) {
	name := strings.NewReplacer("{appid}", "{appID}", "{AppID}", "{appID}", "{appId}", "{appID}").Replace(cfg.Format)
	return &DNS{
		Name: name, Port: cmp.Or(cfg.Port, env.InternalPort, defaultInternalPort), Resolvers: cfg.Resolvers,
		MinRefresh: cfg.MinRefresh.Std(), MaxRefresh: cfg.MaxRefresh.Std(), Negative: cfg.NegativeRefresh.Std(),
	}, nil
}

// KubernetesDNSConfig says how applications are found in a cluster of Kubernetes:
// by the headless Service "<app>-dapr" of each.
type KubernetesDNSConfig struct {
	// ClusterDomain is the domain of the cluster.
	ClusterDomain string `setting:"clusterDomain"`
	// Port is where sidecars take calls from each other.
	Port int `setting:"port"`
}

// Validate reports settings that can never work.
func (c KubernetesDNSConfig) Validate() error {
	if _, ok := dns.IsDomainName(c.ClusterDomain); !ok || c.ClusterDomain == "" {
		return component.Invalid("clusterDomain", "wants a domain such as %q, not %q", clusterDomain, c.ClusterDomain)
	}
	if c.Port < 1 || c.Port > 65535 {
		return component.Invalid("port", "wants a port, not %d", c.Port)
	}
	return nil
}

const clusterDomain = "cluster.local"

func openKubernetesDNS(_ context.Context, cfg KubernetesDNSConfig, _ component.Env) (*DNS, error) {
	return &DNS{Name: "{appID}-dapr.{namespace}.svc." + strings.TrimSuffix(cfg.ClusterDomain, ".") + ".", Port: cfg.Port}, nil
}

// Close implements io.Closer.
func (d *DNS) Close() error { return nil }

// Watch implements Source.
func (d *DNS) Watch(ctx context.Context, svc Service, update func([]Endpoint)) error {
	least, most, negative := cmp.Or(d.MinRefresh, time.Second), cmp.Or(d.MaxRefresh, time.Minute), cmp.Or(d.Negative, 5*time.Second)
	name := strings.NewReplacer("{appID}", svc.AppID, "{namespace}", svc.Namespace).Replace(d.Name)
	if !plainName(name) {
		return fault.New(fault.InvalidArgument, "%q is no name in the DNS", name)
	}
	var said reported
	for {
		list, life, err := d.lookup(ctx, name)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		slices.SortFunc(list, func(a, b Endpoint) int { return strings.Compare(a.Address, b.Address) })
		said.report(list, update)
		wait := min(max(life, least), most)
		if len(list) == 0 {
			wait = min(wait, negative)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
	}
}

// plainName reports whether a name has only characters that host and service
// names have: what an application is called must not become something else.
func plainName(name string) bool {
	for i := range len(name) {
		c := name[i]
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_' || c == '.') {
			return false
		}
	}
	_, ok := dns.IsDomainName(name)
	return ok && !strings.Contains(name, "..")
}

// lookup returns the endpoints of a name, and how long the answer lives.
func (d *DNS) lookup(ctx context.Context, name string) ([]Endpoint, time.Duration, error) {
	r, err := d.resolver()
	if err != nil {
		return nil, 0, err
	}
	if strings.HasPrefix(name, "_") {
		return r.services(ctx, name)
	}
	addrs, life, err := r.addresses(ctx, name)
	list := make([]Endpoint, 0, len(addrs))
	for _, a := range addrs {
		list = append(list, Endpoint{Address: net.JoinHostPort(a.String(), strconv.Itoa(d.Port))})
	}
	return list, life, err
}
