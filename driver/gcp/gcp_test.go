package gcp

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/proa-io/proa/block/secret"
	"github.com/proa-io/proa/block/secret/secrettest"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/internal/faultnet"
	"github.com/proa-io/proa/internal/leak"
)

// standIn answers as Secret Manager, Google's token service and the metadata
// server do, as far as this package asks them.
type standIn struct {
	*httptest.Server
	key *rsa.PrivateKey // of the service account

	mu      sync.Mutex
	secrets map[string]string
	tokens  []string
}

func newStandIn(t testing.TB) *standIn {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	s := &standIn{key: key, secrets: map[string]string{}}
	s.Server = httptest.NewServer(s)
	t.Cleanup(s.Close)
	return s
}

func (s *standIn) pem(t testing.TB) string {
	der, err := x509.MarshalPKCS8PrivateKey(s.key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
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
	const secrets = "/v1/projects/shop/secrets"
	switch name, ok := strings.CutPrefix(r.URL.Path, secrets); {
	case r.URL.Path == "/token":
		if !s.granted(r) {
			reply(http.StatusBadRequest, map[string]string{"error": "invalid_grant"})
			return
		}
		s.grant(reply)
	case r.URL.Path == "/computeMetadata/v1/instance/service-accounts/default/token" && r.Header.Get("Metadata-Flavor") == "Google":
		s.grant(reply)
	case !slices.Contains(s.tokens, strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")):
		reply(http.StatusUnauthorized, nil)
	case ok && name == "":
		s.list(r, reply)
	case ok:
		name, version, _ := strings.Cut(strings.TrimPrefix(name, "/"), "/versions/")
		value, ok := s.secrets[name]
		if !ok || version != "latest:access" && version != "1:access" {
			reply(http.StatusNotFound, nil)
			return
		}
		reply(http.StatusOK, map[string]any{"payload": map[string]any{"data": []byte(value)}})
	default:
		reply(http.StatusNotFound, nil)
	}
}

// granted reports whether a request for a token proves who asks.
func (s *standIn) granted(r *http.Request) bool {
	if r.PostFormValue("grant_type") == "refresh_token" {
		return r.PostFormValue("refresh_token") == "token-of-the-user" && r.PostFormValue("client_id") == "gcloud"
	}
	parts := strings.Split(r.PostFormValue("assertion"), ".")
	if len(parts) != 3 || r.PostFormValue("grant_type") != "urn:ietf:params:oauth:grant-type:jwt-bearer" {
		return false
	}
	signature, _ := base64.RawURLEncoding.DecodeString(parts[2])
	sum := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	text, _ := base64.RawURLEncoding.DecodeString(parts[1])
	var claims struct {
		Iss, Scope, Aud string
		Iat, Exp        int64
	}
	now := time.Now().Unix()
	return rsa.VerifyPKCS1v15(&s.key.PublicKey, crypto.SHA256, sum[:], signature) == nil && json.Unmarshal(text, &claims) == nil &&
		claims.Iss == "me@shop.iam.gserviceaccount.com" && claims.Scope == scope && claims.Aud == s.URL+"/token" && claims.Iat <= now && claims.Exp > now
}

func (s *standIn) grant(reply func(int, any)) {
	token := fmt.Sprint("token-", len(s.tokens))
	s.tokens = append(s.tokens, token)
	reply(http.StatusOK, map[string]any{"access_token": token, "expires_in": 3600})
}

// list shows one secret on each page.
func (s *standIn) list(r *http.Request, reply func(int, any)) {
	var names []string
	for name := range s.secrets {
		names = append(names, name)
	}
	slices.Sort(names)
	from := 0
	_, _ = fmt.Sscan(r.URL.Query().Get("pageToken"), &from)
	page := map[string]any{}
	if from < len(names) {
		page["secrets"] = []any{map[string]any{"name": "projects/1234/secrets/" + names[from]}}
		page["nextPageToken"] = fmt.Sprint(from + 1)
	}
	reply(http.StatusOK, page)
}

// store opens a store with the service account, at a stand-in's address.
func (s *standIn) store(t testing.TB, service string) *Secrets {
	t.Helper()
	d, err := open(t.Context(), SecretsConfig{AccountConfig{
		ProjectID: "shop", ClientEmail: "me@shop.iam.gserviceaccount.com", PrivateKey: component.NewSecret(s.pem(t)), TokenURI: s.URL + "/token",
	}}, service)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	return d
}

func TestSecrets(t *testing.T) {
	t.Parallel()
	secrettest.Run(t, secrettest.Harness{Open: func(t testing.TB, secrets map[string]map[string]string) secret.Driver {
		s := newStandIn(t)
		for name, values := range secrets {
			s.set(name, values[name])
		}
		return s.store(t, s.URL)
	}})
}

func TestSecretsOnABadNetwork(t *testing.T) {
	t.Parallel()
	secrettest.RunNetwork(t, func(t testing.TB) (secret.Driver, *faultnet.Proxy) {
		s := newStandIn(t)
		s.set("S", "v")
		p := faultnet.New(t, s.Listener.Addr().String())
		return s.store(t, "http://"+p.Addr()), p
	})
}

func TestVersionsAreNamed(t *testing.T) {
	t.Parallel()
	s := newStandIn(t)
	s.set("S", "v")
	d := s.store(t, s.URL)
	for version, want := range map[string]bool{"": true, "latest": true, "1": true, "2": false, "1/../1": false} {
		_, err := d.Get(t.Context(), "S", map[string]string{"version_id": version})
		if want != (err == nil) || err != nil && !fault.Is(err, fault.NotFound) {
			t.Errorf("version %q: %v", version, err)
		}
	}
}

func TestTokensAreKeptAndThoseThatAreRefusedAreNot(t *testing.T) {
	t.Parallel()
	s := newStandIn(t)
	s.set("S", "v")
	d := s.store(t, s.URL)
	get := func() error {
		_, err := d.Get(t.Context(), "S", nil)
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
}

func TestCredentialsComeFromFilesAndTheMachine(t *testing.T) {
	s := newStandIn(t)
	s.set("S", "v")
	write := func(k map[string]string) string {
		text, err := json.Marshal(k)
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(t.TempDir(), "application_default_credentials.json")
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	account := write(map[string]string{"type": typeAccount, "client_email": "me@shop.iam.gserviceaccount.com", "private_key": s.pem(t), "token_uri": s.URL + "/token"})
	user := write(map[string]string{"type": typeUser, "client_id": "gcloud", "client_secret": "x", "refresh_token": "token-of-the-user", "token_uri": s.URL + "/token"})
	other := write(map[string]string{"type": "external_account"})
	for _, tc := range []struct {
		name, named, left string
		want              string
	}{
		{"a file that is named", account, "", ""},
		{"what gcloud has left", "", filepath.Dir(user), ""},
		{"the machine", "", t.TempDir(), ""},
		{"a file that is not there", filepath.Join(t.TempDir(), "none"), "", "GOOGLE_APPLICATION_CREDENTIALS"},
		{"a file of another kind", other, "", "service account"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Setenv("GOOGLE_APPLICATION_CREDENTIALS", tc.named)
			t.Setenv("CLOUDSDK_CONFIG", tc.left)
			t.Setenv("GCE_METADATA_HOST", s.Listener.Addr().String())
			d, err := open(t.Context(), SecretsConfig{AccountConfig{ProjectID: "shop"}}, s.URL)
			if tc.want != "" {
				if !fault.Is(err, fault.FailedPrecondition) || !strings.Contains(err.Error(), tc.want) {
					t.Errorf("opening: %v, want %q", err, tc.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer d.Close()
			if got, err := d.Get(t.Context(), "S", nil); err != nil || got["S"] != "v" {
				t.Errorf("Get = %v, %v", got, err)
			}
		})
	}
}

func TestSettingsSayWhatIsWrongWithThem(t *testing.T) {
	key := newStandIn(t).pem(t)
	for _, tc := range []struct {
		settings map[string]string
		want     string
	}{
		{map[string]string{"project_id": "shop"}, ""},
		{map[string]string{"projectID": "shop", "privateKey": key, "clientEmail": "me"}, ""},
		{map[string]string{"project_id": "shop", "type": "service_account", "private_key": strings.ReplaceAll(key, "\n", `\n`), "client_email": "me"}, ""},
		{map[string]string{}, "project_id"},
		{map[string]string{"project_id": "shop", "type": "authorized_user"}, "type"},
		{map[string]string{"project_id": "shop", "private_key": key}, "client_email"},
		{map[string]string{"project_id": "shop", "private_key": "open-sesame", "client_email": "me"}, "private_key"},
	} {
		var settings component.Settings
		for name, value := range tc.settings {
			settings = append(settings, component.Setting{Name: name, Value: value})
		}
		var cfg SecretsConfig
		err := settings.Decode(&cfg)
		if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), `"`+tc.want+`"`)) {
			t.Errorf("%v: %v, want %q", tc.settings, err, tc.want)
		}
		if err != nil && strings.Contains(err.Error(), "sesame") {
			t.Errorf("the error %q shows a secret", err)
		}
	}
}

func TestNothingIsLeftAfterClose(t *testing.T) {
	s := newStandIn(t)
	s.set("S", "v")
	leak.Check(t)
	d := s.store(t, s.URL)
	if _, err := d.Get(t.Context(), "S", nil); err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
}
