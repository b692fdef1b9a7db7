package proa

import (
	"context"

	proav1 "github.com/proa-io/proa/api/gen/proa/v1"
	"github.com/proa-io/proa/block/config"
)

// configurationService is proa.v1.Configuration.
type configurationService struct {
	proav1.UnimplementedConfigurationServer
	*API
}

// Set stores items.
func (s *configurationService) Set(ctx context.Context, in *proav1.ConfigurationSetRequest) (*proav1.ConfigurationSetResponse, error) {
	store, err := s.opts.Blocks.Config(in.GetStoreName())
	if err != nil {
		return nil, err
	}
	writes := make([]config.Write, len(in.GetItems()))
	for i, item := range in.GetItems() {
		writes[i] = config.Write{
			Key: item.GetKey(), Value: item.GetValue(),
			Expect: config.Expect{Absent: item.GetExpectedAbsent(), Version: item.GetExpectedVersion()},
		}
	}
	versions, err := store.Write(ctx, writes)
	if err != nil {
		return nil, err
	}
	out := &proav1.ConfigurationSetResponse{Versions: make(map[string]string, len(versions))}
	for i, version := range versions {
		out.Versions[writes[i].Key] = valid(version)
	}
	return out, nil
}

// Delete removes items.
func (s *configurationService) Delete(ctx context.Context, in *proav1.ConfigurationDeleteRequest) (*proav1.ConfigurationDeleteResponse, error) {
	store, err := s.opts.Blocks.Config(in.GetStoreName())
	if err != nil {
		return nil, err
	}
	writes := make([]config.Write, len(in.GetItems()))
	for i, item := range in.GetItems() {
		writes[i] = config.Write{Key: item.GetKey(), Delete: true, Expect: config.Expect{Version: item.GetExpectedVersion()}}
	}
	if _, err := store.Write(ctx, writes); err != nil {
		return nil, err
	}
	return &proav1.ConfigurationDeleteResponse{}, nil
}
