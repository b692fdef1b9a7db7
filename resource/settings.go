package resource

import (
	"context"
	"fmt"
	"os"

	"github.com/proa-io/proa/component"
)

// SecretLookup returns one key of a secret of the named store. Its errors are
// shown to the user and hold no secret.
type SecretLookup func(ctx context.Context, store, name, key string) (string, error)

// UsesSecrets reports whether a secret store must be asked for the settings.
func (c *Component) UsesSecrets() bool {
	for _, nv := range c.Spec.Metadata {
		if nv.SecretKeyRef.IsSet() {
			return true
		}
	}
	return false
}

// Settings resolves the references and templates of the component's metadata.
// lookup may be nil, which leaves each secret unresolved so that the rest can
// be checked. A missing environment variable is an empty value.
func (c *Component) Settings(ctx context.Context, id Identity, lookup SecretLookup) (component.Settings, error) {
	return resolve(ctx, c.Spec.Metadata, reference{c.describe(), c.Auth.SecretStore, id, lookup})
}

// HeaderFields resolves the headers of the endpoint.
func (e *HTTPEndpoint) HeaderFields(ctx context.Context, id Identity, lookup SecretLookup) (component.Settings, error) {
	return resolve(ctx, e.Spec.Headers, reference{e.describe(), e.Auth.SecretStore, id, lookup})
}

// Resolve returns the PEM text, or "" when the document is not given.
func (t TLSDocument) Resolve(ctx context.Context, store string, lookup SecretLookup) (string, error) {
	if !t.SecretKeyRef.IsSet() {
		return t.Value.Text, nil
	}
	if lookup == nil {
		return "", nil
	}
	return lookup(ctx, store, t.SecretKeyRef.Name, keyOf(t.SecretKeyRef))
}

// reference is what is needed to follow the references of one resource.
type reference struct {
	resource string
	store    string
	identity Identity
	lookup   SecretLookup
}

func resolve(ctx context.Context, list []NameValue, ref reference) (component.Settings, error) {
	var p problems
	out := make(component.Settings, 0, len(list))
	for i, nv := range list {
		s := component.Setting{Name: nv.Name, Pos: nv.Pos}
		var err error
		switch {
		case nv.SecretKeyRef.IsSet():
			s.Secret, s.SecretName, s.Unresolved = true, nv.SecretKeyRef.Name, ref.lookup == nil
			s.Value, err = ref.secret(ctx, nv.SecretKeyRef)
		case nv.EnvRef != "":
			s.Secret = true
			s.Value = os.Getenv(nv.EnvRef)
		default:
			s.Value, err = ref.identity.Expand(nv.Value.Text)
		}
		if err != nil {
			p.addf(nv.Pos, ref.resource, "spec.metadata["+itoa(i)+"]", "%q: %v", nv.Name, err)
		}
		out = append(out, s)
	}
	return out, p.err()
}

func (r reference) secret(ctx context.Context, ref SecretKeyRef) (string, error) {
	if r.store == "" {
		return "", fmt.Errorf("refers to a secret, but the resource names no store: add auth.secretStore")
	}
	if r.lookup == nil {
		return "", nil
	}
	value, err := r.lookup(ctx, r.store, ref.Name, keyOf(ref))
	if err != nil {
		return "", fmt.Errorf("secret %q: %w", ref.Name, err)
	}
	return value, nil
}

func keyOf(ref SecretKeyRef) string {
	if ref.Key == "" {
		return ref.Name
	}
	return ref.Key
}
