package proa

import (
	"context"
	"strings"

	"google.golang.org/protobuf/types/known/timestamppb"

	proav1 "github.com/proa-io/proa/api/gen/proa/v1"
)

// jobsService is proa.v1.Jobs.
type jobsService struct {
	proav1.UnimplementedJobsServer
	*API
}

// List returns jobs and when they are due.
func (s *jobsService) List(ctx context.Context, in *proav1.JobsListRequest) (*proav1.JobsListResponse, error) {
	store, err := s.opts.Blocks.Jobs()
	if err != nil {
		return nil, err
	}
	jobs, err := store.List(ctx)
	if err != nil {
		return nil, err
	}
	out := &proav1.JobsListResponse{}
	for i := range jobs {
		j := &jobs[i]
		if !strings.HasPrefix(j.Name, in.GetPrefix()) {
			continue
		}
		e := &proav1.JobsEntry{Name: j.Name, Schedule: j.Schedule, Triggered: j.Triggered, DueTime: timestamppb.New(j.Due)}
		if j.Repeats != nil {
			e.Repeats = *j.Repeats
		}
		out.Jobs = append(out.Jobs, e)
	}
	return out, nil
}
