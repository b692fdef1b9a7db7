package resource

import (
	"reflect"
	"strings"
	"testing"
	"time"
)

const goodRoutes = `
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata:
  name: reviews
  namespace: shop
  creationTimestamp: "2026-01-31T12:00:00Z"
  managedFields: [{manager: kubectl}]
spec:
  parentRefs:
  - {group: "", kind: Service, name: reviews, port: 80}
  hostnames: ["*.example.com"]
  rules:
  - name: canary
    matches:
    - path: {type: Exact, value: /a}
      headers: [{name: X-Version, value: v2}]
      queryParams: [{type: RegularExpression, name: q, value: "a+"}]
      method: GET
    filters:
    - type: RequestHeaderModifier
      requestHeaderModifier: {set: [{name: a, value: b}], add: [{name: c, value: d}], remove: [e]}
    - type: RequestMirror
      requestMirror: {backendRef: {name: shadow, port: 80}, fraction: {numerator: 1, denominator: 1000}}
    - type: CORS
      cors: {allowOrigins: ["https://*.example.com"], allowMethods: ["*"], maxAge: 60}
    backendRefs:
    - {name: reviews-v1, port: 80, weight: 99}
    - name: reviews-v2
      weight: 1
      filters:
      - type: ExtensionRef
        extensionRef: {group: proa.io, kind: RouteFilter, name: subset}
    timeouts: {request: 10s, backendRequest: 2s500ms}
    retry: {codes: [500, 503], attempts: 2, backoff: 100ms}
    sessionPersistence: {sessionName: s, absoluteTimeout: 1h, cookieConfig: {lifetimeType: Permanent}}
  - filters:
    - type: URLRewrite
      urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /x}}
status: {parents: []}
---
apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata: {name: orders}
spec:
  parentRefs: [{group: "", kind: Service, name: orders}]
  rules:
  - matches: [{method: {service: shop.v1.Orders, method: Get}}]
    backendRefs: [{name: orders-v2}]
---
apiVersion: gateway.networking.k8s.io/v1alpha2
kind: TCPRoute
metadata: {name: db}
spec: {parentRefs: [{group: "", kind: Service, name: db}], rules: [{backendRefs: [{name: db-v2, port: 5432}]}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: TLSRoute
metadata: {name: tls}
spec: {parentRefs: [{name: edge}], hostnames: [a.example.com], rules: [{backendRefs: [{name: a, port: 443}]}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge}
spec:
  gatewayClassName: proa
  listeners:
  - {name: http, port: 80, protocol: HTTP}
  - {name: https, port: 443, protocol: HTTPS, hostname: "*.example.com", tls: {certificateRefs: [{name: cert}]}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: BackendTLSPolicy
metadata: {name: tls}
spec:
  targetRefs: [{group: proa.io, kind: Hostname, name: api.example.com}]
  validation: {hostname: api.example.com, wellKnownCACertificates: System}
---
apiVersion: gateway.networking.k8s.io/v1beta1
kind: ReferenceGrant
metadata: {name: all, namespace: prod}
spec: {from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: shop}], to: [{group: "", kind: Service}]}
---
apiVersion: proa.io/v1alpha1
kind: RouteFilter
metadata: {name: subset}
spec:
  fault: {delay: {duration: 100ms, percent: 0.5}, abort: {}}
  hedge: {delay: 50ms, budget: {percent: 10}}
  maxRequestSize: 1Mi
  compression: {algorithms: [zstd, gzip], contentTypes: [text/*]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: proa}
spec: {controllerName: proa.io/gateway}
`

func TestRoutesAreReadWithTheirDefaults(t *testing.T) {
	dir := write(t, map[string]string{"routes.yaml": goodRoutes})
	set, err := Load(Options{Paths: []string{dir}, Namespace: "default"})
	if err != nil {
		t.Fatal(err)
	}
	g := &set.Gateway
	if n := len(g.list()); n != 8 || len(set.Ignored) != 1 {
		t.Fatalf("%d resources and %d ignored, want 8 and 1", n, len(set.Ignored))
	}
	r := &g.HTTPRoutes[0]
	if r.Created() != time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC) || r.Namespace() != "shop" {
		t.Errorf("made at %v in %q", r.Created(), r.Namespace())
	}
	first, second := &r.Spec.Rules[0], &r.Spec.Rules[1]
	if first.Timeouts.BackendRequest.Std() != 2500*time.Millisecond || *first.BackendRefs[0].Weight != 99 || first.BackendRefs[1].Kind != "Service" {
		t.Errorf("first rule: %+v", first)
	}
	if m := second.Matches[0].Path; m.Type != "PathPrefix" || *m.Value != "/" {
		t.Errorf("a rule without matches is for %s %s", m.Type, *m.Value)
	}
	if a := g.RouteFilters[0].Spec.Fault.Abort; a.HTTPStatus != 503 || a.GRPCStatus != 14 {
		t.Errorf("abort: %+v", a)
	}
}

func TestARouteThatMovesToAnotherNamespaceIsAnother(t *testing.T) {
	load := func(ns string) *Set {
		set, err := Load(Options{Paths: []string{write(t, map[string]string{"r.yaml": strings.Replace(goodRoutes, "namespace: shop\n", "namespace: "+ns+"\n", 1)})}})
		if err != nil {
			t.Fatal(err)
		}
		return set
	}
	a, b := load("shop"), load("prod")
	if a.Gateway.Digest() == b.Gateway.Digest() {
		t.Error("the digests are equal")
	}
	c := Diff(a, b)
	if !reflect.DeepEqual(c, Changes{Added: []string{"HTTPRoute reviews"}, Removed: []string{"HTTPRoute reviews"}}) {
		t.Errorf("%+v", c)
	}
	if same := load("shop"); a.Gateway.Digest() != same.Gateway.Digest() {
		t.Error("the digests of the same differ")
	}
}

func TestWhatIsWrongInARouteIsSaid(t *testing.T) {
	route := func(spec string) string {
		return "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: r}\nspec:\n" + spec
	}
	rule := func(text string) string { return route("  rules:\n  - " + text) }
	grpc := func(text string) string {
		return "apiVersion: gateway.networking.k8s.io/v1\nkind: GRPCRoute\nmetadata: {name: r}\nspec:\n  rules:\n  - " + text
	}
	of := func(apiVersion, kind, spec string) string {
		return "apiVersion: " + apiVersion + "\nkind: " + kind + "\nmetadata: {name: r}\nspec: " + spec
	}
	const v1 = "gateway.networking.k8s.io/v1"
	for _, tt := range []struct{ text, want string }{
		{of(v1, "HTTPRout", "{}"), `kind: "HTTPRout" is not a kind of gateway.networking.k8s.io; did you mean "HTTPRoute"?`},
		{of("gateway.networking.k8s.io/v2", "HTTPRoute", "{}"), `"gateway.networking.k8s.io/v2" is not known for this kind; there is "gateway.networking.k8s.io/v1"`},
		{of(v1, "UDPRoute", "{}"), "UDPRoute r: kind: is not supported: datagrams are not routed"},
		{of("proa.io/v1alpha1", "RouteFiltr", "{}"), `did you mean "RouteFilter"?`},
		{route("  rulez: []"), `r.yaml:5: HTTPRoute r: spec.rulez: there is no such field; did you mean "rules"?`},
		{route("  hostnames: [Shop.example.com]"), `spec.hostnames[0]: wants a host name in lower case`},
		{route("  hostnames: [10.0.0.1]"), `wants a host name, not the address 10.0.0.1`},
		{route("  parentRefs: [{kind: Service, name: a}]"), `spec.parentRefs[0].group: is "gateway.networking.k8s.io" by default; a Service wants group: ""`},
		{route("  parentRefs: [{group: apps, kind: Deployment, name: a}]"), "wants a Gateway of gateway.networking.k8s.io or a Service"},
		{route("  parentRefs: [{kind: Gateway}]"), "spec.parentRefs[0].name: is required"},
		{rule("matches: [{method: get}]"), `r.yaml:6: HTTPRoute r: spec.rules[0].matches[0].method: wants one of GET, HEAD, POST, PUT, DELETE, CONNECT, OPTIONS, TRACE, PATCH, not "get"`},
		{rule("matches: [{path: {type: PathPrefx, value: /}}]"), `did you mean "PathPrefix"?`},
		{rule("matches: [{path: {value: a}}]"), `must begin with "/" for type PathPrefix`},
		{rule("matches: [{path: {value: /a//b}}]"), `must not contain "//"`},
		{rule("matches: [{path: {value: /a/..}}]"), `must not end with`},
		{rule("matches: [{path: {value: '/ä'}}]"), `characters that a path cannot have`},
		{rule("matches: [{path: {type: RegularExpression, value: '(a'}}]"), "is no regular expression (RE2)"},
		{rule("matches: [{headers: [{name: a, value: b}, {name: A, value: c}]}]"), `"A" is matched twice`},
		{rule("matches: [{headers: [{name: 'a b', value: b}]}]"), `wants a name of a header field`},
		{rule("matches: [{headers: [{name: a}]}]"), "spec.rules[0].matches[0].headers[0].value: is required"},
		{rule("backendRefs: [{name: a, weight: -1}]"), "spec.rules[0].backendRefs[0].weight: wants a number from 0 to 1e+06, not -1"},
		{rule("backendRefs: [{name: a, port: 70000}]"), "wants a number from 1 to 65535"},
		{rule("backendRefs: [{group: proa.io, kind: Hostname, name: api.example.com}]"), "port: is required for a Hostname"},
		{rule("timeouts: {request: 1s, backendRequest: 2s}"), "is 2s, longer than request, which is 1s"},
		{rule("timeouts: {request: 1.5s}"), `wants a duration such as "10s"`},
		{rule("retry: {codes: [200]}"), "spec.rules[0].retry.codes[0]: wants a number from 400 to 599, not 200"},
		{rule("retry: {attempts: 0}"), "wants 1 or more, not 0"},
		{rule("sessionPersistence: {cookieConfig: {lifetimeType: Permanent}}"), "absoluteTimeout: is required"},
		{rule("sessionPersistence: {type: Header, cookieConfig: {}}"), "is for type Cookie only"},
		{rule("filters: [{type: RequestRedirect, requestRedirect: {statusCode: 305}}]"), "wants one of 301, 302, 303, 307, 308, not 305"},
		{rule("{filters: [{type: RequestRedirect, requestRedirect: {}}], backendRefs: [{name: a}]}"), "redirects, so the rule must have no backendRefs"},
		{rule("filters: [{type: URLRewrite, urlRewrite: {}}, {type: RequestRedirect, requestRedirect: {}}]"), "have both RequestRedirect and URLRewrite"},
		{rule("filters: [{type: URLRewrite, urlRewrite: {}}, {type: URLRewrite, urlRewrite: {}}]"), "URLRewrite is given twice"},
		{rule("filters: [{type: CORS}]"), "filters[0].cors: is required for a filter of type CORS"},
		{rule("filters: [{type: CORS, cors: {}, urlRewrite: {}}]"), "is for filters of type URLRewrite; this one is of type CORS"},
		{rule("filters: [{type: CORS, cors: {allowOrigins: ['*', 'https://a']}}]"), `has "*" and others`},
		{rule("filters: [{type: CORS, cors: {allowOrigins: [example.com]}}]"), "wants an origin such as"},
		{rule("filters: [{type: ExternalAuth, externalAuth: {protocol: HTTP}}]"), "ExternalAuth is not supported"},
		{rule("filters: [{type: ExtensionRef, extensionRef: {group: a.io, kind: B, name: c}}]"), `wants a RouteFilter of "proa.io"`},
		{rule("filters: [{type: RequestMirror, requestMirror: {percent: 1, fraction: {numerator: 1}, backendRef: {name: a}}}]"), "has both percent and fraction"},
		{rule("filters: [{type: RequestMirror, requestMirror: {fraction: {numerator: 101}, backendRef: {name: a}}}]"), "numerator 101 of 100"},
		{rule("filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: a, value: b}], remove: [A]}}]"), `"A" is changed twice`},
		{rule("filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: content-length, value: b}]}}]"), "cannot be set"},
		{rule("{matches: [{path: {type: Exact, value: /a}}], filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}}]}"),
			"ReplacePrefixMatch wants a rule with exactly one match"},
		{rule("filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath, replacePrefixMatch: /}}}]"), "replaceFullPath: is required"},
		{grpc("matches: [{method: {type: Exact}}]"), "wants a service, a method or both"},
		{grpc("matches: [{method: {service: 'a/b'}}]"), "wants a service such as"},
		{grpc("filters: [{type: URLRewrite, urlRewrite: {}}]"), "wants one of RequestHeaderModifier, ResponseHeaderModifier, RequestMirror, ExtensionRef"},
		{of(v1, "TCPRoute", "{rules: []}"), "spec.rules: is required: at least 1"},
		{of(v1, "TLSRoute", "{rules: [{backendRefs: [{name: a}]}]}"), "spec.hostnames: is required: at least 1"},
		{of(v1, "Gateway", "{gatewayClassName: a, listeners: [{name: a, port: 1, protocol: TLS}]}"), "is required for protocol TLS"},
		{of(v1, "Gateway", "{gatewayClassName: a, listeners: [{name: a, port: 1, protocol: HTTP, tls: {}}]}"), "tls: is not for protocol HTTP"},
		{of(v1, "Gateway", "{gatewayClassName: a, listeners: [{name: a, port: 1, protocol: HTTP}, {name: a, port: 2, protocol: HTTP}]}"), `"a" is the name of the listener`},
		{of(v1, "BackendTLSPolicy", "{targetRefs: [{kind: Service, name: a}], validation: {hostname: a}}"), "wants caCertificateRefs or wellKnownCACertificates"},
		{of(v1, "ReferenceGrant", "{from: [{kind: HTTPRoute}], to: [{kind: Service}]}"), "spec.from[0].namespace: is required"},
		{of("proa.io/v1alpha1", "RouteFilter", "{fault: {}}"), "wants delay, abort or both"},
		{of("proa.io/v1alpha1", "RouteFilter", "{fault: {delay: {percent: 1}}}"), "spec.fault.delay.duration: is required"},
		{of("proa.io/v1alpha1", "RouteFilter", "{fault: {abort: {percent: 101}}}"), "wants a number from 0 to 100"},
		{of("proa.io/v1alpha1", "RouteFilter", "{compression: {algorithms: [lz4]}}"), "wants one of br, zstd, gzip"},
	} {
		_, err := Load(Options{Paths: []string{write(t, map[string]string{"r.yaml": tt.text})}})
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s\n  gives %v\n  want  %s", tt.text, err, tt.want)
		}
	}
}

func TestAllRulesOfFieldsMakeSense(t *testing.T) {
	for _, v := range []any{HTTPRouteSpec{}, GRPCRouteSpec{}, TCPRouteSpec{}, TLSRouteSpec{}, GatewaySpec{}, BackendTLSPolicySpec{}, ReferenceGrantSpec{}, RouteFilterSpec{}} {
		checkTags(t, reflect.TypeOf(v))
	}
}

func checkTags(t *testing.T, typ reflect.Type) {
	for i := range typ.NumField() {
		f := typ.Field(i)
		if _, err := parseRules(f.Tag.Get("rule")); err != nil {
			t.Errorf("%v.%s: %v", typ, f.Name, err)
		}
		inner := f.Type
		for inner.Kind() == reflect.Pointer || inner.Kind() == reflect.Slice {
			inner = inner.Elem()
		}
		if inner.Kind() == reflect.Struct && f.Name != "Pos" {
			checkTags(t, inner)
		}
	}
}
