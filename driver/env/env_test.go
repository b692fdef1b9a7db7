package env

import (
	"testing"

	"github.com/proa-io/proa/block/secret"
	"github.com/proa-io/proa/block/secret/secrettest"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
)

func TestSecret(t *testing.T) {
	secrettest.Run(t, secrettest.Harness{
		Open: func(t testing.TB, secrets map[string]map[string]string) secret.Driver {
			const prefix = "ENVTEST_"
			for name, values := range secrets {
				t.Setenv(prefix+name, values[name])
			}
			return open(t, prefix)
		},
	})
}

func TestVariablesOfTheSidecarAreNotHandedOut(t *testing.T) {
	for _, name := range []string{"DAPR_API_TOKEN", "APP_API_TOKEN", "PROA_ENGINE", "dapr_api_token", "App_Api_Token"} {
		t.Setenv(name, "internal")
		if v, err := open(t, "").Get(t.Context(), name, nil); !fault.Is(err, fault.NotFound) {
			t.Errorf("Get(%q) = %v, %v; want not_found", name, v, err)
		}
	}
	// Nor through a prefix that is part of such a name.
	if v, err := open(t, "DAPR_").Get(t.Context(), "API_TOKEN", nil); !fault.Is(err, fault.NotFound) {
		t.Errorf("Get with a prefix = %v, %v; want not_found", v, err)
	}
	for _, prefix := range []string{"", "DAPR_", "APP_API_"} {
		all, err := open(t, prefix).List(t.Context(), nil, func(string) bool { return true })
		if err != nil {
			t.Fatal(err)
		}
		for name, v := range all {
			if v[name] == "internal" {
				t.Errorf("List with prefix %q holds %q", prefix, name)
			}
		}
	}
}

func TestListStripsThePrefix(t *testing.T) {
	t.Setenv("LISTTEST_A", "1")
	t.Setenv("LISTTEST_", "no name is left")
	t.Setenv("OTHERTEST_A", "2")
	all, err := open(t, "LISTTEST_").List(t.Context(), nil, func(string) bool { return true })
	if err != nil || len(all) != 1 || all["A"]["A"] != "1" {
		t.Fatalf("List = %v, %v; want only A", all, err)
	}
}

func TestPrefixThatNoVariableHasIsRefused(t *testing.T) {
	spec := Specs()[0]
	err := spec.Check(component.Settings{{Name: "prefix", Value: "A=", Pos: component.Position{File: "c.yaml", Line: 3}}})
	if err == nil || err.Error() != `c.yaml:3: "prefix": must not contain "=" or a zero byte` {
		t.Fatalf("error = %v", err)
	}
}

func open(t testing.TB, prefix string) *Store {
	t.Helper()
	s, err := Open(t.Context(), Config{Prefix: prefix}, component.Env{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}
