package runtime

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/proa-io/proa/block/invoke"
	"github.com/proa-io/proa/mesh/discovery"
	"github.com/proa-io/proa/mesh/http2"
	"github.com/proa-io/proa/mesh/identity"
	"github.com/proa-io/proa/mesh/proxy"
	"github.com/proa-io/proa/resource"
	"github.com/proa-io/proa/telemetry"
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
	now    func() time.Time // time.Now, but in tests

	monitor *identity.Monitor
}

// AuthorityFile is where the sidecars of a home folder have their authority.
func AuthorityFile(home string) string { return filepath.Join(home, "identity", "ca.pem") }

// newSecurity returns nil when mutual TLS is off.
func newSecurity(cfg *Config, c *resource.Configuration, m *telemetry.Metrics) (*security, error) {
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
	s := &security{mode: mode, domain: invoke.DefaultTrustDomain, now: time.Now}
	if a := c.Spec.AccessControl; a != nil {
		s.domain = cmp.Or(a.TrustDomain, s.domain)
	}
	s.monitor = identity.NewMonitor(s, s.now, cfg.Log)
	var err error
	s.source, err = s.newSource(cfg, c, identity.Both(s.monitor.Events(), measuredIdentity(m)))
	return s, err
}

// measuredIdentity returns what measures the identity.
func measuredIdentity(m *telemetry.Metrics) identity.Events {
	var former *identity.Document
	return identity.Events{
		Failed: func(error) { m.IdentityFailed() },
		Renewed: func(d *identity.Document) {
			if former != nil {
				m.IdentityRotated(false)
				if !slices.EqualFunc(former.Roots, d.Roots, (*x509.Certificate).Equal) {
					m.IdentityRotated(true)
				}
			}
			former = d
			m.IdentityEnds(d.Expiry(), d.RootsExpiry())
		},
	}
}

// Current implements identity.Source.
func (s *security) Current() *identity.Document {
	if s == nil || s.source == nil { // which is being made
		return nil
	}
	return s.source.Current()
}

// expired reports whether this sidecar has an identity that has ended.
func (s *security) expired() bool {
	if s == nil {
		return false
	}
	doc := s.Current()
	return doc != nil && doc.Expired(s.now())
}

func (s *security) newSource(cfg *Config, c *resource.Configuration, events identity.Events) (identity.Source, error) {
	id := identity.ID{TrustDomain: s.domain, Namespace: cfg.Namespace, AppID: cfg.AppID}
	from := cfg.Identity
	if from.Certificate != "" || from.Key != "" || from.Roots != "" {
		if from.Certificate == "" || from.Key == "" || from.Roots == "" {
			return nil, fmt.Errorf("an identity in files is a certificate, its key and the roots to trust, but of %q, %q and %q one is missing",
				from.Certificate, from.Key, from.Roots)
		}
		f, err := identity.NewFiles(identity.FilesOptions{Certificate: from.Certificate, Key: from.Key, Roots: from.Roots, Log: cfg.Log, Events: events})
		if err != nil {
			return nil, err
		}
		if got := f.Current().ID; got != id {
			return nil, fmt.Errorf("%s is of %s, but this sidecar is %s", from.Certificate, got, id)
		}
		return f, nil
	}
	if endpoint := cmp.Or(from.Endpoint, os.Getenv("SPIFFE_ENDPOINT_SOCKET")); endpoint != "" {
		return identity.NewWorkload(identity.WorkloadOptions{Address: endpoint, ID: id, Log: cfg.Log, Events: events}), nil
	}
	home, err := Home(cfg.Engine.Dir)
	if err != nil {
		return nil, err
	}
	o := identity.LocalOptions{ID: id, File: AuthorityFile(home), Log: cfg.Log, Events: events}
	if m := c.Spec.MTLS; m != nil {
		o.Life = m.WorkloadCertTTL.Std()
	}
	return identity.NewLocal(o)
}

// Run keeps the identity current until ctx ends, and warns when that fails.
func (s *security) Run(ctx context.Context) error {
	if s == nil {
		<-ctx.Done()
		return nil
	}
	var monitor sync.WaitGroup
	defer monitor.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	monitor.Go(func() { _ = s.monitor.Run(ctx) })
	return s.source.Run(ctx)
}

// toPeer reports whether an endpoint is called over mutual TLS.
func (s *security) toPeer(ep discovery.Endpoint) bool {
	return s != nil && (s.mode == MTLSStrict || ep.MTLS)
}

// client returns the TLS configuration to call the sidecar of an application,
// which must be of the same trust domain.
func (s *security) client(svc discovery.Service) *tls.Config {
	return identity.Client(s.source, identity.ID{TrustDomain: s.domain, Namespace: svc.Namespace, AppID: svc.AppID}, s.options())
}

// server returns the TLS configuration for the sidecars of others.
func (s *security) server() *tls.Config { return identity.Server(s.source, s.options()) }

func (s *security) options() identity.Options {
	return identity.Options{NextProtos: []string{http2.Protocol}, Now: s.now}
}

// A connection ends in good order before one of its certificates does: what is
// under way on it goes on, and what comes goes to another one, made with the
// certificates of that time. The caller sees to it, which can do so without asking
// anybody, when about a fifth of the time is left, a different part for each
// connection; if it has not, the callee does when a tenth is left.
func (s *security) retireClient(state *tls.ConnectionState) time.Time {
	return s.retire(state, 0.15+0.1*rand.Float64())
}

func (s *security) retireServer(state *tls.ConnectionState) time.Time { return s.retire(state, 0.1) }

// leastLife is the least that a connection may last, as a part of the life of
// certificates: where they are not renewed connections are not made anew ever
// more often as their end is near.
const leastLife = 1.0 / 100

func (s *security) retire(state *tls.ConnectionState, spare float64) time.Time {
	leaf := s.source.Current().Certificate.Leaf
	left := identity.Ends(s.source, state).Sub(s.now())
	least := time.Duration(leastLife * float64(leaf.NotAfter.Sub(leaf.NotBefore)))
	return time.Now().Add(max(time.Duration((1-spare)*float64(left)), least))
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
