package kubernetes

import (
	"context"
	"net/url"
	"strconv"
	"strings"

	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
)

// Store is a secret.Driver, a secret.Lister and a secret.Watcher.
type Store struct {
	client    *client
	namespace string
}

// Open finds out how to reach the API server, and whether it answers.
func Open(ctx context.Context, cfg Config, env component.Env) (*Store, error) {
	return here().open(ctx, cfg, env)
}

func (s surroundings) open(ctx context.Context, cfg Config, env component.Env) (*Store, error) {
	a, err := s.access(cfg, env)
	if err != nil {
		return nil, err
	}
	namespace := "default"
	for _, name := range []string{a.namespace, cfg.DefaultNamespace, s.getenv("NAMESPACE")} {
		if name != "" {
			namespace = name
		}
	}
	if !validNamespace(namespace) {
		return nil, fault.New(fault.InvalidArgument, "%q is no name of a namespace", namespace)
	}
	store := &Store{newClient(a), namespace}
	if err := store.client.get(ctx, "/version", &struct{}{}); err != nil {
		_ = store.Close()
		return nil, err
	}
	return store, nil
}

// Close implements io.Closer.
func (s *Store) Close() error {
	s.client.http.CloseIdleConnections()
	return nil
}

// metadataNamespace is the hint that names another namespace.
const metadataNamespace = "namespace"

// path returns the path of all secrets of the namespace of a read.
func (s *Store) path(metadata map[string]string) (string, error) {
	namespace := s.namespace
	if name := metadata[metadataNamespace]; name != "" {
		if !validNamespace(name) {
			return "", fault.New(fault.InvalidArgument, "%q is no name of a namespace", name)
		}
		namespace = name
	}
	return "/api/v1/namespaces/" + namespace + "/secrets", nil
}

// object is what counts of a secret in the API. The values are base64 there.
type object struct {
	Metadata struct {
		Name string `json:"name"`
	} `json:"metadata"`
	Data map[string][]byte `json:"data"`
}

func (o object) values() map[string]string {
	out := make(map[string]string, len(o.Data))
	for key, value := range o.Data {
		out[key] = string(value)
	}
	return out
}

// validName reports whether asking for a name can be of use: it must be one
// part of a path.
func validName(name string) bool {
	return name != "" && name != "." && name != ".." && len(name) <= 253 &&
		!strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r == '/' || r == 0x7f })
}

// Get implements secret.Driver.
func (s *Store) Get(ctx context.Context, name string, metadata map[string]string) (map[string]string, error) {
	path, err := s.path(metadata)
	if err != nil {
		return nil, err
	}
	if !validName(name) {
		return nil, fault.New(fault.NotFound, "no secret of a cluster has such a name")
	}
	var found object
	if err := s.client.get(ctx, path+"/"+url.PathEscape(name), &found); err != nil {
		return nil, err
	}
	return found.values(), nil
}

// pageSize is how many secrets are listed at once, and maxSecrets how many in
// all.
const (
	pageSize   = 200
	maxSecrets = 20_000
)

// List implements secret.Lister.
func (s *Store) List(ctx context.Context, metadata map[string]string, want func(string) bool) (map[string]map[string]string, error) {
	path, err := s.path(metadata)
	if err != nil {
		return nil, err
	}
	out := map[string]map[string]string{}
	query := url.Values{"limit": {strconv.Itoa(pageSize)}}
	for seen := 0; seen <= maxSecrets; {
		var page struct {
			Metadata struct {
				Continue string `json:"continue"`
			} `json:"metadata"`
			Items []object `json:"items"`
		}
		if err := s.client.get(ctx, path+"?"+query.Encode(), &page); err != nil {
			return nil, err
		}
		for _, o := range page.Items {
			if want(o.Metadata.Name) {
				out[o.Metadata.Name] = o.values()
			}
		}
		seen += len(page.Items)
		if page.Metadata.Continue == "" {
			return out, nil
		}
		query.Set("continue", page.Metadata.Continue)
	}
	return nil, fault.New(fault.ResourceExhausted, "the namespace has more than %d secrets", maxSecrets)
}
