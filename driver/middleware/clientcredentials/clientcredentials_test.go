package clientcredentials

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/proa-io/proa/block/middleware/middlewaretest"
	"github.com/proa-io/proa/component"
)

func TestRequestsGetATokenThatIsUsedUntilItExpires(t *testing.T) {
	asked, expires := 0, 3600
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked++
		id, secret, _ := r.BasicAuth()
		if err := r.ParseForm(); err != nil || id != "me" || secret != "s3cret" || r.Form.Get("scope") != "a b" || r.Form.Get("resource") != "r" {
			t.Errorf("asked by %q with %v", id, r.Form)
		}
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"access_token":"t%d","token_type":"bearer","expires_in":%d}`, asked, expires)
	}))
	t.Cleanup(server.Close)
	a, err := Open(t.Context(), Config{
		ClientID: "me", ClientSecret: component.NewSecret("s3cret"), Scopes: "a, b", TokenURL: server.URL, HeaderName: "X-Token",
		EndpointParamsQuery: "resource=r", AuthStyle: 2,
	}, component.Env{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = a.Close() })
	header := func() string {
		x := middlewaretest.New(t, "GET", "/", "X-Token", "of the caller").Through(a)
		if !x.Passed {
			t.Errorf("refused: %d %s", x.Status, x.Content)
		}
		return x.Req.Header.Get("x-token")
	}
	if one, two := header(), header(); one != "Bearer t1" || two != "Bearer t1" || asked != 1 {
		t.Errorf("got %q and %q, asked %d times", one, two, asked)
	}
	a.token, expires = nil, 1 // less than what is left out of use
	if one, two := header(), header(); one != "Bearer t2" || two != "Bearer t3" {
		t.Errorf("got %q and %q of tokens that expire", one, two)
	}
}

func TestWithoutATokenNothingPasses(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusUnauthorized)
		fmt.Fprint(w, `{"error":"invalid_client","error_description":"s3cret is wrong"}`)
	}))
	cfg := Config{ClientID: "me", ClientSecret: component.NewSecret("s3cret"), TokenURL: server.URL, HeaderName: "Authorization"}
	a, err := Open(t.Context(), cfg, component.Env{})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"gives no token: 401 Unauthorized invalid_client", "no token can be had"} {
		x := middlewaretest.New(t, "GET", "/").Through(a)
		if x.Passed || x.Status != 502 || !strings.Contains(string(x.Content), want) || strings.Contains(string(x.Content), "s3cret") {
			t.Errorf("passed %v, %d %s; want %q", x.Passed, x.Status, x.Content, want)
		}
		server.Close()
	}
}

func TestSettingsThatCannotWorkAreRefused(t *testing.T) {
	good := Config{ClientID: "me", TokenURL: "https://h/token", HeaderName: "Authorization"}
	if err := good.Validate(); err != nil {
		t.Fatal(err)
	}
	for want, change := range map[string]func(*Config){
		"tokenURL": func(c *Config) { c.TokenURL = "h" }, "clientID": func(c *Config) { c.ClientID = "" },
		"authStyle": func(c *Config) { c.AuthStyle = 3 }, "headerName": func(c *Config) { c.HeaderName = "" },
		"endpointParamsQuery": func(c *Config) { c.EndpointParamsQuery = "%zz" },
	} {
		c := good
		change(&c)
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
}
