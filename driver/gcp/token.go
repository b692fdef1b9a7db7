package gcp

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/proa-io/proa/driver/internal/rest"
	"github.com/proa-io/proa/fault"
)

// source asks for tokens.
type source interface {
	// request returns the request for one.
	request(ctx context.Context) (*http.Request, error)
}

// googleTokens is where tokens come from.
const googleTokens = "https://oauth2.googleapis.com/token"

// scope is what tokens are for; the roles of the account say what it may do.
const scope = "https://www.googleapis.com/auth/cloud-platform"

// findSource returns where the credentials come from. metadata is the host of
// the machine's metadata server.
func findSource(cfg AccountConfig, metadata string) (source, error) {
	if cfg.PrivateKey.IsSet() {
		return cfg.key().source(scope, googleTokens)
	}
	path, named := os.Getenv("GOOGLE_APPLICATION_CREDENTIALS"), true
	if path == "" {
		path, named = wellKnown(), false
	}
	text, err := os.ReadFile(path)
	if err != nil {
		if named {
			return nil, fault.New(fault.FailedPrecondition, "the file that GOOGLE_APPLICATION_CREDENTIALS names cannot be read: %v", err)
		}
		return machine{metadata}, nil
	}
	k, err := parseKeyFile(text)
	if err == nil {
		var s source
		if s, err = k.source(scope, googleTokens); err == nil {
			return s, nil
		}
	}
	return nil, fault.New(fault.FailedPrecondition, "the credentials in %s cannot be used: want those of a service account or of a user", path)
}

// wellKnown returns where gcloud leaves a user's credentials.
func wellKnown() string {
	if dir := os.Getenv("CLOUDSDK_CONFIG"); dir != "" {
		return filepath.Join(dir, "application_default_credentials.json")
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return ""
	}
	return filepath.Join(home, ".config", "gcloud", "application_default_credentials.json")
}

// source returns what asks for tokens with the credentials of the file.
func (k keyFile) source(scope, tokens string) (source, error) {
	if k.TokenURI != "" {
		tokens = k.TokenURI
	}
	switch {
	case k.Type == typeUser && k.RefreshToken != "":
		return user{k, tokens}, nil
	case k.Type != typeAccount:
		return nil, errors.New("unknown kind of credentials")
	}
	// A line of YAML may have the ends of lines as two characters.
	block, _ := pem.Decode([]byte(strings.ReplaceAll(k.Key, `\n`, "\n")))
	if block == nil {
		return nil, errors.New("no PEM")
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		if parsed, err = x509.ParsePKCS1PrivateKey(block.Bytes); err != nil {
			return nil, errors.New("no private key")
		}
	}
	key, ok := parsed.(*rsa.PrivateKey)
	if !ok {
		return nil, errors.New("no RSA key")
	}
	return account{k, key, scope, tokens}, nil
}

// post returns the request for a token with a form.
func post(ctx context.Context, address string, form url.Values) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, address, strings.NewReader(form.Encode()))
	if err != nil {
		return nil, fault.New(fault.FailedPrecondition, "the address that tokens come from is not one")
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return req, nil
}

// account is a service account with a private key (RFC 7523).
type account struct {
	keyFile
	key    *rsa.PrivateKey
	scope  string
	tokens string
}

func (a account) request(ctx context.Context) (*http.Request, error) {
	now := time.Now()
	head, err := json.Marshal(map[string]string{"alg": "RS256", "typ": "JWT", "kid": a.KeyID})
	if err != nil {
		return nil, err
	}
	claims, err := json.Marshal(map[string]any{
		"iss": a.Email, "scope": a.scope, "aud": a.tokens, "iat": now.Unix(), "exp": now.Add(time.Hour).Unix(),
	})
	if err != nil {
		return nil, err
	}
	encode := base64.RawURLEncoding.EncodeToString
	signed := encode(head) + "." + encode(claims)
	sum := sha256.Sum256([]byte(signed))
	signature, err := rsa.SignPKCS1v15(rand.Reader, a.key, crypto.SHA256, sum[:])
	if err != nil {
		return nil, fault.New(fault.FailedPrecondition, "the private key cannot sign")
	}
	return post(ctx, a.tokens, url.Values{
		"grant_type": {"urn:ietf:params:oauth:grant-type:jwt-bearer"}, "assertion": {signed + "." + encode(signature)},
	})
}

// user is somebody who has logged in with gcloud.
type user struct {
	keyFile
	tokens string
}

func (u user) request(ctx context.Context) (*http.Request, error) {
	return post(ctx, u.tokens, url.Values{
		"grant_type": {"refresh_token"}, "client_id": {u.ClientID}, "client_secret": {u.ClientSecret}, "refresh_token": {u.RefreshToken},
	})
}

// machine is one that has a service account.
type machine struct{ host string }

// metadataHost returns the host of the metadata server.
func metadataHost() string {
	if host := os.Getenv("GCE_METADATA_HOST"); host != "" {
		return host
	}
	return "169.254.169.254"
}

func (m machine) request(ctx context.Context) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+m.host+"/computeMetadata/v1/instance/service-accounts/default/token", nil)
	if err != nil {
		return nil, fault.New(fault.FailedPrecondition, "GCE_METADATA_HOST names no host")
	}
	req.Header.Set("Metadata-Flavor", "Google")
	return req, nil
}

func newTokens(c *rest.Client, s source) *rest.Tokens {
	return rest.NewTokens(c, s.request, "Google, or the machine, gives no token for this account")
}
