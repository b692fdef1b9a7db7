package oauth2

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/proa-io/proa/block/middleware/middlewaretest"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/internal/leak"
)

// server gives a token that lives for some seconds, 0 for ever, for the code
// "good".
func server(t *testing.T, token string, seconds int) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id, secret, _ := r.BasicAuth()
		w.Header().Set("Content-Type", "application/json")
		if r.ParseForm() != nil || r.Form.Get("code") != "good" || r.Form.Get("redirect_uri") != "https://app.test/" || id != "me" || secret != "s3cret" {
			w.WriteHeader(http.StatusBadRequest)
			fmt.Fprint(w, `{"error":"invalid_grant","error_description":"s3cret is wrong"}`)
			return
		}
		fmt.Fprintf(w, `{"access_token":%q,"token_type":"bearer","expires_in":%d}`, token, seconds)
	}))
	t.Cleanup(s.Close)
	return s.URL
}

func configOf(tokenURL string) Config {
	cfg := defaults()
	cfg.ClientID, cfg.ClientSecret, cfg.Scopes = "me", component.NewSecret("s3cret"), "a, b"
	cfg.AuthURL, cfg.TokenURL, cfg.RedirectURL = "https://auth.test/sign-in?x=y", tokenURL, "https://app.test/"
	return cfg
}

func open(t *testing.T, cfg Config) *Gate {
	t.Helper()
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	g, err := Open(t.Context(), cfg, component.Env{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = g.Close() })
	return g
}

// visit asks for a place with a cookie, and returns the exchange and the cookie
// that is set.
func visit(t *testing.T, g *Gate, target, cookie string) (x *middlewaretest.Exchange, set string) {
	t.Helper()
	x = middlewaretest.New(t, "GET", target)
	x.Req.Authority = "app.test"
	if cookie != "" {
		x.Req.Header.Add("cookie", "other=1")
		x.Req.Header.Add("cookie", "a=b; "+cookie)
	}
	x.Through(g)
	set, _, _ = strings.Cut(field(x, "Set-Cookie"), ";")
	return x, set
}

func field(x *middlewaretest.Exchange, name string) string {
	for _, f := range x.Header {
		if f.Name == name {
			return f.Value
		}
	}
	return ""
}

// sentTo begins to sign in and returns the state that the server is to say.
func sentTo(t *testing.T, g *Gate, target string) (state, cookie string) {
	t.Helper()
	x, cookie := visit(t, g, target, "")
	at, err := url.Parse(field(x, "Location"))
	if err != nil || x.Passed || x.Status != 302 || at.Host != "auth.test" {
		t.Fatalf("sent to %v with %d, %v", at, x.Status, err)
	}
	q := at.Query()
	if q.Get("x") != "y" || q.Get("client_id") != "me" || q.Get("scope") != "a b" || q.Get("redirect_uri") != "https://app.test/" || q.Get("response_type") != "code" {
		t.Errorf("sent with %v", q)
	}
	return q.Get("state"), cookie
}

func TestWhoSignsInGetsWhereTheyWantedToGo(t *testing.T) {
	leak.Check(t)
	g := open(t, configOf(server(t, "tok", 3600)))
	state, begun := sentTo(t, g, "/orders?id=7")
	x, in := visit(t, g, "/?code=good&state="+state, begun)
	if x.Passed || x.Status != 302 || field(x, "Location") != "/orders?id=7" {
		t.Fatalf("after signing in: %d %v %s", x.Status, x.Header, x.Content)
	}
	if all := field(x, "Set-Cookie"); !strings.Contains(all, "HttpOnly") || !strings.Contains(all, "SameSite=Lax") || strings.Contains(all, "Secure") || strings.Contains(all, "tok") {
		t.Errorf("the cookie is %q", all)
	}
	other := open(t, configOf("https://elsewhere.test/")) // another sidecar of the application
	for _, g := range []*Gate{g, other} {
		x, _ := visit(t, g, "/orders?id=7&state=mine", in)
		if !x.Passed || x.Req.Header.Get("Authorization") != "Bearer tok" {
			t.Errorf("with a session: %d %v", x.Status, x.Req.Header)
		}
	}
	stranger := configOf("https://elsewhere.test/")
	stranger.ClientSecret = component.NewSecret("another")
	if x, _ := visit(t, open(t, stranger), "/", in); x.Passed {
		t.Error("a session of another client passes")
	}
}

func TestWhatIsForcedToHTTPS(t *testing.T) {
	cfg := configOf(server(t, "tok", 0))
	cfg.ForceHTTPS, cfg.AuthHeaderName, cfg.CookieName = true, "X-Token", "mine"
	g := open(t, cfg)
	state, begun := sentTo(t, g, "//evil.test/a")
	x, in := visit(t, g, "/?code=good&state="+state, begun)
	if field(x, "Location") != "https://app.test/evil.test/a" || !strings.Contains(field(x, "Set-Cookie"), "Secure") || !strings.HasPrefix(in, "mine=") {
		t.Errorf("%v", x.Header)
	}
	if x, _ := visit(t, g, "/", in); !x.Passed || x.Req.Header.Get("X-Token") != "Bearer tok" {
		t.Errorf("with a session: %d %v", x.Status, x.Req.Header)
	}
}

func TestWhoHasNotSignedInDoesNotPass(t *testing.T) {
	g := open(t, configOf(server(t, "tok", 3600)))
	state, begun := sentTo(t, g, "/")
	changed := begun[:len(begun)-3] + "AAA"
	for _, tc := range []struct {
		target, cookie string
		status         int
		text           string
	}{
		{"/?code=good&state=" + state, "", 400, "invalid state"},
		{"/?code=good&state=" + state, changed, 400, "invalid state"},
		{"/?code=good&state=x" + state, begun, 400, "invalid state"},
		{"/?error=access_denied&state=" + state, begun, 400, "code not found"},
		{"/?code=bad&state=" + state, begun, 502, "gives no token: 400 Bad Request invalid_grant"},
		{"/", begun, 302, ""},
		{"/", "_dapr_oauth2=%%%", 302, ""},
	} {
		x, _ := visit(t, g, tc.target, tc.cookie)
		if x.Passed || x.Status != tc.status || !strings.Contains(string(x.Content), tc.text) || strings.Contains(string(x.Content), "s3cret") {
			t.Errorf("%s with %s: passed %v, %d %s; want %d %s", tc.target, tc.cookie, x.Passed, x.Status, x.Content, tc.status, tc.text)
		}
	}
}

func TestASessionEndsWithItsToken(t *testing.T) {
	g := open(t, configOf(server(t, "tok", 1))) // less than what is left out of use
	state, begun := sentTo(t, g, "/")
	_, in := visit(t, g, "/?code=good&state="+state, begun)
	if x, _ := visit(t, g, "/", in); x.Passed || x.Status != 302 {
		t.Errorf("with a token that has expired: passed %v, %d", x.Passed, x.Status)
	}
}

func TestATokenThatIsTooLongForACookie(t *testing.T) {
	g := open(t, configOf(server(t, strings.Repeat("t", maxCookie), 3600)))
	state, begun := sentTo(t, g, "/")
	if x, _ := visit(t, g, "/?code=good&state="+state, begun); x.Status != 500 || !strings.Contains(string(x.Content), "too long") {
		t.Errorf("%d %s", x.Status, x.Content)
	}
}

func TestOtherPathsPassWithoutAToken(t *testing.T) {
	cfg := configOf("https://auth.test/token")
	cfg.PathFilter = "^/private/"
	g := open(t, cfg)
	if x, _ := visit(t, g, "/public?a=/private/", ""); !x.Passed {
		t.Error("another path does not pass")
	}
	if x, _ := visit(t, g, "/private/x", ""); x.Passed {
		t.Error("a path that wants a token passes without")
	}
}

func TestSettingsThatCannotWorkAreRefused(t *testing.T) {
	for want, change := range map[string]func(*Config){
		"authURL": func(c *Config) { c.AuthURL = "h" }, "tokenURL": func(c *Config) { c.TokenURL = "" }, "redirectURL": func(c *Config) { c.RedirectURL = "/x" },
		"clientID": func(c *Config) { c.ClientID = "" }, "clientSecret": func(c *Config) { c.ClientSecret = component.Secret{} },
		"authHeaderName": func(c *Config) { c.AuthHeaderName = "" }, "cookieName": func(c *Config) { c.CookieName = "a b" },
		"pathFilter": func(c *Config) { c.PathFilter = "(" },
	} {
		c := configOf("https://auth.test/token")
		change(&c)
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
}

func FuzzSessions(f *testing.F) {
	s := newSealer(configOf("https://auth.test/token"))
	good, err := s.seal(session{State: "s", Until: time.Unix(9999999999, 0)})
	if err != nil {
		f.Fatal(err)
	}
	for _, seed := range []string{good, good[1:], "", "A", good + "A"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if got := s.open(text); got != (session{}) && got.State != "s" {
			t.Errorf("%q is taken for %+v", text, got)
		}
	})
}
