package main

import (
	"context"

	"google.golang.org/protobuf/types/known/anypb"

	"github.com/dapr/go-sdk/client"
	"github.com/dapr/go-sdk/service/common"
)

// listenToJobs adds the handler of a job. The SDK has one for gRPC only.
func (a *app) listenToJobs() {
	if a.protocol != "grpc" {
		return
	}
	chores := a.inboxes.inbox("chores")
	err := a.service.AddJobEventHandler("sweep", func(_ context.Context, in *common.JobEvent) error {
		chores <- in
		return nil
	})
	if err != nil {
		panic(err)
	}
}

func (a *app) checkJobs() {
	payload := &anypb.Any{TypeUrl: "example.com/chore", Value: []byte("under the bed")}
	a.check("jobs: one is scheduled, read and deleted", func(ctx context.Context, t *t) {
		t.ok(a.client.ScheduleJobAlpha1(ctx, &client.Job{Name: "dust", Schedule: "@daily", Repeats: 2, Data: payload}))
		got, err := a.client.GetJobAlpha1(ctx, "dust")
		t.ok(err)
		t.equal([]any{got.Name, got.Schedule, got.Repeats, string(got.Data.GetValue())}, []any{"dust", "@daily", uint32(2), "under the bed"}, "job")
		t.refused(a.client.ScheduleJobAlpha1(ctx, &client.Job{Name: "dust", DueTime: "1h"}), "code = AlreadyExists")
		t.ok(a.client.DeleteJobAlpha1(ctx, "dust"))
		_, err = a.client.GetJobAlpha1(ctx, "dust")
		t.refused(err, "failed to get job due to")
	})
	a.check("jobs: a bad one is refused", func(ctx context.Context, t *t) {
		t.refused(a.client.ScheduleJobAlpha1(ctx, &client.Job{Name: "dust"}), "code = InvalidArgument", "Schedule is empty")
		t.refused(a.client.ScheduleJobAlpha1(ctx, &client.Job{DueTime: "1h"}), "code = InvalidArgument", "Name is empty")
		t.refused(a.client.ScheduleJobAlpha1(ctx, &client.Job{Name: "dust", DueTime: "later"}), "code = InvalidArgument")
	})
	if a.protocol != "grpc" {
		return
	}
	a.check("jobs: a schedule calls the application as often as it says", func(ctx context.Context, t *t) {
		t.ok(a.client.ScheduleJobAlpha1(ctx, &client.Job{Name: "sweep", Schedule: "@every 100ms", Repeats: 2, Data: payload}))
		for range 2 {
			got := take[*common.JobEvent](ctx, t, a.inboxes["chores"])
			t.equal([]string{got.JobType, string(got.Data)}, []string{"sweep", "under the bed"}, "event")
		}
		t.eventually(ctx, true, "the job is over", func() any {
			_, err := a.client.GetJobAlpha1(ctx, "sweep")
			return err != nil
		})
	})
}
