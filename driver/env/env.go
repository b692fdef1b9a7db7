// Package env reads secrets from the environment of the process.
package env

import (
	"context"
	"os"
	"runtime"
	"strings"

	"github.com/proa-io/proa/block/secret"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
)

// Specs lists what this package offers to the building blocks.
func Specs() []component.Spec {
	return []component.Spec{
		secret.Spec(component.Description{
			Name:    "local.env",
			Summary: "Reads secrets from the environment variables of the sidecar; for development.",
		}, Config{}, Open),
	}
}

// Config configures a store of secrets in environment variables.
//
// Variables that are the sidecar's own are never handed out: those that begin
// with DAPR_ or PROA_, and APP_API_TOKEN, whatever their case.
type Config struct {
	// Prefix is what the names of the variables begin with, and the names of
	// the secrets do not: with "SHOP_", secret "key" is variable SHOP_key.
	Prefix string `setting:"prefix"`
}

// Validate reports a prefix that no variable can begin with.
func (c Config) Validate() error {
	if strings.ContainsAny(c.Prefix, "=\x00") {
		return component.Invalid("prefix", `must not contain "=" or a zero byte`)
	}
	return nil
}

// Store is a secret.Driver and a secret.Lister.
type Store struct{ prefix string }

// Open returns a Store. It does no I/O.
func Open(_ context.Context, cfg Config, _ component.Env) (*Store, error) {
	return &Store{prefix: cfg.Prefix}, nil
}

// Get implements secret.Driver.
func (s *Store) Get(ctx context.Context, name string, _ map[string]string) (map[string]string, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	variable := s.prefix + name
	if own(variable) {
		return nil, fault.New(fault.NotFound, "environment variable %q belongs to the sidecar and is not handed out", variable)
	}
	value, ok := os.LookupEnv(variable)
	if !ok || name == "" {
		return nil, fault.New(fault.NotFound, "environment variable %q is not set", variable)
	}
	return map[string]string{name: value}, nil
}

// List implements secret.Lister.
func (s *Store) List(ctx context.Context, _ map[string]string, want func(string) bool) (map[string]map[string]string, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	out := map[string]map[string]string{}
	for _, entry := range os.Environ() {
		variable, value, _ := strings.Cut(entry, "=")
		name, ok := s.nameOf(variable)
		if ok && name != "" && !own(variable) && want(name) {
			out[name] = map[string]string{name: value}
		}
	}
	return out, nil
}

// Close implements io.Closer.
func (s *Store) Close() error { return nil }

// nameOf returns the secret that a variable holds, if it has the prefix. The
// case of a variable's name does not count on Windows.
func (s *Store) nameOf(variable string) (string, bool) {
	n := len(s.prefix)
	if len(variable) < n {
		return "", false
	}
	head := variable[:n]
	if head == s.prefix || runtime.GOOS == "windows" && strings.EqualFold(head, s.prefix) {
		return variable[n:], true
	}
	return "", false
}

// own reports whether a variable belongs to the sidecar.
func own(variable string) bool {
	v := strings.ToUpper(variable)
	return v == "APP_API_TOKEN" || strings.HasPrefix(v, "DAPR_") || strings.HasPrefix(v, "PROA_")
}
