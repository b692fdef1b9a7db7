package http2

import (
	"context"
	"crypto/tls"
	"strings"
	"time"

	wire "golang.org/x/net/http2"

	"github.com/proa-io/proa/fault"
)

// Protocol is what ALPN calls HTTP/2 over TLS (RFC 9113, section 3.1).
const Protocol = wire.NextProtoTLS

// tlsHandshake completes the handshake of a TLS connection and checks that the
// two ends have agreed on HTTP/2.
func tlsHandshake(ctx context.Context, tc *tls.Conn, limit time.Duration) (*tls.ConnectionState, error) {
	if limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, limit)
		defer cancel()
	}
	if err := tc.HandshakeContext(ctx); err != nil {
		return nil, err
	}
	state := tc.ConnectionState()
	if state.NegotiatedProtocol != wire.NextProtoTLS {
		return nil, fault.New(fault.FailedPrecondition,
			"the peer negotiated %q by ALPN, which must be %q", state.NegotiatedProtocol, wire.NextProtoTLS)
	}
	return &state, nil
}

// weakTLS returns what makes a TLS connection too weak for HTTP/2 (RFC 9113,
// section 9.2), or "".
func weakTLS(state *tls.ConnectionState) string {
	switch {
	case state == nil || state.Version >= tls.VersionTLS13:
		return ""
	case state.Version < tls.VersionTLS12:
		return "HTTP/2 needs TLS 1.2 or later"
	}
	suite := tls.CipherSuiteName(state.CipherSuite)
	if !strings.HasPrefix(suite, "TLS_ECDHE_") || !strings.Contains(suite, "GCM") && !strings.Contains(suite, "POLY1305") {
		return "HTTP/2 does not allow the cipher suite " + suite
	}
	return ""
}
