package bearer

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/lestrrat-go/jwx/v3/jwa"
	"github.com/lestrrat-go/jwx/v3/jwk"
	"github.com/lestrrat-go/jwx/v3/jwt"

	"github.com/proa-io/proa/block/middleware/middlewaretest"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
)

// provider is an OpenID Connect provider with one key.
type provider struct {
	*httptest.Server
	key jwk.Key
}

func newKey(t *testing.T, id string) jwk.Key {
	t.Helper()
	raw, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	key, err := jwk.Import(raw)
	if err != nil {
		t.Fatal(err)
	}
	if err := key.Set(jwk.KeyIDKey, id); err != nil {
		t.Fatal(err)
	}
	return key
}

func newProvider(t *testing.T) *provider {
	t.Helper()
	p := &provider{key: newKey(t, "k1")}
	p.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		switch r.URL.Path {
		case "/.well-known/openid-configuration":
			_ = json.NewEncoder(w).Encode(map[string]any{"issuer": p.URL, "jwks_uri": p.URL + "/keys"})
		case "/keys":
			public, _ := p.key.PublicKey()
			_ = json.NewEncoder(w).Encode(map[string]any{"keys": []any{public}})
		default:
			http.NotFound(w, r)
		}
	}))
	t.Cleanup(p.Close)
	return p
}

// token returns a token, and what change makes of it before it is signed.
func (p *provider) token(t *testing.T, change func(*jwt.Builder)) string {
	t.Helper()
	b := jwt.NewBuilder().Issuer(p.URL).Audience([]string{"shop"}).Subject("ann").IssuedAt(time.Now()).Expiration(time.Now().Add(time.Hour))
	if change != nil {
		change(b)
	}
	tok, err := b.Build()
	if err != nil {
		t.Fatal(err)
	}
	signed, err := jwt.Sign(tok, jwt.WithKey(jwa.ES256(), p.key))
	if err != nil {
		t.Fatal(err)
	}
	return string(signed)
}

func TestOnlyRequestsWithATokenOfTheProviderPass(t *testing.T) {
	p := newProvider(t)
	forged := &provider{Server: p.Server, key: newKey(t, "k1")}
	for name, cfg := range map[string]Config{
		"discovered":  {Issuer: p.URL, Audience: "shop"},
		"told by URL": {Issuer: p.URL, Audience: "shop", JWKSURL: p.URL + "/keys"},
	} {
		g, err := Open(t.Context(), cfg, component.Env{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = g.Close() })
		for _, c := range []struct {
			what, header string
			want         string // part of the message; "" when it passes
		}{
			{"a good token", "Bearer " + p.token(t, nil), ""},
			{"a good token in other words", "bearer  " + p.token(t, nil), ""},
			{"no token", "", "is required"},
			{"another scheme", "Basic YTpi", "is required"},
			{"no JSON Web Token", "Bearer nonsense", "no JSON Web Token"},
			{"another audience", "Bearer " + p.token(t, func(b *jwt.Builder) { b.Audience([]string{"bank"}) }), "another audience"},
			{"another issuer", "Bearer " + p.token(t, func(b *jwt.Builder) { b.Issuer("https://evil.example") }), "another issuer"},
			{"an expired token", "Bearer " + p.token(t, func(b *jwt.Builder) { b.Expiration(time.Now().Add(-time.Hour)) }), "expired"},
			{"a forged token", "Bearer " + forged.token(t, nil), "signature"},
			{"an endless token", "Bearer " + strings.Repeat("x", maxToken+1), "too long"},
		} {
			x := middlewaretest.New(t, "GET", "/", "Authorization", c.header).Through(g)
			if c.want == "" {
				if !x.Passed {
					t.Errorf("%s, %s: %d %s", name, c.what, x.Status, x.Content)
				}
				continue
			}
			if x.Passed || x.Status != 401 || !strings.HasPrefix(x.Header.Get("www-authenticate"), "Bearer") || !strings.Contains(string(x.Content), c.want) {
				t.Errorf("%s, %s: passed %v, %d %v %s; want %q", name, c.what, x.Passed, x.Status, x.Header, x.Content, c.want)
			}
		}
	}
}

func TestANewKeyOfTheProviderIsFound(t *testing.T) {
	p := newProvider(t)
	g, err := Open(t.Context(), Config{Issuer: p.URL, Audience: "shop"}, component.Env{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = g.Close() })
	for _, id := range []string{"k1", "k2"} {
		p.key = newKey(t, id)
		if x := middlewaretest.New(t, "GET", "/", "Authorization", "Bearer "+p.token(t, nil)).Through(g); !x.Passed {
			t.Errorf("a token of key %s: %s", id, x.Content)
		}
	}
}

func TestAProviderThatIsAwaySaysSo(t *testing.T) {
	p := newProvider(t)
	p.Close()
	if _, err := Open(t.Context(), Config{Issuer: p.URL, Audience: "shop"}, component.Env{}); !fault.Is(err, fault.Unavailable) {
		t.Errorf("Open: %v; want unavailable", err)
	}
	g, err := Open(t.Context(), Config{Issuer: p.URL, Audience: "shop", JWKSURL: p.URL + "/keys"}, component.Env{})
	if err != nil {
		t.Fatal(err)
	}
	x := middlewaretest.New(t, "GET", "/", "Authorization", "Bearer "+p.token(t, nil)).Through(g)
	if x.Passed || !strings.Contains(string(x.Content), "cannot be had now") {
		t.Errorf("passed %v, %s", x.Passed, x.Content)
	}
}

func TestSettingsThatCannotWorkAreRefused(t *testing.T) {
	for want, c := range map[string]Config{
		"issuer": {Audience: "a"}, "audience": {Issuer: "https://h"}, "jwksURL": {Issuer: "x", Audience: "a", JWKSURL: "keys"},
	} {
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v", c, err)
		}
	}
	if (Config{Issuer: "not a url", Audience: "a"}).Validate() == nil {
		t.Error("an issuer that cannot be asked for its keys is accepted")
	}
}
