package discovery

import (
	"context"
	"log/slog"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/hashicorp/mdns"

	"github.com/proa-io/proa/fault"
)

// mdnsService is the service type of sidecars in multicast DNS.
const mdnsService = "_proa._tcp"

// MDNS finds applications in the local network by multicast DNS (RFC 6762,
// RFC 6763). It is a Source and a Registrar. It needs a network that passes
// multicast, which many VPNs and clouds do not.
type MDNS struct {
	// Refresh is how often to ask; 5 s when zero.
	Refresh time.Duration
	// Answer is how long to wait for answers; 500 ms when zero.
	Answer time.Duration
	// Interface is the network interface to use; the system's choice when nil.
	Interface *net.Interface
	// Addresses are announced; when empty, those of the endpoint's address or,
	// if that is unspecified, of all interfaces.
	Addresses []net.IP
}

// Register implements Registrar.
func (m *MDNS) Register(ctx context.Context, svc Service, ep Endpoint) error {
	host, portText, err := net.SplitHostPort(ep.Address)
	port, perr := strconv.Atoi(portText)
	if err != nil || perr != nil {
		return fault.New(fault.InvalidArgument, `multicast DNS announces "host:port", not %q`, ep.Address)
	}
	ips := m.Addresses
	if ip := net.ParseIP(host); len(ips) == 0 && ip != nil && !ip.IsUnspecified() {
		ips = []net.IP{ip}
	}
	if len(ips) == 0 {
		ips = hostAddresses()
	}
	if len(ips) == 0 {
		return fault.New(fault.FailedPrecondition, "this host has no address to announce by multicast DNS")
	}
	instance := ep.ID
	if instance == "" {
		instance = uuid.NewString()
	}
	name, err := os.Hostname()
	if err != nil {
		name = instance
	}
	zone, err := mdns.NewMDNSService(instance, mdnsService, "", strings.TrimSuffix(name, ".")+".local.", port, ips,
		[]string{"app=" + svc.AppID, "ns=" + svc.Namespace})
	if err != nil {
		return fault.Wrap(err, fault.InvalidArgument, "announce by multicast DNS")
	}
	srv, err := mdns.NewServer(&mdns.Config{Zone: zone, Iface: m.Interface, Logger: slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)})
	if err != nil {
		return fault.Wrap(err, fault.Unavailable, "listen for multicast DNS")
	}
	<-ctx.Done()
	if err := srv.Shutdown(); err != nil {
		return fault.Wrap(err, fault.Internal, "stop multicast DNS")
	}
	return nil
}

func hostAddresses() []net.IP {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return nil
	}
	var ips []net.IP
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && !n.IP.IsLinkLocalUnicast() {
			ips = append(ips, n.IP)
		}
	}
	slices.SortStableFunc(ips, func(a, b net.IP) int { // loopback last: it serves this host only
		switch {
		case a.IsLoopback() == b.IsLoopback():
			return 0
		case b.IsLoopback():
			return -1
		}
		return 1
	})
	return ips
}

// Watch implements Source. An instance that misses two rounds is dropped, for
// multicast loses packets.
func (m *MDNS) Watch(ctx context.Context, svc Service, update func([]Endpoint)) error {
	refresh := m.Refresh
	if refresh <= 0 {
		refresh = 5 * time.Second
	}
	seen := map[string]int{} // address → rounds missed
	for {
		found, err := m.ask(ctx, svc)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		for addr := range seen {
			seen[addr]++
		}
		for _, addr := range found {
			seen[addr] = 0
		}
		var list []Endpoint
		for addr, missed := range seen {
			if missed > 2 {
				delete(seen, addr)
				continue
			}
			list = append(list, Endpoint{Address: addr})
		}
		update(list)
		wait := refresh
		if len(list) == 0 {
			wait = refresh / 5 // somebody is waiting for the first instance
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
	}
}

// maxAnswers bounds the answers of one round that are looked at.
const maxAnswers = 1024

func (m *MDNS) ask(ctx context.Context, svc Service) ([]string, error) {
	answer := m.Answer
	if answer <= 0 {
		answer = 500 * time.Millisecond
	}
	entries := make(chan *mdns.ServiceEntry, maxAnswers)
	err := mdns.QueryContext(ctx, &mdns.QueryParam{
		Service: mdnsService, Timeout: answer, Interface: m.Interface, Entries: entries,
		DisableIPv6: true, Logger: slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo),
	})
	if err != nil {
		return nil, fault.Wrap(err, fault.Unavailable, "ask by multicast DNS")
	}
	close(entries)
	var found []string
	for e := range entries {
		if !slices.Contains(e.InfoFields, "app="+svc.AppID) || !slices.Contains(e.InfoFields, "ns="+svc.Namespace) {
			continue
		}
		ip := e.AddrV4
		if ip == nil && e.AddrV6IPAddr != nil {
			ip = e.AddrV6IPAddr.IP
		}
		if ip != nil {
			found = append(found, net.JoinHostPort(ip.String(), strconv.Itoa(e.Port)))
		}
	}
	return found, nil
}
