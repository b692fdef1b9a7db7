package invoke

import (
	"context"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/mesh/discovery"
	"github.com/proa-io/proa/mesh/proxy"
	"github.com/proa-io/proa/mesh/tcp"
	"github.com/proa-io/proa/telemetry"
)

// ReasonNoTunnel: nobody has allowed a CONNECT to where it wants to go.
const ReasonNoTunnel fault.Reason = "invoke.no_tunnel"

// TunnelRules say where raw connections may lead. The zero value allows none.
type TunnelRules struct {
	// Allow lists where a CONNECT of the application may lead, see
	// ParseTunnelRule.
	Allow []TunnelRule
	// Ports are those of the application beside that others may reach.
	Ports []int
}

// TunnelRule allows raw connections to an application or an address.
type TunnelRule struct {
	// App and Namespace name an application; a Namespace that is empty is that
	// of this sidecar. App is empty for a rule about an address.
	App, Namespace string
	// Host is a name or an address in lower case; with "*." before it, all
	// names below it; "*" stands for all.
	Host string
	Port int // 0 for any
}

// ParseTunnelRule reads a rule: "app:shop", "app:shop:5432", "app:shop.prod",
// "db.internal:5432", "*.example.com:443", "[::1]:22", "*:443".
func ParseTunnelRule(text string) (TunnelRule, error) {
	bad := func(why string) (TunnelRule, error) {
		return TunnelRule{}, fault.New(fault.InvalidArgument,
			`%q %s; give a host and a port ("db.internal:5432", "*.example.com:443") or an application ("app:shop", "app:shop:5432")`, text, why)
	}
	id, isApp := strings.CutPrefix(text, "app:")
	if isApp {
		id, portText, hasPort := strings.Cut(id, ":")
		var r TunnelRule
		r.App, r.Namespace, _ = strings.Cut(id, ".")
		if r.App == "" || strings.ContainsAny(id, "/*? []") || strings.Count(id, ".") > 1 {
			return bad("names no application")
		}
		if hasPort {
			if r.Port = parsePort(portText); r.Port == 0 {
				return bad("has no port behind the application")
			}
		}
		return r, nil
	}
	host, portText, err := net.SplitHostPort(text)
	if err != nil || host == "" {
		return bad("is no host and port")
	}
	r := TunnelRule{Host: strings.ToLower(host)}
	if strings.Contains(strings.TrimPrefix(strings.TrimPrefix(host, "*."), "*"), "*") || strings.HasPrefix(host, "*") && host != "*" && !strings.HasPrefix(host, "*.") {
		return bad(`has a "*" that is not the first label`)
	}
	if portText != "*" {
		if r.Port = parsePort(portText); r.Port == 0 {
			return bad("has no port")
		}
	}
	return r, nil
}

// parsePort returns 0 for what is no port.
func parsePort(text string) int {
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > 65535 {
		return 0
	}
	return n
}

// takes reports whether the rule is for a host and port.
func (r *TunnelRule) takes(host string, port int) bool {
	if r.App != "" || r.Port != 0 && r.Port != port {
		return false
	}
	if under, ok := strings.CutPrefix(r.Host, "*."); ok {
		return strings.HasSuffix(host, "."+under) && net.ParseIP(host) == nil
	}
	return r.Host == "*" || r.Host == host
}

// SetTunnels replaces Options.Tunnels. Connections that are open stay.
func (s *Service) SetTunnels(r TunnelRules) { s.tunnels.Store(&r) }

// The bounds of raw connections.
const (
	// tunnelConnect bounds the time until one is there.
	tunnelConnect = 10 * time.Second
	// TunnelIdle is how long nothing may be sent in either direction of one.
	TunnelIdle = time.Hour
)

// Connect answers a CONNECT of the application: it is joined with a port of
// another application, or with an address outside, if a rule allows that. An error
// means that nothing has been answered; nil, that all is over.
func (s *Service) Connect(ex proxy.Exchange) error {
	ctx := ex.Context()
	upstream, err := s.connect(ctx, ex.Request().Target)
	if err != nil {
		return err
	}
	return s.join(ctx, ex, upstream, "connect")
}

// connect opens a raw connection to where a CONNECT wants to go.
func (s *Service) connect(ctx context.Context, to string) (tcp.Stream, error) {
	host, portText, err := net.SplitHostPort(to)
	port := parsePort(portText)
	if err != nil || host == "" || port == 0 {
		return nil, fault.New(fault.InvalidArgument, "CONNECT to %q: give a host, or an application, and a port", to).WithReason(ReasonBadTarget)
	}
	host = strings.TrimSuffix(strings.ToLower(host), ".")
	rules := s.tunnels.Load()
	app, ns, dotted := strings.Cut(host, ".")
	if !dotted {
		ns = s.opt.Namespace
	}
	for _, r := range rules.Allow {
		if r.App != "" && strings.EqualFold(r.App, app) && (r.Port == 0 || r.Port == port) &&
			(r.Namespace == ns || r.Namespace == "" && ns == s.opt.Namespace) {
			return s.tunnel(ctx, discovery.Service{Namespace: ns, AppID: r.App}, port)
		}
	}
	if !slices.ContainsFunc(rules.Allow, func(r TunnelRule) bool { return r.takes(host, port) }) {
		return nil, fault.New(fault.PermissionDenied,
			`CONNECT to %q is not allowed: a Configuration allows it by "%s:%d", or for an application by "app:%s", in the list spec.connect.allow`,
			to, host, port, host).WithReason(ReasonNoTunnel)
	}
	// A name that leads to this host, or to one of its links, was hardly meant.
	local := (net.ParseIP(host) != nil || host == "localhost") &&
		slices.ContainsFunc(rules.Allow, func(r TunnelRule) bool { return r.Host == host && r.takes(host, port) })
	return s.opt.Dial(ctx, net.JoinHostPort(host, portText), local)
}

// Tunnel opens a raw connection to a port of an application, "shop" or
// "shop.prod", through its sidecar. ctx is for opening it alone. No rule of this
// sidecar is asked: those of the other one count.
func (s *Service) Tunnel(ctx context.Context, id string, port int) (tcp.Stream, error) {
	t, err := s.resolve(id)
	if err != nil {
		return nil, err
	}
	if t.endpoint != nil {
		return nil, fault.New(fault.InvalidArgument, "%q is no application: raw connections lead to applications only", id).WithReason(ReasonBadTarget)
	}
	return s.tunnel(ctx, t.service, port)
}

func (s *Service) tunnel(ctx context.Context, to discovery.Service, port int) (tcp.Stream, error) {
	if to.AppID == s.opt.AppID && to.Namespace == s.opt.Namespace {
		return s.dialApp(ctx, port)
	}
	eps, err := s.opt.Directory.Lookup(ctx, to)
	if err != nil {
		return nil, err
	}
	authority := to.AppID + ":" + strconv.Itoa(port)
	r := &proxy.Request{Method: "CONNECT", Authority: authority, Target: authority, Header: proxy.Header{
		{Name: FieldCalleeAppID, Value: to.AppID}, {Name: FieldCallerAppID, Value: s.opt.AppID}, {Name: FieldCallerNS, Value: s.opt.Namespace},
	}}
	// The stream outlives ctx once it is open.
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	opened := context.AfterFunc(ctx, end)
	var resp *proxy.Response
	cluster, w := s.opt.Balance.Cluster(to), way{}
	cluster.Sync(eps)
	for range min(len(eps.List()), maxEndpoints) {
		if w.attempt, err = cluster.Pick(&w.picked); err != nil {
			break
		}
		resp, err = s.sendTo(life, to, r, &w, proxy.RoundTripOptions{HeadTimeout: tunnelConnect})
		if resp != nil {
			w.answered(resp.Status, -1, nil)
		}
		if err == nil || !proxy.Unsent(err) || ctx.Err() != nil {
			break
		}
	}
	if err == nil && !opened() {
		closeResponse(resp)
		err = fault.Wrap(context.Cause(ctx), fault.CodeOf(ctx.Err()), "connect to application %q", to.AppID)
	}
	if err != nil {
		end()
		return nil, err
	}
	stream, ok := resp.Upgraded.(tcp.Stream)
	if !ok {
		closeResponse(resp)
		end()
		return nil, fault.New(fault.Unavailable, "the sidecar of application %q answers a CONNECT with status %d", to.AppID, resp.Status)
	}
	return &tunnelEnd{stream, end}, nil
}

func closeResponse(resp *proxy.Response) {
	if resp.Upgraded != nil {
		_ = resp.Upgraded.Close()
		return
	}
	_ = resp.Body.Close()
}

// tunnelEnd is this side of a tunnel to another sidecar.
type tunnelEnd struct {
	tcp.Stream
	end context.CancelFunc
}

// Close implements io.Closer.
func (t *tunnelEnd) Close() error {
	defer t.end()
	return t.Stream.Close()
}

// Reset closes the stream so that the other side can tell that it broke.
func (t *tunnelEnd) Reset() {
	defer t.end()
	if r, ok := t.Stream.(interface{ Reset() }); ok {
		r.Reset()
		return
	}
	_ = t.Stream.Close()
}

// dialApp connects to a port of the application beside.
func (s *Service) dialApp(ctx context.Context, port int) (tcp.Stream, error) {
	if s.opt.App == nil || s.opt.App.Host == "" {
		return nil, fault.New(fault.FailedPrecondition,
			"application %q takes no connections: its sidecar was started without --app-port", s.opt.AppID).WithReason(ReasonNoApp)
	}
	return s.opt.Dial(ctx, net.JoinHostPort(s.opt.App.Host, strconv.Itoa(port)), true)
}

// receiveTunnel takes a CONNECT from another sidecar to a port of the application
// beside. Access rules know it as the operation "/port" with the verb CONNECT.
func (s *Service) receiveTunnel(ex proxy.Exchange) {
	_, portText, err := net.SplitHostPort(ex.Request().Target)
	port := parsePort(portText)
	if err != nil || port == 0 {
		writeFault(ex, fault.New(fault.InvalidArgument, "CONNECT to %q names no port", ex.Request().Target).WithReason(ReasonBadTarget), true)
		return
	}
	if _, ok := s.admit(ex, "/"+portText, "CONNECT"); !ok {
		return
	}
	if !slices.Contains(s.tunnels.Load().Ports, port) {
		writeFault(ex, fault.New(fault.PermissionDenied,
			"port %d of application %q is not open to others: its Configuration opens it in the list spec.connect.ports", port, s.opt.AppID).
			WithReason(ReasonDenied), true)
		return
	}
	ctx := ex.Context()
	app, err := s.dialApp(ctx, port)
	if err == nil {
		err = s.join(ctx, ex, app, "receive")
	}
	if err != nil {
		writeFault(ex, err, true)
	}
}

// join answers a CONNECT and passes bytes on until both directions are over. An
// error means that nothing has been answered.
func (s *Service) join(ctx context.Context, ex proxy.Exchange, upstream tcp.Stream, role string) error {
	up, err := ex.Upgrade(nil)
	if err != nil {
		_ = upstream.Close()
		return err
	}
	client, ok := up.(tcp.Stream)
	if !ok {
		_ = up.Close()
		_ = upstream.Close()
		return nil // it cannot happen with the engines there are
	}
	o := s.joiner.Join(ctx, client, upstream)
	s.opt.Metrics.TunnelEnded(telemetry.Tunnel{
		Role: role, Failure: o.Failure.String(), Sent: o.Sent, Received: o.Received, Duration: o.Duration,
	})
	if o.Err != nil {
		s.opt.Log.DebugContext(ctx, "a tunnel broke off", "target", ex.Request().Target, "failure", o.Failure.String(), "error", o.Err)
	}
	return nil
}
