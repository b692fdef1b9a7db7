package runtime

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/proa-io/proa/block/invoke"
	"github.com/proa-io/proa/mesh/discovery"
	"github.com/proa-io/proa/mesh/http2"
	"github.com/proa-io/proa/mesh/identity"
	"github.com/proa-io/proa/mesh/proxy"
	"github.com/proa-io/proa/resource"
)

// The modes of mutual TLS between sidecars.
const (
	// MTLSOff: sidecars speak plain text.
	MTLSOff = "off"
	// MTLSPermissive: this sidecar takes mutual TLS and plain text, and uses
	// mutual TLS with those that take it; for the time of a change.
	MTLSPermissive = "permissive"
	// MTLSStrict: nothing but mutual TLS.
	MTLSStrict = "strict"
)

// Identity says where the identity of a sidecar comes from: files, or the SPIFFE
// Workload API, or, when neither is set, an authority in the home folder that all
// its sidecars share.
type Identity struct {
	// Certificate, Key and Roots are PEM files.
	Certificate, Key, Roots string
	// Endpoint is the address of the Workload API;
	// $SPIFFE_ENDPOINT_SOCKET when empty.
	Endpoint string
}

// security is mutual TLS between sidecars; nil when there is none.
type security struct {
	mode   string
	domain string // trust domain
	source identity.Source
}

// AuthorityFile is where the sidecars of a home folder have their authority.
func AuthorityFile(home string) string { return filepath.Join(home, "identity", "ca.pem") }

// newSecurity returns nil when mutual TLS is off.
func newSecurity(cfg *Config, c *resource.Configuration) (*security, error) {
	mode := cfg.MTLS
	if m := c.Spec.MTLS; mode == "" && m != nil && m.Enabled != nil && *m.Enabled {
		mode = MTLSStrict
	}
	switch mode {
	case "", MTLSOff:
		return nil, nil //nolint:nilnil // a nil security is one without mutual TLS
	case MTLSPermissive, MTLSStrict:
	default:
		return nil, fmt.Errorf("mtls %q is not known; there is %s, %s, %s", mode, MTLSOff, MTLSPermissive, MTLSStrict)
	}
	s := &security{mode: mode, domain: invoke.DefaultTrustDomain}
	if a := c.Spec.AccessControl; a != nil {
		s.domain = cmp.Or(a.TrustDomain, s.domain)
	}
	var err error
	s.source, err = s.newSource(cfg, c)
	return s, err
}

func (s *security) newSource(cfg *Config, c *resource.Configuration) (identity.Source, error) {
	id := identity.ID{TrustDomain: s.domain, Namespace: cfg.Namespace, AppID: cfg.AppID}
	from := cfg.Identity
	if from.Certificate != "" || from.Key != "" || from.Roots != "" {
		if from.Certificate == "" || from.Key == "" || from.Roots == "" {
			return nil, fmt.Errorf("an identity in files is a certificate, its key and the roots to trust, but of %q, %q and %q one is missing",
				from.Certificate, from.Key, from.Roots)
		}
		f, err := identity.NewFiles(identity.FilesOptions{Certificate: from.Certificate, Key: from.Key, Roots: from.Roots, Log: cfg.Log})
		if err != nil {
			return nil, err
		}
		if got := f.Current().ID; got != id {
			return nil, fmt.Errorf("%s is of %s, but this sidecar is %s", from.Certificate, got, id)
		}
		return f, nil
	}
	if endpoint := cmp.Or(from.Endpoint, os.Getenv("SPIFFE_ENDPOINT_SOCKET")); endpoint != "" {
		return identity.NewWorkload(identity.WorkloadOptions{Address: endpoint, ID: id, Log: cfg.Log}), nil
	}
	home, err := Home(cfg.Engine.Dir)
	if err != nil {
		return nil, err
	}
	o := identity.LocalOptions{ID: id, File: AuthorityFile(home), Log: cfg.Log}
	if m := c.Spec.MTLS; m != nil {
		o.Life = m.WorkloadCertTTL.Std()
	}
	return identity.NewLocal(o)
}

// run keeps the identity current.
func (s *security) run(ctx context.Context) error {
	if s == nil {
		<-ctx.Done()
		return nil
	}
	return s.source.Run(ctx)
}

// toPeer reports whether an endpoint is called over mutual TLS.
func (s *security) toPeer(ep discovery.Endpoint) bool {
	return s != nil && (s.mode == MTLSStrict || ep.MTLS)
}

// client returns the TLS configuration to call the sidecar of an application,
// which must be of the same trust domain.
func (s *security) client(svc discovery.Service) *tls.Config {
	return identity.Client(s.source, identity.ID{TrustDomain: s.domain, Namespace: svc.Namespace, AppID: svc.AppID}, identity.Options{})
}

// caller returns who is on the other side, when the connection proves it.
func (s *security) caller(ex proxy.Exchange) (invoke.Caller, bool) {
	state := ex.TLS()
	if s == nil || state == nil {
		return invoke.Caller{}, false
	}
	id, err := identity.Peer(*state)
	return invoke.Caller(id), err == nil
}

// servePeers serves other sidecars.
func servePeers(handler proxy.Handler, cfg *Config, s *security, l net.Listener) func(context.Context) error {
	return func(ctx context.Context) error {
		server := func(tc *tls.Config) *http2.Server {
			return &http2.Server{Handler: handler, Log: cfg.Log, Config: http2.Config{MaxHeaderBytes: cfg.maxHead()}, TLS: tc}
		}
		if s == nil {
			h2 := server(nil)
			return serveUntil(ctx, []net.Listener{l}, h2.Serve, h2.Shutdown, h2.Close)
		}
		secure := server(identity.Server(s.source, identity.Options{NextProtos: []string{"h2"}}))
		if s.mode == MTLSStrict {
			return serveUntil(ctx, []net.Listener{l}, secure.Serve, secure.Shutdown, secure.Close)
		}
		both := &eitherServer{plain: server(nil), secure: secure, listener: l}
		return serveUntil(ctx, []net.Listener{l}, both.serve, both.shutdown, both.close)
	}
}

// eitherServer takes TLS and plain text on one listener.
type eitherServer struct {
	plain, secure *http2.Server
	listener      net.Listener
	stopping      atomic.Bool
}

const (
	// firstByteTimeout is how long a client may keep silent before it is known
	// what it speaks.
	firstByteTimeout = 10 * time.Second
	// recordHandshake is the first byte of TLS (RFC 8446, section 5.1).
	recordHandshake = 0x16
	// maxEitherConns is how many connections are served at a time.
	maxEitherConns = 10_000
)

// serve accepts until the listener is closed, and waits for the connections.
func (e *eitherServer) serve(l net.Listener) error {
	var work sync.WaitGroup
	defer work.Wait()
	room := make(chan struct{}, maxEitherConns)
	for {
		c, err := l.Accept()
		switch {
		case err == nil:
		case e.stopping.Load():
			return nil
		default:
			return err
		}
		room <- struct{}{}
		work.Go(func() {
			e.serveConn(c)
			<-room
		})
	}
}

// serveConn finds out what a client speaks, and serves it.
func (e *eitherServer) serveConn(c net.Conn) {
	var first [1]byte
	_ = c.SetReadDeadline(time.Now().Add(firstByteTimeout))
	_, err := c.Read(first[:])
	_ = c.SetReadDeadline(time.Time{})
	switch {
	case err != nil || e.stopping.Load():
		_ = c.Close()
	case first[0] == recordHandshake: // how a connection ends is its server's to log
		_ = e.secure.ServeConn(&begun{Conn: c, first: first[:]}, nil)
	default:
		_ = e.plain.ServeConn(c, first[:])
	}
}

func (e *eitherServer) shutdown(ctx context.Context) error {
	e.stopping.Store(true)
	closed := e.listener.Close()
	other := make(chan error, 1)
	go func() { other <- e.plain.Shutdown(ctx) }()
	return errors.Join(e.secure.Shutdown(ctx), <-other, closed)
}

func (e *eitherServer) close() {
	e.stopping.Store(true)
	_ = e.listener.Close()
	e.plain.Close()
	e.secure.Close()
}

// begun is a connection of which the first bytes have been read.
type begun struct {
	net.Conn
	first []byte
}

// Read implements io.Reader.
func (b *begun) Read(p []byte) (int, error) {
	if len(b.first) > 0 {
		n := copy(p, b.first)
		b.first = b.first[n:]
		return n, nil
	}
	return b.Conn.Read(p)
}
