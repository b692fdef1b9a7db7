// Package oauth2 is the HTTP middleware that has people sign in with an OAuth 2.0
// server before their requests pass (RFC 6749, section 4.1), and hands their token
// on.
package oauth2

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"

	"golang.org/x/oauth2"

	"github.com/proa-io/proa/block/middleware"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/mesh/proxy"
)

// Specs lists what this package offers to the building blocks.
func Specs() []component.Spec {
	return []component.Spec{
		middleware.Spec(component.Description{
			Name:    "oauth2",
			Summary: "Sends people to an OAuth 2.0 server to sign in, and adds their token to requests.",
		}, defaults(), Open),
	}
}

// Config configures the server that people sign in with.
//
// Who has not signed in is sent to AuthURL, comes back to RedirectURL with a
// code, for which the sidecar gets a token, and is sent to where they wanted to
// go. RedirectURL must lead to this middleware. The session is in a cookie, which
// is encrypted under a key made of ClientSecret: every sidecar with the same
// settings knows it. It ends with the token, or after a day when the server says
// of the token no end.
type Config struct {
	// ClientID is the id of the client.
	ClientID string `setting:"clientID,required"`
	// ClientSecret is the secret of the client.
	ClientSecret component.Secret `setting:"clientSecret,required"`
	// Scopes are asked for, separated by commas.
	Scopes string `setting:"scopes"`
	// AuthURL is where people sign in.
	AuthURL string `setting:"authURL,required"`
	// TokenURL is where the server gives tokens for codes.
	TokenURL string `setting:"tokenURL,required"`
	// RedirectURL is where the server sends people back to.
	RedirectURL string `setting:"redirectURL,required"`
	// AuthHeaderName is the header that carries the token to whoever the request
	// is for, as "Bearer ...".
	AuthHeaderName string `setting:"authHeaderName"`
	// ForceHTTPS sends people to where they wanted to go over HTTPS, and lets the
	// cookie go over nothing else.
	ForceHTTPS bool `setting:"forceHTTPS"`
	// CookieName is the name of the cookie.
	CookieName string `setting:"cookieName"`
	// PathFilter is a regular expression: requests of other paths pass without a
	// token. By default there is none, and all want one.
	PathFilter string `setting:"pathFilter"`
}

func defaults() Config { return Config{AuthHeaderName: "Authorization", CookieName: "_dapr_oauth2"} }

// Validate reports settings that can never work.
func (c Config) Validate() error {
	for _, address := range []struct{ name, value string }{{"authURL", c.AuthURL}, {"tokenURL", c.TokenURL}, {"redirectURL", c.RedirectURL}} {
		u, err := url.Parse(address.value)
		if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			return component.Invalid(address.name, `wants a URL such as "https://accounts.example.com/path"`)
		}
	}
	switch {
	case c.ClientID == "":
		return component.Invalid("clientID", "wants the id of the client")
	case !c.ClientSecret.IsSet():
		return component.Invalid("clientSecret", "wants the secret of the client")
	case c.AuthHeaderName == "":
		return component.Invalid("authHeaderName", "wants the name of a header")
	}
	if (&http.Cookie{Name: c.CookieName}).Valid() != nil {
		return component.Invalid("cookieName", "wants a name that a cookie can have")
	}
	if _, err := regexp.Compile(c.PathFilter); err != nil {
		return component.Invalid("pathFilter", "is not a regular expression: %v", err)
	}
	return nil
}

const (
	// fetchTimeout bounds one request for a token.
	fetchTimeout = 10 * time.Second
	// signInTime is how long signing in may take.
	signInTime = 10 * time.Minute
	// sessionTime is how long a session lasts whose token has no end.
	sessionTime = 24 * time.Hour
	// early is how long before its end a token is not used any more.
	early = 10 * time.Second
)

// Gate is a middleware.Driver.
type Gate struct {
	cfg    Config
	config oauth2.Config
	filter *regexp.Regexp // nil for all paths
	seal   sealer
	client *http.Client
}

// Open returns a middleware. It asks the server for nothing.
func Open(_ context.Context, cfg Config, _ component.Env) (*Gate, error) {
	g := &Gate{cfg: cfg, seal: newSealer(cfg), client: &http.Client{Timeout: fetchTimeout}}
	g.config = oauth2.Config{
		ClientID: cfg.ClientID, ClientSecret: cfg.ClientSecret.Reveal(), RedirectURL: cfg.RedirectURL,
		Endpoint: oauth2.Endpoint{AuthURL: cfg.AuthURL, TokenURL: cfg.TokenURL},
	}
	for scope := range strings.SplitSeq(cfg.Scopes, ",") {
		if scope = strings.TrimSpace(scope); scope != "" {
			g.config.Scopes = append(g.config.Scopes, scope)
		}
	}
	if cfg.PathFilter != "" {
		filter, err := regexp.Compile(cfg.PathFilter)
		if err != nil {
			return nil, component.Invalid("pathFilter", "is not a regular expression: %v", err)
		}
		g.filter = filter
	}
	return g, nil
}

// Close implements io.Closer.
func (g *Gate) Close() error {
	g.client.CloseIdleConnections()
	return nil
}

// codeError is the code of all refusals.
const codeError = "ERR_OAUTH2"

// Handle implements middleware.Driver.
func (g *Gate) Handle(ex proxy.Exchange, next proxy.Handler) {
	r := ex.Request()
	path, query, _ := strings.Cut(r.Target, "?")
	if g.filter != nil && !g.filter.MatchString(path) {
		next(ex)
		return
	}
	s := g.session(r)
	if s.Token != "" {
		r.Header.Set(g.cfg.AuthHeaderName, s.Token)
		next(ex)
		return
	}
	answer, err := url.ParseQuery(query)
	if err != nil || answer.Get("state") == "" {
		g.signIn(ex)
		return
	}
	g.signedIn(ex, s, answer)
}

// signIn sends somebody to the server.
func (g *Gate) signIn(ex proxy.Exchange) {
	// One slash: a place that begins with two is on another host.
	target := "/" + strings.TrimLeft(ex.Request().Target, `/\*`)
	s := session{State: rand.Text(), Target: target, Until: time.Now().Add(signInTime)}
	g.send(ex, g.config.AuthCodeURL(s.State, oauth2.AccessTypeOffline), s)
}

// signedIn takes in what the server answered, with which somebody comes back.
func (g *Gate) signedIn(ex proxy.Exchange, s session, answer url.Values) {
	code := answer.Get("code")
	switch {
	case s.State == "" || subtle.ConstantTimeCompare([]byte(s.State), []byte(answer.Get("state"))) == 0:
		middleware.Refuse(ex, 400, codeError, "invalid state: begin to sign in again where you wanted to go")
		return
	case code == "":
		middleware.Refuse(ex, 400, codeError, "code not found: the server has not let you sign in")
		return
	}
	t, err := g.config.Exchange(context.WithValue(ex.Context(), oauth2.HTTPClient, g.client), code)
	if err != nil {
		middleware.Refuse(ex, 502, codeError, fault.Message(g.tokenError(ex.Context(), err)))
		return
	}
	in := session{Token: t.Type() + " " + t.AccessToken, Until: time.Now().Add(sessionTime)}
	if !t.Expiry.IsZero() {
		in.Until = t.Expiry.Add(-early)
	}
	to := s.Target
	if g.cfg.ForceHTTPS {
		to = "https://" + ex.Request().Authority + to
	}
	g.send(ex, to, in)
}

func (g *Gate) tokenError(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if refused, ok := errors.AsType[*oauth2.RetrieveError](err); ok && refused.Response != nil {
		return fault.New(fault.PermissionDenied, "%s gives no token: %s %s", g.cfg.TokenURL, refused.Response.Status, refused.ErrorCode)
	}
	return fault.Wrap(err, fault.Unavailable, "no token can be had from %s", g.cfg.TokenURL)
}

// send sends somebody to another place with a session.
func (g *Gate) send(ex proxy.Exchange, to string, s session) {
	text, err := g.seal.seal(s)
	if err != nil {
		middleware.Refuse(ex, 500, codeError, fault.Message(err))
		return
	}
	cookie := &http.Cookie{
		Name: g.cfg.CookieName, Value: text, Path: "/", Expires: s.Until, HttpOnly: true, Secure: g.cfg.ForceHTTPS, SameSite: http.SameSiteLaxMode,
	}
	header := proxy.Header{{Name: "Location", Value: to}, {Name: "Set-Cookie", Value: cookie.String()}, {Name: "Cache-Control", Value: "no-store"}}
	_ = ex.Respond(http.StatusFound, header, 0) // an error means that the client has gone
}
