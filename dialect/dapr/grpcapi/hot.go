package grpcapi

import (
	"context"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"

	rtv1 "github.com/proa-io/proa/api/gen/dapr/proto/runtime/v1"
)

// hot returns the handlers of the methods that are called most. They do what
// generated ones do, with a request that is used again: what it holds is made
// anew for each call and may be kept.
func hot(method string) grpc.MethodHandler {
	switch method {
	case "GetState":
		return again((*service).GetState, resetMessage[*rtv1.GetStateRequest])
	case "SaveState":
		return again((*service).SaveState, func(in *rtv1.SaveStateRequest) {
			states := in.States
			proto.Reset(in)
			if cap(states) <= maxKeptStates {
				clear(states)
				in.States = states[:0]
			}
		})
	case "PublishEvent":
		return again((*service).PublishEvent, resetMessage[*rtv1.PublishEventRequest])
	}
	return nil
}

// maxKeptStates bounds the room for items that is kept for the next request.
const maxKeptStates = 64

func resetMessage[In proto.Message](in In) { proto.Reset(in) }

// again returns a handler whose requests are used again after reset.
func again[In, Out any](serve func(*service, context.Context, *In) (Out, error), reset func(*In)) grpc.MethodHandler {
	var requests sync.Pool
	return func(srv any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
		in, ok := requests.Get().(*In)
		if !ok {
			in = new(In)
		}
		if err := decode(in); err != nil {
			return nil, err // and in is as it may be
		}
		out, err := serve(srv.(*service), ctx, in) //nolint:forcetypeassert // what it is registered with
		if err != nil {
			return nil, err // which may speak of in
		}
		reset(in)
		requests.Put(in)
		return out, nil
	}
}

// empty is the answer of calls that have nothing to say. It is shared, for
// nobody changes an answer.
func (s *service) empty() *emptypb.Empty { return s.nothing }
