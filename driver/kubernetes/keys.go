package kubernetes

import (
	"context"
	"strings"

	"github.com/proa-io/proa/block/crypto"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
)

// KeysConfig configures the use of keys that are in secrets of Kubernetes.
//
// The name of a key is "secret/entry", or "namespace/secret/entry". The entry
// holds a JSON Web Key; a private or public key, or a certificate, in PEM form;
// or the bytes of a symmetric key, as they are or in Base64. A secret is read
// whenever a key of it is used.
//
// The API server is reached as it is for secrets, with a role that must allow to
// "get" them. The namespace of a name without one is that of the environment
// variable NAMESPACE, or else defaultNamespace, or else the one that the pod is
// in or the kubeconfig's context names.
type KeysConfig struct {
	Config
}

// Keys is a crypto.Driver.
type Keys struct{ store *Store }

// OpenKeys finds out how to reach the API server, and whether it answers.
func OpenKeys(ctx context.Context, cfg KeysConfig, env component.Env) (*Keys, error) {
	return here().openKeys(ctx, cfg, env)
}

func (s surroundings) openKeys(ctx context.Context, cfg KeysConfig, env component.Env) (*Keys, error) {
	store, err := s.open(ctx, cfg.Config, env)
	if err != nil {
		return nil, err
	}
	return &Keys{store}, nil
}

// Key implements crypto.Driver.
func (k *Keys) Key(ctx context.Context, name string) (crypto.Key, error) {
	parts := strings.Split(name, "/")
	metadata := map[string]string{}
	if len(parts) == 3 && parts[0] != "" {
		metadata[metadataNamespace] = parts[0]
		parts = parts[1:]
	}
	if len(parts) != 2 {
		return nil, fault.New(fault.NotFound, `there is no such key: the name of one is "secret/entry" or "namespace/secret/entry", not %q`, name)
	}
	values, err := k.store.Get(ctx, parts[0], metadata)
	if err != nil {
		return nil, err
	}
	text, ok := values[parts[1]]
	if !ok {
		return nil, fault.New(fault.NotFound, "the secret %q has no entry %q", parts[0], parts[1])
	}
	return crypto.ParseKey([]byte(text), crypto.AnyFormat)
}

// Close implements io.Closer.
func (k *Keys) Close() error { return k.store.Close() }
