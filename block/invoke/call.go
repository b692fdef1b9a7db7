package invoke

import (
	"context"
	"errors"
	"io"

	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/mesh/proxy"
	"github.com/proa-io/proa/policy"
)

// Request is an invocation whose content is at hand, for dialects that have it
// as a message.
type Request struct {
	Method string
	Path   string // path and optional query
	Header proxy.Header
	Body   []byte
}

// Reply is the answer to a Request, whatever its status.
type Reply struct {
	Status  int
	Header  proxy.Header
	Body    []byte
	Trailer proxy.Header
}

// Call invokes id and returns the whole answer, of at most maxBody bytes. Any
// status the application answers with is a Reply, not an error.
func (s *Service) Call(ctx context.Context, id string, r Request, maxBody int64) (*Reply, error) {
	t, err := s.resolve(id)
	if err != nil {
		return nil, err
	}
	in := &proxy.Request{Method: r.Method, Header: r.Header, ContentLength: int64(len(r.Body))}
	out := &proxy.Request{}
	s.outgoing(out, in, &t, r.Path)
	body := &replay{has: true, kept: r.Body}
	if len(r.Body) == 0 {
		body.kept = nil
	}
	if err := s.known(ctx, &t); err != nil {
		return nil, err
	}
	call := policy.Call{Key: r.Path, Bytes: len(r.Body), Idempotent: idempotent(r.Method)}
	var reply *Reply
	w := way{call: &call}
	exchange := func(ctx context.Context) error {
		out.Body = body.next(false)
		setTrace(ctx, out)
		asked := s.asked(&t)
		defer w.over()
		resp, err := s.send(ctx, &t, out, &w, proxy.RoundTripOptions{})
		if err != nil {
			call.Unsent = proxy.Unsent(err)
			return err
		}
		asked.headed(resp)
		asked.answered(resp.Status, -1)
		reply, err = readReply(resp, maxBody)
		switch {
		case err == nil:
			w.answered(reply.Status, -1, reply.Header)
		case fault.Is(err, fault.Unavailable):
			w.broke()
		}
		if err == nil && failed(&call, reply.Status, -1) {
			return &answer{target: t.id, status: reply.Status, grpcStatus: -1}
		}
		return err
	}
	attempt := exchange
	if t.self && s.own != nil {
		attempt = func(ctx context.Context) error {
			return s.own.Run(ctx, &policy.Call{Caller: s.opt.AppID, Key: r.Path}, exchange)
		}
	}
	err = s.operation(t.id).Run(ctx, &call, attempt)
	if _, ok := errors.AsType[*answer](err); ok {
		return reply, nil
	}
	if err != nil {
		return nil, err
	}
	return reply, nil
}

func readReply(resp *proxy.Response, maxBody int64) (*Reply, error) {
	if resp.Upgraded != nil {
		_ = resp.Upgraded.Close()
		return nil, fault.New(fault.Internal, "the application switched protocols, which was not asked for")
	}
	defer resp.Body.Close()
	reply := &Reply{Status: resp.Status}
	reply.Header = append(reply.Header, resp.Header...)
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxBody+1))
	if err != nil {
		return nil, fault.Wrap(err, fault.Unavailable, "the answer broke off")
	}
	if int64(len(body)) > maxBody {
		return nil, fault.New(fault.ResourceExhausted, "the answer is larger than %d bytes, the most allowed", maxBody)
	}
	reply.Body = body
	if resp.Trailer != nil {
		reply.Trailer = append(reply.Trailer, *resp.Trailer...)
	}
	return reply, nil
}
