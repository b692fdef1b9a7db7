package runtime

import (
	"crypto/tls"
	"log/slog"
	"net"
	"net/url"
	"strings"
	"sync"

	"github.com/proa-io/proa/mesh/discovery"
	"github.com/proa-io/proa/mesh/http1"
	"github.com/proa-io/proa/mesh/http2"
	"github.com/proa-io/proa/mesh/proxy"
)

// transports are the clients of a process: one per sidecar and per origin
// outside, each with connections of its own that it closes when they are idle.
type transports struct {
	log     *slog.Logger
	maxHead int // of what they answer, in bytes
	secure  *security
	peers   sync.Map // peerKey → *http2.Client
	origins sync.Map // "https://host:port" → *http1.Client
}

// peerKey is what a client for a sidecar is for. Over plain text the application
// does not matter.
type peerKey struct {
	address string
	expect  discovery.Service
}

// peer returns the client for the sidecar of an application.
func (t *transports) peer(svc discovery.Service, ep discovery.Endpoint) proxy.RoundTripper {
	key := peerKey{address: ep.Address}
	if t.secure.toPeer(ep) {
		key.expect = svc
	}
	if c, ok := t.peers.Load(key); ok {
		return c.(*http2.Client) //nolint:forcetypeassert // only clients are stored
	}
	client := &http2.Client{
		Addr: ep.Address, Config: http2.Config{KeepAlive: http2.PeerKeepAlive, MaxHeaderBytes: t.maxHead}, Log: t.log,
	}
	if key.expect != (discovery.Service{}) {
		client.TLS = t.secure.client(svc)
	}
	c, _ := t.peers.LoadOrStore(key, client)
	return c.(*http2.Client) //nolint:forcetypeassert // only clients are stored
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
		c.(*http2.Client).Close() //nolint:forcetypeassert // only clients are stored
		return true
	})
	t.origins.Range(func(_, c any) bool {
		_ = c.(*http1.Client).Close() //nolint:forcetypeassert // only clients are stored
		return true
	})
}
