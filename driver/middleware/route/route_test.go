package route

import (
	"strings"
	"testing"

	"github.com/proa-io/proa/block/middleware/middlewaretest"
	"github.com/proa-io/proa/component"
)

func TestPathsHaveOtherNames(t *testing.T) {
	const jsonRoutes = `{"/mall/info": "/v1.0/invoke/srv.default/method/mall/info", "/hello/{id}/{name}": "/x/{name}?id={id}&n={name}",
		"/card/{id}": "/card?id={id}", "/card/new": "/create", "/": "/home"}`
	const yamlRoutes = "/mall/info: /v1.0/invoke/srv.default/method/mall/info\n\"/hello/{id}/{name}\": /x/{name}?id={id}&n={name}\n" +
		"/card/{id}: /card?id={id}\n/card/new: /create\n/: /home\n"
	for _, routes := range []string{jsonRoutes, yamlRoutes} {
		a, err := OpenAlias(t.Context(), AliasConfig{Routes: routes}, component.Env{})
		if err != nil {
			t.Fatal(err)
		}
		for target, want := range map[string]string{
			"/mall/info":          "/v1.0/invoke/srv.default/method/mall/info",
			"/mall/info/":         "/v1.0/invoke/srv.default/method/mall/info",
			"/mall/info?a=1":      "/v1.0/invoke/srv.default/method/mall/info?a=1",
			"/hello/7/bob?x=%20y": "/x/bob?id=7&n=bob&x=%20y",
			"/card/7":             "/card?id=7",
			"/card/new":           "/create",
			"/card/":              "/card/",
			"/card/7/8":           "/card/7/8",
			"/other":              "/other",
			"/":                   "/home",
		} {
			x := middlewaretest.New(t, "GET", target).Through(a)
			if x.Req.Target != want || !x.Passed {
				t.Errorf("%s becomes %s, want %s", target, x.Req.Target, want)
			}
		}
	}
}

func TestRoutesThatCannotWorkAreRefused(t *testing.T) {
	for routes, want := range map[string]string{
		"":                     "",
		"[]":                   "JSON or YAML",
		`{"a": "/b"}`:          "start with /",
		`{"/a": "b"}`:          "start with /",
		`{"/a/{x}": "/b/{y}"}`: "{y}",
		`{"/a": 1, "b": [}`:    "JSON or YAML",
	} {
		err := AliasConfig{Routes: routes}.Validate()
		if want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%q: %v; want %q", routes, err, want)
		}
	}
}

func TestOnlyPathsThatSatisfyTheRulePass(t *testing.T) {
	c, err := OpenCheck(t.Context(), CheckConfig{Rule: `^[A-Za-z0-9/._-]+$`}, component.Env{})
	if err != nil {
		t.Fatal(err)
	}
	for target, want := range map[string]int{"/v1.0/state/s/k": 200, "/a?b=%3F": 200, "/a%20b": 400, "/a|b": 400} {
		if x := middlewaretest.New(t, "GET", target).Through(c); x.Status != want || x.Passed != (want == 200) {
			t.Errorf("%s: %d %s, want %d", target, x.Status, x.Content, want)
		}
	}
	if (CheckConfig{Rule: "("}).Validate() == nil || (CheckConfig{}).Validate() == nil {
		t.Error("what is no rule is accepted")
	}
}
