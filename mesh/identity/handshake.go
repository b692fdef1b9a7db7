package identity

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"strings"
	"time"

	"github.com/proa-io/proa/fault"
)

// ReasonNoTLS: the other side does not speak TLS as sidecars do.
const ReasonNoTLS fault.Reason = "identity.no_tls"

// Accept completes the server's side of a handshake on nc, with a configuration
// of Server. Its errors say what was wrong and what would be right. On error nc is
// left open.
func Accept(ctx context.Context, nc net.Conn, c *tls.Config) (*tls.Conn, error) {
	return handshake(ctx, tls.Server(nc, c), c)
}

// Connect completes the client's side of a handshake on nc, with a configuration
// of Client. Its errors are as those of Accept. That the server refuses this
// side's certificate shows only when something is read: see Explain.
func Connect(ctx context.Context, nc net.Conn, c *tls.Config) (*tls.Conn, error) {
	return handshake(ctx, tls.Client(nc, c), c)
}

func handshake(ctx context.Context, tc *tls.Conn, c *tls.Config) (*tls.Conn, error) {
	if err := tc.HandshakeContext(ctx); err != nil {
		return nil, Explain(err)
	}
	if got := tc.ConnectionState().NegotiatedProtocol; len(c.NextProtos) > 0 && got == "" {
		return nil, noTLS(nil, "the other side does not use ALPN, by which sidecars agree on %s: it is no sidecar", strings.Join(c.NextProtos, ", "))
	}
	return tc, nil
}

// Explain returns err with what would be right, when it is one of TLS: of a
// handshake, or an alert by which the other side has refused this one. Others it
// returns as they are.
func Explain(err error) error {
	switch fault.ReasonOf(err) {
	case ReasonUntrusted, ReasonMismatch, ReasonNoDocument, ReasonNoTLS:
		return err // explained already
	}
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		return noTLS(err, "the other side does not speak TLS: start it with --mtls permissive or strict")
	}
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "remote error" {
		return explainAlert(err, op.Err.Error())
	}
	// The TLS library has no types for these.
	switch text := err.Error(); {
	case strings.Contains(text, "client didn't provide a certificate"):
		return fault.Wrap(err, fault.Unauthenticated,
			"the other side shows no certificate: a sidecar with --mtls permissive or strict does").WithReason(ReasonUntrusted)
	case strings.Contains(text, "unsupported versions"), strings.Contains(text, "selected unsupported protocol version"):
		return noTLS(err, "the other side speaks no TLS 1.3, which is the only version between sidecars")
	case strings.Contains(text, "unsupported application protocols"), strings.Contains(text, "unadvertised ALPN protocol"):
		return noTLS(err, "the other side does not agree on h2 by ALPN, which sidecars do: it is no sidecar")
	}
	return err
}

// Alerts (RFC 8446, section 6.2).
const (
	alertBadCertificate     tls.AlertError = 42
	alertCertificateExpired tls.AlertError = 45
	alertCertificateUnknown tls.AlertError = 46
	alertUnknownCA          tls.AlertError = 48
	alertProtocolVersion    tls.AlertError = 70
	alertCertificateNeeded  tls.AlertError = 116
	alertNoProtocol         tls.AlertError = 120
)

// explainAlert says what the other side did not like.
func explainAlert(err error, text string) error {
	switch text {
	case alertBadCertificate.Error(), alertCertificateUnknown.Error(), alertUnknownCA.Error(), alertCertificateExpired.Error():
		return fault.Wrap(err, fault.Unavailable, "the other side refuses this sidecar's certificate, and its log says why: "+
			"both want the same trust domain, authorities that the other one trusts, and clocks that agree").WithReason(ReasonUntrusted)
	case alertCertificateNeeded.Error():
		return fault.Wrap(err, fault.Unavailable,
			"the other side wants a certificate, and this one showed none: start it with --mtls permissive or strict").WithReason(ReasonUntrusted)
	case alertProtocolVersion.Error():
		return noTLS(err, "the other side does not speak the version of TLS that was offered; between sidecars that is 1.3")
	case alertNoProtocol.Error():
		return noTLS(err, "the other side does not agree on what was offered by ALPN; between sidecars that is h2")
	}
	return err
}

func noTLS(err error, format string, args ...any) error {
	return fault.Wrap(err, fault.Unavailable, format, args...).WithReason(ReasonNoTLS)
}

// untrustedChain says why a chain that was shown cannot be verified.
func (d *Document) untrustedChain(id ID, leaf *x509.Certificate, now time.Time, err error) error {
	wrap := func(format string, args ...any) error {
		return fault.Wrap(err, fault.Unauthenticated, format, args...).WithReason(ReasonUntrusted)
	}
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		if d.ID.TrustDomain != "" && id.TrustDomain != d.ID.TrustDomain {
			return wrap("%s is of the trust domain %q, and this sidecar of %q: both want the same accessControl.trustDomain and the same authority",
				id, id.TrustDomain, d.ID.TrustDomain)
		}
		return wrap("no authority that is trusted here has signed the certificate of %s: both sides want the same home folder, roots or SPIFFE provider", id)
	}
	here := now.UTC().Format(time.RFC3339)
	switch {
	case now.After(leaf.NotAfter):
		return wrap("the certificate of %s ended at %s, and here it is %s: it was not renewed, or a clock is wrong", id, leaf.NotAfter.UTC().Format(time.RFC3339), here)
	case now.Before(leaf.NotBefore):
		return wrap("the certificate of %s begins at %s, and here it is only %s: a clock is wrong", id, leaf.NotBefore.UTC().Format(time.RFC3339), here)
	}
	return wrap("the certificate of %s cannot be trusted", id)
}

// standsFor reports whether one of the chains ends in an authority that may speak
// for a trust domain: one that names none in its certificate, or this one
// (X.509-SVID, section 4).
func standsFor(chains [][]*x509.Certificate, domain string) bool {
	for _, chain := range chains {
		root := chain[len(chain)-1]
		if len(root.URIs) == 0 || root.URIs[0].Scheme != "spiffe" || root.URIs[0].Host == domain {
			return true
		}
	}
	return false
}
