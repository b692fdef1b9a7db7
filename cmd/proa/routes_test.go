package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const someRoutes = `apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: reviews}
spec:
  parentRefs: [{group: "", kind: Service, name: reviews}]
  rules:
  - name: testers
    matches: [{path: {value: /api}, headers: [{name: x-tester, value: "yes"}]}]
    backendRefs: [{name: reviews-v2}]
  - name: split
    matches: [{path: {value: /api}}]
    timeouts: {request: 2s}
    backendRefs: [{name: reviews-v1, weight: 99}, {name: reviews-v2, weight: 1}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: TCPRoute
metadata: {name: db}
spec: {parentRefs: [{group: "", kind: Service, name: db}], rules: [{backendRefs: [{name: db-v2}]}]}
`

func routesFile(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "routes.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestRoutesAreListedInTheirOrder(t *testing.T) {
	file := routesFile(t, someRoutes)
	out, _, err := execute(t, "proa", "routes", file)
	if err != nil {
		t.Fatal(err)
	}
	want := `APPLICATION      ROUTE              RULE     WHEN                                BACKENDS                                    FILTERS
db.default       TCPRoute db        0        raw connections                     100% db-v2.default                          -
reviews.default  HTTPRoute reviews  testers  path /api/*, header x-tester = yes  100% reviews-v2.default                     -
reviews.default  HTTPRoute reviews  split    path /api/*                         99% reviews-v1.default, 1% reviews-v2.default  timeouts
`
	if strings.Join(strings.Fields(out), " ") != strings.Join(strings.Fields(want), " ") {
		t.Errorf("%s\nwant\n%s", out, want)
	}
	if out, _, err = execute(t, "proa", "routes", "--app", "orders", file); err != nil || out != "there are no routes: requests go to the applications that they name\n" {
		t.Errorf("%s %v", out, err)
	}
	_, stderr, err := execute(t, "proa", "routes", routesFile(t, strings.Replace(someRoutes, "weight: 99", "weight: many", 1)))
	if err == nil || !strings.Contains(stderr, `routes.yaml:13: HTTPRoute reviews: spec.rules[1].backendRefs[0].weight: wants a whole number, not "many"`) {
		t.Errorf("%s %v", stderr, err)
	}
}

func TestARequestIsExplained(t *testing.T) {
	file := routesFile(t, someRoutes)
	for _, tt := range []struct {
		args []string
		want string
	}{
		{[]string{"GET", "http://reviews/api/1"}, `GET reviews.default/api/1
  meets HTTPRoute reviews rule split (FILE:10)
  since path /api/*
  with timeouts
  within 2s, each try within 0s (0s: no bound)
  and goes to
    99% reviews-v1.default
    1% reviews-v2.default
  other rules, in their order:
    HTTPRoute reviews rule testers: path /api/*, header x-tester = yes: there is no header "x-tester"
`},
		{[]string{"get", "reviews/api", "-H", "X-Tester: yes"}, `GET reviews.default/api
  meets HTTPRoute reviews rule testers (FILE:7)
  since path /api/*, header x-tester = yes
  and goes to
    100% reviews-v2.default
  other rules, in their order:
    HTTPRoute reviews rule split: path /api/*: matches, but comes later
`},
		{[]string{"GET", "http://reviews/else"}, `GET reviews.default/else
  meets no rule: the answer is 404, of a gRPC call UNIMPLEMENTED
  other rules, in their order:
    HTTPRoute reviews rule testers: path /api/*, header x-tester = yes: the path is "/else"
    HTTPRoute reviews rule split: path /api/*: the path is "/else"
`},
		{[]string{"GET", "http://orders.prod/x"}, "GET orders.prod/x\n  meets no route: application orders.prod has none, so it gets the request\n"},
	} {
		out, _, err := execute(t, append([]string{"proa", "explain", "request", "--resources-path", file}, tt.args...)...)
		if want := strings.ReplaceAll(tt.want, "FILE", file); err != nil || out != want {
			t.Errorf("%v: %v\n%s\nwant\n%s", tt.args, err, out, want)
		}
	}
	for _, args := range [][]string{{"GET", "http://reviews/"}, {"GET", "/x", "--resources-path", file}, {"GET", "reviews", "-H", "x", "--resources-path", file}} {
		if _, _, err := execute(t, append([]string{"proa", "explain", "request"}, args...)...); err == nil {
			t.Errorf("%v is not refused", args)
		}
	}
}
