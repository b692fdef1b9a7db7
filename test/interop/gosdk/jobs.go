package main

import (
	"context"
	"errors"
	"time"

	"google.golang.org/protobuf/types/known/anypb"

	"github.com/dapr/go-sdk/client"
	"github.com/dapr/go-sdk/service/common"
)

// listenToJobs adds the handlers of jobs. Those of the SDK are for gRPC only; over
// HTTP a job is an invocation like any other.
func (a *app) listenToJobs() {
	add := func(name string, handle common.JobEventHandler) {
		err := errors.ErrUnsupported
		if a.protocol == "grpc" {
			err = a.service.AddJobEventHandler(name, handle)
		} else {
			err = a.service.AddServiceInvocationHandler("/job/"+name, func(ctx context.Context, in *common.InvocationEvent) (*common.Content, error) {
				return nil, handle(ctx, &common.JobEvent{JobType: name, Data: in.Data})
			})
		}
		if err != nil {
			panic(err)
		}
	}
	chores := a.inboxes.inbox("chores")
	add("sweep", func(_ context.Context, in *common.JobEvent) error {
		chores <- in
		return nil
	})
	attempts, retried := 0, a.inboxes.inbox("retried")
	add("retried", func(context.Context, *common.JobEvent) error {
		attempts++
		retried <- attempts
		if attempts < 3 {
			return errors.New("not yet")
		}
		return nil
	})
}

func (a *app) checkJobs() {
	over := func(ctx context.Context, t *t, name string) {
		t.eventually(ctx, true, "the job is over", func() any {
			_, err := a.client.GetJobAlpha1(ctx, name)
			return err != nil
		})
	}
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
	a.check("jobs: a schedule calls the application as often as it says", func(ctx context.Context, t *t) {
		t.ok(a.client.ScheduleJobAlpha1(ctx, &client.Job{Name: "sweep", Schedule: "@every 100ms", Repeats: 2, Data: payload}))
		for range 2 {
			got := take[*common.JobEvent](ctx, t, a.inboxes["chores"])
			t.equal([]string{got.JobType, string(got.Data)}, []string{"sweep", "under the bed"}, "event")
		}
		over(ctx, t, "sweep")
	})
	a.check("jobs: at its due time one calls the application once", func(ctx context.Context, t *t) {
		t.ok(a.client.ScheduleJobAlpha1(ctx, &client.Job{Name: "sweep", DueTime: time.Now().Add(100 * time.Millisecond).Format(time.RFC3339Nano), Data: payload}))
		t.equal(string(take[*common.JobEvent](ctx, t, a.inboxes["chores"]).Data), "under the bed", "event")
		over(ctx, t, "sweep")
	})
	a.check("jobs: one that fails is triggered again", func(ctx context.Context, t *t) {
		t.ok(a.client.ScheduleJobAlpha1(ctx, &client.Job{Name: "retried", DueTime: "10ms"}))
		for attempt := 1; attempt <= 3; attempt++ {
			t.equal(take[int](ctx, t, a.inboxes["retried"]), attempt, "attempt")
		}
		over(ctx, t, "retried")
	})
}
