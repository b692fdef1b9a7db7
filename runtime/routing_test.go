package runtime

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	commonv1 "github.com/proa-io/proa/api/gen/dapr/proto/common/v1"
	rtv1 "github.com/proa-io/proa/api/gen/dapr/proto/runtime/v1"
	"github.com/proa-io/proa/mesh/discovery"
	"github.com/proa-io/proa/mesh/route"
	"github.com/proa-io/proa/resource"
)

// split is a route that shares the requests for an application between two.
func split(a, b int, more string) string {
	return fmt.Sprintf(`apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: reviews}
spec:
  parentRefs: [{group: "", kind: Service, name: reviews}]
  rules:
  - name: split
    matches: [{path: {value: /api}}]
    backendRefs:
    - {group: dapr.io, kind: HTTPEndpoint, name: a, weight: %d}
    - {group: dapr.io, kind: HTTPEndpoint, name: b, weight: %d}
%s`, a, b, more)
}

func httpEndpoint(name, url string) string {
	return "apiVersion: dapr.io/v1alpha1\nkind: HTTPEndpoint\nmetadata: {name: " + name + "}\nspec: {baseUrl: " + url + "}\n---\n"
}

func TestWeightsAreChangedUnderLoad(t *testing.T) {
	a, b := newServer(t, "a"), newServer(t, "b")
	ends := httpEndpoint("a", a.URL) + httpEndpoint("b", b.URL)
	r := newRig(t, map[string]string{"ends.yaml": ends, "route.yaml": split(1, 0, "")}, nil)
	const path = "/v1.0/invoke/reviews/method/api/x"
	stop := hammer(t, func(_, _ int) error {
		status, answer, err := r.call("GET", path, "")
		if err != nil || status != 200 || answer != "a " && answer != "b " {
			return fmt.Errorf("%d %s %w", status, answer, err)
		}
		return nil
	})
	for n := range rounds {
		name := []string{"b", "a"}[n%2]
		r.write("route.yaml", split(n%2, 1-n%2, ""))
		r.applied()
		if got := r.must("GET", path, "", 200); got != name+" " {
			t.Fatalf("after the change to %s the answer is %s", name, got)
		}
	}
	stop()
	if got := r.must("GET", "/v1.0/invoke/reviews/method/other", "", 404); !strings.Contains(got, "no route for GET reviews/other") {
		t.Errorf("what no rule matches is answered with %s", got)
	}
	r.remove("route.yaml")
	r.applied()
	if status, answer, err := r.call("GET", path, ""); err != nil || status == 200 || strings.Contains(answer, "route") {
		t.Errorf("without a route the answer is %d %s %v", status, answer, err)
	}
}

func TestMessagesMeetRoutesToo(t *testing.T) {
	a := newServer(t, "a")
	r := newRig(t, map[string]string{"all.yaml": httpEndpoint("a", a.URL) + split(1, 0, `    filters:
    - type: RequestHeaderModifier
      requestHeaderModifier: {set: [{name: X-Key, value: k}]}
`)}, nil)
	conn, err := grpc.NewClient(fmt.Sprintf("127.0.0.1:%d", r.Addresses().GRPCPort), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	out, err := rtv1.NewDaprClient(conn).InvokeService(context.Background(), &rtv1.InvokeServiceRequest{Id: "reviews", Message: &commonv1.InvokeRequest{
		Method: "api/x", HttpExtension: &commonv1.HTTPExtension{Verb: commonv1.HTTPExtension_GET},
	}})
	if err != nil || string(out.GetData().GetValue()) != "a k" {
		t.Errorf("%v %v", out, err)
	}
	if got := r.must("GET", "/v1.0/invoke/reviews/method/api/x", "", 200); got != "a k" {
		t.Errorf("a request gets %s", got)
	}
}

func loadRoutes(t *testing.T, text string) (*Routes, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "r.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	set, err := resource.Load(resource.Options{Paths: []string{file}})
	if err != nil {
		t.Fatal(err)
	}
	return CompileRoutes(set, "shop")
}

// routeIn is a route of a namespace to a backend.
func routeIn(namespace, name, parentNamespace, backend string) string {
	return fmt.Sprintf(`apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: %s, namespace: %s}
spec: {parentRefs: [{group: "", kind: Service, name: app, namespace: %s}], rules: [{backendRefs: [%s]}]}
---
`, name, namespace, parentNamespace, backend)
}

func TestRoutesOfNamespaces(t *testing.T) {
	grant := `apiVersion: gateway.networking.k8s.io/v1
kind: ReferenceGrant
metadata: {name: g, namespace: other}
spec: {from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: shop}], to: [{group: "", kind: Service, name: x}]}
---
`
	for _, tt := range []struct {
		name, text string
		of         discovery.Service
		want       string // the route, and the problem of its backend
	}{
		{"for everybody", routeIn("shop", "own", "shop", "{name: x}"), discovery.Service{Namespace: "shop", AppID: "app"}, "own "},
		{"of where the application is", routeIn("far", "far", "far", "{name: x}"), discovery.Service{Namespace: "far", AppID: "app"}, "far "},
		{"the caller's first", routeIn("far", "far", "far", "{name: x}") + routeIn("shop", "mine", "far", "{name: x}"), discovery.Service{Namespace: "far", AppID: "app"}, "mine "},
		{"for callers elsewhere", routeIn("other", "other", "far", "{name: x}"), discovery.Service{Namespace: "far", AppID: "app"}, ""},
		{"not granted", routeIn("shop", "own", "shop", "{name: x, namespace: other}"), discovery.Service{Namespace: "shop", AppID: "app"},
			`own it is of namespace "other", which has no ReferenceGrant for HTTPRoutes of "shop"`},
		{"granted", grant + routeIn("shop", "own", "shop", "{name: x, namespace: other}"), discovery.Service{Namespace: "shop", AppID: "app"}, "own "},
		{"granted for another", grant + routeIn("shop", "own", "shop", "{name: y, namespace: other}"), discovery.Service{Namespace: "shop", AppID: "app"},
			`own it is of namespace "other", which has no ReferenceGrant for HTTPRoutes of "shop"`},
		{"another kind", routeIn("shop", "own", "shop", "{kind: Deployment, group: apps, name: y}"), discovery.Service{Namespace: "shop", AppID: "app"},
			`own Deployment of "apps" is no kind of backend; there is Service, HTTPEndpoint of "dapr.io" and Hostname of "proa.io"`},
		{"no such endpoint", routeIn("shop", "own", "shop", "{kind: HTTPEndpoint, group: dapr.io, name: y}"), discovery.Service{Namespace: "shop", AppID: "app"}, `own there is no HTTPEndpoint "y"`},
		{"a host", routeIn("shop", "own", "shop", "{kind: Hostname, group: proa.io, name: api.example.com, port: 443}"), discovery.Service{Namespace: "shop", AppID: "app"}, "own "},
	} {
		routes, err := loadRoutes(t, tt.text)
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		got := ""
		if table := routes.Apps[tt.of]; table != nil {
			found, _ := table.Lookup(&route.Request{Path: "/"})
			b := found.Rule.Backends[0]
			got = found.Rule.Route.Name + " " + b.Problem
			if b.Kind == route.External && b.Name != "https://api.example.com" {
				t.Errorf("%s: %s", tt.name, b.Name)
			}
		}
		if got != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
		}
	}
}

func TestRoutesThatCannotBeHonouredAreRefused(t *testing.T) {
	rule := func(text string) string {
		return "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: r}\nspec:\n  parentRefs: [{group: '', kind: Service, name: a}]\n  rules:\n  - " + text + "\n---\n"
	}
	const filter = "apiVersion: proa.io/v1alpha1\nkind: RouteFilter\nmetadata: {name: faults}\nspec: {fault: {abort: {}}, retry: {attempts: 2}}\n---\n"
	for _, tt := range []struct{ text, want string }{
		{rule("sessionPersistence: {}"), "r.yaml:7: HTTPRoute r: spec.rules[0].sessionPersistence: is not supported"},
		{filter + rule("filters: [{type: ExtensionRef, extensionRef: {group: proa.io, kind: RouteFilter, name: fault}}]"), `there is no RouteFilter "fault" in namespace "shop"; did you mean "faults"?`},
		{filter + rule("backendRefs: [{name: b, filters: [{type: ExtensionRef, extensionRef: {group: proa.io, kind: RouteFilter, name: faults}}]}]"), "is for rules, not for backends"},
		{filter + rule("{retry: {}, filters: [{type: ExtensionRef, extensionRef: {group: proa.io, kind: RouteFilter, name: faults}}]}"), "retry is given by the rule and by a RouteFilter"},
		{"apiVersion: gateway.networking.k8s.io/v1\nkind: TLSRoute\nmetadata: {name: r}\nspec: {hostnames: [a.b], parentRefs: [{group: '', kind: Service, name: a}], rules: [{backendRefs: [{name: b}]}]}", "use a TCPRoute"},
	} {
		if _, err := loadRoutes(t, tt.text); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s\n  gives %v\n  want  %s", tt.text, err, tt.want)
		}
	}
}
