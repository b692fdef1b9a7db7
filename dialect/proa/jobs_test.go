package proa

import (
	"fmt"
	"testing"

	proav1 "github.com/proa-io/proa/api/gen/proa/v1"
	"github.com/proa-io/proa/block/job"
)

func TestJobsAreListedWithWhenTheyAreDue(t *testing.T) {
	w := newWorld(t)
	addr := serve(t, New(Options{Blocks: w}))
	three := uint32(3)
	for _, j := range []job.Job{
		{Name: "b-two", Schedule: "@yearly", DueTime: "2098-01-01T00:00:00Z", Repeats: &three},
		{Name: "b-one", DueTime: "2099-01-01T00:00:00Z", Data: &job.Data{TypeURL: "example.com/unknown", Value: []byte("\xff")}},
		{Name: "a", DueTime: "1h"},
	} {
		if err := w.jobs.Schedule(t.Context(), &j, false); err != nil {
			t.Fatal(err)
		}
	}
	code, _, body := post(t, "http://"+addr+"/proa.v1.Jobs/List", `{"prefix":"b-"}`)
	want := `{"jobs":[{"name":"b-one","dueTime":"2099-01-01T00:00:00Z"},` +
		`{"name":"b-two","schedule":"@yearly","repeats":3,"dueTime":"2098-01-01T00:00:00Z"}]}`
	if code != 200 || body != want {
		t.Errorf("%d %s, want %s", code, body, want)
	}
	all, err := proav1.NewJobsClient(dial(t, addr)).List(t.Context(), &proav1.JobsListRequest{})
	if err != nil || len(all.GetJobs()) != 3 || fmt.Sprint(all.GetJobs()[0].GetName(), all.GetJobs()[1].GetName()) != "ab-one" {
		t.Errorf("List = %v, %v", all, err)
	}
}
