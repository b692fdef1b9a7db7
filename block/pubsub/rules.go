package pubsub

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"

	"cel.dev/cel-go/cel"

	"github.com/proa-io/proa/fault"
)

// Bounds of routing rules.
const (
	maxRules    = 1000
	maxRuleCost = 1_000_000 // steps of one evaluation
)

// router chooses the route of an event.
type router struct {
	rules    []compiledRule
	fallback string
	payload  bool // some rule looks at more than the attributes
}

type compiledRule struct {
	program cel.Program // nil matches everything
	path    string
}

// newRouter compiles the rules of a subscription.
func newRouter(s *SubscriptionSpec) (*router, error) {
	r := &router{fallback: s.DefaultRoute}
	if len(s.Rules) == 0 {
		return r, nil
	}
	if len(s.Rules) > maxRules {
		return nil, fmt.Errorf("there are %d routing rules; the most is %d", len(s.Rules), maxRules)
	}
	env, err := cel.NewEnv(cel.Variable("event", cel.DynType), cel.CrossTypeNumericComparisons(true))
	if err != nil {
		return nil, fault.Wrap(err, fault.Internal, "preparing the routing rules")
	}
	for i, rule := range s.Rules {
		c := compiledRule{path: rule.Path}
		if strings.TrimSpace(rule.Match) != "" {
			if c.program, err = compileRule(env, rule.Match); err != nil {
				return nil, ruleError(i, rule, err)
			}
			r.payload = r.payload || needsPayload(rule.Match)
		}
		r.rules = append(r.rules, c)
	}
	return r, nil
}

func compileRule(env *cel.Env, match string) (cel.Program, error) {
	ast, issues := env.Compile(match)
	if issues.Err() != nil {
		return nil, issues.Err()
	}
	if t := ast.OutputType(); !t.IsExactType(cel.BoolType) && !t.IsExactType(cel.DynType) {
		return nil, fmt.Errorf("gives a value of type %s where true or false is wanted", t)
	}
	return env.Program(ast, cel.EvalOptions(cel.OptOptimize), cel.CostLimit(maxRuleCost))
}

func ruleError(i int, rule Rule, err error) error {
	where := fmt.Sprintf("routing rule %d", i+1)
	if p := rule.Pos.String(); p != "" {
		where = p + ": " + where
	}
	hint := ""
	if !strings.Contains(rule.Match, "event") {
		hint = `; a rule is about event, as in event.type == "order"`
	}
	return fmt.Errorf("%s, %q: %w%s", where, rule.Match, err, hint)
}

// needsPayload reports whether an expression may look at anything of the event
// but single attributes other than data.
func needsPayload(match string) bool {
	const name = "event"
	for {
		i := strings.Index(match, name)
		if i < 0 {
			return false
		}
		match = match[i+len(name):]
		attr, ok := strings.CutPrefix(match, ".")
		if !ok || strings.HasPrefix(attr, attrData) && !strings.HasPrefix(attr, attrContentType) {
			return true
		}
	}
}

// route returns the route of an event, and false when there is none. The first
// rule that matches counts. A rule that cannot be evaluated, because the event
// lacks what it looks at or has it in another type, does not match.
func (r *router) route(e *Event) (string, bool) {
	if len(r.rules) == 0 {
		return r.fallback, true
	}
	var vars map[string]any
	for i := range r.rules {
		rule := &r.rules[i]
		if rule.program == nil {
			return rule.path, true
		}
		if vars == nil {
			vars = map[string]any{"event": e.native(r.payload)}
		}
		out, _, err := rule.program.Eval(vars)
		if err == nil && out.Value() == true {
			return rule.path, true
		}
	}
	return r.fallback, r.fallback != ""
}

// native returns the attributes as Go values, with or without the payload.
// Whole numbers stay whole.
func (e *Event) native(payload bool) map[string]any {
	out := make(map[string]any, len(e.members))
	for _, m := range e.members {
		name, value := e.name(m), e.JSON[m.start:m.end]
		if !payload && (name == attrData || name == attrDataBase64) {
			continue
		}
		if text, ok := unquote(value); ok {
			out[name] = text
			continue
		}
		dec := json.NewDecoder(bytes.NewReader(value))
		dec.UseNumber()
		var v any
		if dec.Decode(&v) == nil {
			out[name] = exact(v)
		}
	}
	return out
}

// exact replaces the numbers in v by int64, uint64 or float64, whichever holds
// them first.
func exact(v any) any {
	switch v := v.(type) {
	case json.Number:
		if n, err := v.Int64(); err == nil {
			return n
		}
		var u uint64
		if json.Unmarshal([]byte(v), &u) == nil {
			return u
		}
		f, _ := v.Float64()
		return f
	case map[string]any:
		for k, x := range v {
			v[k] = exact(x)
		}
	case []any:
		for i, x := range v {
			v[i] = exact(x)
		}
	}
	return v
}
