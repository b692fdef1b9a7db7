package resource

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"reflect"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/proa-io/proa/component"
)

// Endpoint is one instance of an application, as a file of endpoints says it: an
// address, or an address and more.
type Endpoint struct {
	// Address is "host:port", or "unix:/path".
	Address string `yaml:"address"`
	// ID tells instances apart.
	ID string `yaml:"id"`
	// MTLS tells that it takes calls over mutual TLS.
	MTLS bool `yaml:"mtls"`
	// Protocol is "http/1.1", "h2c" or "tcp" for an application without a
	// sidecar.
	Protocol string `yaml:"protocol"`
	// Weight is its share of the requests relative to the others.
	Weight uint32 `yaml:"weight"`
	// Locality is where it is.
	Locality EndpointLocality `yaml:"locality"`
	// Priority orders groups of endpoints.
	Priority uint32 `yaml:"priority"`
	// Labels say what it is.
	Labels map[string]string `yaml:"labels"`
	// Health is "healthy", "unhealthy" or "draining".
	Health string `yaml:"health"`

	Pos component.Position `yaml:"-"`
}

// EndpointLocality is where an endpoint is; a part that is empty is unknown.
type EndpointLocality struct {
	Region  string `yaml:"region"`
	Zone    string `yaml:"zone"`
	SubZone string `yaml:"subZone"`
}

// Values that fields of an Endpoint may have.
func endpointProtocols() []string { return []string{"http/1.1", "h2c", "tcp"} }
func endpointHealths() []string   { return []string{"healthy", "unhealthy", "draining"} }

// endpointFields is an Endpoint that is given as fields.
type endpointFields Endpoint

func (e *Endpoint) decodeNode(d *decoder, n *yaml.Node, path string) {
	e.Pos = d.pos(n)
	at := n
	if n.Kind == yaml.ScalarNode {
		e.Address = n.Value
	} else {
		before := len(d.problems.errs)
		d.value(n, reflect.ValueOf((*endpointFields)(e)).Elem(), path, 1)
		e.Pos = d.pos(n)
		if len(d.problems.errs) > before {
			return
		}
		path = join(path, "address")
	}
	if problem := e.wrongAddress(); problem != "" {
		d.addf(at, path, "%s", problem)
	}
	for _, f := range []struct {
		name, value string
		good        []string
	}{{"protocol", e.Protocol, endpointProtocols()}, {"health", e.Health, endpointHealths()}} {
		if f.value != "" && !slices.Contains(f.good, f.value) {
			d.addf(at, join(strings.TrimSuffix(path, ".address"), f.name), "wants %s, not %q", strings.Join(f.good, ", "), f.value)
		}
	}
}

func (e *Endpoint) wrongAddress() string {
	host, port, err := net.SplitHostPort(e.Address)
	switch {
	case strings.HasPrefix(e.Address, "unix:/"):
		return ""
	case err != nil || host == "" || port == "":
		return fmt.Sprintf(`wants an address such as "10.0.0.7:50002", not %q`, e.Address)
	}
	if n, err := net.LookupPort("tcp", port); err != nil || n == 0 {
		return fmt.Sprintf("wants a port of 1 to 65535, not %q", port)
	}
	return ""
}

// endpointList is one endpoint, or a list of them.
type endpointList []Endpoint

func (l *endpointList) decodeNode(d *decoder, n *yaml.Node, path string) {
	if n.Kind == yaml.SequenceNode {
		d.value(n, reflect.ValueOf((*[]Endpoint)(l)).Elem(), path, 1)
		return
	}
	if n.Kind == yaml.ScalarNode && n.Tag == "!!null" {
		return // none
	}
	*l = make(endpointList, 1)
	d.value(n, reflect.ValueOf(&(*l)[0]).Elem(), path, 1)
}

// ReadEndpoints reads a file that says which endpoints there are, by application
// id or "app.namespace", as YAML or JSON. The error joins every *Error there is.
func ReadEndpoints(path string) (map[string][]Endpoint, error) {
	unreadable := func(err error) error { return &Error{Pos: position(path), Problem: readProblem(err)} }
	f, err := os.Open(path)
	if err != nil {
		return nil, unreadable(err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxFileSize+1))
	if err != nil {
		return nil, unreadable(err)
	}
	if len(text) > maxFileSize {
		return nil, &Error{Pos: position(path), Problem: fmt.Sprintf("is larger than %d MiB, the most that is read", maxFileSize>>20)}
	}
	return ParseEndpoints(path, text)
}

// ParseEndpoints reads text as ReadEndpoints does that of a file.
func ParseEndpoints(path string, text []byte) (map[string][]Endpoint, error) {
	dec := yaml.NewDecoder(bytes.NewReader(text))
	var doc, more yaml.Node
	if err := dec.Decode(&doc); errors.Is(err, io.EOF) {
		return nil, &Error{Pos: position(path), Problem: "is empty; it wants applications with endpoints: shop: 10.0.0.7:50002, or {} for none"}
	} else if err != nil {
		return nil, syntaxError(path, err)
	}
	var p problems
	d := &decoder{file: path, resource: "endpoints", problems: &p}
	lists := map[string]endpointList{}
	d.value(doc.Content[0], reflect.ValueOf(&lists).Elem(), "", 0)
	if err := dec.Decode(&more); err == nil {
		d.addf(&more, "", "has more than one document")
	} else if !errors.Is(err, io.EOF) {
		p.add(syntaxError(path, err))
	}
	if err := p.err(); err != nil {
		return nil, err
	}
	out := make(map[string][]Endpoint, len(lists))
	for app, list := range lists {
		out[app] = list
	}
	return out, nil
}
