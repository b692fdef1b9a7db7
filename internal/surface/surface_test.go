package surface

import (
	"net/http"
	"slices"
	"strings"
	"testing"
)

func TestARequestIsFoundByMethodAndPath(t *testing.T) {
	for request, want := range map[string]string{
		"GET /v1.0/state/s/k?consistency=strong":        "GET /v1.0/state/{store}/{key}",
		"GET /v1.0/state/s/bulk":                        "GET /v1.0/state/{store}/{key}",
		"PUT /v1.0/state/s/bulk":                        "PUT /v1.0/state/{store}/bulk",
		"POST /v1.0//state/s/":                          "POST /v1.0/state/{store}",
		"PATCH /v1.0/state/s":                           "ANY /{path...}",
		"POST /v1.0/publish/p/a/b/c":                    "POST /v1.0/publish/{pubsub}/{topic...}",
		"POST /v1.0/publish/bulk/p/a/b":                 "POST /v1.0/publish/bulk/{pubsub}/{topic...}",
		"GET /v1.0/secrets/v/bulk":                      "GET /v1.0/secrets/{store}/bulk",
		"GET /v1.0/secrets/v/db":                        "GET /v1.0/secrets/{store}/{key}",
		"PATCH /v1.0/invoke/shop/method/a/b":            "ANY /v1.0/invoke/{appID}/method/{path...}",
		"GET /v1.0/metadata":                            "GET /v1.0/metadata",
		"PUT /v1.0/metadata/k":                          "PUT /v1.0/metadata/{key}",
		"POST /v1.0-beta1/workflows/dapr/id/pause":      "POST /v1.0-beta1/workflows/{component}/{id}/pause",
		"DELETE /v1.0-alpha1/jobs/x":                    "DELETE /v1.0-alpha1/jobs/{name}",
		"POST /orders":                                  "ANY /{path...}",
		"POST /v1.0-alpha1/subtlecrypto/keys/unwrapkey": "POST /v1.0-alpha1/subtlecrypto/{name}/unwrapkey",
	} {
		method, target, _ := strings.Cut(request, " ")
		if got := Find(method, target); got != want {
			t.Errorf("%s is %q, want %q", request, got, want)
		}
	}
}

func TestEveryRouteFindsItself(t *testing.T) {
	seen := map[string]bool{}
	for _, r := range Routes() {
		for _, name := range r.Names() {
			if seen[name] {
				t.Errorf("%s is there twice", name)
			}
			seen[name] = true
			method, pattern, _ := strings.Cut(name, " ")
			if got := Find(method, strings.NewReplacer("{", "", "}", "", "...", "/x").Replace(pattern)); got != name {
				t.Errorf("%s is taken for %s", name, got)
			}
		}
	}
}

func TestACallbackIsFoundByItsPathAndHeader(t *testing.T) {
	for _, tc := range []struct {
		request string
		header  http.Header
		want    string
	}{
		{"GET /dapr/subscribe", nil, "GET /dapr/subscribe"},
		{"POST /orders", http.Header{"Pubsubname": {"p"}, "Content-Type": {"application/cloudevents+json"}}, CallEvent},
		{"POST /orders", http.Header{"Pubsubname": {"p"}, "Content-Type": {"application/json"}}, CallBulkEvent},
		{"POST /orders", http.Header{"Dapr-Caller-App-Id": {"shop"}}, CallInvocation},
		{"POST /cron", nil, CallBinding},
		{"OPTIONS /cron", nil, CallBindingProbe},
		{"GET /healthz", nil, CallHealth},
		{"POST /job/nightly", nil, "POST /job/{name}"},
		{"POST /configuration/store/color", nil, "POST /configuration/{store}/{key}"},
		{"PUT /actors/cat/1/method/remind/feed", nil, "PUT /actors/{type}/{id}/method/remind/{name}"},
	} {
		method, target, _ := strings.Cut(tc.request, " ")
		got := FindCallback(method, target, tc.header.Get)
		if got != tc.want {
			t.Errorf("%s %v is %q, want %q", tc.request, tc.header, got, tc.want)
		}
		if !slices.ContainsFunc(Callbacks(), func(c Callback) bool { return c.Name == got }) {
			t.Errorf("%q is not in the list", got)
		}
	}
}
