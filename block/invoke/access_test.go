package invoke_test

import (
	"net/http"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/proa-io/proa/block/invoke"
)

func TestRulesDecideWhoMayInvokeWhat(t *testing.T) {
	op := func(name string, action invoke.Action, verbs ...string) invoke.OperationRule {
		return invoke.OperationRule{Name: name, Action: action, Verbs: verbs}
	}
	rules := invoke.AccessRules{Default: invoke.Deny, Policies: []invoke.CallerPolicy{
		{AppID: "reader", Default: invoke.Deny, Operations: []invoke.OperationRule{
			op("/items", invoke.Allow, "GET", "head"), op("/items/*", invoke.Allow, "*"), op("/items/secret", invoke.Deny),
			op("/deep/**", invoke.Allow), op("/deep/down/**", invoke.Deny), op("/deep/down/but/this", invoke.Allow),
			op("/pre*", invoke.Allow), op("/a/*/c", invoke.Allow),
		}},
		{AppID: "writer", Namespace: "prod", Default: invoke.Allow, Operations: []invoke.OperationRule{op("/admin/**", invoke.Deny), op("/Old", invoke.Deny, "POST")}},
		{AppID: "undecided", Operations: []invoke.OperationRule{op("/x", invoke.Allow)}},
		{AppID: "foreigner", TrustDomain: "elsewhere", Default: invoke.Allow},
	}}
	check := invoke.CheckAccess(rules)
	for _, c := range []struct {
		caller, verb, path string
		want               bool
	}{
		{"default/reader", "GET", "/items", true}, {"default/reader", "get", "/items/", true}, {"default/reader", "HEAD", "/items?x=1", true},
		{"default/reader", "POST", "/items", false}, {"default/reader", "POST", "/items/1", true}, {"default/reader", "GET", "/items/1/2", false},
		{"default/reader", "GET", "/items/secret", false}, {"default/reader", "GET", "/items/SECRET", false},
		{"default/reader", "GET", "/items/%73ecret", false}, {"default/reader", "GET", "/items/%2573ecret", false},
		{"default/reader", "GET", "/items/x/../secret", false}, {"default/reader", "GET", "/items/%2e%2e/secret2", false},
		{"default/reader", "GET", "//items//1", true}, {"default/reader", "GET", "/ITEMS", false}, {"default/reader", "GET", "/items/secret;v=1", false},
		{"default/reader", "GET", "/items/x%2fy", false}, {"default/reader", "GET", `/items/..%5csecret2`, false},
		{"default/reader", "GET", "/deep", true}, {"default/reader", "PUT", "/deep/a/b/c", true}, {"default/reader", "GET", "/deep/down", false},
		{"default/reader", "GET", "/deep/down/x", false}, {"default/reader", "GET", "/deep/down/but/this", true},
		{"default/reader", "GET", "/prefix", true}, {"default/reader", "GET", "/pre", true}, {"default/reader", "GET", "/pr", false}, {"default/reader", "GET", "/prefix/x", false},
		{"default/reader", "GET", "/a/b/c", true}, {"default/reader", "GET", "/a//c", false}, {"default/reader", "GET", "/", false},
		{"prod/reader", "GET", "/items", false}, {"/reader", "GET", "/items", true},
		{"prod/writer", "POST", "/anything/at/all", true}, {"prod/writer", "GET", "/admin", false}, {"prod/writer", "GET", "/Admin/x", false},
		{"prod/writer", "GET", "/%61dmin", false}, {"prod/writer", "GET", "/x/%2e%2e/admin", false}, {"prod/writer", "GET", "/x/..;/admin", false},
		{"prod/writer", "POST", "/old", false}, {"prod/writer", "GET", "/old", true}, {"default/writer", "GET", "/", false},
		{"default/undecided", "GET", "/x", true}, {"default/undecided", "GET", "/y", false},
		{"default/foreigner", "GET", "/", false}, {"default/nobody", "GET", "/items", false}, {"default/", "GET", "/items", false},
		{"default/reader", "", "/items", true}, // as of a gRPC call
	} {
		ns, app, _ := strings.Cut(c.caller, "/")
		if err := check(ns, app, c.path, c.verb); (err == nil) != c.want {
			t.Errorf("%s %s %s: %v, want allowed %v", c.caller, c.verb, c.path, err, c.want)
		}
	}
}

func TestRulesHaveTheDefaultsThatAreSafe(t *testing.T) {
	some := []invoke.CallerPolicy{{AppID: "a", Default: invoke.Allow}}
	for _, c := range []struct {
		name  string
		rules invoke.AccessRules
		want  bool
	}{
		{"no rules", invoke.AccessRules{}, true},
		{"a default only", invoke.AccessRules{Default: invoke.Deny}, false},
		{"policies without a default", invoke.AccessRules{Policies: some}, false},
		{"policies and a default", invoke.AccessRules{Default: invoke.Allow, Policies: some}, true},
	} {
		if err := invoke.CheckAccess(c.rules)("default", "stranger", "/x", "GET"); (err == nil) != c.want {
			t.Errorf("%s: %v, want allowed %v", c.name, err, c.want)
		}
	}
}

func TestADeniedRequestDoesNotReachTheApplication(t *testing.T) {
	rules := invoke.AccessRules{Policies: []invoke.CallerPolicy{{AppID: "front", Operations: []invoke.OperationRule{
		{Name: "/open", Action: invoke.Allow}, {Name: "/grpc.health.v1.Health/Check", Action: invoke.Allow},
	}}}}
	m := start(t, options{
		access: rules,
		grpc: func(s *grpc.Server) {
			h := health.NewServer()
			healthpb.RegisterHealthServer(s, h)
		},
		app: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/open" {
				t.Errorf("the application was asked for %s", r.URL)
			}
		}),
	})
	if resp := m.do(t, "GET", "/open", nil); resp.StatusCode != 200 {
		t.Errorf("an allowed request: %d", resp.StatusCode)
	}
	// Whatever an application says of itself: its sidecar says who it is.
	resp := m.do(t, "POST", "/closed", nil, "dapr-caller-app-id", "admin", "dapr-caller-namespace", "prod")
	const want = "permission_denied: access control policy has denied access to appid: front operation: /closed verb: POST"
	if got := text(t, resp); got != want {
		t.Errorf("a denied request: %q, want %q", got, want)
	}
	cc, err := grpc.NewClient(m.grpc, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer cc.Close()
	ctx := metadata.AppendToOutgoingContext(t.Context(), "dapr-app-id", "back")
	client := healthpb.NewHealthClient(cc)
	if _, err := client.Check(ctx, &healthpb.HealthCheckRequest{}); err != nil {
		t.Errorf("an allowed call: %v", err)
	}
	if _, err := client.List(ctx, &healthpb.HealthListRequest{}); status.Code(err) == codes.OK {
		t.Error("a denied call succeeds")
	}
}

// No spelling of a path that an application may read as a forbidden one leads
// around the rule.
func FuzzNoSpellingLeadsAroundARule(f *testing.F) {
	for _, p := range []string{"/admin", "/%61dmin", "//admin/", "/x/../admin", "/ADMIN", "/admin;x", "/%2561dmin", "/x/..%2fadmin", "/./admin/x"} {
		f.Add(p)
	}
	check := invoke.CheckAccess(invoke.AccessRules{Default: invoke.Allow, Policies: []invoke.CallerPolicy{{
		AppID: "a", Default: invoke.Allow, Operations: []invoke.OperationRule{{Name: "/admin/**", Action: invoke.Deny}},
	}}})
	f.Fuzz(func(t *testing.T, p string) {
		if !strings.HasPrefix(p, "/") || check("default", "a", p, "GET") != nil {
			return
		}
		r, err := http.NewRequest(http.MethodGet, "http://h"+p, nil)
		if err != nil {
			return
		}
		mux := http.NewServeMux()
		reached := false
		mux.HandleFunc("/admin", func(http.ResponseWriter, *http.Request) { reached = true })
		mux.HandleFunc("/admin/", func(http.ResponseWriter, *http.Request) { reached = true })
		mux.HandleFunc("/", func(http.ResponseWriter, *http.Request) {})
		if _, pattern := mux.Handler(r); pattern != "/" && pattern != "" {
			mux.ServeHTTP(nil, r)
		}
		if reached {
			t.Errorf("%q is allowed, and reaches /admin", p)
		}
	})
}
