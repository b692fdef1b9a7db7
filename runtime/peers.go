package runtime

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"net/url"
	"strings"
	"sync"

	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/mesh/discovery"
	"github.com/proa-io/proa/mesh/http1"
	"github.com/proa-io/proa/mesh/http2"
	"github.com/proa-io/proa/mesh/identity"
	"github.com/proa-io/proa/mesh/proxy"
)

// transports are the clients of a process: one per sidecar and per origin
// outside, each with connections of its own that it closes when they are idle.
type transports struct {
	log     *slog.Logger
	maxHead int // of what they answer, in bytes
	secure  *security
	refused seldom   // logs those that cannot be called
	peers   sync.Map // peerKey → *peerClient
	apps    sync.Map // appKey → proxy.RoundTripper, of applications without a sidecar
	origins sync.Map // "https://host:port" → *http1.Client
}

// peerKey is what a client for a sidecar is for. Over plain text the application
// does not matter.
type peerKey struct {
	address string
	expect  discovery.Service
}

// appKey is what a client for an application without a sidecar is for.
type appKey struct {
	address  string
	protocol discovery.Protocol
}

// application returns the client for an application without a sidecar.
func (t *transports) application(svc discovery.Service, ep discovery.Endpoint) proxy.RoundTripper {
	key := appKey{ep.Address, ep.Protocol}
	if c, ok := t.apps.Load(key); ok {
		return c.(proxy.RoundTripper) //nolint:forcetypeassert // only clients are stored
	}
	var client proxy.RoundTripper
	switch ep.Protocol {
	case discovery.HTTP1:
		h1 := &http1.Client{Address: ep.Address, Name: svc.AppID + " at " + ep.Address}
		if path, ok := strings.CutPrefix(ep.Address, "unix:"); ok {
			h1.Network, h1.Address = "unix", path
		}
		client = h1
	case discovery.HTTP2:
		client = &http2.Client{Addr: ep.Address, Config: http2.Config{KeepAlive: http2.PeerKeepAlive, MaxHeaderBytes: t.maxHead}, Log: t.log}
	default:
		return unspoken{svc, ep}
	}
	c, _ := t.apps.LoadOrStore(key, client)
	return c.(proxy.RoundTripper) //nolint:forcetypeassert // only clients are stored
}

// unspoken is an endpoint that speaks no HTTP.
type unspoken struct {
	svc discovery.Service
	ep  discovery.Endpoint
}

// RoundTrip implements proxy.RoundTripper.
func (u unspoken) RoundTrip(context.Context, *proxy.Request, proxy.RoundTripOptions) (*proxy.Response, error) {
	return nil, fault.New(fault.FailedPrecondition, "application %q speaks %q at %s: requests need a sidecar there, %q or %q",
		u.svc.AppID, u.ep.Protocol, u.ep.Address, discovery.HTTP1, discovery.HTTP2)
}

// peer returns the client for the sidecar of an application, or for an
// application without one.
func (t *transports) peer(svc discovery.Service, ep discovery.Endpoint) proxy.RoundTripper {
	if ep.Protocol != discovery.Sidecar {
		return t.application(svc, ep)
	}
	key := peerKey{address: ep.Address}
	if t.secure.toPeer(ep) {
		key.expect = svc
	}
	if c, ok := t.peers.Load(key); ok {
		return c.(*peerClient) //nolint:forcetypeassert // only clients are stored
	}
	client := &peerClient{service: svc, refused: &t.refused, log: t.log}
	client.Client = http2.Client{
		Addr: ep.Address, Config: http2.Config{KeepAlive: http2.PeerKeepAlive, MaxHeaderBytes: t.maxHead}, Log: t.log,
	}
	if key.expect != (discovery.Service{}) {
		client.Dial, client.Retire = t.secure.dial(svc, ep.Address), t.secure.retireClient
	}
	c, _ := t.peers.LoadOrStore(key, client)
	return c.(*peerClient) //nolint:forcetypeassert // only clients are stored
}

// peerClient is the transport to one sidecar.
type peerClient struct {
	http2.Client
	service discovery.Service
	refused *seldom
	log     *slog.Logger
}

// RoundTrip implements proxy.RoundTripper. When the two sidecars do not trust
// each other, or do not speak the same, the error says so.
func (p *peerClient) RoundTrip(ctx context.Context, r *proxy.Request, o proxy.RoundTripOptions) (*proxy.Response, error) {
	resp, err := p.Client.RoundTrip(ctx, r, o)
	if err == nil {
		return resp, nil
	}
	err = explainRefusal(identity.Explain(err))
	if reason := fault.ReasonOf(err); strings.HasPrefix(string(reason), "identity.") {
		p.refused.log(p.log, p.Addr+" "+string(reason), "the sidecar of an application cannot be called",
			"callee", p.service.String(), "address", p.Addr, "error", err)
	}
	return nil, err
}

// origin returns the client for an origin outside.
func (t *transports) origin(u *url.URL) proxy.RoundTripper {
	key := u.Scheme + "://" + u.Host
	if c, ok := t.origins.Load(key); ok {
		return c.(*http1.Client) //nolint:forcetypeassert // only clients are stored
	}
	c, _ := t.origins.LoadOrStore(key, newOrigin(u, nil))
	return c.(*http1.Client) //nolint:forcetypeassert // only clients are stored
}

// newOrigin returns a client for an origin, with a TLS configuration of its own
// when tc is not nil.
func newOrigin(u *url.URL, tc *tls.Config) *http1.Client {
	client := &http1.Client{Address: hostPort(u), Name: u.Scheme + "://" + u.Host}
	if u.Scheme == "https" {
		client.TLS = tc
		if client.TLS == nil {
			client.TLS = &tls.Config{MinVersion: tls.VersionTLS12, ServerName: u.Hostname()}
		}
	}
	return client
}

func hostPort(u *url.URL) string {
	if u.Port() != "" {
		return u.Host
	}
	port := "80"
	if u.Scheme == "https" {
		port = "443"
	}
	return net.JoinHostPort(strings.Trim(u.Hostname(), "[]"), port)
}

// close closes all connections.
func (t *transports) close() {
	t.peers.Range(func(_, c any) bool {
		c.(*peerClient).Close() //nolint:forcetypeassert // only clients are stored
		return true
	})
	t.apps.Range(func(_, c any) bool {
		switch c := c.(type) {
		case *http1.Client:
			_ = c.Close()
		case *http2.Client:
			c.Close()
		}
		return true
	})
	t.origins.Range(func(_, c any) bool {
		_ = c.(*http1.Client).Close() //nolint:forcetypeassert // only clients are stored
		return true
	})
}
