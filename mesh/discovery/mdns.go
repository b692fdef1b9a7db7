package discovery

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"log/slog"
	"net"
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

// Close implements io.Closer.
func (m *MDNS) Close() error { return nil }

// Register implements Registrar.
func (m *MDNS) Register(ctx context.Context, a *Announcement) error {
	instance := ""
	for {
		ep, changed := a.Endpoint()
		if instance == "" {
			instance = ep.ID
		}
		if instance == "" {
			instance = uuid.NewString()
		}
		again, err := m.announce(ctx, instance, a.Service, ep, changed)
		if !again {
			return err
		}
	}
}

// announce answers questions for ep until ctx ends or changed is closed, which
// it reports.
func (m *MDNS) announce(ctx context.Context, instance string, svc Service, ep Endpoint, changed <-chan struct{}) (again bool, err error) {
	host, portText, err := net.SplitHostPort(ep.Address)
	port, perr := strconv.Atoi(portText)
	if err != nil || perr != nil {
		return false, fault.New(fault.InvalidArgument, `multicast DNS announces "host:port", not %q`, ep.Address)
	}
	ips := m.Addresses
	if ip := net.ParseIP(host); len(ips) == 0 && ip != nil && !ip.IsUnspecified() {
		ips = []net.IP{ip}
	}
	if len(ips) == 0 {
		ips = hostAddresses()
	}
	if len(ips) == 0 {
		return false, fault.New(fault.FailedPrecondition, "this host has no address to announce by multicast DNS")
	}
	text, err := textRecord(svc, ep)
	if err != nil {
		return false, err
	}
	// The name of a host is one label; the instance's keeps hosts apart.
	label := encode(instance)
	if len(label) > maxLabel {
		label = uuid.NewSHA1(uuid.NameSpaceOID, []byte(instance)).String()
	}
	zone, err := mdns.NewMDNSService(label, mdnsService, "", label+".local.", port, ips, text)
	if err != nil {
		return false, fault.Wrap(err, fault.InvalidArgument, "announce by multicast DNS")
	}
	srv, err := mdns.NewServer(&mdns.Config{Zone: zone, Iface: m.Interface, Logger: slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)})
	if err != nil {
		return false, fault.Wrap(err, fault.Unavailable, "listen for multicast DNS")
	}
	select {
	case <-ctx.Done():
	case <-changed:
		again = true
	}
	if err := srv.Shutdown(); err != nil {
		return false, fault.Wrap(err, fault.Internal, "stop multicast DNS")
	}
	return again && ctx.Err() == nil, nil
}

// textField begins the strings of a TXT record that hold, one after the other,
// what is said of an endpoint, as JSON in Base64: not every server passes on any
// character.
const textField = "ep="

// Bounds of RFC 1035: maxText is how many bytes a string of a TXT record may
// have, and maxTexts how
// many of them fit into an answer.
const (
	maxText  = 255
	maxTexts = 24
	maxLabel = 63 // of a name, in bytes
)

func textRecord(svc Service, ep Endpoint) ([]string, error) {
	out := []string{"app=" + encode(svc.AppID), "ns=" + encode(svc.Namespace)}
	ep.Address, ep.ID = "", ""
	about, err := json.Marshal(ep)
	if err != nil {
		return nil, fault.Wrap(err, fault.Internal, "encode endpoint")
	}
	if ep.Equal(Endpoint{}) {
		about = nil
	}
	for rest := base64.RawURLEncoding.EncodeToString(about); rest != ""; {
		n := min(len(rest), maxText-len(textField))
		out, rest = append(out, textField+rest[:n]), rest[n:]
	}
	if len(out) > maxTexts || len(out[0]) > maxText || len(out[1]) > maxText {
		return nil, fault.New(fault.InvalidArgument, "the names and labels of this instance are longer than multicast DNS carries")
	}
	return out, nil
}

// fromText reads what textRecord wrote. Answers of others are not to be trusted
// to have any form.
func fromText(record []string) (ep Endpoint) {
	var about strings.Builder
	for _, t := range record {
		if part, ok := strings.CutPrefix(t, textField); ok {
			about.WriteString(part)
		}
	}
	if about.Len() == 0 {
		return ep
	}
	text, err := base64.RawURLEncoding.DecodeString(about.String())
	if err != nil || json.Unmarshal(text, &ep) != nil {
		return Endpoint{}
	}
	return ep
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
	seen := map[string]Endpoint{}
	missed := map[string]int{} // rounds, by address
	for {
		found, err := m.ask(ctx, svc)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		for addr := range seen {
			missed[addr]++
		}
		for _, ep := range found {
			seen[ep.Address], missed[ep.Address] = ep, 0
		}
		var list []Endpoint
		for addr, ep := range seen {
			if missed[addr] > 2 {
				delete(seen, addr)
				delete(missed, addr)
				continue
			}
			list = append(list, ep)
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

func (m *MDNS) ask(ctx context.Context, svc Service) ([]Endpoint, error) {
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
	var found []Endpoint
	for e := range entries {
		if !slices.Contains(e.InfoFields, "app="+encode(svc.AppID)) || !slices.Contains(e.InfoFields, "ns="+encode(svc.Namespace)) {
			continue
		}
		ip := e.AddrV4
		if ip == nil && e.AddrV6IPAddr != nil {
			ip = e.AddrV6IPAddr.IP
		}
		if ip != nil {
			ep := fromText(e.InfoFields)
			ep.Address = net.JoinHostPort(ip.String(), strconv.Itoa(e.Port))
			found = append(found, ep)
		}
	}
	return found, nil
}
