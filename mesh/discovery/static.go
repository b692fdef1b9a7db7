package discovery

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/resource"
)

// Static knows what it was told: endpoints by application id, or by
// "app.namespace" where that is meant.
type Static map[string][]Endpoint

// Watch reports the fixed endpoints.
func (s Static) Watch(ctx context.Context, svc Service, update func([]Endpoint)) error {
	update(s.of(svc))
	<-ctx.Done()
	return nil
}

// Close implements io.Closer.
func (s Static) Close() error { return nil }

func (s Static) of(svc Service) []Endpoint { return slices.Concat(s[svc.AppID], s[svc.String()]) }

// StaticConfig lists endpoints by application id, or by "app.namespace" where an
// application of one namespace is meant. An endpoint is an address such as
// "10.0.0.7:50002" or "unix:/run/shop.sock", or an object with the fields that a
// file of endpoints has; several are a list.
type StaticConfig struct {
	// Apps are the endpoints of each application.
	Apps map[string]string `setting:"*"`
}

// Validate reports what can never work.
func (c StaticConfig) Validate() error {
	if len(c.Apps) == 0 {
		return component.Invalid("", "wants addresses by application: shop: 10.0.0.7:50002")
	}
	for app, text := range c.Apps {
		if _, err := parseInline(text); err != nil {
			return component.Invalid(app, "%s", problemOf(err))
		}
	}
	return nil
}

// problemOf returns what an error says, without a place.
func problemOf(err error) string {
	e, ok := errors.AsType[*resource.Error](err)
	switch {
	case !ok:
		return err.Error()
	case e.Field == "" || e.Field == inlineApp:
		return e.Problem
	}
	return strings.TrimPrefix(strings.TrimPrefix(e.Field, inlineApp), ".") + ": " + e.Problem
}

// inlineApp is what the application is called for the reader of endpoints.
const inlineApp = "app"

// parseInline reads the endpoints of one application: JSON, or addresses that
// are separated by commas.
func parseInline(text string) ([]Endpoint, error) {
	text = strings.TrimSpace(text)
	if !strings.HasPrefix(text, "[") && !strings.HasPrefix(text, "{") || strings.HasPrefix(text, "[") && strings.Contains(text, "]:") {
		parts := strings.Split(text, ",")
		for i, p := range parts {
			parts[i] = `"` + strings.ReplaceAll(strings.TrimSpace(p), `"`, "") + `"`
		}
		text = "[" + strings.Join(parts, ",") + "]"
	}
	found, err := resource.ParseEndpoints("", []byte(`{"`+inlineApp+`": `+text+`}`))
	if err != nil {
		return nil, err
	}
	return fromResource(found[inlineApp]), nil
}

// fromResource returns endpoints as they were written.
func fromResource(list []resource.Endpoint) []Endpoint {
	out := make([]Endpoint, len(list))
	for i, e := range list {
		out[i] = Endpoint{
			Address: e.Address, ID: e.ID, MTLS: e.MTLS, Protocol: Protocol(e.Protocol), Weight: e.Weight,
			Locality: Locality(e.Locality), Priority: e.Priority, Labels: e.Labels, Health: Health(e.Health),
		}
		if e.Health == "healthy" {
			out[i].Health = Healthy
		}
	}
	return out
}

func openStatic(_ context.Context, cfg StaticConfig, _ component.Env) (Static, error) {
	out := Static{}
	for app, text := range cfg.Apps {
		list, err := parseInline(text)
		if err != nil {
			return nil, err
		}
		out[app] = list
	}
	return out, nil
}
