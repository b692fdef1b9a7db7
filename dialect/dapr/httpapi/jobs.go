package httpapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"

	rtv1 "github.com/proa-io/proa/api/gen/dapr/proto/runtime/v1"
	"github.com/proa-io/proa/block/job"
	"github.com/proa-io/proa/dialect/dapr"
)

// jobs answers requests about a job.
func (c *call) jobs() {
	switch c.req.Method {
	case "POST":
		c.scheduleJob()
	case "DELETE":
		if _, ok := onJobs(c, dapr.JobDelete, &rtv1.DeleteJobRequest{Name: c.params[0]}, dapr.DeleteJob); ok {
			c.empty()
		}
	default:
		c.getJob()
	}
}

// onJobs finds the jobs and runs one of the operations on them. It reports
// whether that succeeded; if not it has answered.
func onJobs[I, O proto.Message](c *call, op dapr.Operation, in I, do func(context.Context, *job.Store, I) (O, error)) (out O, ok bool) {
	store, err := c.api.opts.Blocks.Jobs()
	if err != nil {
		c.failed(op, dapr.Subject{}, err)
		return out, false
	}
	if out, err = do(c.context(), store, in); err != nil {
		c.failed(op, dapr.Subject{Namespace: store.Namespace()}, err)
		return out, false
	}
	return out, true
}

func (c *call) scheduleJob() {
	body, ok := c.readBody()
	if !ok {
		return
	}
	in, problem := readJob(body)
	if problem != nil {
		c.fail(problem)
		return
	}
	if in.GetJob().GetName() != "" {
		c.fail(dapr.JobNameInBody(dapr.Subject{AppID: c.api.opts.AppID}))
		return
	}
	in.Job.Name = strings.TrimSpace(c.params[0])
	if _, ok := onJobs(c, dapr.JobSchedule, in, dapr.ScheduleJob); ok {
		c.empty()
	}
}

// readJob reads a request to schedule a job. It has the members of the job
// itself and "overwrite". The data can be any JSON value; it travels as a
// google.protobuf.Value.
func readJob(body []byte) (*rtv1.ScheduleJobRequest, *dapr.Error) {
	in := &rtv1.ScheduleJobRequest{Job: &rtv1.Job{}}
	if len(body) == 0 {
		return in, nil
	}
	members := map[string]json.RawMessage{}
	if err := decode(body, &members); err != nil {
		return nil, dapr.Malformed(err)
	}
	data, overwrite := members["data"], members["overwrite"]
	delete(members, "data")
	delete(members, "overwrite")
	rest, err := json.Marshal(members)
	if err != nil {
		return nil, dapr.Malformed(err)
	}
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(rest, in.GetJob()); err != nil {
		return nil, dapr.Malformed(protoError{err})
	}
	if overwrite != nil {
		if err := json.Unmarshal(overwrite, &in.Overwrite); err != nil {
			return nil, dapr.Malformed(errors.New(`"overwrite" must be true or false`))
		}
	}
	if data != nil {
		v := &structpb.Value{}
		err := protojson.Unmarshal(data, v)
		if err == nil {
			in.Job.Data, err = anypb.New(v)
		}
		if err != nil {
			return nil, dapr.Malformed(fmt.Errorf(`"data": %w`, protoError{err}))
		}
	}
	return in, nil
}

func (c *call) getJob() {
	out, ok := onJobs(c, dapr.JobGet, &rtv1.GetJobRequest{Name: c.params[0]}, dapr.GetJob)
	if !ok {
		return
	}
	body, err := jobJSON(out.GetJob())
	if err != nil {
		c.fail(&dapr.Error{HTTPStatus: 500, Tag: "ERR_INTERNAL", Message: "failed to encode response as JSON"})
		return
	}
	c.json(200, body)
}

// jobJSON writes a job in the JSON mapping of Protocol Buffers. Data of a type
// that is not known here has its bytes, in base64, as the member "value". It
// changes m.
func jobJSON(m *rtv1.Job) ([]byte, error) {
	data := m.GetData()
	m.Data = nil
	text, err := protojson.Marshal(m)
	if err != nil {
		return nil, err
	}
	members := map[string]json.RawMessage{}
	if err := json.Unmarshal(text, &members); err != nil {
		return nil, err
	}
	if data != nil {
		if members["data"], err = anyJSON(data); err != nil {
			return nil, err
		}
	}
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	err = enc.Encode(members)
	return bytes.TrimSuffix(out.Bytes(), []byte("\n")), err
}

func anyJSON(a *anypb.Any) ([]byte, error) {
	if a.GetTypeUrl() != "" {
		if text, err := protojson.Marshal(a); err == nil {
			return text, nil
		}
	}
	return json.Marshal(struct {
		Type  string `json:"@type"`
		Value []byte `json:"value"`
	}{a.GetTypeUrl(), a.GetValue()})
}
