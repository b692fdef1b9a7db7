package kafka

import (
	"crypto/tls"
	"crypto/x509"
	"strings"

	"github.com/twmb/franz-go/pkg/sasl"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"

	"github.com/proa-io/proa/component"
)

// Auth says how the client proves who it is, and whether connections are
// encrypted: they are, unless authType is none or disableTls is set.
type Auth struct {
	// AuthType is none, password (saslUsername, saslPassword), certificate
	// (caCert alone), mtls (clientCert and clientKey), oidc (a token for a
	// client secret) or oidc_private_key_jwt (a token for a client assertion).
	AuthType string `setting:"authType"`
	// AuthRequired is the old way to say authType: true stands for password
	// when there is one and for mtls otherwise, false for none.
	AuthRequired *bool `setting:"authRequired"`

	// SASLUsername is the name of the user for authType password.
	SASLUsername string `setting:"saslUsername"`
	// SASLPassword is the password of that user.
	SASLPassword component.Secret `setting:"saslPassword"`
	// SASLMechanism is PLAINTEXT, SHA-256 or SHA-512.
	SASLMechanism string `setting:"saslMechanism"`

	// CACert has the certificates (PEM) that the brokers' are verified with;
	// the system's when empty.
	CACert string `setting:"caCert"`
	// ClientCert is the certificate (PEM) that the client shows.
	ClientCert component.Secret `setting:"clientCert"`
	// ClientKey is the key (PEM) of clientCert.
	ClientKey component.Secret `setting:"clientKey"`
	// SkipVerify does not verify the brokers. For tests only.
	SkipVerify bool `setting:"skipVerify"`
	// DisableTLS does not encrypt connections.
	DisableTLS bool `setting:"disableTls"`

	OIDC
	AWS
}

// AWS are the settings of authType awsiam, which is not offered. They have no
// effect with another authType.
type AWS struct {
	// Region is for authType awsiam, which is not offered.
	Region string `setting:"region,awsRegion"`
	// AccessKey is for authType awsiam, like region.
	AccessKey component.Secret `setting:"accessKey,awsAccessKey"`
	// SecretKey is for authType awsiam, like region.
	SecretKey component.Secret `setting:"secretKey,awsSecretKey"`
	// SessionToken is for authType awsiam, like region.
	SessionToken component.Secret `setting:"sessionToken,awsSessionToken"`
	// AssumeRoleARN is for authType awsiam, like region.
	AssumeRoleARN string `setting:"assumeRoleArn,awsIamRoleArn"`
	// SessionName is for authType awsiam, like region.
	SessionName string `setting:"sessionName,awsStsSessionName"`
	// TrustAnchorARN is for authType awsiam, like region.
	TrustAnchorARN string `setting:"trustAnchorArn"`
	// TrustProfileARN is for authType awsiam, like region.
	TrustProfileARN string `setting:"trustProfileArn"`
}

// Values of AuthType.
const (
	authNone        = "none"
	authPassword    = "password"
	authMTLS        = "mtls"
	authCertificate = "certificate"
	authOIDC        = "oidc"
	authOIDCKey     = "oidc_private_key_jwt"
	authAWS         = "awsiam"
)

// Values of SASLMechanism.
const (
	mechanismPlain  = "PLAINTEXT"
	mechanismSHA256 = "SHA-256"
	mechanismSHA512 = "SHA-512"
)

func authDefaults() Auth {
	return Auth{SASLMechanism: mechanismPlain, OIDC: OIDC{Scopes: []string{"openid"}}}
}

// kind returns the authentication type, which the old authRequired may say.
func (a Auth) kind() string {
	switch kind := strings.ToLower(strings.TrimSpace(a.AuthType)); {
	case kind != "":
		return kind
	case a.AuthRequired == nil:
		return ""
	case !*a.AuthRequired:
		return authNone
	case a.SASLPassword.IsSet():
		return authPassword
	}
	return authMTLS
}

// Validate reports settings that can never work.
func (a Auth) Validate() error {
	switch a.kind() {
	case "":
		return component.Invalid("authType", "is required: none, password, certificate, mtls, oidc or oidc_private_key_jwt")
	case authNone, authCertificate, authMTLS, authPassword, authOIDC, authOIDCKey:
	case authAWS:
		return component.Invalid("authType", "awsiam is not supported; Amazon MSK also takes password (SHA-512) and mtls")
	default:
		return component.Invalid("authType", "wants none, password, certificate, mtls, oidc or oidc_private_key_jwt, not %q", a.AuthType)
	}
	if err := a.checkKind(); err != nil {
		return err
	}
	_, err := a.tls()
	return err
}

// checkKind reports what the kind of authentication lacks.
func (a Auth) checkKind() error {
	switch a.kind() {
	case authPassword:
		switch {
		case a.SASLUsername == "":
			return component.Invalid("saslUsername", "is required with authType password")
		case !a.SASLPassword.IsSet():
			return component.Invalid("saslPassword", "is required with authType password")
		}
		if _, ok := a.password(); !ok {
			return component.Invalid("saslMechanism", "wants %s, %s or %s, not %q", mechanismPlain, mechanismSHA256, mechanismSHA512, a.SASLMechanism)
		}
	case authMTLS:
		if a.DisableTLS {
			return component.Invalid("disableTls", "cannot be with authType mtls, which is part of TLS")
		}
		if !a.ClientCert.IsSet() || !a.ClientKey.IsSet() {
			return component.Invalid("clientCert", "and clientKey are required with authType mtls")
		}
	case authCertificate:
		if a.CACert == "" {
			return component.Invalid("caCert", "is required with authType certificate")
		}
	case authOIDC, authOIDCKey:
		return a.OIDC.check(a.kind())
	}
	return nil
}

// password returns the mechanism of authType password; false when there is no
// such.
func (a Auth) password() (sasl.Mechanism, bool) {
	user, pass := a.SASLUsername, a.SASLPassword.Reveal()
	switch strings.ToUpper(strings.TrimSpace(a.SASLMechanism)) {
	case "", mechanismPlain, "PLAIN":
		return plain.Auth{User: user, Pass: pass}.AsMechanism(), true
	case mechanismSHA256, "SCRAM-SHA-256":
		return scram.Auth{User: user, Pass: pass}.AsSha256Mechanism(), true
	case mechanismSHA512, "SCRAM-SHA-512":
		return scram.Auth{User: user, Pass: pass}.AsSha512Mechanism(), true
	}
	return nil, false
}

// mechanism returns how to authenticate with SASL, or nil.
func (a Auth) mechanism() (sasl.Mechanism, error) {
	switch a.kind() {
	case authPassword:
		m, _ := a.password()
		return m, nil
	case authOIDC, authOIDCKey:
		cfg, err := a.trust(systemRoots())
		if err != nil {
			return nil, err
		}
		return a.OIDC.mechanism(a.kind(), cfg)
	}
	return nil, nil
}

// tls returns how to encrypt, or nil.
func (a Auth) tls() (*tls.Config, error) {
	if a.DisableTLS || a.kind() == authNone {
		return nil, nil
	}
	cfg, err := a.trust(nil)
	if err != nil {
		return nil, err
	}
	if a.kind() == authMTLS {
		cert, err := tls.X509KeyPair([]byte(a.ClientCert.Reveal()), []byte(a.ClientKey.Reveal()))
		if err != nil {
			return nil, component.Invalid("clientCert", "and clientKey are not a PEM certificate and its key")
		}
		cfg.Certificates = []tls.Certificate{cert}
	}
	return cfg, nil
}

// trust returns the way to verify the other side: with pool and caCert, or with
// the system's certificates when there is neither.
func (a Auth) trust(pool *x509.CertPool) (*tls.Config, error) {
	if a.CACert != "" {
		if pool == nil {
			pool = x509.NewCertPool()
		}
		if !pool.AppendCertsFromPEM([]byte(a.CACert)) {
			return nil, component.Invalid("caCert", "is not a certificate in PEM")
		}
	}
	return &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: pool, InsecureSkipVerify: a.SkipVerify}, nil //nolint:gosec // only if the user says so
}

// systemRoots returns the certificates that the system trusts; nil when it
// does not tell.
func systemRoots() *x509.CertPool {
	pool, err := x509.SystemCertPool()
	if err != nil {
		return nil
	}
	return pool
}
