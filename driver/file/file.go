// Package file reads secrets from a JSON file.
package file

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"sync"
	"time"

	"github.com/proa-io/proa/block/secret"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
)

// Specs lists what this package offers to the building blocks.
func Specs() []component.Spec {
	return []component.Spec{
		secret.Spec(component.Description{
			Name:    "local.file",
			Summary: "Reads secrets from a JSON file; for development.",
		}, Config{NestedSeparator: ":"}, Open),
	}
}

// Config configures a store of secrets in a JSON file.
//
// The file holds one object. Its members are the secrets; what is nested in
// objects and arrays is reached by joining the names, and the positions in
// arrays, with NestedSeparator: {"db": {"password": "x"}} has the secret
// "db:password". Changes of the file are taken up without a restart; while
// the file cannot be read, what it held before remains in force.
type Config struct {
	// SecretsFile is the path of the file. A relative one is relative to the
	// directory that the sidecar runs in or, when there is no such file, to the
	// directory of the component's own file.
	SecretsFile string `setting:"secretsFile,required"`
	// NestedSeparator joins the names of nested members.
	NestedSeparator string `setting:"nestedSeparator"`
	// MultiValued makes each member of the top-level object one secret, which
	// has a value for each of what is nested in it: {"db": {"user": "u",
	// "password": "p"}} has the secret "db" with the values "user" and
	// "password".
	MultiValued bool `setting:"multiValued"`
}

// Validate reports settings that can never work.
func (c Config) Validate() error {
	if c.SecretsFile == "" {
		return component.Invalid("secretsFile", "wants the path of a JSON file")
	}
	return nil
}

// maxSize bounds the file.
const maxSize = 16 << 20

// Store is a secret.Driver, a secret.Lister and a secret.Watcher.
type Store struct {
	cfg Config
	log *slog.Logger

	mu      sync.Mutex
	secrets map[string]map[string]string
	info    fs.FileInfo // of the file that secrets were read from
	settled bool        // info will tell when the file changes
	said    string      // what was logged last about a file that cannot be read
}

// Open reads the file.
func Open(_ context.Context, cfg Config, env component.Env) (*Store, error) {
	if cfg.NestedSeparator == "" {
		cfg.NestedSeparator = ":"
	}
	cfg.SecretsFile = env.Locate(cfg.SecretsFile)
	s := &Store{cfg: cfg, log: env.Log}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if err := s.load(); err != nil {
		return nil, err
	}
	return s, nil
}

// Get implements secret.Driver.
func (s *Store) Get(ctx context.Context, name string, _ map[string]string) (map[string]string, error) {
	secrets, err := s.current(ctx)
	if err != nil {
		return nil, err
	}
	values, ok := secrets[name]
	if !ok {
		return nil, fault.New(fault.NotFound, "there is no %q in %s", name, s.cfg.SecretsFile)
	}
	return maps.Clone(values), nil
}

// List implements secret.Lister.
func (s *Store) List(ctx context.Context, _ map[string]string, want func(string) bool) (map[string]map[string]string, error) {
	secrets, err := s.current(ctx)
	if err != nil {
		return nil, err
	}
	out := map[string]map[string]string{}
	for name, values := range secrets {
		if want(name) {
			out[name] = maps.Clone(values)
		}
	}
	return out, nil
}

// watchEvery is how often a watched file is looked at. The notifications of
// operating systems miss files on network drives and behind links that are
// turned round, as Kubernetes does.
const watchEvery = time.Second

// Watch implements secret.Watcher.
func (s *Store) Watch(ctx context.Context, names []string, changed func()) error {
	known, err := s.some(ctx, names)
	if err != nil {
		return err
	}
	changed()
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
		now, err := s.some(ctx, names)
		if err != nil {
			return context.Cause(ctx)
		}
		if !maps.EqualFunc(known, now, maps.Equal[map[string]string, map[string]string]) {
			known = now
			changed()
		}
	}
}

// some returns the named secrets, as far as there are any.
func (s *Store) some(ctx context.Context, names []string) (map[string]map[string]string, error) {
	secrets, err := s.current(ctx)
	out := make(map[string]map[string]string, len(names))
	for _, name := range names {
		if values, ok := secrets[name]; ok {
			out[name] = values
		}
	}
	return out, err
}

// Close implements io.Closer.
func (s *Store) Close() error { return nil }

// current returns the secrets, from the file if it has changed. The map is
// not written to again.
func (s *Store) current(ctx context.Context) (map[string]map[string]string, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	info, err := os.Stat(s.cfg.SecretsFile)
	if err == nil && s.settled && unchanged(s.info, info) {
		return s.secrets, nil
	}
	if err := s.load(); err != nil {
		if text := err.Error(); text != s.said {
			s.log.WarnContext(ctx, "secrets file cannot be read; what it held before remains in force", "error", err)
			s.said = text
		}
	}
	return s.secrets, nil
}

func unchanged(a, b fs.FileInfo) bool {
	return os.SameFile(a, b) && a.ModTime().Equal(b.ModTime()) && a.Size() == b.Size()
}

// tick is the coarsest step in which file systems tell the time. A file that
// was written less than that ago may be written again without it showing.
const tick = 2 * time.Second

// load reads the file.
func (s *Store) load() error {
	f, err := os.Open(s.cfg.SecretsFile)
	if err != nil {
		return openError(err)
	}
	defer f.Close() //nolint:errcheck // nothing was written
	info, err := f.Stat()
	if err != nil {
		return openError(err)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxSize+1))
	if err != nil {
		return openError(err)
	}
	if len(text) > maxSize {
		return fault.New(fault.InvalidArgument, "%s: is larger than %d MiB", s.cfg.SecretsFile, maxSize>>20)
	}
	secrets, err := parse(s.cfg, text)
	if err != nil {
		return fault.New(fault.InvalidArgument, "%v", err)
	}
	s.secrets, s.info, s.said = secrets, info, ""
	s.settled = time.Since(info.ModTime()) > tick
	return nil
}

// openError says why the file cannot be read; the cause names it.
func openError(err error) error {
	code := fault.FailedPrecondition
	switch {
	case errors.Is(err, fs.ErrNotExist):
		code = fault.NotFound
	case errors.Is(err, fs.ErrPermission):
		code = fault.PermissionDenied
	}
	return fault.New(code, "%s", fmt.Sprintf("secrets file: %v", err))
}
