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
	// Route, unless nil, is told where the request was sent.
	Route *proxy.Route
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
	g := sending{target: t, call: policy.Call{Key: r.Path, Bytes: len(r.Body), Idempotent: idempotent(r.Method)}}
	s.outgoing(&g.request, in, &t, r.Path)
	body := &replay{has: true, kept: r.Body}
	if len(r.Body) == 0 {
		body.kept = nil
	}
	if err := s.known(ctx, &t); err != nil {
		return nil, err
	}
	if r.Route != nil {
		g.route.Target = t.id
		defer func() { *r.Route = g.route }()
	}
	var reply *Reply
	g.way.call = &g.call
	exchange := func(ctx context.Context) error {
		g.request.Body = body.next(false)
		setTrace(ctx, &g.request)
		asked := s.asked(&t)
		defer g.way.over()
		resp, err := s.send(ctx, &g, proxy.RoundTripOptions{})
		if err != nil {
			g.call.Unsent = proxy.Unsent(err)
			return err
		}
		asked.headed(resp)
		asked.answered(resp.Status, -1)
		reply, err = readReply(resp, maxBody)
		switch {
		case err == nil:
			g.way.answered(reply.Status, -1, reply.Header)
		case fault.Is(err, fault.Unavailable):
			g.way.broke()
		}
		if err == nil && failed(&g.call, reply.Status, -1) {
			g.last = &answer{target: t.id, status: reply.Status, grpcStatus: -1}
			return g.last
		}
		return err
	}
	attempt := exchange
	if t.self && s.own != nil {
		attempt = func(ctx context.Context) error {
			return s.own.Run(ctx, &policy.Call{Caller: s.opt.AppID, Key: r.Path}, exchange)
		}
	}
	err = s.operation(t.id).Run(ctx, &g.call, attempt)
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
