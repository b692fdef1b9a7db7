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
)

// EndpointSlicesStandIn is not Kubernetes, whose API server comes from no package
// registry, but a server in the test binary that lists and watches EndpointSlices
// as its documentation says: pages, label selectors, resourceVersions, bookmarks,
// and 410 for versions that are forgotten. What passes on it has not been tried
// on a cluster.
type EndpointSlicesStandIn struct {
	server *httptest.Server
	token  string

	mu      sync.Mutex
	changed chan struct{} // closed and replaced when there is an event
	ended   chan struct{} // closed and replaced to end watches
	version int
	oldest  int // the last version that is forgotten
	slices  map[string]slice
	events  []sliceEvent
	lists   int
	watches []string // the versions from which watches began
}

type slice struct {
	namespace, name, service string
	object                   map[string]any
}

type sliceEvent struct {
	kind    string
	version int
	slice   slice
}

// EndpointSlices starts a stand-in for an API server, which knows one token and
// speaks HTTPS with a certificate that [EndpointSlicesStandIn.CA] signs.
func EndpointSlices(tb TB, token string) *EndpointSlicesStandIn {
	tb.Helper()
	k := &EndpointSlicesStandIn{token: token, changed: make(chan struct{}), ended: make(chan struct{}), slices: map[string]slice{}, version: 100}
	k.server = httptest.NewUnstartedServer(k)
	k.server.EnableHTTP2 = true
	k.server.StartTLS()
	tb.Cleanup(func() {
		k.EndWatches()
		k.server.Close()
	})
	return k
}

// Addr returns "127.0.0.1:port".
func (k *EndpointSlicesStandIn) Addr() string { return k.server.Listener.Addr().String() }

// CA returns the certificate (DER) that signs the server's.
func (k *EndpointSlicesStandIn) CA() []byte { return k.server.Certificate().Raw }

// Set creates or replaces a slice of a Service; what has no endpoints field is
// deleted.
func (k *EndpointSlicesStandIn) Set(namespace, name, service string, object map[string]any) {
	k.mu.Lock()
	defer k.mu.Unlock()
	key := namespace + "/" + name
	_, there := k.slices[key]
	k.version++
	kind := "ADDED"
	if there {
		kind = "MODIFIED"
	}
	s := slice{namespace, name, service, maps.Clone(object)}
	if object["endpoints"] == nil {
		kind = "DELETED"
	}
	if s.object == nil {
		s.object = map[string]any{}
	}
	s.object["metadata"] = map[string]any{
		"namespace": namespace, "name": name, "resourceVersion": strconv.Itoa(k.version), "labels": map[string]string{"kubernetes.io/service-name": service},
	}
	if kind == "DELETED" {
		delete(k.slices, key)
	} else {
		k.slices[key] = s
	}
	k.tell(sliceEvent{kind, k.version, s})
}

// Bookmark tells watches how far they are.
func (k *EndpointSlicesStandIn) Bookmark() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.version++
	k.tell(sliceEvent{"BOOKMARK", k.version, slice{object: map[string]any{"metadata": map[string]any{"resourceVersion": strconv.Itoa(k.version)}}}})
}

func (k *EndpointSlicesStandIn) tell(e sliceEvent) {
	k.events = append(k.events, e)
	close(k.changed)
	k.changed = make(chan struct{})
}

// Forget makes the server forget all versions but the present one.
func (k *EndpointSlicesStandIn) Forget() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.version++
	k.oldest, k.events = k.version, nil
}

// EndWatches ends the watches that are under way, as the real server does after
// some minutes.
func (k *EndpointSlicesStandIn) EndWatches() {
	k.mu.Lock()
	defer k.mu.Unlock()
	close(k.ended)
	k.ended = make(chan struct{})
}

// Asked returns how often slices were listed, and from which versions they were
// watched.
func (k *EndpointSlicesStandIn) Asked() (lists int, watches []string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.lists, slices.Clone(k.watches)
}

// ServeHTTP implements http.Handler.
func (k *EndpointSlicesStandIn) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	namespace, ok := strings.CutPrefix(r.URL.Path, "/apis/discovery.k8s.io/v1/namespaces/")
	namespace, isSlices := strings.CutSuffix(namespace, "/endpointslices")
	service, selected := strings.CutPrefix(r.URL.Query().Get("labelSelector"), "kubernetes.io/service-name=")
	switch {
	case r.Header.Get("Authorization") != "Bearer "+k.token:
		kubernetesStatus(w, http.StatusUnauthorized, "Unauthorized")
	case r.URL.Path == "/version":
		_ = json.NewEncoder(w).Encode(map[string]string{"major": "1", "minor": "34"})
	case r.Method != http.MethodGet || !ok || !isSlices || !selected:
		kubernetesStatus(w, http.StatusNotFound, "NotFound")
	case r.URL.Query().Get("watch") == "true":
		k.watch(w, r, namespace, service)
	default:
		k.list(w, r, namespace, service)
	}
}

// list answers in pages; the token of the next one is the last name.
func (k *EndpointSlicesStandIn) list(w http.ResponseWriter, r *http.Request, namespace, service string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.lists++
	var found []slice
	for _, s := range k.slices {
		if s.namespace == namespace && s.service == service && s.name > r.URL.Query().Get("continue") {
			found = append(found, s)
		}
	}
	slices.SortFunc(found, func(a, b slice) int { return strings.Compare(a.name, b.name) })
	next := ""
	if limit, _ := strconv.Atoi(r.URL.Query().Get("limit")); limit > 0 && len(found) > limit {
		found, next = found[:limit], found[limit-1].name
	}
	items := []map[string]any{}
	for _, s := range found {
		items = append(items, s.object)
	}
	_ = json.NewEncoder(w).Encode(map[string]any{
		"kind": "EndpointSliceList", "metadata": map[string]string{"resourceVersion": strconv.Itoa(k.version), "continue": next}, "items": items,
	})
}

func (k *EndpointSlicesStandIn) watch(w http.ResponseWriter, r *http.Request, namespace, service string) {
	from, err := strconv.Atoi(r.URL.Query().Get("resourceVersion"))
	k.mu.Lock()
	k.watches = append(k.watches, r.URL.Query().Get("resourceVersion"))
	oldest, ended := k.oldest, k.ended
	k.mu.Unlock()
	switch {
	case err != nil:
		kubernetesStatus(w, http.StatusBadRequest, "BadRequest")
		return
	case from < oldest:
		kubernetesStatus(w, http.StatusGone, "Expired")
		return
	}
	w.WriteHeader(http.StatusOK)
	_ = http.NewResponseController(w).Flush()
	out := json.NewEncoder(w)
	for {
		k.mu.Lock()
		var news []sliceEvent
		for _, e := range k.events {
			if e.version > from {
				news = append(news, e)
			}
		}
		expired, changed := from < k.oldest, k.changed
		k.mu.Unlock()
		if expired { // the real server tells so within a watch that stands
			_ = out.Encode(map[string]any{"type": "ERROR", "object": map[string]any{"kind": "Status", "code": http.StatusGone}})
			return
		}
		for _, e := range news {
			from = e.version
			if e.kind == "BOOKMARK" && r.URL.Query().Get("allowWatchBookmarks") == "true" || e.slice.namespace == namespace && e.slice.service == service {
				_ = out.Encode(map[string]any{"type": e.kind, "object": e.slice.object})
			}
		}
		_ = http.NewResponseController(w).Flush()
		select {
		case <-changed:
		case <-ended:
			return
		case <-r.Context().Done():
			return
		}
	}
}
