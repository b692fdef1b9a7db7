package grpcapi

import (
	"context"

	rtv1 "github.com/proa-io/proa/api/gen/dapr/proto/runtime/v1"
	"github.com/proa-io/proa/block/job"
	"github.com/proa-io/proa/dialect/dapr"
)

// onJobs finds the jobs and runs one of the operations on them.
func onJobs[I, O any](ctx context.Context, s *service, op dapr.Operation, in I,
	do func(context.Context, *job.Store, I) (*O, error)) (*O, error) {
	store, err := s.opts.Blocks.Jobs()
	if err != nil {
		return nil, s.failed(op, dapr.Subject{}, err)
	}
	out, err := do(ctx, store, in)
	if err != nil {
		return nil, s.failed(op, dapr.Subject{Namespace: store.Namespace()}, err)
	}
	return out, nil
}

// ScheduleJob stores a job of this application.
func (s *service) ScheduleJob(ctx context.Context, in *rtv1.ScheduleJobRequest) (*rtv1.ScheduleJobResponse, error) {
	return onJobs(ctx, s, dapr.JobSchedule, in, dapr.ScheduleJob)
}

// GetJob returns a job.
func (s *service) GetJob(ctx context.Context, in *rtv1.GetJobRequest) (*rtv1.GetJobResponse, error) {
	return onJobs(ctx, s, dapr.JobGet, in, dapr.GetJob)
}

// DeleteJob removes a job.
func (s *service) DeleteJob(ctx context.Context, in *rtv1.DeleteJobRequest) (*rtv1.DeleteJobResponse, error) {
	return onJobs(ctx, s, dapr.JobDelete, in, dapr.DeleteJob)
}

// DeleteJobsByPrefix removes the jobs whose names begin with a prefix.
func (s *service) DeleteJobsByPrefix(ctx context.Context, in *rtv1.DeleteJobsByPrefixRequest) (*rtv1.DeleteJobsByPrefixResponse, error) {
	return onJobs(ctx, s, dapr.JobDelete, in, dapr.DeleteJobsByPrefix)
}

// ListJobs returns all jobs of this application.
func (s *service) ListJobs(ctx context.Context, in *rtv1.ListJobsRequest) (*rtv1.ListJobsResponse, error) {
	return onJobs(ctx, s, dapr.JobList, in, dapr.ListJobs)
}

// ScheduleJobAlpha1 is ScheduleJob under its former name.
func (s *service) ScheduleJobAlpha1(ctx context.Context, in *rtv1.ScheduleJobRequest) (*rtv1.ScheduleJobResponse, error) {
	return s.ScheduleJob(ctx, in)
}

// GetJobAlpha1 is GetJob under its former name.
func (s *service) GetJobAlpha1(ctx context.Context, in *rtv1.GetJobRequest) (*rtv1.GetJobResponse, error) {
	return s.GetJob(ctx, in)
}

// DeleteJobAlpha1 is DeleteJob under its former name.
func (s *service) DeleteJobAlpha1(ctx context.Context, in *rtv1.DeleteJobRequest) (*rtv1.DeleteJobResponse, error) {
	return s.DeleteJob(ctx, in)
}

// DeleteJobsByPrefixAlpha1 is DeleteJobsByPrefix in its former form.
func (s *service) DeleteJobsByPrefixAlpha1(ctx context.Context, in *rtv1.DeleteJobsByPrefixRequestAlpha1) (*rtv1.DeleteJobsByPrefixResponseAlpha1, error) {
	if _, err := s.DeleteJobsByPrefix(ctx, &rtv1.DeleteJobsByPrefixRequest{NamePrefix: in.NamePrefix}); err != nil {
		return nil, err
	}
	return &rtv1.DeleteJobsByPrefixResponseAlpha1{}, nil
}

// ListJobsAlpha1 is ListJobs in its former form.
func (s *service) ListJobsAlpha1(ctx context.Context, _ *rtv1.ListJobsRequestAlpha1) (*rtv1.ListJobsResponseAlpha1, error) {
	out, err := s.ListJobs(ctx, &rtv1.ListJobsRequest{})
	if err != nil {
		return nil, err
	}
	return &rtv1.ListJobsResponseAlpha1{Jobs: out.GetJobs()}, nil
}
