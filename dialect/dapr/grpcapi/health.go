package grpcapi

import (
	"context"
	"time"

	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	rtv1 "github.com/proa-io/proa/api/gen/dapr/proto/runtime/v1"
)

// health is the standard health service: it tells whether calls of the
// application can be served, for the whole process and for the Dapr service.
type health struct {
	healthpb.UnimplementedHealthServer
	*API
}

// watchInterval is how often a watch looks again.
const watchInterval = time.Second

func (h *health) of(service string) healthpb.HealthCheckResponse_ServingStatus {
	switch {
	case service != "" && service != rtv1.Dapr_ServiceDesc.ServiceName:
		return healthpb.HealthCheckResponse_SERVICE_UNKNOWN
	case len(h.opts.Blocks.NotReady(true)) > 0:
		return healthpb.HealthCheckResponse_NOT_SERVING
	}
	return healthpb.HealthCheckResponse_SERVING
}

// Check tells how a service does.
func (h *health) Check(_ context.Context, in *healthpb.HealthCheckRequest) (*healthpb.HealthCheckResponse, error) {
	st := h.of(in.GetService())
	if st == healthpb.HealthCheckResponse_SERVICE_UNKNOWN {
		return nil, status.Errorf(codes.NotFound, "there is no service %q", in.GetService())
	}
	return &healthpb.HealthCheckResponse{Status: st}, nil
}

// List tells how every service does.
func (h *health) List(context.Context, *healthpb.HealthListRequest) (*healthpb.HealthListResponse, error) {
	st := &healthpb.HealthCheckResponse{Status: h.of("")}
	return &healthpb.HealthListResponse{Statuses: map[string]*healthpb.HealthCheckResponse{
		"": st, rtv1.Dapr_ServiceDesc.ServiceName: st,
	}}, nil
}

// Watch tells how a service does, now and whenever that has changed.
func (h *health) Watch(in *healthpb.HealthCheckRequest, out healthpb.Health_WatchServer) error {
	tick := time.NewTicker(watchInterval)
	defer tick.Stop()
	last := healthpb.HealthCheckResponse_UNKNOWN
	for {
		if st := h.of(in.GetService()); st != last {
			if err := out.Send(&healthpb.HealthCheckResponse{Status: st}); err != nil {
				return err
			}
			last = st
		}
		select {
		case <-tick.C:
		case <-h.stop:
			return errStopping()
		case <-out.Context().Done():
			return out.Context().Err()
		}
	}
}
