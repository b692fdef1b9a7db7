package appchannel

import (
	"bytes"
	"context"
	"encoding/json"
	"net/url"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"

	commonv1 "github.com/proa-io/proa/api/gen/dapr/proto/common/v1"
	rtv1 "github.com/proa-io/proa/api/gen/dapr/proto/runtime/v1"
	"github.com/proa-io/proa/block/job"
	"github.com/proa-io/proa/dialect/dapr"
	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/mesh/proxy"
)

// OnJobEvent implements [job.App]: POST at /job/{name}, or OnJobEvent and,
// where the application has only that, OnJobEventAlpha1.
//
// An HTTP application gets the JSON value that the job was scheduled with, or
// the bytes of data of another type. A status of 404, or the code NotFound or
// Unimplemented, means that it has no handler.
func (c *Channel) OnJobEvent(ctx context.Context, e job.Event) error {
	ctx, span := dapr.BeginCallback(ctx, c.opt.Tracing, "job/"+e.Name, "OnJobEvent")
	err := c.app.OnJobEvent(ctx, e)
	span.End(err)
	return err
}

// OnJobEvent implements job.App.
func (a *httpApp) OnJobEvent(ctx context.Context, ev job.Event) error {
	e := a.begin("POST", "/job/"+url.PathEscape(ev.Name))
	defer e.end()
	e.setContent(jobContent(ev.Data), typeJSON)
	e.header = appendTrace(ctx, e.header, "", "")
	e.call.Key = e.request.Target
	tried := false
	err := a.link.limited(ctx, &e.call, func(ctx context.Context) error {
		tried = true
		return e.roundTrip(ctx)
	})
	switch {
	case err != nil:
		return jobFailure(err, tried)
	case e.status == 404:
		return fault.Wrap(e.refused(), fault.NotFound, "the application has no handler for job %q", ev.Name).WithReason(job.ReasonNoHandler)
	case !e.ok():
		return e.refused()
	}
	return nil
}

// OnJobEvent implements job.App.
func (g *grpcApp) OnJobEvent(ctx context.Context, ev job.Event) error {
	c := &rpcCall{header: appendTrace(ctx, make(proxy.Header, 0, 2), "", "")}
	if ev.Data != nil {
		c.policy.Bytes = len(ev.Data.Value)
	}
	request, tried := jobRequest(ev), false
	stable := func(ctx context.Context) error {
		tried = true
		_, err := g.callback.OnJobEvent(ctx, request)
		return err
	}
	alpha := func(ctx context.Context) error {
		tried = true
		//lint:ignore SA1019 it is what older applications have
		_, err := g.alpha.OnJobEventAlpha1(ctx, request)
		return err
	}
	err := g.either(ctx, c, &g.onlyAlphaJobs, method{"OnJobEvent", stable}, method{"OnJobEventAlpha1", alpha})
	switch {
	case err == nil:
		return nil
	case isUnimplemented(err), answered(err, codes.NotFound):
		return fault.Wrap(err, fault.NotFound, "the application has no handler for job %q", ev.Name).WithReason(job.ReasonNoHandler)
	}
	return jobFailure(err, tried)
}

// jobFailure returns the error of a trigger without an answer. What the
// application cannot have seen it has not failed at.
func jobFailure(err error, tried bool) error {
	if !tried || proxy.Unsent(err) {
		return fault.Wrap(err, fault.CodeOf(err), "the application could not be called").WithReason(job.ReasonNotDelivered)
	}
	return err
}

// jobRequest returns a trigger as a gRPC application gets it.
func jobRequest(e job.Event) *rtv1.JobEventRequest {
	r := &rtv1.JobEventRequest{
		Name: valid(e.Name), Method: "job/" + valid(e.Name), HttpExtension: &commonv1.HTTPExtension{Verb: commonv1.HTTPExtension_POST},
	}
	if e.Data != nil {
		r.Data = &anypb.Any{TypeUrl: valid(e.Data.TypeURL), Value: e.Data.Value}
		r.ContentType = r.Data.GetTypeUrl()
	}
	return r
}

// jobContent returns the data of a job as an HTTP application gets it: the JSON
// value, if it was given as one, else its bytes less the white space around.
func jobContent(d *job.Data) []byte {
	if d == nil {
		return nil
	}
	a, v := anypb.Any{TypeUrl: d.TypeURL, Value: d.Value}, &structpb.Value{}
	if !a.MessageIs(v) || a.UnmarshalTo(v) != nil {
		return bytes.TrimSpace(d.Value)
	}
	if v.GetKind() == nil {
		return nil
	}
	text, err := protojson.Marshal(v)
	if err != nil { // a number that is none, which JSON cannot say
		return bytes.TrimSpace(d.Value)
	}
	var compact bytes.Buffer // the library puts spaces where it likes, and elsewhere next time
	if json.Compact(&compact, text) != nil {
		return text
	}
	return compact.Bytes()
}
