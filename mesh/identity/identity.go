// Package identity says who a sidecar is and checks who another one is: X.509
// documents of SPIFFE (the X.509-SVID specification), where they come from, and
// mutual TLS with them.
//
// A Source keeps a Document current. TLS configurations read the Source at each
// handshake, so that a renewed document, or new roots, take effect without a
// connection being closed.
package identity

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net/url"
	"strings"
	"time"

	"github.com/proa-io/proa/fault"
)

// Reasons of the errors of this package.
const (
	// ReasonNoDocument: the source has no document yet.
	ReasonNoDocument fault.Reason = "identity.no_document"
	// ReasonUntrusted: the other side showed no document that can be trusted.
	ReasonUntrusted fault.Reason = "identity.untrusted"
	// ReasonMismatch: the other side is somebody else than was expected.
	ReasonMismatch fault.Reason = "identity.mismatch"
)

// ID is the identity of an application.
type ID struct {
	TrustDomain string
	Namespace   string
	AppID       string
}

// String returns the SPIFFE ID, "spiffe://<trust domain>/ns/<namespace>/<app>".
func (id ID) String() string {
	return "spiffe://" + id.TrustDomain + "/ns/" + id.Namespace + "/" + id.AppID
}

// URL returns the SPIFFE ID as it stands in a certificate.
func (id ID) URL() *url.URL {
	return &url.URL{Scheme: "spiffe", Host: id.TrustDomain, Path: "/ns/" + id.Namespace + "/" + id.AppID}
}

// Check reports a part of id that a SPIFFE ID cannot have (SPIFFE-ID, section
// 2): the trust domain takes lower case letters, digits, ".", "-" and "_", the
// others also upper case letters.
func (id ID) Check() error {
	switch {
	case !only(id.TrustDomain, false) || len(id.TrustDomain) > 255:
		return fault.New(fault.InvalidArgument, "the trust domain %q wants lower case letters, digits, \".\", \"-\" and \"_\"", id.TrustDomain)
	case !segment(id.Namespace):
		return fault.New(fault.InvalidArgument, "the namespace %q wants letters, digits, \".\", \"-\" and \"_\"", id.Namespace)
	case !segment(id.AppID):
		return fault.New(fault.InvalidArgument, "the application's id %q wants letters, digits, \".\", \"-\" and \"_\"", id.AppID)
	}
	return nil
}

func segment(s string) bool { return only(s, true) && s != "." && s != ".." && len(s) <= 512 }

func only(s string, upper bool) bool {
	for i := range len(s) {
		c := s[i]
		switch {
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '.', c == '-', c == '_':
		case upper && 'A' <= c && c <= 'Z':
		default:
			return false
		}
	}
	return s != ""
}

// Parse reads a SPIFFE ID that names an application.
func Parse(text string) (ID, error) {
	u, err := url.Parse(text)
	if err != nil {
		return ID{}, fault.New(fault.InvalidArgument, "%q is no SPIFFE ID", text)
	}
	return fromURL(u)
}

// fromURL reads the URI of a certificate.
func fromURL(u *url.URL) (ID, error) {
	parts := strings.Split(u.Path, "/")
	id := ID{TrustDomain: u.Host}
	if len(parts) == 4 && parts[0] == "" && parts[1] == "ns" {
		id.Namespace, id.AppID = parts[2], parts[3]
	}
	if u.Scheme != "spiffe" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || u.RawPath != "" || id.Check() != nil {
		return ID{}, fault.New(fault.InvalidArgument, "%q does not name an application as spiffe://<trust domain>/ns/<namespace>/<app> does", u.String())
	}
	return id, nil
}

// Document is what an application shows, and whom it believes. It does not
// change.
type Document struct {
	ID ID
	// Certificate has its Leaf parsed.
	Certificate *tls.Certificate
	// Roots are the authorities of the trust domain, in PEM order of their
	// source.
	Roots []*x509.Certificate

	pool *x509.CertPool
}

// NewDocument checks that cert, with the intermediates it brings, is one of
// SPIFFE's that the roots stand for now, and returns it with them.
func NewDocument(cert *tls.Certificate, roots []*x509.Certificate, now time.Time) (*Document, error) {
	if len(cert.Certificate) == 0 || len(roots) == 0 {
		return nil, fault.New(fault.InvalidArgument, "a document wants a certificate and the authorities to trust")
	}
	d := &Document{Certificate: cert, Roots: roots, pool: x509.NewCertPool()}
	for _, r := range roots {
		d.pool.AddCert(r)
	}
	chain := make([]*x509.Certificate, len(cert.Certificate))
	for i, der := range cert.Certificate {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fault.Wrap(err, fault.InvalidArgument, "certificate %d of the chain", i+1)
		}
		chain[i] = c
	}
	cert.Leaf = chain[0]
	id, err := d.verify(chain, now)
	if err != nil {
		return nil, err
	}
	d.ID = id
	return d, nil
}

// Expiry returns when the certificate ends.
func (d *Document) Expiry() time.Time { return d.Certificate.Leaf.NotAfter }

// verify checks a chain as X.509-SVID, sections 3 to 5, wants it, and returns
// who it is of.
func (d *Document) verify(chain []*x509.Certificate, now time.Time) (ID, error) {
	leaf := chain[0]
	if len(leaf.URIs) != 1 {
		return ID{}, untrusted("its certificate has %d URIs, not the one of a SPIFFE ID", len(leaf.URIs))
	}
	id, err := fromURL(leaf.URIs[0])
	if err != nil {
		return ID{}, untrusted("%s", fault.Message(err))
	}
	if leaf.IsCA || leaf.KeyUsage&(x509.KeyUsageCertSign|x509.KeyUsageCRLSign) != 0 || leaf.KeyUsage&x509.KeyUsageDigitalSignature == 0 {
		return ID{}, untrusted("the certificate of %s is not one to sign a handshake with", id)
	}
	intermediates := x509.NewCertPool()
	for _, c := range chain[1:] {
		intermediates.AddCert(c)
	}
	chains, err := leaf.Verify(x509.VerifyOptions{
		Roots: d.pool, Intermediates: intermediates, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	})
	if err != nil {
		return ID{}, d.untrustedChain(id, leaf, now, err)
	}
	if !standsFor(chains, id.TrustDomain) {
		return ID{}, untrusted("the certificate of %s is signed by the authority of another trust domain", id)
	}
	return id, nil
}

func untrusted(format string, args ...any) error {
	return fault.New(fault.Unauthenticated, format, args...).WithReason(ReasonUntrusted)
}

// Source keeps a Document current.
type Source interface {
	// Run keeps the document current until ctx ends, and returns nil then. It
	// is called once.
	Run(ctx context.Context) error
	// Current returns the newest document; nil until there is one. It is safe
	// for concurrent use and costs next to nothing.
	Current() *Document
}
