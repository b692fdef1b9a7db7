// Package jwks is the crypto provider whose keys are in a JSON Web Key Set
// (RFC 7517): in the component itself, in a file, or behind a URL.
package jwks

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/proa-io/proa/block/crypto"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
)

// Specs lists what this package offers to the building blocks.
func Specs() []component.Spec {
	return []component.Spec{
		crypto.Spec(component.Description{
			Name:    "dapr.jwks",
			Aliases: []string{"jwks"},
			Summary: "Uses the keys of a JSON Web Key Set.",
		}, Config{RequestTimeout: component.Duration(30 * time.Second), MinRefreshInterval: component.Duration(10 * time.Minute)}, Open),
	}
}

// Config configures a JSON Web Key Set.
//
// The name of a key is its id ("kid"); keys without one cannot be used. A file
// is read whenever a key is used. A URL is fetched again when a key is used and
// MinRefreshInterval has passed; while that fails, the keys fetched before
// remain in force.
type Config struct {
	// JWKS is the set itself, as JSON or as JSON in Base64; or an http or https
	// URL where it is; or the path of a file that holds it.
	JWKS component.Secret `setting:"jwks,required"`
	// RequestTimeout bounds one fetch of a URL.
	RequestTimeout component.Duration `setting:"requestTimeout"`
	// MinRefreshInterval is the least time between two fetches of a URL.
	MinRefreshInterval component.Duration `setting:"minRefreshInterval"`
}

// Validate reports settings that can never work.
func (c Config) Validate() error {
	switch {
	case !c.JWKS.IsSet():
		return component.Invalid("jwks", "wants a JSON Web Key Set, a URL or the path of a file")
	case c.RequestTimeout <= 0:
		return component.Invalid("requestTimeout", "must be positive")
	case c.MinRefreshInterval <= 0:
		return component.Invalid("minRefreshInterval", "must be positive")
	}
	return nil
}

// maxSet bounds the text of a set.
const maxSet = 4 << 20

// Store is a crypto.Driver.
type Store struct {
	// text returns the text of the set as it is now. due reports whether it is
	// worth asking for.
	text func(context.Context) ([]byte, error)
	due  func(age time.Duration) bool
	log  *slog.Logger

	mu    sync.Mutex // held while the set is read
	last  []byte     // the text that keys were read from
	keys  crypto.KeySet
	tried time.Time // of the last attempt to read the set
}

// Open reads the set.
func Open(ctx context.Context, cfg Config, env component.Env) (*Store, error) {
	s := &Store{log: env.Log, due: func(time.Duration) bool { return false }}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	given := strings.TrimSpace(cfg.JWKS.Reveal())
	switch {
	case strings.HasPrefix(given, "{"):
		s.text = func(context.Context) ([]byte, error) { return []byte(given), nil }
	case isURL(given):
		fetch, err := fetcher(given, cfg.RequestTimeout.Std())
		if err != nil {
			return nil, err
		}
		s.text = fetch
		s.due = func(age time.Duration) bool { return age >= cfg.MinRefreshInterval.Std() }
	default:
		if text, err := base64.StdEncoding.DecodeString(given); err == nil && bytes.HasPrefix(bytes.TrimSpace(text), []byte("{")) {
			s.text = func(context.Context) ([]byte, error) { return text, nil }
			break
		}
		path := env.Locate(given)
		s.text = func(context.Context) ([]byte, error) { return readFile(path) }
		s.due = func(time.Duration) bool { return true }
	}
	if err := s.load(ctx); err != nil {
		return nil, err
	}
	return s, nil
}

func isURL(text string) bool {
	lower := strings.ToLower(text[:min(len(text), len("https://"))])
	return strings.HasPrefix(lower, "http://") || strings.HasPrefix(lower, "https://")
}

// Key implements crypto.Driver.
func (s *Store) Key(ctx context.Context, name string) (crypto.Key, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.due(time.Since(s.tried)) {
		if err := s.load(ctx); err != nil {
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			s.log.WarnContext(ctx, "key set cannot be read again; the keys read before remain in force", "error", err)
		}
	}
	if k, ok := s.keys[name]; ok {
		return k, nil
	}
	return nil, fault.New(fault.NotFound, "the key set has no key with the id %q", name)
}

// load reads the set and keeps it if it is one.
func (s *Store) load(ctx context.Context) error {
	s.tried = time.Now()
	text, err := s.text(ctx)
	if err != nil {
		return err
	}
	if s.keys != nil && bytes.Equal(text, s.last) {
		return nil
	}
	keys, err := crypto.ParseKeySet(text)
	if err != nil {
		return fault.Wrap(err, fault.CodeOf(err), "the key set")
	}
	s.last, s.keys = text, keys
	return nil
}

// Close implements io.Closer.
func (s *Store) Close() error { return nil }

// readFile reads the file of a set. Its errors do not quote the path: it may be
// a broken set, with keys in it.
func readFile(path string) ([]byte, error) {
	text, err := os.ReadFile(path)
	if inner, ok := errors.AsType[*fs.PathError](err); ok {
		err = inner.Err
	}
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENAMETOOLONG), errors.Is(err, fs.ErrInvalid):
		return nil, fault.New(fault.NotFound, "jwks is no JSON, no Base64 of JSON, no URL, and not the path of a file that exists")
	case errors.Is(err, fs.ErrPermission):
		return nil, fault.New(fault.PermissionDenied, "the file of the key set may not be read")
	case err != nil:
		return nil, fault.Wrap(err, fault.FailedPrecondition, "read the file of the key set")
	case len(text) > maxSet:
		return nil, fault.New(fault.FailedPrecondition, "the file of the key set is larger than %d MiB", maxSet>>20)
	}
	return text, nil
}

// fetcher returns a function that fetches the set from a URL.
func fetcher(address string, timeout time.Duration) (func(context.Context) ([]byte, error), error) {
	u, err := url.Parse(address)
	if err != nil || u.Host == "" {
		return nil, fault.New(fault.InvalidArgument, "jwks is not a URL that can be fetched: want https://host/path")
	}
	client := &http.Client{Timeout: timeout}
	return func(ctx context.Context) ([]byte, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
		if err != nil {
			return nil, fault.New(fault.InvalidArgument, "jwks is not a URL that can be fetched")
		}
		req.Header.Set("Accept", "application/jwk-set+json, application/json")
		resp, err := client.Do(req)
		if err != nil {
			return nil, fetchError(ctx, u, err)
		}
		defer resp.Body.Close() //nolint:errcheck // it was read
		text, err := io.ReadAll(io.LimitReader(resp.Body, maxSet+1))
		switch {
		case err != nil:
			return nil, fetchError(ctx, u, err)
		case resp.StatusCode != http.StatusOK:
			return nil, fault.New(fault.Unavailable, "%s answers %s to a request for the key set", u.Redacted(), resp.Status)
		case len(text) > maxSet:
			return nil, fault.New(fault.FailedPrecondition, "the key set of %s is larger than %d MiB", u.Redacted(), maxSet>>20)
		}
		return text, nil
	}, nil
}

func fetchError(ctx context.Context, u *url.URL, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if inner, ok := errors.AsType[*url.Error](err); ok {
		err = inner.Err // it has the URL, with a password if there is one
	}
	return fault.Wrap(err, fault.Unavailable, "fetch the key set of %s", u.Redacted())
}
