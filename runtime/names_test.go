package runtime

import (
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/proa-io/proa/driver/all"
	"github.com/proa-io/proa/mesh/discovery"
	"github.com/proa-io/proa/resource"
)

// resolutionOf reads a Configuration with the given nameResolution.
func resolutionOf(t *testing.T, text string) (*resolution, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "config.yaml")
	head := "apiVersion: dapr.io/v1alpha1\nkind: Configuration\nmetadata:\n  name: c\nspec:\n  nameResolution:\n"
	if err := os.WriteFile(file, []byte(head+text), 0o600); err != nil {
		t.Fatal(err)
	}
	set, err := resource.Load(resource.Options{ConfigPaths: []string{file}})
	if err != nil {
		return nil, err
	}
	catalog, err := all.Catalog(all.Deps{})
	if err != nil {
		t.Fatal(err)
	}
	return newResolution(set.Configuration.Spec.NameResolution, catalog, &Config{AppID: "shop", Namespace: "default", Log: slog.New(slog.DiscardHandler)})
}

func TestNameResolutionThatIsWrongSaysWhere(t *testing.T) {
	for _, tc := range []struct{ text, want string }{
		{"    component: registyr\n", `config.yaml:7: Configuration: spec.nameResolution.component: there is no name resolution "registyr"; did you mean "registry"?`},
		{"    component: aws.cloudmap\n", `Cloud Map is not supported`},
		{"    component: dns\n    configuration:\n      fromat: \"{appid}\"\n", `config.yaml:9: "fromat": there is no such setting; did you mean "format"?`},
		{"    component: nameformat\n    configuration:\n      format: shop.internal\n", `config.yaml:9: "format": wants a name with {appid} in it`},
		{"    component: static\n    configuration:\n      shop: [10.0.0.7]\n", `config.yaml:9: "shop": [0]: wants an address`},
		{"    component: mdns\n    configuration: 5\n", `wants names with values`},
		{"    component: mdns\n    also:\n    - component: dnss\n", `config.yaml:9: Configuration: spec.nameResolution.also[0].component: there is no name resolution "dnss"`},
		{"    component: mdns\n    also:\n    - version: v1\n", `also[0].component: is required`},
		{"    component: mdns\n    version: v9\n", `has no version "v9"`},
	} {
		if _, err := resolutionOf(t, tc.text); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s\n%v\nwant %s", tc.text, err, tc.want)
		}
	}
}

func TestSeveralNameResolutionsAreAsked(t *testing.T) {
	n, err := resolutionOf(t, `    component: static
    configuration:
      shop: 10.0.0.7:50002
      back:
      - 10.0.0.8:50002
      - address: 10.0.0.9:50002
        weight: 3
    also:
    - component: nameresolution.mdns
    - component: registry
`)
	if err != nil {
		t.Fatal(err)
	}
	if len(n.sources) != 3 || len(n.registrars) != 2 {
		t.Errorf("%d sources and %d registrars", len(n.sources), len(n.registrars))
	}
}

// TestApplicationsAreFoundInAFile runs a whole sidecar.
func TestApplicationsAreFoundInAFile(t *testing.T) {
	r := newRig(t, map[string]string{
		"endpoints.json": `{"shop": ["10.0.0.7:50002"], "shop.other": "10.0.0.8:50002"}`,
		"c.yaml": "apiVersion: dapr.io/v1alpha1\nkind: Configuration\nmetadata:\n  name: c\nspec:\n  nameResolution:\n    component: file\n" +
			"    configuration:\n      path: endpoints.json\n    also:\n    - component: static\n      configuration:\n        shop: [{address: \"10.0.0.7:50002\", weight: 4}, 10.0.0.1:1]\n",
	}, nil)
	want := []discovery.Endpoint{{Address: "10.0.0.1:1"}, {Address: "10.0.0.7:50002", Weight: 4}}
	for { // until both have said what they know; the deadline is the test's
		eps, err := r.directory.Lookup(t.Context(), discovery.Service{Namespace: "default", AppID: "shop"})
		if err != nil {
			t.Fatal(err)
		}
		if slices.EqualFunc(eps.List(), want, discovery.Endpoint.Equal) {
			return
		}
	}
}
