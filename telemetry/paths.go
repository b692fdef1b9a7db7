package telemetry

import (
	"fmt"
	"strings"
)

// pathTemplates reduce paths to the template that matches, such as
// "/orders/{id}". A segment "{name}" stands for any one segment that is not
// empty, "{name...}" at the end for any rest, and so does a "/" at the end. Where
// several templates match, the one counts that has a literal segment where the
// others, read from the left, have none. They are the patterns of
// http.ServeMux without method and host.
type pathTemplates struct{ root pathNode }

type pathNode struct {
	literals map[string]*pathNode
	any      *pathNode // for {name}
	rest     string    // the template that ends with a rest here; "" for none
	here     string    // the template that ends here; "" for none
}

// newPathTemplates returns nil for no templates.
func newPathTemplates(list []string) (*pathTemplates, error) {
	if len(list) == 0 {
		return nil, nil //nolint:nilnil // no templates
	}
	t := &pathTemplates{}
	for _, template := range list {
		if err := t.add(template); err != nil {
			return nil, fmt.Errorf("path template %q: %w", template, err)
		}
	}
	return t, nil
}

func (t *pathTemplates) add(template string) error {
	if !strings.HasPrefix(template, "/") {
		return fmt.Errorf(`wants a path that begins with "/", such as "/orders/{id}"`)
	}
	n := &t.root
	segments := strings.Split(template[1:], "/")
	for i, s := range segments {
		last := i == len(segments)-1
		name, wild := strings.CutPrefix(s, "{")
		name, closed := strings.CutSuffix(name, "}")
		switch {
		case wild != closed || strings.ContainsAny(name, "{}") || wild && name == "":
			return fmt.Errorf(`segment %q is neither a text nor of the form "{name}"`, s)
		case s == "{$}" && last:
			return n.child("").end(template)
		case last && (s == "" || wild && strings.HasSuffix(name, "...")):
			if n.rest != "" && n.rest != template {
				return fmt.Errorf("says the same as %q", n.rest)
			}
			n.rest = template
			return nil
		case wild && strings.HasSuffix(name, "..."):
			return fmt.Errorf("segment %q stands for any rest, and must be the last", s)
		case wild:
			if n.any == nil {
				n.any = &pathNode{}
			}
			n = n.any
		default:
			n = n.child(s)
		}
	}
	return n.end(template)
}

func (n *pathNode) child(segment string) *pathNode {
	if n.literals == nil {
		n.literals = map[string]*pathNode{}
	}
	c := n.literals[segment]
	if c == nil {
		c = &pathNode{}
		n.literals[segment] = c
	}
	return c
}

func (n *pathNode) end(template string) error {
	if n.here != "" && n.here != template {
		return fmt.Errorf("says the same as %q", n.here)
	}
	n.here = template
	return nil
}

// maxTemplateSteps bounds the work for one path.
const maxTemplateSteps = 1000

// match returns the template that matches, or "".
func (t *pathTemplates) match(path string) string {
	if t == nil || path == "" {
		return ""
	}
	steps := maxTemplateSteps
	return t.root.match(strings.TrimPrefix(path, "/"), &steps)
}

func (n *pathNode) match(path string, steps *int) string {
	if *steps--; *steps < 0 {
		return ""
	}
	segment, rest, more := strings.Cut(path, "/")
	if c := n.literals[segment]; c != nil {
		if found := c.next(rest, more, steps); found != "" {
			return found
		}
	}
	if n.any != nil && segment != "" {
		if found := n.any.next(rest, more, steps); found != "" {
			return found
		}
	}
	return n.rest
}

func (n *pathNode) next(rest string, more bool, steps *int) string {
	if more {
		return n.match(rest, steps)
	}
	return n.here
}

// isStaticPath reports whether a path of the application is shown as it is: it
// is one that the sidecar asks for by itself.
func isStaticPath(path string) bool {
	switch path {
	case "/dapr/config", "/dapr/metrics", "/dapr/subscribe", "/healthz":
		return true
	}
	return false
}

// normalPath returns a path that begins with one slash and has no two in a row.
func normalPath(path string) string {
	if !strings.HasPrefix(path, "/") {
		path = "/" + path
	}
	for strings.Contains(path, "//") {
		path = strings.ReplaceAll(path, "//", "/")
	}
	return path
}

// generalPath leaves out what differs from call to call in the paths of the
// API: "/v1.0/state/store" for any key. Paths that it does not know stay as
// they are.
func generalPath(path string) string {
	if path == "" {
		return ""
	}
	path = normalPath(path)
	first, rest, _ := strings.Cut(path[1:], "/")
	second, rest, more := strings.Cut(rest, "/")
	switch {
	case !more:
		return path
	case first == "actors": // a call of the application
		return "/actors/" + second + "/{id}" + after(rest)
	}
	switch second {
	case "state", "secrets":
		store, _, _ := strings.Cut(rest, "/")
		return path[:len(first)+len(second)+len(store)+3]
	case "actors":
		typ, rest, ok := strings.Cut(rest, "/")
		_, rest, ok2 := strings.Cut(rest, "/")
		if !ok || !ok2 {
			return path
		}
		what, _, _ := strings.Cut(rest, "/")
		return "/" + first + "/actors/" + typ + "/{id}/" + what
	case "workflows":
		return generalWorkflow("/"+first+"/workflows/", path, rest)
	}
	return path
}

// after returns what follows the first segment of a path, with its slash.
func after(path string) string {
	if i := strings.IndexByte(path, '/'); i >= 0 {
		return path[i:]
	}
	return ""
}

func generalWorkflow(prefix, path, rest string) string {
	engine, rest, ok := strings.Cut(rest, "/")
	id, rest, more := strings.Cut(rest, "/")
	verb, event, _ := strings.Cut(rest, "/")
	switch {
	case !ok:
		return path
	case !more:
		return prefix + engine + "/{instanceId}"
	case event == "" && strings.HasPrefix(verb, "start"):
		return prefix + engine + "/" + id + "/start"
	case verb == "raiseEvent" && event != "":
		return prefix + engine + "/{instanceId}/raiseEvent/{eventName}"
	}
	return prefix + engine + "/{instanceId}/" + verb
}

// pathLabel returns the label for a path of a request; "" for none.
func (g *generation) pathLabel(path string) string {
	if isStaticPath(path) {
		return path
	}
	if g.paths != nil {
		if found := g.paths.match(normalPath(path)); found != "" && (!g.settings.IncreasedCardinality || found != path) {
			return found
		}
		if general := generalPath(path); general != path {
			if found := g.paths.match(general); found != "" && found != "/" {
				return found
			}
		}
	}
	if !g.settings.IncreasedCardinality {
		return ""
	}
	return generalPath(path)
}
