package invoke

import (
	"strings"
	"testing"

	"github.com/proa-io/proa/fault"
)

func TestTunnelRulesAreRead(t *testing.T) {
	for text, want := range map[string]TunnelRule{
		"app:shop":           {App: "shop"},
		"app:shop:5432":      {App: "shop", Port: 5432},
		"app:shop.prod":      {App: "shop", Namespace: "prod"},
		"app:shop.prod:80":   {App: "shop", Namespace: "prod", Port: 80},
		"DB.internal:5432":   {Host: "db.internal", Port: 5432},
		"*.example.com:443":  {Host: "*.example.com", Port: 443},
		"[::1]:22":           {Host: "::1", Port: 22},
		"*:443":              {Host: "*", Port: 443},
		"db.internal:*":      {Host: "db.internal"},
		"10.0.0.1:65535":     {Host: "10.0.0.1", Port: 65535},
		"localhost:8080":     {Host: "localhost", Port: 8080},
		"app:a-b_c.ns-1:100": {App: "a-b_c", Namespace: "ns-1", Port: 100},
	} {
		if got, err := ParseTunnelRule(text); err != nil || got != want {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
	}
	for _, text := range []string{
		"", "shop", "app:", "app:.prod", "app:a.b.c", "app:shop:", "app:shop:x", "app:shop:0", "app:shop:65536", "app:*", "app:a/b",
		":443", "db.internal", "db.internal:", "db.internal:0", "db.internal:x", "db.internal:70000", "a*.example.com:1", "*example.com:1",
		"a.*.com:1", "**:1", "[::1]", "http://a:1",
	} {
		if got, err := ParseTunnelRule(text); fault.CodeOf(err) != fault.InvalidArgument || !strings.Contains(err.Error(), "give a host and a port") {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
	}
}

func TestTunnelRulesTakeWhatTheySay(t *testing.T) {
	for _, tc := range []struct {
		rule, host string
		port       int
		takes      bool
	}{
		{"db.internal:5432", "db.internal", 5432, true},
		{"db.internal:5432", "db.internal", 5433, false},
		{"db.internal:5432", "xdb.internal", 5432, false},
		{"db.internal:*", "db.internal", 1, true},
		{"*.example.com:443", "a.example.com", 443, true},
		{"*.example.com:443", "a.b.example.com", 443, true},
		{"*.example.com:443", "example.com", 443, false},
		{"*.example.com:443", "badexample.com", 443, false},
		{"*.0.0.1:443", "127.0.0.1", 443, false},
		{"*:443", "anything", 443, true},
		{"*:443", "anything", 80, false},
		{"app:shop", "shop", 443, false},
	} {
		r, err := ParseTunnelRule(tc.rule)
		if err != nil {
			t.Fatal(err)
		}
		if got := r.takes(tc.host, tc.port); got != tc.takes {
			t.Errorf("%s takes %s:%d: %v", tc.rule, tc.host, tc.port, got)
		}
	}
}
