package grpcapi

import (
	"context"
	"strings"
	"time"

	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/emptypb"

	rtv1 "github.com/proa-io/proa/api/gen/dapr/proto/runtime/v1"
	"github.com/proa-io/proa/block/binding"
	"github.com/proa-io/proa/dialect/dapr"
	"github.com/proa-io/proa/mesh/rpc"
)

// InvokeBinding carries out an operation of an output binding. What the binding
// says of its answer is also in the header, even when it failed.
func (s *service) InvokeBinding(ctx context.Context, in *rtv1.InvokeBindingRequest) (*rtv1.InvokeBindingResponse, error) {
	about := dapr.Subject{Component: in.GetName()}
	b, err := s.opts.Blocks.Binding(about.Component)
	if err != nil {
		return nil, s.failed(dapr.InvokeBinding, about, err)
	}
	answer, err := b.Invoke(ctx, binding.Request{Operation: in.GetOperation(), Data: in.GetData(), Metadata: bindingMetadata(ctx, in.GetMetadata())})
	header := make(metadata.MD, len(answer.Metadata))
	for k, v := range answer.Metadata {
		header.Append("metadata."+k, v)
	}
	setHeader(ctx, header)
	if err != nil {
		return nil, s.failed(dapr.InvokeBinding, about, err)
	}
	return &rtv1.InvokeBindingResponse{Data: answer.Data, Metadata: answer.Metadata}, nil
}

// bindingMetadata returns the metadata of a request together with that of the
// call: its trace, and whatever else the caller has sent.
func bindingMetadata(ctx context.Context, given map[string]string) map[string]string {
	came := rpc.IncomingHeader(ctx)
	out := make(map[string]string, len(given)+len(came))
	for _, f := range came {
		if name := strings.ToLower(f.Name); !ofSidecar(name) && !strings.HasSuffix(name, "-bin") {
			out[name] = f.Value
		}
	}
	if parent, state := traceFields(came).Current(ctx); parent != "" {
		out[dapr.TraceParent] = parent
		if state != "" {
			out[dapr.TraceState] = state
		}
	}
	for k, v := range given {
		out[k] = v
	}
	return out
}

// GetSecret returns the values of one secret.
func (s *service) GetSecret(ctx context.Context, in *rtv1.GetSecretRequest) (*rtv1.GetSecretResponse, error) {
	about := dapr.Subject{Component: in.GetStoreName(), Key: in.GetKey()}
	store, err := s.opts.Blocks.Secret(about.Component)
	if err != nil {
		return nil, s.failed(dapr.SecretGet, about, err)
	}
	values, err := store.Get(ctx, about.Key, in.GetMetadata())
	if err != nil {
		return nil, s.failed(dapr.SecretGet, about, err)
	}
	return &rtv1.GetSecretResponse{Data: values}, nil
}

// GetBulkSecret returns every secret that the application may read.
func (s *service) GetBulkSecret(ctx context.Context, in *rtv1.GetBulkSecretRequest) (*rtv1.GetBulkSecretResponse, error) {
	about := dapr.Subject{Component: in.GetStoreName()}
	store, err := s.opts.Blocks.Secret(about.Component)
	if err != nil {
		return nil, s.failed(dapr.SecretBulkGet, about, err)
	}
	all, err := store.List(ctx, in.GetMetadata())
	if err != nil {
		return nil, s.failed(dapr.SecretBulkGet, about, err)
	}
	out := &rtv1.GetBulkSecretResponse{Data: make(map[string]*rtv1.SecretResponse, len(all))}
	for name, values := range all {
		out.Data[name] = &rtv1.SecretResponse{Secrets: values}
	}
	return out, nil
}

// TryLockAlpha1 takes a lock if nobody holds it.
func (s *service) TryLockAlpha1(ctx context.Context, in *rtv1.TryLockRequest) (*rtv1.TryLockResponse, error) {
	about := dapr.Subject{Component: in.GetStoreName(), Key: in.GetResourceId(), Owner: in.GetLockOwner()}
	store, err := s.opts.Blocks.Lock(about.Component)
	if err != nil {
		return nil, s.failed(dapr.TryLock, about, err)
	}
	_, got, err := store.TryLock(ctx, about.Key, about.Owner, time.Duration(in.GetExpiryInSeconds())*time.Second)
	if err != nil {
		return nil, s.failed(dapr.TryLock, about, err)
	}
	return &rtv1.TryLockResponse{Success: got}, nil
}

// UnlockAlpha1 gives a lock back.
func (s *service) UnlockAlpha1(ctx context.Context, in *rtv1.UnlockRequest) (*rtv1.UnlockResponse, error) {
	about := dapr.Subject{Component: in.GetStoreName(), Key: in.GetResourceId(), Owner: in.GetLockOwner()}
	store, err := s.opts.Blocks.Lock(about.Component)
	if err != nil {
		return nil, s.failed(dapr.Unlock, about, err)
	}
	st, err := store.Unlock(ctx, about.Key, about.Owner)
	if err != nil {
		return nil, s.failed(dapr.Unlock, about, err)
	}
	return &rtv1.UnlockResponse{Status: rtv1.UnlockResponse_Status(st)}, nil
}

// GetMetadata tells what the process is and has.
func (s *service) GetMetadata(context.Context, *rtv1.GetMetadataRequest) (*rtv1.GetMetadataResponse, error) {
	m := s.opts.Blocks.Metadata()
	return m.Proto(), nil
}

// SetMetadata keeps an entry of the extended metadata.
func (s *service) SetMetadata(_ context.Context, in *rtv1.SetMetadataRequest) (*emptypb.Empty, error) {
	s.opts.Blocks.SetMetadata(in.GetKey(), in.GetValue())
	return &emptypb.Empty{}, nil
}

// forceEntry is the metadata entry that asks to stop without delay.
const forceEntry = "dapr-force-shutdown"

// Shutdown stops the process, after it has answered.
func (s *service) Shutdown(ctx context.Context, _ *rtv1.ShutdownRequest) (*emptypb.Empty, error) {
	s.opts.Blocks.Shutdown(strings.EqualFold(rpc.IncomingHeader(ctx).Get(forceEntry), "true"))
	return &emptypb.Empty{}, nil
}
