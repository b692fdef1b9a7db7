package identity

import (
	"crypto/tls"
	"crypto/x509"
	"time"

	"github.com/proa-io/proa/fault"
)

// Options say how mutual TLS looks at the other side.
type Options struct {
	// Now is the clock; time.Now when nil.
	Now func() time.Time
	// NextProtos are offered or accepted by ALPN.
	NextProtos []string
}

// Server returns the configuration of a server that shows the document of src
// and lets in whom src's roots stand for. See Peer for who that is. TLS 1.3 is
// the only version.
func Server(src Source, o Options) *tls.Config {
	c := base(src, o)
	c.ClientAuth = tls.RequireAnyClientCert // verified by VerifyConnection
	c.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return certificate(src) }
	return c
}

// Client returns the configuration of a client that shows the document of src
// and speaks to nobody but expect.
func Client(src Source, expect ID, o Options) *tls.Config {
	c := base(src, o)
	c.InsecureSkipVerify = true // identities are SPIFFE IDs, not host names: VerifyConnection verifies
	c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return certificate(src) }
	verify := c.VerifyConnection
	c.VerifyConnection = func(s tls.ConnectionState) error {
		if err := verify(s); err != nil {
			return err
		}
		if id, err := Peer(s); err != nil || id != expect {
			return fault.New(fault.Unauthenticated,
				"it is %s, not %s: the name resolution is out of date, or somebody else listens in its place", id, expect).WithReason(ReasonMismatch)
		}
		return nil
	}
	return c
}

func base(src Source, o Options) *tls.Config {
	now := o.Now
	if now == nil {
		now = time.Now
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: o.NextProtos, Time: now,
		// A resumed session would show certificates of the past; and connections
		// are kept and shared, so that there is little to gain.
		SessionTicketsDisabled: true,
		// What is written at once goes out in one record, if it fits: small records
		// help browsers that show the beginning of a page, not sidecars.
		DynamicRecordSizingDisabled: true,
		VerifyConnection: func(s tls.ConnectionState) error {
			doc := src.Current()
			if doc == nil {
				return noDocument()
			}
			if len(s.PeerCertificates) == 0 {
				return untrusted("it shows no certificate")
			}
			_, err := doc.verify(s.PeerCertificates, now())
			return err
		},
	}
}

func certificate(src Source) (*tls.Certificate, error) {
	if doc := src.Current(); doc != nil {
		return doc.Certificate, nil
	}
	return nil, noDocument()
}

func noDocument() error {
	return fault.New(fault.Unavailable, "this sidecar has no identity yet").WithReason(ReasonNoDocument)
}

// Peer returns who is on the other side of a connection that was made with the
// configurations of this package.
func Peer(s tls.ConnectionState) (ID, error) {
	if len(s.PeerCertificates) == 0 {
		return ID{}, untrusted("it shows no certificate")
	}
	return Of(s.PeerCertificates[0])
}

// Ends returns when the first of the two certificates of a connection ends: that
// of src and that of the other side.
func Ends(src Source, s *tls.ConnectionState) time.Time {
	ends := src.Current().Expiry()
	if len(s.PeerCertificates) > 0 {
		ends = earliest(ends, s.PeerCertificates[0].NotAfter)
	}
	return ends
}

// Of returns the identity that a certificate is for. It verifies nothing.
func Of(cert *x509.Certificate) (ID, error) {
	if len(cert.URIs) != 1 {
		return ID{}, untrusted("the certificate has %d URIs, not the one of a SPIFFE ID", len(cert.URIs))
	}
	return fromURL(cert.URIs[0])
}
