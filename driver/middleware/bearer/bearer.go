// Package bearer is the HTTP middleware that demands a token of an OpenID Connect
// provider.
package bearer

import (
	"context"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"

	"github.com/proa-io/proa/block/middleware"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/mesh/proxy"
)

// Specs lists what this package offers to the building blocks.
func Specs() []component.Spec {
	return []component.Spec{
		middleware.Spec(component.Description{
			Name:    "bearer",
			Summary: "Demands a bearer token of an OpenID Connect provider.",
		}, Config{}, Open),
	}
}

// Config configures the tokens that are accepted.
//
// A request must have a token in the header Authorization ("Bearer ..."): a JSON
// Web Token that the provider has signed with RSA, ECDSA or Ed25519, for the
// audience, and that has not expired. Without one it is answered 401, with
// WWW-Authenticate.
type Config struct {
	// Issuer is the URL of the provider, as tokens name it.
	Issuer string `setting:"issuer,issuerURL,required"`
	// Audience is whom a token must be for, often the id of a client.
	Audience string `setting:"audience,clientID,required"`
	// JWKSURL is where the provider's keys are. When empty, the provider is
	// asked for it: Issuer + "/.well-known/openid-configuration".
	JWKSURL string `setting:"jwksURL"`
}

// Validate reports settings that can never work.
func (c Config) Validate() error {
	switch {
	case c.Issuer == "":
		return component.Invalid("issuer", `wants the URL of the provider, as "https://accounts.example.com"`)
	case c.Audience == "":
		return component.Invalid("audience", "wants whom tokens must be for")
	case c.JWKSURL != "" && !isURL(c.JWKSURL):
		return component.Invalid("jwksURL", `wants a URL such as "https://accounts.example.com/keys"`)
	case c.JWKSURL == "" && !isURL(c.Issuer):
		return component.Invalid("issuer", `wants the URL of the provider, as "https://accounts.example.com", or jwksURL besides`)
	}
	return nil
}

func isURL(text string) bool {
	u, err := url.Parse(text)
	return err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Host != ""
}

// fetchTimeout bounds one request to the provider.
const fetchTimeout = 10 * time.Second

// maxToken bounds a token, in bytes.
const maxToken = 64 << 10

// Guard is a middleware.Driver.
type Guard struct {
	verifier *oidc.IDTokenVerifier
	client   *http.Client
}

// Open asks the provider where its keys are if need be. Keys are fetched when
// the first token comes, and again when one names a key that is not known.
func Open(ctx context.Context, cfg Config, _ component.Env) (*Guard, error) {
	g := &Guard{client: &http.Client{Timeout: fetchTimeout}}
	keysURL := cfg.JWKSURL
	if keysURL == "" {
		provider, err := oidc.NewProvider(oidc.ClientContext(ctx, g.client), cfg.Issuer)
		if err != nil {
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			return nil, fault.Wrap(err, fault.Unavailable, "ask the provider %s for its keys", cfg.Issuer)
		}
		var claims struct {
			JWKSURL string `json:"jwks_uri"`
		}
		if err := provider.Claims(&claims); err != nil || claims.JWKSURL == "" {
			return nil, fault.New(fault.FailedPrecondition, "the provider %s does not say where its keys are", cfg.Issuer)
		}
		keysURL = claims.JWKSURL
	}
	keys := oidc.NewRemoteKeySet(oidc.ClientContext(context.WithoutCancel(ctx), g.client), keysURL)
	g.verifier = oidc.NewVerifier(cfg.Issuer, keys, &oidc.Config{
		ClientID: cfg.Audience,
		SupportedSigningAlgs: []string{
			oidc.RS256, oidc.RS384, oidc.RS512, oidc.PS256, oidc.PS384, oidc.PS512, oidc.ES256, oidc.ES384, oidc.ES512, oidc.EdDSA,
		},
	})
	return g, nil
}

// Handle implements middleware.Driver.
func (g *Guard) Handle(ex proxy.Exchange, next proxy.Handler) {
	scheme, token, _ := strings.Cut(ex.Request().Header.Get("authorization"), " ")
	token = strings.TrimSpace(token)
	switch {
	case token == "" || !strings.EqualFold(scheme, "bearer"):
		refuse(ex, `Bearer`, "a bearer token is required")
		return
	case len(token) > maxToken:
		refuse(ex, `Bearer error="invalid_token"`, "the bearer token is too long")
		return
	}
	if _, err := g.verifier.Verify(ex.Context(), token); err != nil {
		refuse(ex, `Bearer error="invalid_token"`, "the bearer token is not accepted: "+reason(err))
		return
	}
	next(ex)
}

// reason says why a token is not accepted, as far as it may help whoever sent
// it.
func reason(err error) string {
	text := err.Error()
	switch {
	case strings.Contains(text, "expired"):
		return "it has expired"
	case strings.Contains(text, "audience"):
		return "it is for another audience"
	case strings.Contains(text, "issued by a different provider"):
		return "it is of another issuer"
	case strings.Contains(text, "fetching keys"):
		return "the keys of the provider cannot be had now"
	case strings.Contains(text, "malformed"):
		return "it is no JSON Web Token"
	}
	return "its signature does not hold"
}

// refuse answers as RFC 6750, section 3, has it.
func refuse(ex proxy.Exchange, challenge, message string) {
	middleware.Refuse(ex, 401, "ERR_UNAUTHENTICATED", message, proxy.Field{Name: "WWW-Authenticate", Value: challenge})
}

// Close implements io.Closer.
func (g *Guard) Close() error {
	g.client.CloseIdleConnections()
	return nil
}
