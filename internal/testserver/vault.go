package testserver

import (
	"encoding/json"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// VaultStandIn is not HashiCorp Vault, whose binary comes from no package
// registry, but a server in the test binary that answers as Vault's API
// documentation says: tokens, the health of the server, a secrets engine of type
// KV, version 2, and the Kubernetes auth method. What passes on it has not been
// tried on the real server.
type VaultStandIn struct {
	server *httptest.Server
	mount  string

	mu       sync.Mutex
	sealed   bool
	tokens   map[string]time.Time // valid ones, and until when; zero for ever
	secrets  map[string][]vaultVersion
	accounts map[string]string // service account tokens by role
	logins   int
	life     time.Duration // of the tokens of logins
	requests []string
}

type vaultVersion struct {
	data    any
	deleted bool
}

// VaultOptions configure a VaultStandIn.
type VaultOptions struct {
	// TLS makes it speak HTTPS, with a certificate that [VaultStandIn.CA] signs.
	TLS bool
	// Mount is the path of the secrets engine; "secret" when empty.
	Mount string
}

// Vault starts a stand-in for Vault, which knows one token.
func Vault(tb TB, token string, o VaultOptions) *VaultStandIn {
	tb.Helper()
	v := &VaultStandIn{
		mount: o.Mount, tokens: map[string]time.Time{token: {}}, secrets: map[string][]vaultVersion{}, accounts: map[string]string{},
	}
	if v.mount == "" {
		v.mount = "secret"
	}
	if o.TLS {
		v.server = httptest.NewTLSServer(v)
	} else {
		v.server = httptest.NewServer(v)
	}
	tb.Cleanup(v.server.Close)
	return v
}

// URL returns the address, "http://127.0.0.1:port".
func (v *VaultStandIn) URL() string { return v.server.URL }

// Addr returns "127.0.0.1:port".
func (v *VaultStandIn) Addr() string { return v.server.Listener.Addr().String() }

// CA returns the certificate (DER) that signs the server's.
func (v *VaultStandIn) CA() []byte { return v.server.Certificate().Raw }

// Write stores a new version of the secret at path ("dapr/db"): an object of any
// values. It returns the number of the version.
func (v *VaultStandIn) Write(path string, data any) int {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.secrets[path] = append(v.secrets[path], vaultVersion{data: data})
	return len(v.secrets[path])
}

// Delete marks the last version of a secret as deleted.
func (v *VaultStandIn) Delete(path string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if all := v.secrets[path]; len(all) > 0 {
		all[len(all)-1].deleted = true
	}
}

// Seal seals or unseals the server.
func (v *VaultStandIn) Seal(sealed bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.sealed = sealed
}

// Grant makes a token valid.
func (v *VaultStandIn) Grant(token string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.tokens[token] = time.Time{}
}

// RevokeAll makes all tokens invalid.
func (v *VaultStandIn) RevokeAll() {
	v.mu.Lock()
	defer v.mu.Unlock()
	clear(v.tokens)
}

// Bind lets a service account log in to a role. Its tokens live for life.
func (v *VaultStandIn) Bind(role, account string, life time.Duration) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.accounts[role], v.life = account, life
}

// Logins returns how often somebody has logged in.
func (v *VaultStandIn) Logins() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.logins
}

// Requests returns the requests so far that carried a token, "GET /v1/...",
// without the namespace or "[namespace] GET /v1/...".
func (v *VaultStandIn) Requests() []string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return slices.Clone(v.requests)
}

// ServeHTTP implements http.Handler.
func (v *VaultStandIn) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	v.mu.Lock()
	defer v.mu.Unlock()
	path, ok := strings.CutPrefix(r.URL.Path, "/v1/")
	switch {
	case !ok:
		vaultErrors(w, http.StatusNotFound)
	case r.Header.Get("X-Vault-Request") != "true":
		vaultErrors(w, http.StatusBadRequest, "missing header X-Vault-Request")
	case path == "sys/health":
		v.health(w)
	case v.sealed:
		vaultErrors(w, http.StatusServiceUnavailable, "Vault is sealed")
	case path == "auth/kubernetes/login":
		v.login(w, r)
	case !v.valid(r.Header.Get("X-Vault-Token")):
		vaultErrors(w, http.StatusForbidden, "permission denied")
	default:
		line := r.Method + " " + r.URL.RequestURI()
		if ns := r.Header.Get("X-Vault-Namespace"); ns != "" {
			line = "[" + ns + "] " + line
		}
		v.requests = append(v.requests, line)
		v.engine(w, r, path)
	}
}

func (v *VaultStandIn) valid(token string) bool {
	until, ok := v.tokens[token]
	return ok && (until.IsZero() || time.Now().Before(until))
}

func (v *VaultStandIn) health(w http.ResponseWriter) {
	status := http.StatusOK
	if v.sealed {
		status = http.StatusServiceUnavailable
	}
	vaultAnswer(w, status, map[string]any{"initialized": true, "sealed": v.sealed, "standby": false})
}

func (v *VaultStandIn) login(w http.ResponseWriter, r *http.Request) {
	var in struct{ Role, JWT string }
	if r.Method != http.MethodPost || json.NewDecoder(r.Body).Decode(&in) != nil {
		vaultErrors(w, http.StatusBadRequest, "bad request")
		return
	}
	if account, ok := v.accounts[in.Role]; !ok || account != in.JWT {
		vaultErrors(w, http.StatusForbidden, "permission denied")
		return
	}
	v.logins++
	token := "hvs.login" + strconv.Itoa(v.logins)
	v.tokens[token] = time.Now().Add(v.life)
	vaultAnswer(w, http.StatusOK, map[string]any{
		"auth": map[string]any{"client_token": token, "lease_duration": int(v.life / time.Second), "renewable": true},
	})
}

func (v *VaultStandIn) engine(w http.ResponseWriter, r *http.Request, path string) {
	rest, ok := strings.CutPrefix(path, v.mount+"/")
	if !ok {
		vaultErrors(w, http.StatusNotFound, "no handler for route \""+path+"\". route entry not found.")
		return
	}
	if name, ok := strings.CutPrefix(rest, "data/"); ok && r.Method == http.MethodGet {
		v.read(w, r, name)
		return
	}
	if folder, ok := strings.CutPrefix(rest, "metadata/"); ok && r.Method == "LIST" {
		v.list(w, folder)
		return
	}
	vaultErrors(w, http.StatusMethodNotAllowed, "unsupported operation")
}

func (v *VaultStandIn) read(w http.ResponseWriter, r *http.Request, name string) {
	all := v.secrets[name]
	version := 0
	if text := r.URL.Query().Get("version"); text != "" {
		var err error
		if version, err = strconv.Atoi(text); err != nil {
			vaultErrors(w, http.StatusBadRequest, "Field validation failed")
			return
		}
	}
	if version == 0 {
		version = len(all)
	}
	if version < 1 || version > len(all) {
		vaultErrors(w, http.StatusNotFound)
		return
	}
	found := all[version-1]
	status, data, deletion := http.StatusOK, found.data, ""
	if found.deleted {
		status, data, deletion = http.StatusNotFound, nil, "2024-01-02T03:04:05.6Z"
	}
	vaultAnswer(w, status, map[string]any{"data": map[string]any{
		"data": data, "metadata": map[string]any{"version": version, "deletion_time": deletion, "destroyed": false},
	}})
}

func (v *VaultStandIn) list(w http.ResponseWriter, folder string) {
	if folder != "" && !strings.HasSuffix(folder, "/") {
		folder += "/"
	}
	keys := map[string]struct{}{}
	for path := range v.secrets {
		rest, ok := strings.CutPrefix(path, folder)
		if !ok {
			continue
		}
		if name, _, deeper := strings.Cut(rest, "/"); deeper {
			rest = name + "/"
		}
		keys[rest] = struct{}{}
	}
	if len(keys) == 0 {
		vaultErrors(w, http.StatusNotFound)
		return
	}
	vaultAnswer(w, http.StatusOK, map[string]any{"data": map[string]any{"keys": slices.Sorted(maps.Keys(keys))}})
}

func vaultErrors(w http.ResponseWriter, status int, texts ...string) {
	if texts == nil {
		texts = []string{}
	}
	vaultAnswer(w, status, map[string]any{"errors": texts})
}

func vaultAnswer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body)
}
