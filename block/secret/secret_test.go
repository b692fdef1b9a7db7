package secret_test

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/proa-io/proa/block/secret"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/policy"
)

// fixed is a driver that holds what it was made with, and fails with err if
// that is set.
type fixed struct {
	secrets map[string]map[string]string
	err     error
}

func (f *fixed) Get(_ context.Context, name string, _ map[string]string) (map[string]string, error) {
	if f.err != nil {
		return nil, f.err
	}
	if v, ok := f.secrets[name]; ok {
		return v, nil
	}
	return nil, fault.New(fault.NotFound, "vault has no path kv/data/%s", name)
}

func (f *fixed) Close() error { return nil }

// listing is a fixed that can list. It does not care what is wanted.
type listing struct{ fixed }

func (l *listing) List(context.Context, map[string]string, func(string) bool) (map[string]map[string]string, error) {
	return maps.Clone(l.secrets), l.err
}

var three = map[string]map[string]string{
	"a": {"a": "value-a"}, "b": {"b": "value-b"}, "db": {"user": "u", "password": "p"},
}

func newStore(d secret.Driver, scope secret.Scope) *secret.Store {
	return secret.New(component.Opened("vault", d), secret.Options{Chains: policy.None{}, Scope: scope})
}

func TestScopeDecidesWhatTheApplicationReads(t *testing.T) {
	for _, c := range []struct {
		name  string
		scope secret.Scope
		want  []string // of a, b and db
	}{
		{"no scope", secret.Scope{}, []string{"a", "b", "db"}},
		{"allow", secret.Scope{DefaultAccess: "allow"}, []string{"a", "b", "db"}},
		{"Allow in another case", secret.Scope{DefaultAccess: "Allow"}, []string{"a", "b", "db"}},
		{"deny", secret.Scope{DefaultAccess: "deny"}, nil},
		{"allow but some", secret.Scope{DefaultAccess: "allow", Denied: []string{"a"}}, []string{"b", "db"}},
		{"deny but some", secret.Scope{DefaultAccess: "deny", Allowed: []string{"a"}}, []string{"a"}},
		{"allow, with a list: only the list", secret.Scope{DefaultAccess: "allow", Allowed: []string{"a"}}, []string{"a"}},
		{"named in both lists", secret.Scope{Allowed: []string{"a", "b"}, Denied: []string{"b"}}, []string{"a"}},
		{"names are compared with case", secret.Scope{Allowed: []string{"A", "b"}}, []string{"b"}},
		{"a mistake denies", secret.Scope{DefaultAccess: "alow"}, nil},
	} {
		s := newStore(&listing{fixed{secrets: three}}, c.scope)
		for name := range three {
			_, err := s.Get(t.Context(), name, nil)
			if slices.Contains(c.want, name) {
				if err != nil {
					t.Errorf("%s: Get(%q): %v", c.name, name, err)
				}
			} else if !fault.Is(err, fault.PermissionDenied) || fault.ReasonOf(err) != secret.ReasonDenied {
				t.Errorf("%s: Get(%q): error %v, want permission_denied", c.name, name, err)
			}
		}
		all, err := s.List(t.Context(), nil)
		if got := slices.Sorted(maps.Keys(all)); err != nil || !slices.Equal(got, c.want) {
			t.Errorf("%s: List = %v, %v; want %v", c.name, got, err, c.want)
		}
	}
}

func TestDeniedSecretIsDeniedWhetherItExistsOrNot(t *testing.T) {
	s := newStore(&fixed{secrets: three}, secret.Scope{DefaultAccess: "deny"})
	_, exists := s.Get(t.Context(), "a", nil)
	_, missing := s.Get(t.Context(), "x", nil)
	if strings.ReplaceAll(exists.Error(), `"a"`, `"x"`) != missing.Error() {
		t.Errorf("the errors differ: %v and %v", exists, missing)
	}
}

func TestScopeWithAnUnknownDefaultIsInvalid(t *testing.T) {
	if err := (secret.Scope{DefaultAccess: "alow"}).Validate(); err == nil || !strings.Contains(err.Error(), `"allow" or "deny", not "alow"`) {
		t.Errorf("error %v", err)
	}
	for _, ok := range []string{"", "allow", "DENY"} {
		if err := (secret.Scope{DefaultAccess: ok}).Validate(); err != nil {
			t.Errorf("%q: %v", ok, err)
		}
	}
}

func TestMissingSecretNamesSecretAndStore(t *testing.T) {
	_, err := newStore(&fixed{secrets: three}, secret.Scope{}).Get(t.Context(), "x", nil)
	if !fault.Is(err, fault.NotFound) || fault.ReasonOf(err) != secret.ReasonNotFound {
		t.Fatalf("error %v, want not_found", err)
	}
	if !strings.HasPrefix(err.Error(), `secret "x" of store "vault": `) {
		t.Errorf("error %q does not name the secret and the store", err)
	}
}

func TestDriverErrorKeepsItsCode(t *testing.T) {
	d := &listing{fixed{err: fault.New(fault.Unavailable, "sealed").WithRetryAfter(1)}}
	s := newStore(d, secret.Scope{})
	_, get := s.Get(t.Context(), "a", nil)
	_, list := s.List(t.Context(), nil)
	_, resolve := s.Resolve(t.Context(), "a", "")
	for op, err := range map[string]error{"Get": get, "List": list, "Resolve": resolve} {
		if !fault.Is(err, fault.Unavailable) || fault.RetryAfterOf(err) != 1 || !strings.Contains(err.Error(), `"vault"`) {
			t.Errorf("%s: error %v lost its code, its delay or its store", op, err)
		}
	}
}

func TestSecretThatIsNoTextIsNotHandedOut(t *testing.T) {
	s := newStore(&listing{fixed{secrets: map[string]map[string]string{"key": {"key": "s3cret\xff"}, "text": {"text": "t"}}}}, secret.Scope{})
	_, err := s.Get(t.Context(), "key", nil)
	if !fault.Is(err, fault.FailedPrecondition) || fault.ReasonOf(err) != secret.ReasonNotText ||
		err.Error() != `key "key" of secret "key" of store "vault" is not text (UTF-8)` {
		t.Errorf("Get: %v, want failed_precondition with the key and without the value", err)
	}
	all, err := s.List(t.Context(), nil)
	if err != nil || len(all) != 1 || all["text"] == nil {
		t.Errorf("List = %v, %v; want the text only", all, err)
	}
}

func TestEmptyNameIsInvalid(t *testing.T) {
	s := newStore(&fixed{secrets: three}, secret.Scope{})
	if _, err := s.Get(t.Context(), "", nil); !fault.Is(err, fault.InvalidArgument) {
		t.Errorf("Get: %v", err)
	}
	if _, err := s.Resolve(t.Context(), "", "k"); !fault.Is(err, fault.InvalidArgument) {
		t.Errorf("Resolve: %v", err)
	}
}

func TestListOfAStoreThatCannotIsUnimplemented(t *testing.T) {
	_, err := newStore(&fixed{}, secret.Scope{}).List(t.Context(), nil)
	if !fault.Is(err, fault.Unimplemented) || fault.ReasonOf(err) != secret.ReasonCannotList {
		t.Errorf("error %v, want unimplemented", err)
	}
}

func TestResolveServesReferencesOfComponents(t *testing.T) {
	s := newStore(&fixed{secrets: three}, secret.Scope{DefaultAccess: "deny"})
	for _, c := range []struct{ name, key, want string }{
		{"a", "", "value-a"}, {"a", "a", "value-a"}, {"db", "password", "p"},
	} {
		got, err := s.Resolve(t.Context(), c.name, c.key)
		if err != nil || got.Reveal() != c.want {
			t.Errorf("Resolve(%q, %q) = %q, %v", c.name, c.key, got.Reveal(), err)
		}
	}
	_, err := s.Resolve(t.Context(), "db", "")
	if !fault.Is(err, fault.NotFound) || fault.ReasonOf(err) != secret.ReasonNoSuchKey {
		t.Fatalf("error %v, want not_found", err)
	}
	if want := `secret "db" of store "vault" has no key "db"; it has "password", "user"`; err.Error() != want {
		t.Errorf("error %q, want %q", err, want)
	}
}

func TestCallsCrossTheChain(t *testing.T) {
	var seen []string
	chains := spy(func(c *policy.Call) { seen = append(seen, c.Op.Name+" "+c.Key) })
	s := secret.New(component.Opened[secret.Driver]("vault", &listing{fixed{secrets: three}}), secret.Options{Chains: chains})
	_, e1 := s.Get(t.Context(), "a", nil)
	_, e2 := s.List(t.Context(), nil)
	_, e3 := s.Resolve(t.Context(), "b", "")
	if err := errors.Join(e1, e2, e3); err != nil {
		t.Fatal(err)
	}
	if want := []string{"get a", "list ", "resolve b"}; !slices.Equal(seen, want) {
		t.Errorf("the chain saw %q, want %q", seen, want)
	}
}

// spy is a Chains with one policy, which shows each call.
type spy func(*policy.Call)

func (s spy) Component(string, string, bool) policy.Chain {
	return policy.Chain{func(_ policy.Op, next policy.Handler) policy.Handler {
		return func(ctx context.Context, c *policy.Call) error {
			s(c)
			return next(ctx, c)
		}
	}}
}

func (s spy) App(string) policy.Chain { return nil }
