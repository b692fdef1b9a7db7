package testserver

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// KubernetesStandIn is not a Kubernetes API server, which would want a cluster,
// but a server in the test binary that answers as the API's documentation says:
// reading, listing in pages and watching secrets, bearer tokens, and roles as
// far as that. What passes on it has not been tried on a real cluster.
type KubernetesStandIn struct {
	server *httptest.Server

	mu      sync.Mutex
	changed chan struct{} // closed and replaced at each change
	ended   chan struct{} // closed and replaced by EndWatches
	tokens  map[string]struct{}
	denied  map[string]struct{} // verbs
	version int
	secrets map[string]kubernetesSecret // by "namespace/name"
	events  []kubernetesEvent
}

type kubernetesSecret struct {
	Metadata struct {
		Namespace       string `json:"namespace"`
		Name            string `json:"name"`
		ResourceVersion string `json:"resourceVersion"`
	} `json:"metadata"`
	Data map[string][]byte `json:"data,omitempty"`
}

type kubernetesEvent struct {
	Type   string           `json:"type"`
	Object kubernetesSecret `json:"object"`
}

// Kubernetes starts a stand-in for an API server, which knows one token. It
// speaks HTTPS with a certificate that [KubernetesStandIn.CA] signs.
func Kubernetes(tb TB, token string) *KubernetesStandIn {
	tb.Helper()
	k := &KubernetesStandIn{
		changed: make(chan struct{}), ended: make(chan struct{}), tokens: map[string]struct{}{token: {}},
		denied: map[string]struct{}{}, secrets: map[string]kubernetesSecret{},
	}
	k.server = httptest.NewUnstartedServer(k)
	k.server.EnableHTTP2 = true
	k.server.StartTLS()
	tb.Cleanup(k.server.Close)
	return k
}

// URL returns the address, "https://127.0.0.1:port".
func (k *KubernetesStandIn) URL() string { return k.server.URL }

// Addr returns "127.0.0.1:port".
func (k *KubernetesStandIn) Addr() string { return k.server.Listener.Addr().String() }

// CA returns the certificate (DER) that signs the server's.
func (k *KubernetesStandIn) CA() []byte { return k.server.Certificate().Raw }

// Set creates or replaces a secret.
func (k *KubernetesStandIn) Set(namespace, name string, data map[string]string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	var s kubernetesSecret
	k.version++
	s.Metadata.Namespace, s.Metadata.Name, s.Metadata.ResourceVersion = namespace, name, strconv.Itoa(k.version)
	s.Data = map[string][]byte{}
	for key, value := range data {
		s.Data[key] = []byte(value)
	}
	kind := "ADDED"
	if _, there := k.secrets[namespace+"/"+name]; there {
		kind = "MODIFIED"
	}
	k.secrets[namespace+"/"+name] = s
	k.tell(kubernetesEvent{kind, s})
}

// Delete removes a secret.
func (k *KubernetesStandIn) Delete(namespace, name string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	s := k.secrets[namespace+"/"+name]
	delete(k.secrets, namespace+"/"+name)
	k.tell(kubernetesEvent{"DELETED", s})
}

func (k *KubernetesStandIn) tell(e kubernetesEvent) {
	k.events = append(k.events, e)
	close(k.changed)
	k.changed = make(chan struct{})
}

// Replace makes another token the only valid one.
func (k *KubernetesStandIn) Replace(token string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.tokens = map[string]struct{}{token: {}}
}

// Deny takes a verb ("get", "list", "watch") from every role, or gives it back.
func (k *KubernetesStandIn) Deny(verb string, denied bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.denied, verb)
	if denied {
		k.denied[verb] = struct{}{}
	}
}

// EndWatches ends the watches that are under way, as the real server does after
// some minutes.
func (k *KubernetesStandIn) EndWatches() {
	k.mu.Lock()
	defer k.mu.Unlock()
	close(k.ended)
	k.ended = make(chan struct{})
}

// ServeHTTP implements http.Handler.
func (k *KubernetesStandIn) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	k.mu.Lock()
	token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	_, known := k.tokens[token]
	k.mu.Unlock()
	if !known {
		kubernetesStatus(w, http.StatusUnauthorized, "Unauthorized")
		return
	}
	if r.URL.Path == "/version" {
		_ = json.NewEncoder(w).Encode(map[string]string{"major": "1", "minor": "34"})
		return
	}
	parts := strings.Split(strings.TrimPrefix(r.URL.EscapedPath(), "/"), "/")
	if r.Method != http.MethodGet || len(parts) < 5 || len(parts) > 6 || parts[0] != "api" || parts[1] != "v1" ||
		parts[2] != "namespaces" || parts[4] != "secrets" {
		kubernetesStatus(w, http.StatusNotFound, "NotFound")
		return
	}
	verb := "list"
	switch {
	case len(parts) == 6:
		verb = "get"
	case r.URL.Query().Get("watch") == "true":
		verb = "watch"
	}
	k.mu.Lock()
	_, denied := k.denied[verb]
	k.mu.Unlock()
	switch {
	case denied:
		kubernetesStatus(w, http.StatusForbidden, "Forbidden")
	case verb == "get":
		k.get(w, parts[3]+"/"+strings.TrimPrefix(r.URL.Path, "/api/v1/namespaces/"+parts[3]+"/secrets/"))
	case verb == "watch":
		k.watch(w, r, parts[3])
	default:
		k.list(w, r, parts[3])
	}
}

func (k *KubernetesStandIn) get(w http.ResponseWriter, key string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	s, ok := k.secrets[key]
	if !ok {
		kubernetesStatus(w, http.StatusNotFound, "NotFound")
		return
	}
	_ = json.NewEncoder(w).Encode(s)
}

// list answers in pages; the token of the next one is the last name.
func (k *KubernetesStandIn) list(w http.ResponseWriter, r *http.Request, namespace string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	var keys []string
	for key := range k.secrets {
		if name, ok := strings.CutPrefix(key, namespace+"/"); ok && name > r.URL.Query().Get("continue") {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	next := ""
	if limit, _ := strconv.Atoi(r.URL.Query().Get("limit")); limit > 0 && len(keys) > limit {
		keys = keys[:limit]
		next = strings.TrimPrefix(keys[limit-1], namespace+"/")
	}
	items := make([]kubernetesSecret, len(keys))
	for i, key := range keys {
		items[i] = k.secrets[key]
	}
	_ = json.NewEncoder(w).Encode(map[string]any{
		"kind": "SecretList", "metadata": map[string]string{"resourceVersion": strconv.Itoa(k.version), "continue": next}, "items": items,
	})
}

// watch begins with what there is, as the real server does without a
// resourceVersion.
func (k *KubernetesStandIn) watch(w http.ResponseWriter, r *http.Request, namespace string) {
	name, ok := strings.CutPrefix(r.URL.Query().Get("fieldSelector"), "metadata.name=")
	if !ok {
		kubernetesStatus(w, http.StatusBadRequest, "BadRequest")
		return
	}
	out := json.NewEncoder(w)
	send := func(e kubernetesEvent) {
		_ = out.Encode(e)
		_ = http.NewResponseController(w).Flush()
	}
	w.WriteHeader(http.StatusOK)
	_ = http.NewResponseController(w).Flush()
	k.mu.Lock()
	s, there := k.secrets[namespace+"/"+name]
	at, ended := len(k.events), k.ended
	k.mu.Unlock()
	if there {
		send(kubernetesEvent{"ADDED", s})
	}
	for {
		k.mu.Lock()
		news, changed := k.events[at:], k.changed
		at = len(k.events)
		k.mu.Unlock()
		for _, e := range news {
			if e.Object.Metadata.Namespace == namespace && e.Object.Metadata.Name == name {
				send(e)
			}
		}
		select {
		case <-changed:
		case <-ended:
			return
		case <-r.Context().Done():
			return
		}
	}
}

func kubernetesStatus(w http.ResponseWriter, code int, reason string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(map[string]any{"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "code": code})
}
