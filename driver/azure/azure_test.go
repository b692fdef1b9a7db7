package azure

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/proa-io/proa/block/secret"
	"github.com/proa-io/proa/block/secret/secrettest"
	"github.com/proa-io/proa/block/state"
	"github.com/proa-io/proa/block/state/statetest"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/internal/faultnet"
	"github.com/proa-io/proa/internal/leak"
	"github.com/proa-io/proa/internal/testserver"
)

var server = testserver.Share(func(tb testserver.TB) *testserver.AzuriteServer { return testserver.Azurite(tb) })

func TestMain(m *testing.M) { testserver.Main(m, server, queues) }

var containers atomic.Int64

// at returns the settings of a new container.
func at(addr string) StorageConfig {
	return StorageConfig{
		AccountName: testserver.AzuriteAccount, AccountKey: component.NewSecret(testserver.AzuriteKey),
		Endpoint: "http://" + addr, ContainerName: fmt.Sprint("proa-", containers.Add(1)),
	}
}

func TestState(t *testing.T) {
	t.Parallel()
	addr := server.Get(t).Addr()
	statetest.Run(t, func(t *testing.T) state.Driver {
		s, err := OpenState(t.Context(), at(addr), component.Env{})
		if err != nil {
			t.Fatal(err)
		}
		return s
	})
}

func TestStateOnABadNetwork(t *testing.T) {
	t.Parallel()
	statetest.RunBadNetwork(t, server.Get(t).Addr(), func(ctx context.Context, _ *testing.T, addr string) (state.Driver, error) {
		s, err := OpenState(ctx, at(addr), component.Env{})
		if err != nil {
			return nil, err
		}
		return s, nil
	})
}

func TestBlobsAreNamedAsDaprNamesThem(t *testing.T) {
	t.Parallel()
	cfg := at(server.Get(t).Addr())
	v1, err := OpenStateV1(t.Context(), cfg, component.Env{})
	if err != nil {
		t.Fatal(err)
	}
	defer v1.Close()
	v2, err := OpenState(t.Context(), cfg, component.Env{})
	if err != nil {
		t.Fatal(err)
	}
	defer v2.Close()
	for _, tc := range []struct {
		store *State
		key   string
		blob  string
	}{{v1, "app||k/1", "k/1"}, {v1, "app||actor||k", "app||actor||k"}, {v2, "app||k/1", "app||k/1"}} {
		if _, err := tc.store.Put(t.Context(), tc.key, []byte("v"), state.PutOptions{Metadata: map[string]string{"contentType": "text/plain"}}); err != nil {
			t.Fatal(err)
		}
		a, err := v2.storage.do(t.Context(), request{method: http.MethodGet, blob: tc.blob})
		if err != nil || a.Status != http.StatusOK || string(a.Body) != "v" || a.Header.Get("Content-Type") != "text/plain" {
			t.Errorf("%s: blob %s has status %d, %q, %v", tc.key, tc.blob, a.Status, a.Body, err)
		}
		item, found, err := tc.store.Get(t.Context(), tc.key, state.GetOptions{})
		if err != nil || !found || item.ETag != a.Header.Get("ETag") {
			t.Errorf("Get(%s) = %+v, %v, %v", tc.key, item, found, err)
		}
	}
}

func TestAccountsAreRefused(t *testing.T) {
	t.Parallel()
	cfg := at(server.Get(t).Addr())
	cfg.AccountKey = component.NewSecret("b3Blbi1zZXNhbWU=")
	if _, err := OpenState(t.Context(), cfg, component.Env{}); !fault.Is(err, fault.PermissionDenied) {
		t.Errorf("a wrong key: %v", err)
	}
	cfg = at(server.Get(t).Addr())
	cfg.DisableEntityManagement = true
	if _, err := OpenState(t.Context(), cfg, component.Env{}); !fault.Is(err, fault.FailedPrecondition) {
		t.Errorf("a container that is not there: %v", err)
	}
	cfg = at(server.Get(t).Addr())
	cfg.ConnectionString = component.NewSecret(fmt.Sprintf("DefaultEndpointsProtocol=http;AccountName=%s;AccountKey=%s;BlobEndpoint=%s/%s;",
		testserver.AzuriteAccount, testserver.AzuriteKey, cfg.Endpoint, testserver.AzuriteAccount))
	cfg.AccountName, cfg.AccountKey, cfg.Endpoint = "", component.Secret{}, ""
	s, err := OpenState(t.Context(), cfg, component.Env{})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// standIn answers as Key Vault and Microsoft Entra ID do, as far as this package
// asks them.
type standIn struct {
	*httptest.Server

	mu      sync.Mutex
	secrets map[string]string
	tokens  []string
}

const clientSecret = "secret-of-the-client"

func newStandIn(t testing.TB) *standIn {
	s := &standIn{secrets: map[string]string{}}
	s.Server = httptest.NewServer(s)
	t.Cleanup(s.Close)
	return s
}

func (s *standIn) set(name, value string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.secrets[name] = value
}

func (s *standIn) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	reply := func(status int, body any) {
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(body)
	}
	path := strings.Trim(r.URL.Path, "/")
	switch name, ok := strings.CutPrefix(path, "secrets"); {
	case path == "tenant/oauth2/v2.0/token":
		granted := r.PostFormValue("client_secret") == clientSecret || r.PostFormValue("client_assertion") == "token-of-the-workload"
		if !granted || r.PostFormValue("client_id") != "client" || r.PostFormValue("scope") != "https://vault.azure.net/.default" {
			reply(http.StatusUnauthorized, map[string]string{"error": "invalid_client"})
			return
		}
		s.grant(reply)
	case path == "managed":
		if r.Header.Get("Metadata") != "true" || r.URL.Query().Get("resource") != "https://vault.azure.net" {
			reply(http.StatusBadRequest, nil)
			return
		}
		s.grant(reply)
	case !slices.Contains(s.tokens, strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")):
		reply(http.StatusUnauthorized, nil)
	case ok && name == "":
		s.list(r, reply)
	case ok:
		s.get(strings.TrimPrefix(name, "/"), reply)
	default:
		reply(http.StatusNotFound, nil)
	}
}

func (s *standIn) grant(reply func(int, any)) {
	token := fmt.Sprint("token-", len(s.tokens))
	s.tokens = append(s.tokens, token)
	reply(http.StatusOK, map[string]any{"access_token": token, "expires_in": "3600"})
}

func (s *standIn) get(name string, reply func(int, any)) {
	value, ok := s.secrets[name]
	switch {
	case !ok:
		reply(http.StatusNotFound, map[string]any{"error": map[string]string{"code": "SecretNotFound"}})
	case value == "disabled":
		reply(http.StatusForbidden, map[string]any{"error": map[string]any{"code": "Forbidden", "innererror": map[string]string{"code": "SecretDisabled"}}})
	default:
		reply(http.StatusOK, map[string]any{"value": value, "id": s.URL + "/secrets/" + name})
	}
}

// list shows one secret on each page.
func (s *standIn) list(r *http.Request, reply func(int, any)) {
	var names []string
	for name := range s.secrets {
		names = append(names, name)
	}
	slices.Sort(names)
	from := 0
	_, _ = fmt.Sscan(r.URL.Query().Get("$skiptoken"), &from)
	page := map[string]any{"value": []any{}}
	if from < len(names) {
		page["value"] = []any{map[string]any{
			"id": s.URL + "/secrets/" + names[from], "attributes": map[string]bool{"enabled": s.secrets[names[from]] != "disabled"}}}
		page["nextLink"] = fmt.Sprintf("%s/secrets?%s&$skiptoken=%d", s.URL, vaultVersion, from+1)
	}
	reply(http.StatusOK, page)
}

// vault opens a store at a stand-in's address.
func vault(t testing.TB, vaultURL, authority string) *Vault {
	t.Helper()
	cfg := VaultConfig{VaultName: vaultURL, IdentityConfig: IdentityConfig{
		AzureTenantID: "tenant", AzureClientID: "client", AzureClientSecret: component.NewSecret(clientSecret)}}
	v, err := OpenVault(t.Context(), cfg, component.Env{})
	if err != nil {
		t.Fatal(err)
	}
	v.identity.authority = authority
	t.Cleanup(func() { _ = v.Close() })
	return v
}

func TestVault(t *testing.T) {
	t.Parallel()
	secrettest.Run(t, secrettest.Harness{Open: func(t testing.TB, secrets map[string]map[string]string) secret.Driver {
		s := newStandIn(t)
		for name, values := range secrets {
			s.set(name, values[name])
		}
		return vault(t, s.URL, s.URL)
	}})
}

func TestVaultOnABadNetwork(t *testing.T) {
	t.Parallel()
	secrettest.RunNetwork(t, func(t testing.TB) (secret.Driver, *faultnet.Proxy) {
		s := newStandIn(t)
		s.set("S", "v")
		p := faultnet.New(t, s.Listener.Addr().String())
		return vault(t, "http://"+p.Addr(), s.URL), p
	})
}

func TestDisabledSecretsAreNotFoundAndNotListed(t *testing.T) {
	t.Parallel()
	s := newStandIn(t)
	s.set("off", "disabled")
	s.set("on", "v")
	v := vault(t, s.URL, s.URL)
	if _, err := v.Get(t.Context(), "off", nil); !fault.Is(err, fault.NotFound) {
		t.Errorf("Get: %v", err)
	}
	all, err := v.List(t.Context(), nil, func(string) bool { return true })
	if err != nil || len(all) != 1 || all["on"]["on"] != "v" {
		t.Errorf("List = %v, %v", all, err)
	}
}

func TestTokensAreKeptAndThoseThatAreRefusedAreNot(t *testing.T) {
	t.Parallel()
	s := newStandIn(t)
	s.set("S", "v")
	v := vault(t, s.URL, s.URL)
	get := func() error {
		_, err := v.Get(t.Context(), "S", nil)
		return err
	}
	for range 3 {
		if err := get(); err != nil {
			t.Fatal(err)
		}
	}
	if len(s.tokens) != 1 {
		t.Errorf("%d tokens were asked for", len(s.tokens))
	}
	s.mu.Lock()
	s.tokens[0] = "another"
	s.mu.Unlock()
	if err := get(); !fault.Is(err, fault.Unauthenticated) {
		t.Errorf("with a token that is refused: %v", err)
	}
	if err := get(); err != nil {
		t.Errorf("after that: %v", err)
	}
	v.identity.cfg.AzureClientSecret = component.NewSecret("open-sesame")
	v.identity.Forget(t.Context())
	if err := get(); !fault.Is(err, fault.Unauthenticated) || strings.Contains(err.Error(), "sesame") {
		t.Errorf("with a wrong secret: %v", err)
	}
}

func TestMachinesAndWorkloadsHaveIdentities(t *testing.T) {
	s := newStandIn(t)
	s.set("S", "v")
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte("token-of-the-workload\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, env := range map[string]map[string]string{
		"workload":    {"AZURE_TENANT_ID": "tenant", "AZURE_CLIENT_ID": "client", "AZURE_FEDERATED_TOKEN_FILE": file},
		"environment": {"AZURE_TENANT_ID": "tenant", "AZURE_CLIENT_ID": "client", "AZURE_CLIENT_SECRET": clientSecret},
		"machine":     {},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("AZURE_AUTHORITY_HOST", s.URL+"/")
			for name, value := range env {
				t.Setenv(name, value)
			}
			v, err := OpenVault(t.Context(), VaultConfig{VaultName: s.URL}, component.Env{})
			if err != nil {
				t.Fatal(err)
			}
			defer v.Close()
			v.identity.local = s.URL + "/managed"
			if got, err := v.Get(t.Context(), "S", nil); err != nil || got["S"] != "v" {
				t.Errorf("Get = %v, %v", got, err)
			}
		})
	}
}

func TestSettingsSayWhatIsWrongWithThem(t *testing.T) {
	for _, tc := range []struct{ settings, want string }{
		{"accountName=a containerName=c accountKey=b3Blbi1zZXNhbWU=", ""},
		{"accountName=a containerName=c azureClientId=id azureEnvironment=AzureChinaCloud", ""},
		{"connectionString=AccountName=a;AccountKey=b3Blbi1zZXNhbWU=;EndpointSuffix=core.windows.net containerName=c retryCount=3", ""},
		{"containerName=c", "accountName"},
		{"accountName=a", "containerName"},
		{"accountName=a containerName=a/b", "containerName"},
		{"accountName=a containerName=c accountKey=open-sesame!", "accountKey"},
		{"accountName=a containerName=c endpoint=localhost", "endpoint"},
		{"accountName=a containerName=c publicAccessLevel=all", "publicAccessLevel"},
		{"connectionString=BlobEndpoint=https://a;SharedAccessSignature=open-sesame containerName=c", "connectionString"},
		{"accountName=a containerName=c azureClientSecret=open-sesame", "azureClientSecret"},
		{"accountName=a containerName=c azureCertificate=open-sesame", "azureCertificate"},
		{"accountName=a containerName=c azureEnvironment=mars", "azureEnvironment"},
	} {
		var settings component.Settings
		for _, text := range strings.Fields(tc.settings) {
			name, value, _ := strings.Cut(text, "=")
			settings = append(settings, component.Setting{Name: name, Value: value})
		}
		var cfg StorageConfig
		err := settings.Decode(&cfg)
		if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), `"`+tc.want+`"`)) {
			t.Errorf("%s: %v, want %q", tc.settings, err, tc.want)
		}
		if err != nil && strings.Contains(err.Error(), "sesame") {
			t.Errorf("%s: the error %q shows a secret", tc.settings, err)
		}
	}
	for name, want := range map[string]string{
		"orders": "https://orders.vault.azure.net", "https://orders.vault.azure.cn/": "https://orders.vault.azure.cn", "orders.vault.azure.net": "https://orders.vault.azure.net",
	} {
		cfg := VaultConfig{VaultName: name}
		if err := cfg.Validate(); err != nil || cfg.address() != want {
			t.Errorf("vault %s is at %s, %v; want %s", name, cfg.address(), err, want)
		}
	}
}

func TestNothingIsLeftAfterClose(t *testing.T) {
	addr := server.Get(t).Addr()
	leak.Check(t)
	s, err := OpenState(t.Context(), at(addr), component.Env{})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}
