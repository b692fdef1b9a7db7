package kafka

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/sasl"
	"github.com/twmb/franz-go/pkg/sasl/oauth"
	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"

	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
)

// OIDC says where to get the token for the authTypes oidc and
// oidc_private_key_jwt, by the client credentials grant (RFC 6749, section
// 4.4). The provider is verified with the system's certificates and caCert.
type OIDC struct {
	// TokenEndpoint is the URL of the provider's token endpoint.
	TokenEndpoint string `setting:"oidcTokenEndpoint"`
	// OIDCClientID is what the provider knows the client as.
	OIDCClientID string `setting:"oidcClientID"`
	// OIDCClientSecret is the secret of the client for authType oidc.
	OIDCClientSecret component.Secret `setting:"oidcClientSecret"`
	// Scopes of the token, separated by commas.
	Scopes []string `setting:"oidcScopes"`
	// Extensions are sent to the brokers along with the token: a JSON object of
	// strings.
	Extensions string `setting:"oidcExtensions"`
	// AssertionCert is the certificate (PEM) of oidcClientAssertionKey.
	AssertionCert component.Secret `setting:"oidcClientAssertionCert"`
	// AssertionKey is the RSA key (PEM) that signs the client's assertion (RFC
	// 7523) for authType oidc_private_key_jwt.
	AssertionKey component.Secret `setting:"oidcClientAssertionKey"`
	// Resource that the token is for.
	Resource string `setting:"oidcResource"`
	// Audience of the token and of the assertion; the token endpoint's URL is
	// that of the assertion when empty.
	Audience string `setting:"oidcAudience"`
	// KeyID is what the provider knows the key as.
	KeyID string `setting:"oidcKid"`
}

// check reports settings that can never work.
func (o OIDC) check(kind string) error {
	endpoint, err := url.Parse(o.TokenEndpoint)
	switch {
	case o.TokenEndpoint == "":
		return component.Invalid("oidcTokenEndpoint", "is required with authType %s", kind)
	case err != nil || endpoint.Host == "" || endpoint.Scheme != "https" && endpoint.Scheme != "http":
		return component.Invalid("oidcTokenEndpoint", "wants a URL")
	case o.OIDCClientID == "":
		return component.Invalid("oidcClientID", "is required with authType %s", kind)
	}
	if o.Extensions != "" {
		if _, ok := jsonObject(o.Extensions); !ok {
			return component.Invalid("oidcExtensions", "wants a JSON object of strings")
		}
	}
	if kind == authOIDC {
		if !o.OIDCClientSecret.IsSet() {
			return component.Invalid("oidcClientSecret", "is required with authType %s", kind)
		}
		return nil
	}
	switch {
	case !o.AssertionCert.IsSet():
		return component.Invalid("oidcClientAssertionCert", "is required with authType %s", kind)
	case !o.AssertionKey.IsSet():
		return component.Invalid("oidcClientAssertionKey", "is required with authType %s", kind)
	}
	_, err = o.signer()
	return err
}

// mechanism returns SASL with a token of the provider, which is asked again
// when the token is about to expire.
func (o OIDC) mechanism(kind string, t *tls.Config) (sasl.Mechanism, error) {
	source := &tokenSource{oidc: o, client: &http.Client{Transport: &http.Transport{TLSClientConfig: t, DisableKeepAlives: true}}}
	source.extensions, _ = jsonObject(o.Extensions)
	if kind == authOIDCKey {
		var err error
		if source.signer, err = o.signer(); err != nil {
			return nil, err
		}
	}
	return oauth.Oauth(source.auth), nil
}

// tokenSource gets tokens and keeps the last one. It is safe for concurrent
// use.
type tokenSource struct {
	oidc       OIDC
	extensions map[string]string
	client     *http.Client
	signer     *signer // nil with a client secret

	mu    sync.Mutex
	token *oauth2.Token
}

// tokenTime bounds a request for a token.
const tokenTime = 30 * time.Second

func (s *tokenSource) auth(ctx context.Context) (oauth.Auth, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.token.Valid() {
		ctx, cancel := context.WithTimeout(ctx, tokenTime)
		defer cancel()
		cfg, err := s.request()
		if err != nil {
			return oauth.Auth{}, err
		}
		token, err := cfg.Token(context.WithValue(ctx, oauth2.HTTPClient, s.client))
		if err != nil {
			return oauth.Auth{}, tokenError(err)
		}
		s.token = token
	}
	return oauth.Auth{Token: s.token.AccessToken, Extensions: s.extensions}, nil
}

// tokenError names an error of the provider. It leaves out what the provider
// says, which may quote the request.
func tokenError(err error) error {
	re, ok := errors.AsType[*oauth2.RetrieveError](err)
	switch {
	case !ok:
		return fault.Wrap(err, fault.Unavailable, "the token endpoint cannot be reached")
	case re.Response != nil && re.Response.StatusCode >= http.StatusInternalServerError:
		return fault.New(fault.Unavailable, "the token endpoint answers with status %d", re.Response.StatusCode)
	case re.ErrorCode != "":
		return fault.New(fault.Unauthenticated, "the token endpoint refuses the client: %s", re.ErrorCode)
	}
	return fault.New(fault.Unauthenticated, "the token endpoint refuses the client")
}

// request returns the request for a token.
func (s *tokenSource) request() (clientcredentials.Config, error) {
	o := s.oidc
	cfg := clientcredentials.Config{
		ClientID: o.OIDCClientID, ClientSecret: o.OIDCClientSecret.Reveal(), TokenURL: o.TokenEndpoint, Scopes: o.Scopes,
		EndpointParams: url.Values{},
	}
	if s.signer == nil {
		return cfg, nil
	}
	audience := o.Audience
	if audience == "" {
		audience = o.TokenEndpoint
	}
	assertion, err := s.signer.assertion(o.OIDCClientID, audience, time.Now())
	if err != nil {
		return cfg, err
	}
	cfg.ClientSecret, cfg.AuthStyle = "", oauth2.AuthStyleInParams
	cfg.EndpointParams.Set("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer")
	cfg.EndpointParams.Set("client_assertion", assertion)
	for name, value := range map[string]string{"audience": o.Audience, "resource": o.Resource} {
		if value != "" {
			cfg.EndpointParams.Set(name, value)
		}
	}
	return cfg, nil
}

// signer makes the assertions of a client: JSON web tokens signed with RS256
// (RFC 7518, section 3.3).
type signer struct {
	key    *rsa.PrivateKey
	header map[string]string
}

func (o OIDC) signer() (*signer, error) {
	cert, _ := pem.Decode([]byte(o.AssertionCert.Reveal()))
	if cert == nil || cert.Type != "CERTIFICATE" {
		return nil, component.Invalid("oidcClientAssertionCert", "is not a certificate in PEM")
	}
	key := rsaKey(o.AssertionKey.Reveal())
	if key == nil {
		return nil, component.Invalid("oidcClientAssertionKey", "is not an RSA key in PEM")
	}
	print := sha256.Sum256(cert.Bytes)
	s := &signer{key: key, header: map[string]string{
		"alg": "RS256", "typ": "JWT", "x5t#S256": base64.RawURLEncoding.EncodeToString(print[:]),
	}}
	if o.KeyID != "" {
		s.header["kid"] = o.KeyID
	}
	return s, nil
}

// rsaKey reads a key in PKCS #1 or PKCS #8; nil when it is none.
func rsaKey(text string) *rsa.PrivateKey {
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		return nil
	}
	if key, err := x509.ParsePKCS1PrivateKey(block.Bytes); err == nil {
		return key
	}
	any8, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil
	}
	key, _ := any8.(*rsa.PrivateKey)
	return key
}

// assertionTime is how long an assertion is good for.
const assertionTime = time.Minute

func (s *signer) assertion(client, audience string, now time.Time) (string, error) {
	parts := make([]string, 0, 3)
	for _, part := range []any{s.header, map[string]any{
		"iss": client, "sub": client, "aud": audience, "jti": rand.Text(),
		"iat": now.Unix(), "nbf": now.Unix(), "exp": now.Add(assertionTime).Unix(),
	}} {
		text, err := json.Marshal(part)
		if err != nil {
			return "", err
		}
		parts = append(parts, base64.RawURLEncoding.EncodeToString(text))
	}
	digest := sha256.Sum256([]byte(strings.Join(parts, ".")))
	signature, err := rsa.SignPKCS1v15(rand.Reader, s.key, crypto.SHA256, digest[:])
	if err != nil {
		return "", err
	}
	return strings.Join(append(parts, base64.RawURLEncoding.EncodeToString(signature)), "."), nil
}
