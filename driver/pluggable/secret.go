package pluggable

import (
	"context"
	"maps"
	"slices"
	"unicode/utf8"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	componentsv1 "github.com/proa-io/proa/api/gen/dapr/proto/components/v1"
	"github.com/proa-io/proa/block/secret"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
)

func secretSpec(p place) component.Spec {
	return secret.Spec(describe(p, "Keeps secrets"), Config{},
		func(ctx context.Context, cfg Config, env component.Env) (*secrets, error) {
			return openSecrets(ctx, linkAt(p, env), cfg)
		})
}

// secrets is a secret.Driver.
type secrets struct {
	*link
	client   componentsv1.SecretStoreClient
	features []string // as of the first connection
}

var _ secret.Lister = (*secrets)(nil)

func openSecrets(ctx context.Context, l *link, cfg Config) (*secrets, error) {
	s := &secrets{link: l, client: componentsv1.NewSecretStoreClient(l)}
	l.ping = componentsv1.SecretStore_Ping_FullMethodName
	l.setup = func(ctx context.Context, cc grpc.ClientConnInterface) error {
		if _, err := serves(ctx, cc, secret.Block, serviceSecret); err != nil {
			return err
		}
		client := componentsv1.NewSecretStoreClient(cc)
		if _, err := client.Init(ctx, &componentsv1.SecretStoreInitRequest{Metadata: properties(cfg)}); err != nil {
			return initError(err)
		}
		if s.features != nil {
			return nil
		}
		features, err := client.Features(ctx, &componentsv1.FeaturesRequest{})
		s.features = append([]string{}, namesIn(features.GetFeatures())...)
		return err
	}
	if _, err := l.session(ctx); err != nil {
		_ = l.Close()
		return nil, err
	}
	return s, nil
}

// Capabilities implements component.Capable.
func (s *secrets) Capabilities() []string { return slices.Clone(s.features) }

// Get implements secret.Driver.
func (s *secrets) Get(ctx context.Context, name string, metadata map[string]string) (map[string]string, error) {
	missing := fault.New(fault.NotFound, "there is no such secret")
	if !utf8.ValidString(name) {
		return nil, missing
	}
	if err := texts(metadata); err != nil {
		return nil, err
	}
	r, err := s.client.Get(ctx, &componentsv1.GetSecretRequest{Key: name, Metadata: metadata})
	switch {
	case err != nil && ctx.Err() == nil && status.Code(err) == codes.NotFound, err == nil && len(r.GetData()) == 0:
		return nil, missing
	case err != nil:
		return nil, s.classify(ctx, err)
	}
	return r.GetData(), nil
}

// List implements secret.Lister. The protocol can only ask for all secrets.
func (s *secrets) List(ctx context.Context, metadata map[string]string, want func(name string) bool) (map[string]map[string]string, error) {
	if err := texts(metadata); err != nil {
		return nil, err
	}
	r, err := s.client.BulkGet(ctx, &componentsv1.BulkGetSecretRequest{Metadata: metadata})
	if err != nil {
		return nil, s.classify(ctx, err)
	}
	out := map[string]map[string]string{}
	for name, values := range r.GetData() {
		if want(name) {
			out[name] = maps.Clone(values.GetSecrets())
		}
	}
	return out, nil
}
