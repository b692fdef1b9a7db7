//lint:file-ignore SA1019 the former names are served too

package grpcapi

import (
	"slices"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"

	commonv1 "github.com/proa-io/proa/api/gen/dapr/proto/common/v1"
	rtv1 "github.com/proa-io/proa/api/gen/dapr/proto/runtime/v1"
	"github.com/proa-io/proa/internal/leak"
)

func everyMember() *rtv1.Job {
	return &rtv1.Job{
		Name: "prune", Schedule: proto.String("@daily"), Repeats: proto.Uint32(3), DueTime: proto.String("2099-01-01T00:00:00Z"),
		Ttl: proto.String("P1Y"), Data: &anypb.Any{TypeUrl: "dapr.io/schedule/jobpayload", Value: []byte("x\x00")},
		FailurePolicy: &commonv1.JobFailurePolicy{Policy: &commonv1.JobFailurePolicy_Constant{
			Constant: &commonv1.JobFailurePolicyConstant{Interval: durationpb.New(1500 * time.Millisecond), MaxRetries: proto.Uint32(2)},
		}},
	}
}

func TestAJobIsReturnedAsItWasScheduled(t *testing.T) {
	leak.Check(t)
	c, ctx := connect(t, newWorld(t)), timeout(t)
	j := everyMember()
	must[*rtv1.ScheduleJobResponse](t)(c.ScheduleJob(ctx, &rtv1.ScheduleJobRequest{Job: j}))
	if got := must[*rtv1.GetJobResponse](t)(c.GetJob(ctx, &rtv1.GetJobRequest{Name: "prune"})); !proto.Equal(got.GetJob(), j) {
		t.Errorf("GetJob = %v", got)
	}
	drop := &rtv1.Job{Name: "drop", DueTime: proto.String("1h"), FailurePolicy: &commonv1.JobFailurePolicy{
		Policy: &commonv1.JobFailurePolicy_Drop{Drop: &commonv1.JobFailurePolicyDrop{}}}}
	must[*rtv1.ScheduleJobResponse](t)(c.ScheduleJobAlpha1(ctx, &rtv1.ScheduleJobRequest{Job: drop}))
	if got := must[*rtv1.GetJobResponse](t)(c.GetJobAlpha1(ctx, &rtv1.GetJobRequest{Name: "drop"})); !proto.Equal(got.GetJob(), drop) {
		t.Errorf("GetJobAlpha1 = %v", got)
	}
	forever := &rtv1.Job{Name: "forever", DueTime: proto.String("1h"), FailurePolicy: &commonv1.JobFailurePolicy{
		Policy: &commonv1.JobFailurePolicy_Constant{Constant: &commonv1.JobFailurePolicyConstant{}}}}
	must[*rtv1.ScheduleJobResponse](t)(c.ScheduleJob(ctx, &rtv1.ScheduleJobRequest{Job: forever}))
	if p := must[*rtv1.GetJobResponse](t)(c.GetJob(ctx, &rtv1.GetJobRequest{Name: "forever"})).GetJob().GetFailurePolicy().GetConstant(); p == nil ||
		p.MaxRetries != nil || p.GetInterval().AsDuration() != 0 {
		t.Errorf("a policy that never gives up came back as %v", p)
	}
}

func TestJobsAreListedAndRemoved(t *testing.T) {
	leak.Check(t)
	c, ctx := connect(t, newWorld(t)), timeout(t)
	names := func() (out []string) {
		for _, j := range must[*rtv1.ListJobsResponse](t)(c.ListJobs(ctx, &rtv1.ListJobsRequest{})).GetJobs() {
			out = append(out, j.GetName())
		}
		if former := must[*rtv1.ListJobsResponseAlpha1](t)(c.ListJobsAlpha1(ctx, &rtv1.ListJobsRequestAlpha1{})).GetJobs(); len(former) != len(out) {
			t.Errorf("the former name lists %v", former)
		}
		return out
	}
	for _, name := range []string{"a-1", "a-2", "b-1", "b-2", "c"} {
		must[*rtv1.ScheduleJobResponse](t)(c.ScheduleJob(ctx, &rtv1.ScheduleJobRequest{Job: &rtv1.Job{Name: name, Schedule: proto.String("@daily")}}))
	}
	if got := names(); !slices.Equal(got, []string{"a-1", "a-2", "b-1", "b-2", "c"}) {
		t.Errorf("there are %v", got)
	}
	must[*rtv1.DeleteJobsByPrefixResponse](t)(c.DeleteJobsByPrefix(ctx, &rtv1.DeleteJobsByPrefixRequest{NamePrefix: proto.String("a-")}))
	must[*rtv1.DeleteJobsByPrefixResponseAlpha1](t)(c.DeleteJobsByPrefixAlpha1(ctx, &rtv1.DeleteJobsByPrefixRequestAlpha1{NamePrefix: proto.String("b-1")}))
	for range 2 {
		must[*rtv1.DeleteJobResponse](t)(c.DeleteJob(ctx, &rtv1.DeleteJobRequest{Name: "c"}))
	}
	if got := names(); !slices.Equal(got, []string{"b-2"}) {
		t.Errorf("there are %v", got)
	}
	must[*rtv1.DeleteJobResponse](t)(c.DeleteJobAlpha1(ctx, &rtv1.DeleteJobRequest{Name: "b-2"}))
	must[*rtv1.ScheduleJobResponse](t)(c.ScheduleJob(ctx, &rtv1.ScheduleJobRequest{Job: everyMember()}))
	must[*rtv1.DeleteJobsByPrefixResponse](t)(c.DeleteJobsByPrefix(ctx, &rtv1.DeleteJobsByPrefixRequest{}))
	if got := names(); len(got) != 0 {
		t.Errorf("there are %v", got)
	}
}

func TestJobsThatCannotBeSayWhy(t *testing.T) {
	leak.Check(t)
	c, none, ctx := connect(t, newWorld(t)), connect(t, &world{}), timeout(t)
	schedule := func(c rtv1.DaprClient, change func(*rtv1.Job)) error {
		j := everyMember()
		change(j)
		_, err := c.ScheduleJob(ctx, &rtv1.ScheduleJobRequest{Job: j})
		return err
	}
	asItIs := func(*rtv1.Job) {}
	if err := schedule(c, asItIs); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		err  error
		want want
	}{
		{schedule(none, asItIs), want{codes.FailedPrecondition, "DAPR_SCHEDULER_SCHEDULE_JOB", "there is no jobs component"}},
		{schedule(c, asItIs), want{codes.AlreadyExists, "DAPR_SCHEDULER_SCHEDULE_JOB", "job already exists"}},
		{schedule(c, func(j *rtv1.Job) { j.Name = "" }), want{codes.InvalidArgument, "DAPR_SCHEDULER_JOB_NAME_EMPTY", "Name is empty"}},
		{schedule(c, func(j *rtv1.Job) { j.Schedule, j.DueTime = nil, nil }), want{codes.InvalidArgument, "DAPR_SCHEDULER_SCHEDULE_EMPTY", "Schedule is empty"}},
		{schedule(c, func(j *rtv1.Job) { j.Schedule = proto.String("never") }), want{codes.InvalidArgument, "DAPR_SCHEDULER_SCHEDULE_JOB", "schedule:"}},
		{schedule(c, func(j *rtv1.Job) { j.FailurePolicy.GetConstant().Interval.Nanos = -5 }),
			want{codes.InvalidArgument, "DAPR_SCHEDULER_SCHEDULE_JOB", "failurePolicy"}},
	} {
		test.want.check(t, test.err)
	}
	_, err := c.ScheduleJob(ctx, &rtv1.ScheduleJobRequest{})
	want{codes.InvalidArgument, "DAPR_SCHEDULER_EMPTY", "Job is empty"}.check(t, err)
	_, err = c.GetJob(ctx, &rtv1.GetJobRequest{})
	want{codes.InvalidArgument, "DAPR_SCHEDULER_JOB_NAME_EMPTY", "Name is empty"}.check(t, err)
	_, err = c.DeleteJob(ctx, &rtv1.DeleteJobRequest{})
	want{codes.InvalidArgument, "DAPR_SCHEDULER_JOB_NAME_EMPTY", "Name is empty"}.check(t, err)
	_, err = c.GetJob(ctx, &rtv1.GetJobRequest{Name: "other"})
	want{codes.Internal, "DAPR_SCHEDULER_GET_JOB", "job not found: other"}.check(t, err)
	if info := errorInfo(status.Convert(err)).GetMetadata(); info["appID"] != "shop" || info["namespace"] != "default" {
		t.Errorf("the details are %v", info)
	}
	_, err = none.ListJobs(ctx, &rtv1.ListJobsRequest{})
	want{codes.FailedPrecondition, "DAPR_SCHEDULER_LIST_JOBS", "there is no jobs component"}.check(t, err)
	_, err = none.DeleteJobsByPrefix(ctx, &rtv1.DeleteJobsByPrefixRequest{})
	want{codes.FailedPrecondition, "DAPR_SCHEDULER_DELETE_JOB", "there is no jobs component"}.check(t, err)
}
