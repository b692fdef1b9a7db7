package vault

import (
	"context"
	"encoding/pem"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/proa-io/proa/block/secret"
	"github.com/proa-io/proa/block/secret/secrettest"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/internal/faultnet"
	"github.com/proa-io/proa/internal/leak"
	"github.com/proa-io/proa/internal/testserver"
)

const token = "hvs.token-of-the-test"

// standIn starts a stand-in for Vault and returns the settings to reach it.
func standIn(t testing.TB) (*testserver.VaultStandIn, Config) {
	t.Helper()
	v := testserver.Vault(t, token, testserver.VaultOptions{})
	return v, at(v.URL())
}

func at(url string) Config {
	cfg := defaults()
	cfg.VaultAddr, cfg.VaultToken = url, component.NewSecret(token)
	return cfg
}

func open(t testing.TB, cfg Config) *Store {
	t.Helper()
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	s, err := Open(t.Context(), cfg, component.Env{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func TestSecret(t *testing.T) {
	secrettest.Run(t, secrettest.Harness{
		MultiValued: true,
		Open: func(t testing.TB, secrets map[string]map[string]string) secret.Driver {
			v, cfg := standIn(t)
			for name, values := range secrets {
				v.Write("dapr/"+name, values)
			}
			return open(t, cfg)
		},
	})
}

func TestSecretOnABadNetwork(t *testing.T) {
	secrettest.RunNetwork(t, func(t testing.TB) (secret.Driver, *faultnet.Proxy) {
		v, _ := standIn(t)
		v.Write("dapr/S", map[string]string{"S": "v"})
		proxy := faultnet.New(t, v.Addr())
		return open(t, at("http://"+proxy.Addr())), proxy
	})
}

func wantValues(t *testing.T, s *Store, name string, metadata, want map[string]string) {
	t.Helper()
	got, err := s.Get(t.Context(), name, metadata)
	if err != nil || !maps.Equal(got, want) {
		t.Errorf("Get(%q, %v) = %q, %v; want %q", name, metadata, got, err, want)
	}
}

func TestVersionsOfASecret(t *testing.T) {
	v, cfg := standIn(t)
	s := open(t, cfg)
	for _, value := range []string{"1", "2", "3"} {
		v.Write("dapr/db", map[string]string{"password": value})
	}
	v.Write("dapr/new", map[string]string{"k": "v"})
	for version, want := range map[string]string{"": "3", "0": "3", "1": "1", "2": "2", "3": "3"} {
		wantValues(t, s, "db", map[string]string{"version_id": version}, map[string]string{"password": want})
	}
	if _, err := s.Get(t.Context(), "db", map[string]string{"version_id": "4"}); !fault.Is(err, fault.NotFound) {
		t.Errorf("a version that does not exist: %v", err)
	}
	for _, version := range []string{"x", "-1", "1&list=true", "99999999999999999999"} {
		if _, err := s.Get(t.Context(), "db", map[string]string{"version_id": version}); !fault.Is(err, fault.InvalidArgument) {
			t.Errorf("version %q: %v", version, err)
		}
	}
	all, err := s.List(t.Context(), map[string]string{"version_id": "2"}, func(string) bool { return true })
	if err != nil || len(all) != 1 || all["db"]["password"] != "2" {
		t.Errorf("List of version 2 = %v, %v; want those that have one", all, err)
	}
	v.Delete("dapr/db")
	if _, err := s.Get(t.Context(), "db", nil); !fault.Is(err, fault.NotFound) {
		t.Errorf("a deleted secret: %v", err)
	}
	wantValues(t, s, "db", map[string]string{"version_id": "2"}, map[string]string{"password": "2"})
	all, err = s.List(t.Context(), nil, func(string) bool { return true })
	if err != nil || len(all) != 1 || all["new"]["k"] != "v" {
		t.Errorf("List = %v, %v; want no deleted ones", all, err)
	}
}

func TestValuesAreMapsOrText(t *testing.T) {
	v, cfg := standIn(t)
	v.Write("dapr/s", map[string]any{
		"text": "a \"b\"\n", "number": 12345678901234567, "yes": true, "none": nil, "list": []int{1, 2}, "object": map[string]any{"a": "b"},
	})
	wantValues(t, open(t, cfg), "s", nil, map[string]string{
		"text": "a \"b\"\n", "number": "12345678901234567", "yes": "true", "none": "", "list": "[1,2]", "object": `{"a":"b"}`,
	})
	cfg.VaultValueType = typeText
	s := open(t, cfg)
	wantValues(t, s, "s", nil, map[string]string{
		"s": `{"list":[1,2],"none":null,"number":12345678901234567,"object":{"a":"b"},"text":"a \"b\"\n","yes":true}`,
	})
	all, err := s.List(t.Context(), nil, func(string) bool { return true })
	if err != nil || !strings.HasPrefix(all["s"]["s"], `{"list"`) {
		t.Errorf("List = %v, %v", all, err)
	}
}

func TestPathsOfSecrets(t *testing.T) {
	v, cfg := standIn(t)
	for _, path := range []string{"top", "dapr/a", "dapr/team/b", "dapr/team/deep/c", "dapr/grüße ?#%2F", "team/app/d", "daprish/e"} {
		v.Write(path, map[string]string{"at": path})
	}
	for _, c := range []struct {
		prefix string
		use    bool
		want   []string
	}{
		{"dapr", true, []string{"a", "grüße ?#%2F", "team/b", "team/deep/c"}},
		{"", true, []string{"a", "grüße ?#%2F", "team/b", "team/deep/c"}}, // as Dapr has it: no prefix is the default one
		{"/team/app/", true, []string{"d"}},
		{"dapr", false, []string{"dapr/a", "dapr/grüße ?#%2F", "dapr/team/b", "dapr/team/deep/c", "daprish/e", "team/app/d", "top"}},
		{"nothing/here", true, nil},
	} {
		cfg.VaultKVPrefix, cfg.VaultKVUsePrefix = c.prefix, c.use
		s := open(t, cfg)
		all, err := s.List(t.Context(), nil, func(string) bool { return true })
		if got := slices.Sorted(maps.Keys(all)); err != nil || !slices.Equal(got, c.want) {
			t.Errorf("prefix %q (%v): List = %q, %v; want %q", c.prefix, c.use, got, err, c.want)
		}
		for _, name := range c.want {
			got, err := s.Get(t.Context(), name, nil)
			if err != nil || !strings.HasSuffix(got["at"], name) || !maps.Equal(got, all[name]) {
				t.Errorf("prefix %q (%v): Get(%q) = %v, %v", c.prefix, c.use, name, got, err)
			}
		}
		for _, name := range []string{"../top", "team/../../top", "./a", "a/", "/a", "a?version=1", "a#", "team//b"} {
			if got, err := s.Get(t.Context(), name, nil); !fault.Is(err, fault.NotFound) {
				t.Errorf("prefix %q (%v): Get(%q) = %v, %v", c.prefix, c.use, name, got, err)
			}
		}
	}
}

func TestListReadsOnlyWhatIsWanted(t *testing.T) {
	v, cfg := standIn(t)
	for _, name := range []string{"a", "b", "c/d"} {
		v.Write("dapr/"+name, map[string]string{"k": "v"})
	}
	cfg.VaultNamespace = "team"
	all, err := open(t, cfg).List(t.Context(), nil, func(name string) bool { return name == "c/d" })
	if err != nil || len(all) != 1 {
		t.Errorf("List = %v, %v", all, err)
	}
	want := []string{"[team] LIST /v1/secret/metadata/dapr/", "[team] LIST /v1/secret/metadata/dapr/c/", "[team] GET /v1/secret/data/dapr/c/d"}
	if got := v.Requests(); !slices.Equal(got, want) {
		t.Errorf("the requests were %q, want %q", got, want)
	}
}

func TestWhatVaultRefusesIsNamed(t *testing.T) {
	v, cfg := standIn(t)
	v.Write("dapr/s", map[string]string{"k": "the value"})
	good := open(t, cfg)
	get := func(s *Store) error {
		_, err := s.Get(t.Context(), "s", nil)
		return err
	}
	wrong := cfg
	wrong.VaultToken = component.NewSecret("hvs.wrong")
	err := get(open(t, wrong))
	if !fault.Is(err, fault.PermissionDenied) || strings.Contains(err.Error(), "hvs.wrong") {
		t.Errorf("a wrong token: %v", err)
	}
	other := cfg
	other.EnginePath = "kv"
	if err := get(open(t, other)); !fault.Is(err, fault.FailedPrecondition) || !strings.Contains(err.Error(), `enginePath "kv"`) {
		t.Errorf("an engine that does not exist: %v", err)
	}
	_, err = open(t, other).List(t.Context(), nil, func(string) bool { return true })
	if !fault.Is(err, fault.FailedPrecondition) {
		t.Errorf("List of an engine that does not exist: %v", err)
	}
	v.Seal(true)
	if err := get(good); !fault.Is(err, fault.Unavailable) || !strings.Contains(err.Error(), "sealed") {
		t.Errorf("a sealed server: %v", err)
	}
	if _, err := Open(t.Context(), cfg, component.Env{}); !fault.Is(err, fault.Unavailable) || !strings.Contains(err.Error(), "sealed") {
		t.Errorf("opening with a sealed server: %v", err)
	}
	v.Seal(false)
	if err := get(good); err != nil {
		t.Errorf("after the seal: %v", err)
	}
}

func TestTokenFileIsReadAgain(t *testing.T) {
	v, cfg := standIn(t)
	v.Write("dapr/s", map[string]string{"k": "v"})
	path := filepath.Join(t.TempDir(), "token")
	cfg.VaultToken, cfg.VaultTokenMountPath = component.Secret{}, path
	if _, err := Open(t.Context(), cfg, component.Env{}); !fault.Is(err, fault.NotFound) || !strings.Contains(err.Error(), path) {
		t.Errorf("without the file: %v", err)
	}
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(" \n")
	if _, err := Open(t.Context(), cfg, component.Env{}); !fault.Is(err, fault.FailedPrecondition) {
		t.Errorf("with an empty file: %v", err)
	}
	write(token + "\n")
	s := open(t, cfg)
	wantValues(t, s, "s", nil, map[string]string{"k": "v"})
	v.RevokeAll()
	v.Grant("hvs.next")
	if _, err := s.Get(t.Context(), "s", nil); !fault.Is(err, fault.PermissionDenied) {
		t.Errorf("with a revoked token: %v", err)
	}
	write("hvs.next")
	wantValues(t, s, "s", nil, map[string]string{"k": "v"})
}

func TestServiceAccountsLogIn(t *testing.T) {
	v, cfg := standIn(t)
	v.Write("dapr/s", map[string]string{"k": "v"})
	v.Bind("app", "jwt-1", time.Hour)
	path := filepath.Join(t.TempDir(), "sa")
	if err := os.WriteFile(path, []byte("jwt-1"), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg.VaultToken, cfg.VaultKubernetesRole, cfg.VaultServiceAccountTokenPath = component.Secret{}, "app", path
	wrong := cfg
	wrong.VaultKubernetesRole = "admin"
	_, err := Open(t.Context(), wrong, component.Env{})
	if !fault.Is(err, fault.Unauthenticated) || strings.Contains(err.Error(), "jwt-1") {
		t.Errorf("a wrong role: %v", err)
	}
	s := open(t, cfg)
	now := time.Now()
	s.client.now = func() time.Time { return now }
	logins := v.Logins()
	wantLogins := func(what string, n int) {
		t.Helper()
		wantValues(t, s, "s", nil, map[string]string{"k": "v"})
		if got := v.Logins() - logins; got != n {
			t.Errorf("%s: %d logins, want %d", what, got, n)
		}
		logins = v.Logins()
	}
	wantLogins("at first", 0)
	now = now.Add(30 * time.Minute)
	wantLogins("half way", 0)
	now = now.Add(11 * time.Minute)
	wantLogins("after two thirds of the token's life", 1)
	v.RevokeAll()
	wantLogins("after the token was revoked", 1)
	v.Bind("app", "jwt-2", time.Hour) // the cluster has replaced the account's token
	v.RevokeAll()
	if err := os.WriteFile(path, []byte("jwt-2"), 0o600); err != nil {
		t.Fatal(err)
	}
	wantLogins("after the account's token was replaced", 1)
}

func TestServersAreVerified(t *testing.T) {
	v := testserver.Vault(t, token, testserver.VaultOptions{TLS: true, Mount: "team/kv"})
	v.Write("dapr/s", map[string]string{"k": "v"})
	ca := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: v.CA()}))
	dir := t.TempDir()
	file := filepath.Join(dir, "ca.pem")
	for name, text := range map[string]string{"ca.pem": ca, "readme": "no certificate"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	empty := t.TempDir()
	for _, c := range []struct {
		name string
		set  func(*Config)
		want fault.Code // Unknown for success
	}{
		{"caPem", func(c *Config) { c.CAPem = ca }, fault.Unknown},
		{"caPath", func(c *Config) { c.CAPath = dir }, fault.Unknown},
		{"caCert", func(c *Config) { c.CACert = file }, fault.Unknown},
		{"caPem wins", func(c *Config) { c.CAPem, c.CAPath, c.CACert = ca, empty, "none" }, fault.Unknown},
		{"skipVerify", func(c *Config) { c.SkipVerify = true }, fault.Unknown},
		{"the name in the certificate", func(c *Config) { c.CAPem, c.TLSServerName = ca, "example.com" }, fault.Unknown},
		{"another name", func(c *Config) { c.CAPem, c.TLSServerName = ca, "vault.internal" }, fault.Unavailable},
		{"no authority", func(*Config) {}, fault.Unavailable},
		{"an empty folder", func(c *Config) { c.CAPath = empty }, fault.InvalidArgument},
		{"a file that does not exist", func(c *Config) { c.CACert = file + "x" }, fault.NotFound},
		{"bad PEM", func(c *Config) { c.CAPem = "bad" }, fault.InvalidArgument},
	} {
		cfg := at(v.URL())
		cfg.EnginePath = "/team/kv/"
		c.set(&cfg)
		s, err := Open(t.Context(), cfg, component.Env{})
		if err == nil {
			_, err = s.Get(t.Context(), "s", nil)
			_ = s.Close()
		}
		if c.want == fault.Unknown && err != nil || c.want != fault.Unknown && !fault.Is(err, c.want) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func TestCloseLeavesNothing(t *testing.T) {
	v, cfg := standIn(t)
	v.Write("dapr/s", map[string]string{"k": "v"})
	leak.Check(t)
	s := open(t, cfg)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.List(ctx, nil, func(string) bool { return true }); !fault.Is(err, fault.Canceled) {
		t.Errorf("List: %v", err)
	}
	wantValues(t, s, "s", nil, map[string]string{"k": "v"})
}

func TestSettingsThatCannotWorkAreRefused(t *testing.T) {
	for _, c := range []struct{ name, value, want string }{
		{"vaultAddr", "vault:8200", "wants a URL"},
		{"vaultAddr", "https://u:p@vault", "must have no user"},
		{"vaultTokenMountPath", "/token", "exactly one must be used"},
		{"vaultToken", "a\nb", "line break"},
		{"vaultToken", "", "exactly one must be used"},
		{"vaultValueType", "json", `wants "map" or "text"`},
		{"enginePath", "/", "wants the path of a KV engine"},
		{"vaultKVPrefix", "a/../b", "wants a path"},
		{"vaultKVUsePrefix", "maybe", "true"},
		{"vaultNamespace", "a\r\nb", "no namespace"},
		{"vaultTokn", "x", "vaultToken"},
	} {
		settings := component.Settings{{Name: "vaultToken", Value: token}}
		if c.name == "vaultToken" {
			settings = nil
		}
		settings = append(settings, component.Setting{Name: c.name, Value: c.value})
		if err := Specs()[0].Check(settings); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s=%q: error %v, want %q", c.name, c.value, err, c.want)
		}
	}
}
