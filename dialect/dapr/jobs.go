package dapr

import (
	"context"
	"net/http"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"

	commonv1 "github.com/proa-io/proa/api/gen/dapr/proto/common/v1"
	rtv1 "github.com/proa-io/proa/api/gen/dapr/proto/runtime/v1"
	"github.com/proa-io/proa/block/job"
	"github.com/proa-io/proa/fault"
)

// reasonNoJob marks a request to schedule that holds no job.
const reasonNoJob fault.Reason = "dapr.no_job"

// ScheduleJob carries out a request to schedule a job.
func ScheduleJob(ctx context.Context, s *job.Store, in *rtv1.ScheduleJobRequest) (*rtv1.ScheduleJobResponse, error) {
	m := in.GetJob()
	if m == nil {
		return nil, fault.New(fault.InvalidArgument, "Job is empty").WithReason(reasonNoJob)
	}
	j, err := jobOf(m)
	if err != nil {
		return nil, err
	}
	if err := s.Schedule(ctx, j, in.GetOverwrite()); err != nil {
		return nil, err
	}
	return &rtv1.ScheduleJobResponse{}, nil
}

// jobOf reads a job.
func jobOf(m *rtv1.Job) (*job.Job, error) {
	j := &job.Job{
		Name: m.GetName(), Schedule: m.GetSchedule(), DueTime: m.GetDueTime(), Repeats: m.Repeats, TTL: m.GetTtl(),
	}
	if a := m.GetData(); a != nil {
		j.Data = &job.Data{TypeURL: a.GetTypeUrl(), Value: a.GetValue()}
	}
	switch p := m.GetFailurePolicy().GetPolicy().(type) {
	case *commonv1.JobFailurePolicy_Drop:
		j.FailurePolicy = &job.FailurePolicy{Drop: true}
	case *commonv1.JobFailurePolicy_Constant:
		interval := p.Constant.GetInterval()
		if interval != nil {
			if err := interval.CheckValid(); err != nil {
				return nil, fault.Wrap(err, fault.InvalidArgument, "failurePolicy: the interval is no duration").
					WithReason(job.ReasonFailurePolicy)
			}
		}
		j.FailurePolicy = &job.FailurePolicy{Interval: interval.AsDuration(), MaxRetries: p.Constant.MaxRetries}
	}
	return j, nil
}

// jobMessage writes a job.
func jobMessage(j *job.Job) *rtv1.Job {
	m := &rtv1.Job{
		Name: j.Name, Schedule: optional(j.Schedule), DueTime: optional(j.DueTime), Repeats: j.Repeats, Ttl: optional(j.TTL),
	}
	if d := j.Data; d != nil {
		m.Data = &anypb.Any{TypeUrl: d.TypeURL, Value: d.Value}
	}
	switch p := j.FailurePolicy; {
	case p == nil:
	case p.Drop:
		m.FailurePolicy = &commonv1.JobFailurePolicy{Policy: &commonv1.JobFailurePolicy_Drop{Drop: &commonv1.JobFailurePolicyDrop{}}}
	default:
		m.FailurePolicy = &commonv1.JobFailurePolicy{Policy: &commonv1.JobFailurePolicy_Constant{
			Constant: &commonv1.JobFailurePolicyConstant{Interval: durationpb.New(p.Interval), MaxRetries: p.MaxRetries},
		}}
	}
	return m
}

func optional(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

// GetJob carries out a request for a job.
func GetJob(ctx context.Context, s *job.Store, in *rtv1.GetJobRequest) (*rtv1.GetJobResponse, error) {
	j, err := s.Get(ctx, in.GetName())
	if err != nil {
		return nil, err
	}
	return &rtv1.GetJobResponse{Job: jobMessage(&j)}, nil
}

// DeleteJob carries out a request to remove a job.
func DeleteJob(ctx context.Context, s *job.Store, in *rtv1.DeleteJobRequest) (*rtv1.DeleteJobResponse, error) {
	if err := s.Delete(ctx, in.GetName()); err != nil {
		return nil, err
	}
	return &rtv1.DeleteJobResponse{}, nil
}

// DeleteJobsByPrefix carries out a request to remove jobs.
func DeleteJobsByPrefix(ctx context.Context, s *job.Store, in *rtv1.DeleteJobsByPrefixRequest) (*rtv1.DeleteJobsByPrefixResponse, error) {
	if err := s.DeletePrefix(ctx, in.GetNamePrefix()); err != nil {
		return nil, err
	}
	return &rtv1.DeleteJobsByPrefixResponse{}, nil
}

// ListJobs carries out a request for all jobs.
func ListJobs(ctx context.Context, s *job.Store, _ *rtv1.ListJobsRequest) (*rtv1.ListJobsResponse, error) {
	jobs, err := s.List(ctx)
	if err != nil {
		return nil, err
	}
	out := &rtv1.ListJobsResponse{Jobs: make([]*rtv1.Job, len(jobs))}
	for i := range jobs {
		out.Jobs[i] = jobMessage(&jobs[i])
	}
	return out, nil
}

// jobError returns an error about a job. Its tag is its reason.
func jobError(s Subject, status int, code codes.Code, reason, message string) *Error {
	e := &Error{HTTPStatus: status, Code: code, Tag: "DAPR_SCHEDULER_" + reason, Reason: "DAPR_SCHEDULER_" + reason, Message: message}
	e.Info = map[string]string{"appID": s.AppID}
	if s.Namespace != "" {
		e.Info["namespace"] = s.Namespace
	}
	return e
}

func describeJob(op Operation, s Subject, reason fault.Reason, err error) *Error {
	switch reason {
	case reasonNoJob:
		return jobError(s, http.StatusBadRequest, codes.InvalidArgument, "EMPTY", "Job is empty")
	case job.ReasonNameEmpty:
		return jobError(s, http.StatusBadRequest, codes.InvalidArgument, "JOB_NAME_EMPTY", "Name is empty")
	case job.ReasonScheduleEmpty:
		return jobError(s, http.StatusBadRequest, codes.InvalidArgument, "SCHEDULE_EMPTY", "Schedule is empty")
	case job.ReasonExists:
		return operationError(op, s, http.StatusConflict, codes.AlreadyExists, detail(err))
	}
	return nil
}
