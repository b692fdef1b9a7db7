package grpcapi

import (
	"context"

	"google.golang.org/grpc"

	commonv1 "github.com/proa-io/proa/api/gen/dapr/proto/common/v1"
	rtv1 "github.com/proa-io/proa/api/gen/dapr/proto/runtime/v1"
	"github.com/proa-io/proa/block/config"
	"github.com/proa-io/proa/dialect/dapr"
)

// GetConfiguration returns configuration items, all of them when no keys are
// named.
func (s *service) GetConfiguration(ctx context.Context, in *rtv1.GetConfigurationRequest) (*rtv1.GetConfigurationResponse, error) {
	about := dapr.Subject{Component: in.GetStoreName(), Keys: in.GetKeys()}
	store, err := s.opts.Blocks.Config(about.Component)
	if err != nil {
		return nil, s.failed(dapr.ConfigurationGet, about, err)
	}
	items, err := store.Get(ctx, config.Query{Keys: in.GetKeys(), Metadata: in.GetMetadata()})
	if err != nil {
		return nil, s.failed(dapr.ConfigurationGet, about, err)
	}
	out := &rtv1.GetConfigurationResponse{Items: make(map[string]*commonv1.ConfigurationItem, len(items))}
	for k, item := range items {
		out.Items[k] = configurationItem(item)
	}
	return out, nil
}

func configurationItem(i config.Item) *commonv1.ConfigurationItem {
	return &commonv1.ConfigurationItem{Value: i.Value, Version: i.Version, Metadata: i.Metadata}
}

// SubscribeConfiguration sends the id of the subscription, then each change of
// the items, until it is unsubscribed from or the client goes. An item that is
// gone comes without a value.
func (s *service) SubscribeConfiguration(in *rtv1.SubscribeConfigurationRequest, out grpc.ServerStreamingServer[rtv1.SubscribeConfigurationResponse]) error {
	about := dapr.Subject{Component: in.GetStoreName(), Keys: in.GetKeys()}
	store, err := s.opts.Blocks.Config(about.Component)
	if err != nil {
		return s.failed(dapr.ConfigurationSubscribe, about, err)
	}
	ctx, cancel := s.whileRunning(out.Context())
	defer cancel()
	err = store.Stream(ctx, config.Query{Keys: in.GetKeys(), Metadata: in.GetMetadata()}, func(_ context.Context, u config.Update) error {
		return out.Send(configurationUpdate(u))
	})
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil && out.Context().Err() == nil:
		return errStopping()
	}
	return s.failed(dapr.ConfigurationSubscribe, about, err)
}

func configurationUpdate(u config.Update) *rtv1.SubscribeConfigurationResponse {
	m := &rtv1.SubscribeConfigurationResponse{Id: u.ID}
	if len(u.Items) > 0 {
		m.Items = make(map[string]*commonv1.ConfigurationItem, len(u.Items))
		for k, c := range u.Items {
			m.Items[k] = configurationItem(c.Item)
		}
	}
	return m
}

// whileRunning returns a context that ends when ctx does or Stop is called.
func (a *API) whileRunning(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		select {
		case <-a.stop:
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx, func() { cancel(); <-done }
}

// UnsubscribeConfiguration ends a subscription, of this or the HTTP API.
func (s *service) UnsubscribeConfiguration(ctx context.Context, in *rtv1.UnsubscribeConfigurationRequest) (*rtv1.UnsubscribeConfigurationResponse, error) {
	about := dapr.Subject{Component: in.GetStoreName(), Key: in.GetId()}
	store, err := s.opts.Blocks.Config(about.Component)
	if err != nil {
		return nil, s.failed(dapr.ConfigurationUnsubscribe, about, err)
	}
	if err := store.Unsubscribe(ctx, about.Key); err != nil {
		e := dapr.Describe(dapr.ConfigurationUnsubscribe, about, err)
		return &rtv1.UnsubscribeConfigurationResponse{Ok: false, Message: text(e)}, nil
	}
	return &rtv1.UnsubscribeConfigurationResponse{Ok: true}, nil
}

// GetConfigurationAlpha1 is GetConfiguration under its former name.
func (s *service) GetConfigurationAlpha1(ctx context.Context, in *rtv1.GetConfigurationRequest) (*rtv1.GetConfigurationResponse, error) {
	return s.GetConfiguration(ctx, in)
}

// SubscribeConfigurationAlpha1 is SubscribeConfiguration under its former name.
func (s *service) SubscribeConfigurationAlpha1(in *rtv1.SubscribeConfigurationRequest, out grpc.ServerStreamingServer[rtv1.SubscribeConfigurationResponse]) error {
	return s.SubscribeConfiguration(in, out)
}

// UnsubscribeConfigurationAlpha1 is UnsubscribeConfiguration under its former
// name.
func (s *service) UnsubscribeConfigurationAlpha1(ctx context.Context, in *rtv1.UnsubscribeConfigurationRequest) (*rtv1.UnsubscribeConfigurationResponse, error) {
	return s.UnsubscribeConfiguration(ctx, in)
}
