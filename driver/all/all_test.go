package all

import (
	"strings"
	"testing"

	"github.com/proa-io/proa/component"
)

func TestEveryDriverIsListedOnceAndDescribed(t *testing.T) {
	specs := Specs(Deps{})
	if _, err := component.NewCatalog(specs...); err != nil {
		t.Fatal(err)
	}
	for _, s := range specs {
		if s.Block == "" || s.Name == "" || !strings.HasSuffix(s.Summary, ".") {
			t.Errorf("%s: summary %q, want a sentence", s.Type(), s.Summary)
		}
	}
}

func TestTheStateDriversAreThere(t *testing.T) {
	catalog, err := component.NewCatalog(Specs(Deps{})...)
	if err != nil {
		t.Fatal(err)
	}
	for _, typ := range []string{"state.in-memory", "state.memory", "state.redis", "state.memcached", "state.nats", "state.jetstream"} {
		if _, err := catalog.Lookup(typ, "v1"); err != nil {
			t.Error(err)
		}
	}
}

func TestWhatIsMissingNamesWhatToUseInstead(t *testing.T) {
	catalog, err := Catalog(Deps{})
	if err != nil {
		t.Fatal(err)
	}
	for typ, want := range map[string]string{
		"middleware.http.opa": "middleware.http.wasm", "middleware.http.sentinel": "middleware.http.ratelimit",
	} {
		if _, err := catalog.Lookup(typ, "v1"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want a word of %s", typ, err, want)
		}
	}
}
