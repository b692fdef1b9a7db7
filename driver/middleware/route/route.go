// Package route has the HTTP middleware that gives paths other names, and that
// lets only some paths pass.
package route

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/proa-io/proa/block/middleware"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/mesh/proxy"
)

// Specs lists what this package offers to the building blocks.
func Specs() []component.Spec {
	return []component.Spec{
		middleware.Spec(component.Description{
			Name:    "routeralias",
			Summary: "Gives paths other names.",
		}, AliasConfig{}, OpenAlias),
		middleware.Spec(component.Description{
			Name:    "routerchecker",
			Summary: "Lets only those paths pass that satisfy a regular expression.",
		}, CheckConfig{}, OpenCheck),
	}
}

// AliasConfig configures other names of paths.
//
// A request for a path that is one of the names goes on as one for what it
// stands for; its query is kept. In a name {x} stands for any one segment, and in
// what it stands for, path or query, for what was there: with
//
//	/cards/{id}: /v1.0/invoke/cards/method/get?id={id}
//
// a request for /cards/7 is one for /v1.0/invoke/cards/method/get?id=7. Among
// several names for a path the one with the fewest {x} counts.
type AliasConfig struct {
	// Routes maps names to what they stand for, as a JSON or YAML object.
	Routes string `setting:"routes,required"`
}

// Validate reports settings that can never work.
func (c AliasConfig) Validate() error {
	if _, err := parseRoutes(c.Routes); err != nil {
		return component.Invalid("routes", "%s", err)
	}
	return nil
}

// alias is one name.
type alias struct {
	segments []string
	target   string
	wild     int // how many segments are {x}
}

func parseRoutes(text string) ([]alias, error) {
	var routes map[string]string
	if err := json.Unmarshal([]byte(text), &routes); err != nil {
		if err := yaml.Unmarshal([]byte(text), &routes); err != nil {
			return nil, fmt.Errorf(`wants an object of names and what they stand for, in JSON or YAML, such as {"/a": "/b"}`)
		}
	}
	var out []alias
	for name, target := range routes {
		if !strings.HasPrefix(name, "/") || !strings.HasPrefix(target, "/") {
			return nil, fmt.Errorf("wants paths that start with /, not %q: %q", name, target)
		}
		a := alias{segments: strings.Split(strings.TrimSuffix(name, "/"), "/"), target: target}
		for _, s := range a.segments {
			if _, ok := variable(s); ok {
				a.wild++
			}
		}
		for _, v := range variables(target) {
			if !slices.Contains(a.segments, "{"+v+"}") {
				return nil, fmt.Errorf("says {%s} in %q, which is not in its name %q", v, target, name)
			}
		}
		out = append(out, a)
	}
	slices.SortFunc(out, func(x, y alias) int {
		return cmp.Or(cmp.Compare(x.wild, y.wild), slices.Compare(x.segments, y.segments))
	})
	return out, nil
}

// variable returns x for "{x}".
func variable(segment string) (string, bool) {
	name, ok := strings.CutPrefix(segment, "{")
	if !ok {
		return "", false
	}
	return strings.CutSuffix(name, "}")
}

var variablePattern = regexp.MustCompile(`\{([^{}/]+)\}`)

func variables(target string) []string {
	var out []string
	for _, m := range variablePattern.FindAllStringSubmatch(target, -1) {
		out = append(out, m[1])
	}
	return out
}

// Alias is a middleware.Driver.
type Alias struct{ aliases []alias }

// OpenAlias returns the middleware.
func OpenAlias(_ context.Context, cfg AliasConfig, _ component.Env) (*Alias, error) {
	aliases, err := parseRoutes(cfg.Routes)
	if err != nil {
		return nil, fault.New(fault.InvalidArgument, "routes %v", err)
	}
	return &Alias{aliases}, nil
}

// Handle implements middleware.Driver.
func (a *Alias) Handle(ex proxy.Exchange, next proxy.Handler) {
	r := ex.Request()
	if target, ok := a.rename(r.Path()); ok {
		if query := r.Query(); query != "" {
			separator := "?"
			if strings.Contains(target, "?") {
				separator = "&"
			}
			target += separator + query
		}
		r.Target = target
	}
	next(ex)
}

func (a *Alias) rename(path string) (string, bool) {
	segments := strings.Split(strings.TrimSuffix(path, "/"), "/")
	for i := range a.aliases {
		if values, ok := a.aliases[i].match(segments); ok {
			return strings.NewReplacer(values...).Replace(a.aliases[i].target), true
		}
	}
	return "", false
}

// match returns the variables and what they stand for.
func (a *alias) match(segments []string) (values []string, ok bool) {
	if len(segments) != len(a.segments) {
		return nil, false
	}
	for i, want := range a.segments {
		if _, ok := variable(want); ok && segments[i] != "" {
			values = append(values, want, segments[i])
		} else if want != segments[i] {
			return nil, false
		}
	}
	return values, true
}

// Close implements io.Closer.
func (a *Alias) Close() error { return nil }

// CheckConfig configures which paths pass. Others are answered 400.
type CheckConfig struct {
	// Rule is a regular expression (RE2). A path passes when some part of it
	// satisfies it: begin it with ^ and end it with $ to mean the whole.
	Rule string `setting:"rule,required"`
}

// Validate reports settings that can never work.
func (c CheckConfig) Validate() error {
	if _, err := regexp.Compile(c.Rule); err != nil || c.Rule == "" {
		return component.Invalid("rule", `wants a regular expression such as "^[A-Za-z0-9/._-]+$"`)
	}
	return nil
}

// Check is a middleware.Driver.
type Check struct{ rule *regexp.Regexp }

// OpenCheck returns the middleware.
func OpenCheck(_ context.Context, cfg CheckConfig, _ component.Env) (*Check, error) {
	rule, err := regexp.Compile(cfg.Rule)
	if err != nil {
		return nil, fault.New(fault.InvalidArgument, "rule is no regular expression: %v", err)
	}
	return &Check{rule}, nil
}

// Handle implements middleware.Driver.
func (c *Check) Handle(ex proxy.Exchange, next proxy.Handler) {
	if !c.rule.MatchString(ex.Request().Path()) {
		middleware.Refuse(ex, 400, "ERR_INVALID_ROUTE", "invalid router: the path does not satisfy the rule of the sidecar")
		return
	}
	next(ex)
}

// Close implements io.Closer.
func (c *Check) Close() error { return nil }
