package runtime

import (
	"testing"

	"github.com/proa-io/proa/resource"
)

func TestTheAllowListWinsOverTheDenyList(t *testing.T) {
	api := &resource.API{
		Allowed: []resource.APIRule{{Name: "state", Version: "v1.0", Protocol: "http"}, {Name: "invoke", Protocol: "http"}},
		Denied:  []resource.APIRule{{Name: "invoke", Protocol: "http"}, {Name: "publish", Version: "v1.0-alpha1", Protocol: "grpc"}},
	}
	for _, c := range []struct {
		protocol, group, version string
		want                     bool
	}{
		{"http", "state", "v1", true}, {"http", "state", "v1alpha1", false}, {"http", "invoke", "v1", true}, {"http", "publish", "v1", false},
		{"grpc", "state", "v1", true}, {"grpc", "publish", "v1", true}, {"grpc", "publish", "v1alpha1", false},
	} {
		if got := apiRule(api, c.protocol)(c.group, c.version); got != c.want {
			t.Errorf("%s %s/%s is served: %v, want %v", c.protocol, c.group, c.version, got, c.want)
		}
	}
	if apiRule(&resource.API{}, "http") != nil {
		t.Error("empty lists are a rule")
	}
}
