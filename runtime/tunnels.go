package runtime

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/proa-io/proa/block/invoke"
	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/mesh/tcp"
	"github.com/proa-io/proa/resource"
	"github.com/proa-io/proa/telemetry"
)

// tunnelRules returns what a Configuration says of raw connections.
func tunnelRules(c *resource.Configuration) (invoke.TunnelRules, error) {
	s := c.Spec.Connect
	if s == nil {
		return invoke.TunnelRules{}, nil
	}
	out := invoke.TunnelRules{Ports: s.Ports}
	for i, text := range s.Allow {
		r, err := invoke.ParseTunnelRule(text)
		if err != nil {
			return out, tunnelProblem(c, fmt.Sprintf("spec.connect.allow[%d]", i), fault.Message(err))
		}
		out.Allow = append(out.Allow, r)
	}
	for i, port := range s.Ports {
		if port < 1 || port > 65535 {
			return out, tunnelProblem(c, fmt.Sprintf("spec.connect.ports[%d]", i), fmt.Sprintf("wants a port, 1 to 65535, not %d", port))
		}
	}
	return out, nil
}

func tunnelProblem(c *resource.Configuration, field, text string) error {
	return &resource.Error{Pos: c.Spec.Connect.Pos, Resource: "Configuration " + c.Metadata.Name, Field: field, Problem: text}
}

// checkTunnels refuses rules that can never work.
func checkTunnels(c *resource.Configuration) error {
	_, err := tunnelRules(c)
	return err
}

// dialTunnel connects to an address for somebody who may choose it. Ports of this
// process are out of bounds, and unless local is set all of this host and of the
// links it is on: what answers there trusts who can reach it.
func (rt *Runtime) dialTunnel(ctx context.Context, address string, local bool) (tcp.Stream, error) {
	d := net.Dialer{Timeout: tunnelTimeout, ControlContext: func(_ context.Context, _, to string, _ syscall.RawConn) error {
		return rt.mayDial(to, local) // after the name was looked up
	}}
	c, err := d.DialContext(ctx, "tcp", address)
	if denied, ok := errors.AsType[*fault.Error](err); ok {
		return nil, denied
	}
	if err != nil {
		return nil, fault.New(fault.Unavailable, "connect to %s: %v", address, err)
	}
	return c.(*net.TCPConn), nil //nolint:forcetypeassert // it was dialed as one
}

// tunnelTimeout bounds the time until an address answers.
const tunnelTimeout = 10 * time.Second

func (rt *Runtime) mayDial(to string, local bool) error {
	a, err := netip.ParseAddrPort(to)
	if err != nil {
		return fault.New(fault.Internal, "%q is no address", to)
	}
	ip := a.Addr().Unmap().WithZone("")
	here := ip.IsLoopback() || ip.IsUnspecified() || ofThisHost(ip)
	if here && slices.Contains(rt.listeners.ports(), int(a.Port())) {
		return fault.New(fault.PermissionDenied, "%s is a port of this sidecar: raw connections do not lead there", to).WithReason(invoke.ReasonNoTunnel)
	}
	if !local && (here || ip.IsLinkLocalUnicast() || ip.IsMulticast()) {
		return fault.New(fault.PermissionDenied,
			`%s is an address of this host or its links: a Configuration allows that only by the address itself, or as "localhost", in the list spec.connect.allow`, to).
			WithReason(invoke.ReasonNoTunnel)
	}
	return nil
}

// ofThisHost reports whether an address is one of an interface of this host.
func ofThisHost(ip netip.Addr) bool {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return false
	}
	return slices.ContainsFunc(all, func(a net.Addr) bool {
		p, err := netip.ParsePrefix(a.String())
		return err == nil && p.Addr().Unmap().WithZone("") == ip
	})
}

// ports are those that the process listens on.
func (l *listeners) ports() []int {
	var out []int
	for _, x := range l.all() {
		if p := portOf(x); p != 0 {
			out = append(out, p)
		}
	}
	return out
}

// Forward is a local TCP port whose connections lead to a port of another
// application.
type Forward struct {
	// Listen is the address to listen on, "127.0.0.1:5432".
	Listen string
	// App is the application, "shop" or "shop.prod".
	App string
	// Port is the one of the application.
	Port int
}

// ParseForward reads "127.0.0.1:5432=orders" or "127.0.0.1:5432=orders:6432". A
// port alone is one of 127.0.0.1, and one that is not given for the application is
// the same as here.
func ParseForward(text string) (Forward, error) {
	bad := fmt.Errorf(`%q is no forward; give an address to listen on and an application, "127.0.0.1:5432=orders" or "5432=orders:6432"`, text)
	listen, app, ok := strings.Cut(text, "=")
	if !ok {
		return Forward{}, bad
	}
	if !strings.Contains(listen, ":") {
		listen = "127.0.0.1:" + listen
	}
	_, own, err := net.SplitHostPort(listen)
	if err != nil {
		return Forward{}, bad
	}
	app, other, given := strings.Cut(app, ":")
	if !given {
		other = own
	}
	for i, text := range []string{own, other} {
		if n, err := strconv.Atoi(text); err != nil || n < i || n > 65535 { // any port will do here, not there
			return Forward{}, bad
		}
	}
	port, err := strconv.Atoi(other)
	if err != nil || app == "" {
		return Forward{}, bad
	}
	return Forward{Listen: listen, App: app, Port: port}, nil
}

// forwardMetrics measures the connections of local ports.
type forwardMetrics struct{ *telemetry.Metrics }

// Opened implements tcp.Observer.
func (forwardMetrics) Opened() {}

// Closed implements tcp.Observer.
func (m forwardMetrics) Closed(o tcp.Outcome) {
	m.TunnelEnded(telemetry.Tunnel{
		Role: "forward", Failure: o.Failure.String(), Sent: o.Sent, Received: o.Received, Duration: o.Duration,
	})
}

// serveForward passes on the connections of a listener until ctx ends, then lets
// them end within the grace period.
func (rt *Runtime) serveForward(f Forward, ln net.Listener) func(context.Context) error {
	return func(ctx context.Context) error {
		relay := &tcp.Relay{
			Dial:     func(ctx context.Context) (tcp.Stream, error) { return rt.routing.tunnel(ctx, f.App, f.Port) },
			Joiner:   tcp.Joiner{Limits: tcp.Limits{Idle: invoke.TunnelIdle}},
			Observer: forwardMetrics{rt.metrics},
			Log:      rt.cfg.Log.With("forward", f.Listen, "app", f.App),
		}
		return serveUntil(ctx, []net.Listener{ln}, relay.Serve, relay.Shutdown, relay.Close)
	}
}
