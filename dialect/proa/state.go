package proa

import (
	"context"
	"errors"
	"strconv"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	commonv1 "github.com/proa-io/proa/api/gen/dapr/proto/common/v1"
	proav1 "github.com/proa-io/proa/api/gen/proa/v1"
	"github.com/proa-io/proa/block/state"
	"github.com/proa-io/proa/fault"
)

// stateService is proa.v1.State.
type stateService struct {
	proav1.UnimplementedStateServer
	*API
}

// List returns one page of items.
func (s *stateService) List(ctx context.Context, in *proav1.StateListRequest) (*proav1.StateListResponse, error) {
	store, err := s.opts.Blocks.State(in.GetStoreName())
	if err != nil {
		return nil, err
	}
	page, err := store.List(ctx, state.ListRequest{
		Prefix: in.GetPrefix(), Token: in.GetPageToken(), Limit: int(in.GetPageSize()), Values: in.GetValues(),
	})
	if err != nil {
		return nil, err
	}
	out := &proav1.StateListResponse{NextPageToken: page.Token, Entries: make([]*proav1.StateEntry, len(page.Items))}
	for i := range page.Items {
		out.Entries[i] = entry(page.Items[i].Key, &page.Items[i].Item)
	}
	return out, nil
}

func entry(key string, item *state.Item) *proav1.StateEntry {
	e := &proav1.StateEntry{Key: valid(key), Value: item.Value, Etag: item.ETag}
	if !item.Expires.IsZero() {
		e.ExpireTime = timestamppb.New(item.Expires)
	}
	return e
}

// Watch reports changes until the caller goes away.
func (s *stateService) Watch(in *proav1.StateWatchRequest, stream grpc.ServerStreamingServer[proav1.StateWatchResponse]) error {
	store, err := s.opts.Blocks.State(in.GetStoreName())
	if err != nil {
		return err
	}
	r := state.WatchRequest{Prefix: in.GetPrefix(), Initial: in.GetInitial(), After: in.GetAfterRevision()}
	return store.Watch(stream.Context(), r, func(c state.Change) error { return stream.Send(event(&c)) })
}

func event(c *state.Change) *proav1.StateWatchResponse {
	out := &proav1.StateWatchResponse{Revision: c.Revision}
	switch c.Kind {
	case state.ItemPut:
		out.Event = &proav1.StateWatchResponse_Put{Put: entry(c.Key, &c.Item)}
	case state.ItemGone:
		out.Event = &proav1.StateWatchResponse_Deletion{Deletion: &proav1.StateDeletion{Key: valid(c.Key)}}
	default:
		out.Event = &proav1.StateWatchResponse_Synced{Synced: &proav1.StateSync{}}
	}
	return out
}

// Transact carries out all operations or none.
func (s *stateService) Transact(ctx context.Context, in *proav1.StateTransactRequest) (*proav1.StateTransactResponse, error) {
	store, err := s.opts.Blocks.State(in.GetStoreName())
	if err != nil {
		return nil, err
	}
	r := state.TransactRequest{Metadata: in.GetMetadata()}
	for i, op := range in.GetOperations() {
		o, err := operation(op)
		if err != nil {
			return nil, withDetail(fault.Wrap(err, fault.CodeOf(err), "operation %d", i), "operation", strconv.Itoa(i))
		}
		r.Operations = append(r.Operations, o)
	}
	if err := store.Transact(ctx, r); err != nil {
		if blame, ok := errors.AsType[*state.OpError](err); ok {
			err = withDetail(err, "operation", strconv.Itoa(blame.Index))
		}
		return nil, err
	}
	return &proav1.StateTransactResponse{}, nil
}

func operation(op *proav1.StateOperation) (state.Operation, error) {
	switch o := op.GetOperation().(type) {
	case *proav1.StateOperation_Upsert:
		r, err := write(o.Upsert)
		return state.Operation{SetRequest: r}, err
	case *proav1.StateOperation_Delete:
		r, err := write(o.Delete)
		return state.Operation{Delete: true, SetRequest: r}, err
	case *proav1.StateOperation_Check:
		return check(o.Check)
	}
	return state.Operation{}, badOperation("wants an upsert, a delete or a check")
}

func badOperation(text string) error {
	return fault.New(fault.InvalidArgument, "%s", text).WithReason(state.ReasonBadOperation)
}

func write(item *commonv1.StateItem) (state.SetRequest, error) {
	r := state.SetRequest{Key: item.GetKey(), Value: item.GetValue(), ETag: item.GetEtag().GetValue(), Metadata: item.GetMetadata()}
	switch c := item.GetOptions().GetConcurrency(); c {
	case commonv1.StateOptions_CONCURRENCY_UNSPECIFIED:
	case commonv1.StateOptions_CONCURRENCY_FIRST_WRITE:
		r.Concurrency = state.FirstWrite
	case commonv1.StateOptions_CONCURRENCY_LAST_WRITE:
		r.Concurrency = state.LastWrite
	default:
		return r, fault.New(fault.InvalidArgument, "there is no concurrency %d", c).WithReason(state.ReasonBadOption)
	}
	switch c := item.GetOptions().GetConsistency(); c {
	case commonv1.StateOptions_CONSISTENCY_UNSPECIFIED:
	case commonv1.StateOptions_CONSISTENCY_EVENTUAL:
		r.Consistency = state.Eventual
	case commonv1.StateOptions_CONSISTENCY_STRONG:
		r.Consistency = state.Strong
	default:
		return r, fault.New(fault.InvalidArgument, "there is no consistency %d", c).WithReason(state.ReasonBadOption)
	}
	return r, nil
}

func check(c *proav1.StateCheck) (state.Operation, error) {
	o := state.Operation{SetRequest: state.SetRequest{Key: c.GetKey()}}
	switch cond := c.GetCondition().(type) {
	case *proav1.StateCheck_Exists:
		o.Check = state.CheckAbsent
		if cond.Exists {
			o.Check = state.CheckExists
		}
	case *proav1.StateCheck_Etag:
		o.Check, o.ETag = state.CheckETag, cond.Etag
	default:
		return o, badOperation("a check wants a condition: exists or etag")
	}
	return o, nil
}
