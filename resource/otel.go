package resource

import (
	"context"
	"net/url"
	"reflect"
	"strings"

	"github.com/proa-io/proa/component"
	"go.yaml.in/yaml/v3"
)

// Otel is an OTLP collector.
type Otel struct {
	// Protocol is "grpc" or "http"; "grpc" when empty.
	Protocol string `yaml:"protocol"`
	// EndpointAddress is "host:port" or a URL, whose scheme then says whether
	// the connection is encrypted.
	EndpointAddress string `yaml:"endpointAddress"`
	// IsSecure is true when it is not given.
	IsSecure *bool              `yaml:"isSecure"`
	Headers  OtelHeaders        `yaml:"headers"`
	Timeout  otelTimeout        `yaml:"timeout"`
	Pos      component.Position `yaml:"-"`

	from reference // of the resource it stands in
}

// otelTimeout is a number of milliseconds, or a duration such as "10s".
type otelTimeout = component.Millis

// OtelHeaders are sent with everything that goes to a collector: a list of
// names and values, or one text, "name=value,name=value", with values that are
// percent-encoded.
type OtelHeaders []NameValue

func (h *OtelHeaders) decodeNode(d *decoder, n *yaml.Node, path string) {
	if n.Kind != yaml.ScalarNode {
		var list []NameValue
		d.value(n, reflect.ValueOf(&list).Elem(), path, 0)
		*h = list
		return
	}
	for pair := range strings.SplitSeq(n.Value, ",") {
		if strings.TrimSpace(pair) == "" {
			continue
		}
		name, value, ok := strings.Cut(pair, "=")
		text, err := url.PathUnescape(strings.TrimSpace(value))
		if name = strings.TrimSpace(name); !ok || name == "" || err != nil {
			d.addf(n, path, `wants a list of names and values, or "name=value,name=value"`)
			return
		}
		*h = append(*h, NameValue{Name: name, Value: Value{Text: text, Set: true}, Pos: d.pos(n)})
	}
}

// UsesSecrets reports whether a secret store must be asked for the headers.
func (o *Otel) UsesSecrets() bool {
	for _, h := range o.Headers {
		if h.SecretKeyRef.IsSet() {
			return true
		}
	}
	return false
}

// HeaderFields resolves the headers. Their secrets are those of the store that
// the Configuration names under auth.secretStore.
func (o *Otel) HeaderFields(ctx context.Context, id Identity, lookup SecretLookup) (component.Settings, error) {
	ref := o.from
	ref.identity, ref.lookup = id, lookup
	return resolve(ctx, o.Headers, ref)
}

// checkOtel reports what can never work. needsAddress tells that no other
// collector can stand in for an address that is not given.
func (c *Configuration) checkOtel(p *problems, path string, o *Otel, needsAddress bool) {
	if o == nil {
		return
	}
	res := c.describe()
	o.from = reference{resource: res, store: c.Auth.SecretStore}
	if o.Protocol != "" && o.Protocol != "grpc" && o.Protocol != "http" {
		p.addf(o.Pos, res, path+".protocol", `wants "grpc" or "http", not %q`, o.Protocol)
	}
	switch _, problem := CollectorURL(o.EndpointAddress, true); {
	case o.EndpointAddress == "" && needsAddress:
		p.addf(o.Pos, res, path+".endpointAddress", `is required, for instance "localhost:4317"`)
	case o.EndpointAddress != "" && problem != "":
		p.addf(o.Pos, res, path+".endpointAddress", "%s", problem)
	}
	checkNameValues(p, res, path+".headers", o.Headers)
	if o.UsesSecrets() && c.Auth.SecretStore == "" {
		p.addf(o.Pos, res, path+".headers", "refer to a secret, but the resource names no store: add auth.secretStore")
	}
}

// CollectorURL returns the URL of a collector whose address is "host:port" or
// a URL, or what is wrong with the address.
func CollectorURL(address string, secure bool) (u *url.URL, problem string) {
	if !strings.Contains(address, "://") {
		address = map[bool]string{true: "https://", false: "http://"}[secure] + address
	}
	u, err := url.Parse(address)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil, `wants "host:port" or a URL with http:// or https://`
	}
	return u, ""
}
