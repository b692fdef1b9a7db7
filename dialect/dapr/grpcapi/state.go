package grpcapi

import (
	"context"
	"encoding/json"
	"strings"

	"google.golang.org/protobuf/types/known/emptypb"

	commonv1 "github.com/proa-io/proa/api/gen/dapr/proto/common/v1"
	rtv1 "github.com/proa-io/proa/api/gen/dapr/proto/runtime/v1"
	"github.com/proa-io/proa/block/state"
	"github.com/proa-io/proa/dialect/dapr"
	"github.com/proa-io/proa/mesh/rpc"
)

// GetState returns one item, or nothing for one that does not exist.
func (s *service) GetState(ctx context.Context, in *rtv1.GetStateRequest) (*rtv1.GetStateResponse, error) {
	about := dapr.Subject{Component: in.GetStoreName(), Key: in.GetKey()}
	store, err := s.opts.Blocks.State(about.Component)
	if err != nil {
		return nil, s.failed(dapr.StateGet, about, err)
	}
	r := state.GetRequest{Key: about.Key, Metadata: in.GetMetadata()}
	if r.Consistency, err = consistency(in.GetConsistency()); err != nil {
		return nil, err
	}
	item, found, err := store.Get(ctx, r)
	if err != nil {
		return nil, s.failed(dapr.StateGet, about, err)
	}
	if !found {
		return &rtv1.GetStateResponse{}, nil
	}
	return &rtv1.GetStateResponse{Data: item.Value, Etag: item.ETag, Metadata: itemMetadata(&item)}, nil
}

// itemMetadata returns what is said of an item beside its value.
func itemMetadata(item *state.Item) map[string]string {
	if text, ok := item.ExpireTime(); ok {
		return map[string]string{state.MetadataExpires: text}
	}
	return nil
}

// GetBulkState returns several items, each with an error of its own.
func (s *service) GetBulkState(ctx context.Context, in *rtv1.GetBulkStateRequest) (*rtv1.GetBulkStateResponse, error) {
	about := dapr.Subject{Component: in.GetStoreName(), Keys: in.GetKeys()}
	store, err := s.opts.Blocks.State(about.Component)
	if err != nil {
		return nil, s.failed(dapr.StateBulkGet, about, err)
	}
	items, err := store.GetBulk(ctx, state.BulkGetRequest{
		Keys: in.GetKeys(), Parallelism: int(in.GetParallelism()), Metadata: in.GetMetadata(),
	})
	if err != nil {
		return nil, s.failed(dapr.StateBulkGet, about, err)
	}
	out := &rtv1.GetBulkStateResponse{Items: make([]*rtv1.BulkStateItem, len(items))}
	for i := range items {
		out.Items[i] = bulkItem(about.Component, &items[i])
	}
	return out, nil
}

func bulkItem(store string, item *state.BulkItem) *rtv1.BulkStateItem {
	switch {
	case item.Err != nil:
		e := dapr.Describe(dapr.StateGet, dapr.Subject{Component: store, Key: item.Key}, item.Err)
		return &rtv1.BulkStateItem{Key: item.Key, Error: text(e)}
	case !item.Found:
		return &rtv1.BulkStateItem{Key: item.Key}
	}
	return &rtv1.BulkStateItem{Key: item.Key, Data: item.Item.Value, Etag: item.Item.ETag, Metadata: itemMetadata(&item.Item)}
}

// SaveState stores items, not atomically.
func (s *service) SaveState(ctx context.Context, in *rtv1.SaveStateRequest) (*emptypb.Empty, error) {
	store, err := s.opts.Blocks.State(in.GetStoreName())
	if err == nil {
		err = save(ctx, store, in.GetStates())
	}
	if _, told := err.(*dapr.Error); told {
		return nil, err
	}
	if err != nil {
		return nil, s.failed(dapr.StateSave, dapr.Subject{Component: in.GetStoreName(), Keys: keysOf(in.GetStates())}, err)
	}
	return s.empty(), nil
}

// save stores items. One alone, as most are, needs no list.
func save(ctx context.Context, store *state.Store, states []*commonv1.StateItem) error {
	var items []state.SetRequest
	for _, item := range states {
		if item.GetKey() == "" {
			return dapr.StateKeyEmpty()
		}
		r, err := setRequest(item)
		if err != nil {
			return err
		}
		if len(states) == 1 {
			_, err = store.Set(ctx, r)
			return err
		}
		items = append(items, r)
	}
	return store.Save(ctx, items)
}

// DeleteState removes one item.
func (s *service) DeleteState(ctx context.Context, in *rtv1.DeleteStateRequest) (*emptypb.Empty, error) {
	about := dapr.Subject{Component: in.GetStoreName(), Key: in.GetKey()}
	store, err := s.opts.Blocks.State(about.Component)
	if err != nil {
		return nil, s.failed(dapr.StateDelete, about, err)
	}
	r := state.DeleteRequest{Key: about.Key, ETag: in.GetEtag().GetValue(), Metadata: in.GetMetadata()}
	if _, r.Consistency, err = options(in.GetOptions()); err != nil {
		return nil, err
	}
	if err := store.Delete(ctx, r); err != nil {
		return nil, s.failed(dapr.StateDelete, about, err)
	}
	return &emptypb.Empty{}, nil
}

// DeleteBulkState removes items, not atomically.
func (s *service) DeleteBulkState(ctx context.Context, in *rtv1.DeleteBulkStateRequest) (*emptypb.Empty, error) {
	about := dapr.Subject{Component: in.GetStoreName(), Keys: keysOf(in.GetStates())}
	store, err := s.opts.Blocks.State(about.Component)
	if err != nil {
		return nil, s.failed(dapr.StateBulkDelete, about, err)
	}
	items := make([]state.DeleteRequest, len(in.GetStates()))
	for i, item := range in.GetStates() {
		items[i] = state.DeleteRequest{Key: item.GetKey(), ETag: item.GetEtag().GetValue(), Metadata: item.GetMetadata()}
		if _, items[i].Consistency, err = options(item.GetOptions()); err != nil {
			return nil, err
		}
	}
	if err := store.DeleteBulk(ctx, items); err != nil {
		return nil, s.failed(dapr.StateBulkDelete, about, err)
	}
	return &emptypb.Empty{}, nil
}

// ExecuteStateTransaction writes several items atomically.
func (s *service) ExecuteStateTransaction(ctx context.Context, in *rtv1.ExecuteStateTransactionRequest) (*emptypb.Empty, error) {
	about := dapr.Subject{Component: in.GetStoreName()}
	store, err := s.opts.Blocks.State(about.Component)
	if err != nil {
		return nil, s.failed(dapr.StateTransaction, about, err)
	}
	about.AppID = s.opts.AppID
	r := state.TransactRequest{Metadata: in.GetMetadata(), Operations: make([]state.Operation, len(in.GetOperations()))}
	for i, op := range in.GetOperations() {
		about.Keys, about.Operation = append(about.Keys, op.GetRequest().GetKey()), op.GetOperationType()
		if r.Operations[i].Delete, err = state.ParseOperation(about.Operation); err != nil {
			return nil, s.failed(dapr.StateTransaction, about, err)
		}
		if r.Operations[i].SetRequest, err = setRequest(op.GetRequest()); err != nil {
			return nil, err
		}
	}
	r.TraceParent, r.TraceState = traceFields(rpc.IncomingHeader(ctx)).Current(ctx)
	if err := store.Transact(ctx, r); err != nil {
		return nil, s.failed(dapr.StateTransaction, about, err)
	}
	return &emptypb.Empty{}, nil
}

// QueryStateAlpha1 returns the items that a query selects.
func (s *service) QueryStateAlpha1(ctx context.Context, in *rtv1.QueryStateRequest) (*rtv1.QueryStateResponse, error) {
	about := dapr.Subject{Component: in.GetStoreName()}
	store, err := s.opts.Blocks.State(about.Component)
	if err != nil {
		return nil, s.failed(dapr.StateQuery, about, err)
	}
	page, err := store.Query(ctx, state.QueryRequest{Text: []byte(in.GetQuery()), Metadata: in.GetMetadata()})
	if err != nil {
		return nil, s.failed(dapr.StateQuery, about, err)
	}
	out := &rtv1.QueryStateResponse{Token: page.Token, Metadata: page.Metadata}
	for i := range page.Items {
		item := &page.Items[i]
		out.Results = append(out.Results, &rtv1.QueryStateItem{Key: strings.ToValidUTF8(item.Key, "\uFFFD"), Data: item.Value, Etag: item.ETag})
	}
	return out, nil
}

// keysOf returns the keys of items that error texts may name.
func keysOf(items []*commonv1.StateItem) []string {
	keys := make([]string, len(items))
	for i, item := range items {
		keys[i] = item.GetKey()
	}
	return keys
}

// contentType is the entry of an item's metadata that says what its value is.
const contentType = "contentType"

// setRequest returns what an item asks to store.
func setRequest(item *commonv1.StateItem) (state.SetRequest, error) {
	r := state.SetRequest{Key: item.GetKey(), Value: item.GetValue(), ETag: item.GetEtag().GetValue(), Metadata: item.GetMetadata()}
	if r.Metadata[contentType] == "application/json" && !json.Valid(r.Value) {
		return r, dapr.Invalid("the value of key %q is not JSON, as its metadata contentType says", r.Key)
	}
	var err error
	r.Concurrency, r.Consistency, err = options(item.GetOptions())
	return r, err
}

func options(o *commonv1.StateOptions) (state.Concurrency, state.Consistency, error) {
	level, err := consistency(o.GetConsistency())
	if err != nil {
		return 0, 0, err
	}
	switch o.GetConcurrency() {
	case commonv1.StateOptions_CONCURRENCY_UNSPECIFIED:
		return state.DefaultConcurrency, level, nil
	case commonv1.StateOptions_CONCURRENCY_FIRST_WRITE:
		return state.FirstWrite, level, nil
	case commonv1.StateOptions_CONCURRENCY_LAST_WRITE:
		return state.LastWrite, level, nil
	}
	return 0, 0, dapr.Invalid("there is no state concurrency %d", o.GetConcurrency())
}

func consistency(c commonv1.StateOptions_StateConsistency) (state.Consistency, error) {
	switch c {
	case commonv1.StateOptions_CONSISTENCY_UNSPECIFIED:
		return state.DefaultConsistency, nil
	case commonv1.StateOptions_CONSISTENCY_EVENTUAL:
		return state.Eventual, nil
	case commonv1.StateOptions_CONSISTENCY_STRONG:
		return state.Strong, nil
	}
	return 0, dapr.Invalid("there is no state consistency %d", c)
}
