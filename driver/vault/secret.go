package vault

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"sync"

	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
)

// Store is a secret.Driver and a secret.Lister.
type Store struct {
	client *client
	engine string // its path, escaped
	prefix string // the path of the secrets in it, escaped, with a slash behind it; or ""
	text   bool
}

// Open connects to Vault. It fails when the server is sealed.
func Open(ctx context.Context, cfg Config, env component.Env) (*Store, error) {
	c, err := newClient(cfg, env)
	if err != nil {
		return nil, err
	}
	s := &Store{client: c, engine: escaped(strings.Trim(cfg.EnginePath, "/")), text: cfg.VaultValueType == typeText}
	if p := cfg.prefix(); p != "" {
		s.prefix = escaped(p) + "/"
	}
	if err = c.probe(ctx); err == nil {
		_, _, err = c.credentials(ctx)
	}
	if err != nil {
		_ = s.Close()
		return nil, err
	}
	return s, nil
}

// Close implements io.Closer.
func (s *Store) Close() error {
	s.client.http.CloseIdleConnections()
	return nil
}

// metadataVersion is the hint that names an older version of a secret.
const metadataVersion = "version_id"

// query returns what a read of a version adds to the URL.
func query(metadata map[string]string) (string, error) {
	version := metadata[metadataVersion]
	if version == "" {
		return "", nil
	}
	n, err := strconv.ParseUint(version, 10, 31)
	if err != nil {
		return "", fault.New(fault.InvalidArgument, "%s wants the number of a version, not %q", metadataVersion, version)
	}
	return "?version=" + strconv.FormatUint(n, 10), nil
}

// Get implements secret.Driver.
func (s *Store) Get(ctx context.Context, name string, metadata map[string]string) (map[string]string, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	q, err := query(metadata)
	if err != nil {
		return nil, err
	}
	return s.get(ctx, name, q)
}

func (s *Store) get(ctx context.Context, name, query string) (map[string]string, error) {
	if !validPath(name) {
		return nil, fault.New(fault.NotFound, "vault has no secret of such a name")
	}
	a, err := s.client.read(ctx, http.MethodGet, s.engine+"/data/"+s.prefix+escaped(name)+query)
	if err != nil {
		return nil, err
	}
	if a.status == http.StatusNotFound {
		return nil, s.notFound(a)
	}
	var found struct {
		Data json.RawMessage `json:"data"`
	}
	if err := json.Unmarshal(a.Data, &found); err != nil {
		return nil, errNotKV2()
	}
	return s.values(name, found.Data)
}

// notFound tells a secret that does not exist, or not in this version, from an
// engine that does not.
func (s *Store) notFound(a answer) error {
	if len(a.Errors) > 0 {
		return fault.New(fault.FailedPrecondition, "vault has no KV engine, version 2, at enginePath %q", s.client.cfg.EnginePath)
	}
	return fault.New(fault.NotFound, "vault has no such secret, or not in this version, or it was deleted")
}

func errNotKV2() error {
	return fault.New(fault.FailedPrecondition, "the engine at enginePath is not one of type KV, version 2")
}

// values turns what Vault has for a secret into the values of the secret. Its
// errors do not quote any.
func (s *Store) values(name string, data json.RawMessage) (map[string]string, error) {
	if s.text {
		return map[string]string{name: asText(data)}, nil
	}
	var members map[string]json.RawMessage
	if err := json.Unmarshal(data, &members); err != nil || members == nil {
		return nil, errNotKV2()
	}
	out := make(map[string]string, len(members))
	for key, raw := range members {
		out[key] = asText(raw)
	}
	return out, nil
}

// asText returns a string as it is, null as nothing, and all else as the JSON
// text that it is.
func asText(raw json.RawMessage) string {
	raw = bytes.TrimSpace(raw)
	var text string
	if bytes.Equal(raw, []byte("null")) || len(raw) > 0 && raw[0] == '"' && json.Unmarshal(raw, &text) == nil {
		return text
	}
	return string(raw)
}

// Bounds of a List.
const (
	// maxNames is the most secrets that are listed.
	maxNames = 10_000
	// maxDepth is how deep the paths of secrets may be nested.
	maxDepth = 32
	// parallel is how many secrets are read at once.
	parallel = 8
)

// List implements secret.Lister. A secret that does not have the version asked
// for is left out.
func (s *Store) List(ctx context.Context, metadata map[string]string, want func(string) bool) (map[string]map[string]string, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	q, err := query(metadata)
	if err != nil {
		return nil, err
	}
	var names []string
	if err := s.names(ctx, "", 0, func(name string) error {
		if len(names) == maxNames {
			return fault.New(fault.ResourceExhausted, "vault has more than %d secrets under this prefix", maxNames)
		}
		if want(name) {
			names = append(names, name)
		}
		return nil
	}); err != nil {
		return nil, err
	}
	return s.getAll(ctx, names, q)
}

// names calls add for each secret below a folder ("" or "a/b/").
func (s *Store) names(ctx context.Context, folder string, depth int, add func(string) error) error {
	if depth > maxDepth {
		return fault.New(fault.ResourceExhausted, "vault's paths are nested more than %d deep", maxDepth)
	}
	a, err := s.client.read(ctx, methodList, s.engine+"/metadata/"+s.prefix+escaped(folder))
	if err != nil {
		return err
	}
	if a.status == http.StatusNotFound {
		if len(a.Errors) > 0 {
			return s.notFound(a)
		}
		return nil // there is none
	}
	var found struct {
		Keys []string `json:"keys"`
	}
	if err := json.Unmarshal(a.Data, &found); err != nil {
		return errNotKV2()
	}
	for _, key := range found.Keys {
		visit := add
		if strings.HasSuffix(key, "/") {
			visit = func(name string) error { return s.names(ctx, name, depth+1, add) }
		}
		if err := visit(folder + key); err != nil {
			return err
		}
	}
	return nil
}

// getAll reads secrets, several at once.
func (s *Store) getAll(ctx context.Context, names []string, query string) (map[string]map[string]string, error) {
	out := make(map[string]map[string]string, len(names))
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var mu sync.Mutex
	var wg sync.WaitGroup
	next := make(chan string)
	for range min(parallel, len(names)) {
		wg.Go(func() {
			for name := range next {
				values, err := s.get(ctx, name, query)
				switch {
				case err == nil:
					mu.Lock()
					out[name] = values
					mu.Unlock()
				case !fault.Is(err, fault.NotFound):
					cancel(err)
				}
			}
		})
	}
	for _, name := range names {
		select {
		case next <- name:
		case <-ctx.Done():
		}
	}
	close(next)
	wg.Wait()
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return out, nil
}
