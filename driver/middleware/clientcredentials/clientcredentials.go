// Package clientcredentials is the HTTP middleware that adds a token of an OAuth
// 2.0 server to requests (RFC 6749, section 4.4).
package clientcredentials

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"

	"github.com/proa-io/proa/block/middleware"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/mesh/proxy"
)

// Specs lists what this package offers to the building blocks.
func Specs() []component.Spec {
	return []component.Spec{
		middleware.Spec(component.Description{
			Name:    "oauth2clientcredentials",
			Summary: "Adds a token of an OAuth 2.0 server to requests, had for a client id and secret.",
		}, Config{HeaderName: "Authorization"}, Open),
	}
}

// Config configures where tokens come from. A token is used until it expires. A
// request for which none can be had is answered 502.
type Config struct {
	// ClientID is the id of the client.
	ClientID string `setting:"clientID,required"`
	// ClientSecret is the secret of the client.
	ClientSecret component.Secret `setting:"clientSecret,required"`
	// Scopes are asked for, separated by commas.
	Scopes string `setting:"scopes"`
	// TokenURL is where the server gives tokens.
	TokenURL string `setting:"tokenURL,required"`
	// HeaderName is the header that carries the token to whoever the request is
	// for, as "Bearer ...".
	HeaderName string `setting:"headerName"`
	// EndpointParamsQuery holds further parameters of the request for a token,
	// as a query: "resource=a&tenant=b".
	EndpointParamsQuery string `setting:"endpointParamsQuery"`
	// AuthStyle is how the client shows its id and secret: 1 in the body, 2 in
	// the header Authorization, 0 to find out.
	AuthStyle int `setting:"authStyle"`
}

// Validate reports settings that can never work.
func (c Config) Validate() error {
	u, err := url.Parse(c.TokenURL)
	switch {
	case err != nil, u.Host == "", u.Scheme != "http" && u.Scheme != "https":
		return component.Invalid("tokenURL", `wants a URL such as "https://accounts.example.com/token"`)
	case c.ClientID == "":
		return component.Invalid("clientID", "wants the id of the client")
	case c.AuthStyle < 0 || c.AuthStyle > 2:
		return component.Invalid("authStyle", "wants 0, 1 or 2")
	case c.HeaderName == "":
		return component.Invalid("headerName", "wants the name of a header")
	}
	if _, err := url.ParseQuery(c.EndpointParamsQuery); err != nil {
		return component.Invalid("endpointParamsQuery", `wants a query such as "resource=a&tenant=b"`)
	}
	return nil
}

// fetchTimeout bounds one request for a token.
const fetchTimeout = 10 * time.Second

// early is how long before its end a token is not used any more.
const early = 10 * time.Second

// Adder is a middleware.Driver.
type Adder struct {
	config clientcredentials.Config
	header string
	client *http.Client

	mu    sync.Mutex // held while a token is fetched: the others wait for it
	token *oauth2.Token
}

// Open returns a middleware that has no token yet.
func Open(_ context.Context, cfg Config, _ component.Env) (*Adder, error) {
	params, err := url.ParseQuery(cfg.EndpointParamsQuery)
	if err != nil {
		return nil, fault.New(fault.InvalidArgument, "endpointParamsQuery is no query")
	}
	a := &Adder{header: cfg.HeaderName, client: &http.Client{Timeout: fetchTimeout}}
	a.config = clientcredentials.Config{
		ClientID: cfg.ClientID, ClientSecret: cfg.ClientSecret.Reveal(), TokenURL: cfg.TokenURL,
		EndpointParams: params, AuthStyle: oauth2.AuthStyle(cfg.AuthStyle),
	}
	for scope := range strings.SplitSeq(cfg.Scopes, ",") {
		if scope = strings.TrimSpace(scope); scope != "" {
			a.config.Scopes = append(a.config.Scopes, scope)
		}
	}
	return a, nil
}

// Handle implements middleware.Driver.
func (a *Adder) Handle(ex proxy.Exchange, next proxy.Handler) {
	value, err := a.authorization(ex.Context())
	if err != nil {
		middleware.Refuse(ex, 502, "ERR_OAUTH2", fault.Message(err))
		return
	}
	ex.Request().Header.Set(a.header, value)
	next(ex)
}

// authorization returns the value of the header.
func (a *Adder) authorization(ctx context.Context) (string, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.token == nil || !a.token.Expiry.IsZero() && time.Until(a.token.Expiry) < early {
		t, err := a.config.Token(context.WithValue(ctx, oauth2.HTTPClient, a.client))
		if err != nil {
			return "", tokenError(ctx, a.config.TokenURL, err)
		}
		a.token = t
	}
	return a.token.Type() + " " + a.token.AccessToken, nil
}

func tokenError(ctx context.Context, tokenURL string, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if refused, ok := errors.AsType[*oauth2.RetrieveError](err); ok && refused.Response != nil {
		return fault.New(fault.PermissionDenied, "%s gives no token: %s %s", tokenURL, refused.Response.Status, refused.ErrorCode)
	}
	return fault.Wrap(err, fault.Unavailable, "no token can be had from %s", tokenURL)
}

// Close implements io.Closer.
func (a *Adder) Close() error {
	a.client.CloseIdleConnections()
	return nil
}
