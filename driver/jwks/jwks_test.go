package jwks

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lestrrat-go/jwx/v3/jwk"

	"github.com/proa-io/proa/block/crypto"
	"github.com/proa-io/proa/block/crypto/cryptotest"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
)

// setText returns keys as the text of a set.
func setText(t testing.TB, keys map[string]any) string {
	t.Helper()
	set := jwk.NewSet()
	for name, material := range keys {
		k, err := jwk.Import(material)
		if err != nil {
			t.Fatal(err)
		}
		if err := k.Set(jwk.KeyIDKey, name); err != nil {
			t.Fatal(err)
		}
		if err := set.AddKey(k); err != nil {
			t.Fatal(err)
		}
	}
	text, err := json.Marshal(set)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func config(jwks string) Config {
	return Config{JWKS: component.NewSecret(jwks), RequestTimeout: component.Duration(10 * time.Second), MinRefreshInterval: component.Duration(time.Hour)}
}

func open(t testing.TB, cfg Config) *Store {
	t.Helper()
	s, err := Open(t.Context(), cfg, component.Env{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func write(t testing.TB, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "keys.json")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestKeysOfASet(t *testing.T) {
	for name, jwks := range map[string]func(testing.TB, string) string{
		"in the component": func(_ testing.TB, text string) string { return "\n" + text },
		"in Base64":        func(_ testing.TB, text string) string { return base64.StdEncoding.EncodeToString([]byte(text)) },
		"in a file":        func(t testing.TB, text string) string { return write(t, text) },
		"behind a URL": func(t testing.TB, text string) string {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(text)) }))
			t.Cleanup(server.Close)
			return server.URL + "/keys"
		},
	} {
		t.Run(name, func(t *testing.T) {
			cryptotest.Run(t, cryptotest.Harness{Symmetric: true, Open: func(t testing.TB, keys map[string]any) crypto.Driver {
				return open(t, config(jwks(t, setText(t, keys))))
			}})
		})
	}
}

func has(t *testing.T, s *Store, name string) bool {
	t.Helper()
	_, err := s.Key(t.Context(), name)
	if err != nil && !fault.Is(err, fault.NotFound) {
		t.Fatal(err)
	}
	return err == nil
}

func TestAFileIsReadAgainAndABrokenOneKeepsTheKeys(t *testing.T) {
	path := write(t, setText(t, map[string]any{"a": []byte("0123456789abcdef")}))
	s := open(t, config(path))
	for _, step := range []struct {
		text string
		a, b bool
	}{
		{setText(t, map[string]any{"b": []byte("0123456789abcdef")}), false, true},
		{"{broken", false, true},
		{setText(t, map[string]any{"a": []byte("0123456789abcdef")}), true, false},
	} {
		if err := os.WriteFile(path, []byte(step.text), 0o600); err != nil {
			t.Fatal(err)
		}
		if a, b := has(t, s, "a"), has(t, s, "b"); a != step.a || b != step.b {
			t.Errorf("after %.20q: a %v, b %v", step.text, a, b)
		}
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if !has(t, s, "a") {
		t.Error("a key is gone with the file")
	}
}

func TestAURLIsFetchedAgainNoSoonerThanTheInterval(t *testing.T) {
	var fetched atomic.Int32
	var text atomic.Value
	text.Store(setText(t, map[string]any{"a": []byte("0123456789abcdef")}))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fetched.Add(1)
		if text.Load() == "" {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		_, _ = w.Write([]byte(text.Load().(string)))
	}))
	t.Cleanup(server.Close)
	s := open(t, config(server.URL))
	text.Store(setText(t, map[string]any{"b": []byte("0123456789abcdef")}))
	if !has(t, s, "a") || has(t, s, "b") || fetched.Load() != 1 {
		t.Errorf("the set was fetched %d times within the interval", fetched.Load())
	}
	s.tried = time.Now().Add(-time.Hour)
	if has(t, s, "a") || !has(t, s, "b") || fetched.Load() != 2 {
		t.Errorf("the set was fetched %d times after the interval", fetched.Load())
	}
	text.Store("")
	s.tried = time.Now().Add(-time.Hour)
	if !has(t, s, "b") {
		t.Error("a key is gone while the server is in trouble")
	}
}

func TestWhatIsNoSetSaysSoAndShowsNothing(t *testing.T) {
	server := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(server.Close)
	for jwks, want := range map[string]string{
		`{"keys": "secret"}`:        "no JSON Web Key Set",
		"secret-but-no-file":        "not the path of a file",
		write(t, "secret"):          "no JSON Web Key Set",
		server.URL:                  "404",
		"http://u:secret@127.0.0.1": "fetch the key set",
		"https://":                  "https://host/path",
	} {
		_, err := Open(t.Context(), config(jwks), component.Env{})
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "secret") || fault.CodeOf(err) == fault.Unknown {
			t.Errorf("Open(%q): %v; want %q", jwks, err, want)
		}
	}
}
