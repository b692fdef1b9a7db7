package runtime

import (
	"encoding/json"
	"fmt"
	"net"
	"strconv"
	"strings"

	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/engine"
	"github.com/proa-io/proa/mesh/discovery"
	"github.com/proa-io/proa/resource"
)

// resolution is how applications find each other.
type resolution struct {
	sources    []discovery.Source
	registrars []discovery.Registrar
}

// resolvers are the values that nameResolution.component may have.
func resolvers() []string { return []string{"registry", "mdns", "dns", "nameformat", "static"} }

// newResolution reads the Configuration's nameResolution. Without one,
// applications find each other in the registry of the engine.
func newResolution(nr *resource.NameResolution, eng *engine.Engine, cfg *Config) (*resolution, error) {
	registry := discovery.NewRegistry(eng)
	if nr == nil || nr.Component == "" {
		return &resolution{[]discovery.Source{registry}, []discovery.Registrar{registry}}, nil
	}
	wrong := func(field, format string, args ...any) error {
		return &resource.Error{Pos: nr.Pos, Resource: "Configuration", Field: "spec.nameResolution" + field, Problem: fmt.Sprintf(format, args...)}
	}
	var settings map[string]any
	if nr.Configuration.Set {
		if err := json.Unmarshal([]byte(nr.Configuration.Text), &settings); err != nil {
			return nil, wrong(".configuration", "wants names with values")
		}
	}
	switch strings.ToLower(nr.Component) {
	case "registry", "proa":
		return &resolution{[]discovery.Source{registry}, []discovery.Registrar{registry}}, nil
	case "mdns":
		m := &discovery.MDNS{}
		return &resolution{[]discovery.Source{m}, []discovery.Registrar{m}}, nil
	case "dns", "nameformat":
		return dnsResolution(settings, cfg, wrong)
	case "static":
		s, err := staticResolution(settings, wrong)
		if err != nil {
			return nil, err
		}
		return &resolution{[]discovery.Source{s}, nil}, nil
	}
	problem := fmt.Sprintf("there is no name resolution %q", nr.Component)
	if near := component.Nearest(nr.Component, resolvers()); near != "" {
		problem += fmt.Sprintf("; did you mean %q?", near)
	} else {
		problem += "; there is " + strings.Join(resolvers(), ", ")
	}
	return nil, wrong(".component", "%s", problem)
}

func dnsResolution(settings map[string]any, cfg *Config, wrong func(string, string, ...any) error) (*resolution, error) {
	name, _ := settings["format"].(string)
	if name == "" {
		name, _ = settings["name"].(string)
	}
	if !strings.Contains(name, "{appid}") && !strings.Contains(name, "{appID}") {
		return nil, wrong(".configuration.format", `wants a name with {appid} in it, such as "{appid}.internal", not %q`, name)
	}
	port := 50002
	if p, ok := settings["port"]; ok {
		n, err := strconv.Atoi(fmt.Sprint(p))
		if err != nil || n < 1 || n > 65535 {
			return nil, wrong(".configuration.port", "wants a port, not %v", p)
		}
		port = n
	} else if cfg.InternalPort != 0 {
		port = cfg.InternalPort
	}
	d := &discovery.DNS{Name: strings.ReplaceAll(name, "{appid}", "{appID}"), Port: port}
	return &resolution{[]discovery.Source{d}, nil}, nil
}

func staticResolution(settings map[string]any, wrong func(string, string, ...any) error) (discovery.Static, error) {
	out := discovery.Static{}
	for app, list := range settings {
		addresses, ok := list.([]any)
		if one, isText := list.(string); isText {
			addresses, ok = []any{one}, true
		}
		if !ok {
			return nil, wrong(".configuration."+app, `wants an address or a list of addresses such as "10.0.0.7:50002"`)
		}
		for _, a := range addresses {
			text, _ := a.(string)
			if _, _, err := net.SplitHostPort(text); err != nil && !strings.HasPrefix(text, "unix:/") {
				return nil, wrong(".configuration."+app, `wants addresses such as "10.0.0.7:50002", not %v`, a)
			}
			out[app] = append(out[app], discovery.Endpoint{Address: text})
		}
	}
	if len(out) == 0 {
		return nil, wrong(".configuration", "wants addresses by application: shop: 10.0.0.7:50002")
	}
	return out, nil
}
