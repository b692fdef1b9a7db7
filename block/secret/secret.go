// Package secret is the building block that reads secrets.
//
// Dialects call Store; secret stores implement Driver. What an application may
// read is decided here, by a Scope, for every dialect and every driver.
package secret

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/policy"
)

// Reasons of the errors that Store returns.
const (
	// ReasonDenied marks a secret that the scope keeps from the application.
	ReasonDenied fault.Reason = "secret.denied"
	// ReasonNotFound marks a secret that the store does not have.
	ReasonNotFound fault.Reason = "secret.not_found"
	// ReasonNoSuchKey marks a reference to a key that the secret does not
	// have.
	ReasonNoSuchKey fault.Reason = "secret.no_such_key"
	// ReasonNotText marks a secret that cannot be told to an application.
	ReasonNotText fault.Reason = "secret.not_text"
	// ReasonCannotList marks a bulk read from a store that cannot enumerate.
	ReasonCannotList fault.Reason = "secret.cannot_list"
)

// Options configure a Store.
type Options struct {
	// Chains gives the policies around the calls.
	Chains policy.Chains
	// Scope limits what the application may read. The zero Scope allows all.
	Scope Scope
	// Log takes what no caller is told, such as secrets that a bulk read has to
	// leave out. It should name the component. Nil discards.
	Log *slog.Logger
}

// Store is a named secret store. It is safe for concurrent use.
type Store struct {
	handle  *component.Handle[Driver]
	scope   Scope
	log     *slog.Logger
	get     *policy.Operation
	list    *policy.Operation
	resolve *policy.Operation
}

// New returns a Store over the driver that h opens.
func New(h *component.Handle[Driver], o Options) *Store {
	chain := o.Chains.Component(Block, h.Name(), false)
	bind := func(op string) *policy.Operation {
		return chain.Bind(policy.Op{Block: Block, Component: h.Name(), Name: op})
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Store{handle: h, scope: o.Scope, log: o.Log, get: bind("get"), list: bind("list"), resolve: bind("resolve")}
}

// Name returns the component's name.
func (s *Store) Name() string { return s.handle.Name() }

// Get returns the values of the named secret for the application. A secret
// that the scope denies is PermissionDenied whether it exists or not; one that
// does not exist is NotFound.
func (s *Store) Get(ctx context.Context, name string, metadata map[string]string) (map[string]string, error) {
	if err := s.checkName(name); err != nil {
		return nil, err
	}
	if !s.scope.Allows(name) {
		return nil, fault.New(fault.PermissionDenied, "the application may not read secret %q of store %q: its scope denies it",
			name, s.Name()).WithReason(ReasonDenied)
	}
	return s.read(ctx, s.get, name, metadata)
}

// List returns all secrets that the scope allows, by name, less those that are
// not text. It is Unimplemented when the store cannot enumerate its secrets.
func (s *Store) List(ctx context.Context, metadata map[string]string) (map[string]map[string]string, error) {
	call := policy.Call{Idempotent: true}
	return policy.Do(ctx, s.list, call, func(ctx context.Context) (map[string]map[string]string, error) {
		d, err := s.handle.Get(ctx)
		if err != nil {
			return nil, err
		}
		l, ok := d.(Lister)
		if !ok {
			return nil, fault.New(fault.Unimplemented, "secret store %q (%s) cannot list its secrets", s.Name(), s.handle.Type()).
				WithReason(ReasonCannotList)
		}
		all, err := l.List(ctx, metadata, s.scope.Allows)
		if err != nil {
			return nil, fault.Wrap(err, fault.CodeOf(err), "list secrets of store %q", s.Name())
		}
		// The driver was asked to leave these out; a scope must not depend
		// on it.
		for name, values := range all {
			if !s.scope.Allows(name) {
				delete(all, name)
			} else if key, ok := isText(name, values); !ok {
				delete(all, name)
				s.log.WarnContext(ctx, "a secret is left out of a bulk read: it is not text (UTF-8)",
					"secret", strings.ToValidUTF8(name, "\uFFFD"), "key", strings.ToValidUTF8(key, "\uFFFD"))
			}
		}
		return all, nil
	})
}

// Resolve returns one value for a reference in a component's settings
// (secretKeyRef). An empty key stands for the secret's name. Scopes do not
// apply: they limit the application, not the operator who wrote the component.
func (s *Store) Resolve(ctx context.Context, name, key string) (component.Secret, error) {
	if err := s.checkName(name); err != nil {
		return component.Secret{}, err
	}
	if key == "" {
		key = name
	}
	values, err := s.read(ctx, s.resolve, name, nil)
	if err != nil {
		return component.Secret{}, err
	}
	v, ok := values[key]
	if !ok {
		keys := slices.Sorted(maps.Keys(values))
		return component.Secret{}, fault.New(fault.NotFound, "secret %q of store %q has no key %q; it has %s",
			name, s.Name(), key, quoteList(keys)).WithReason(ReasonNoSuchKey)
	}
	return component.NewSecret(v), nil
}

func (s *Store) checkName(name string) error {
	if name == "" {
		return fault.New(fault.InvalidArgument, "the name of a secret of store %q is empty", s.Name())
	}
	return nil
}

func (s *Store) read(ctx context.Context, op *policy.Operation, name string, metadata map[string]string) (map[string]string, error) {
	call := policy.Call{Key: name, Idempotent: true}
	return policy.Do(ctx, op, call, func(ctx context.Context) (map[string]string, error) {
		d, err := s.handle.Get(ctx)
		if err != nil {
			return nil, err
		}
		values, err := d.Get(ctx, name, metadata)
		if err == nil {
			if key, ok := isText(name, values); !ok {
				return nil, fault.New(fault.FailedPrecondition, "key %q of secret %q of store %q is not text (UTF-8)", key, name, s.Name()).
					WithReason(ReasonNotText)
			}
			return values, nil
		}
		switch {
		case fault.Is(err, fault.NotFound):
			return nil, fault.Wrap(err, fault.NotFound, "secret %q of store %q", name, s.Name()).WithReason(ReasonNotFound)
		}
		return nil, fault.Wrap(err, fault.CodeOf(err), "get secret %q of store %q", name, s.Name())
	})
}

// isText reports whether a secret can be told to an application, and a key that
// keeps it from that: the protocols carry text only, and a secret must not be
// bent to fit.
func isText(name string, values map[string]string) (key string, ok bool) {
	if !utf8.ValidString(name) {
		return "", false
	}
	for k, v := range values {
		if !utf8.ValidString(k) || !utf8.ValidString(v) {
			return k, false
		}
	}
	return "", true
}

func quoteList(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	return `"` + strings.Join(names, `", "`) + `"`
}
