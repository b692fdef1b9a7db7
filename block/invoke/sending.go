package invoke

import (
	"context"
	"errors"
	"strconv"

	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/mesh/discovery"
	"github.com/proa-io/proa/mesh/proxy"
	"github.com/proa-io/proa/policy"
)

// sending is one request over all its attempts.
type sending struct {
	target  target
	request proxy.Request
	call    policy.Call
	way     way
	route   proxy.Route
	last    error // what the attempt before came to; nil for none
}

// A Witness is an exchange that wants to know where it was passed on to.
type Witness interface {
	// Passed is called before Receive returns.
	Passed(proxy.Route)
}

// to notes that the request is sent to an address.
func (g *sending) to(upstream string) {
	if g.last != nil {
		g.route.Retried = appendReason(g.route.Retried, g.last)
		g.last = nil
	}
	g.route.Attempts++
	g.route.Upstream = upstream
}

// maxReasons bounds the text of the reasons for more than one attempt.
const maxReasons = 96

// appendReason adds why an attempt failed to the reasons there are: what an
// application has answered, or the reason or else the code of a failure.
func appendReason(text string, err error) string {
	reason := string(fault.ReasonOf(err))
	if a, ok := errors.AsType[*answer](err); ok && a.grpcStatus >= 0 {
		reason = "grpc_" + strconv.Itoa(a.grpcStatus)
	} else if ok {
		reason = "http_" + strconv.Itoa(a.status)
	}
	if reason == "" {
		reason = fault.CodeOf(err).String()
	}
	if text == "" {
		return reason
	}
	if len(text)+1+len(reason) > maxReasons {
		return text
	}
	return text + "," + reason
}

// send makes one attempt.
func (s *Service) send(ctx context.Context, g *sending, o proxy.RoundTripOptions) (resp *proxy.Response, err error) {
	if err := s.tellDeadline(ctx, &g.request, &g.call, g.call.Attempt > 1); err != nil {
		return nil, err
	}
	defer func() { g.last = err }()
	switch {
	case g.target.endpoint != nil:
		g.to(g.target.endpoint.Base.Host)
		return g.target.endpoint.Transport.RoundTrip(ctx, &g.request, o)
	case g.target.self:
		return s.local(ctx, g, o)
	}
	eps, err := s.opt.Directory.Lookup(ctx, g.target.service)
	if err != nil {
		return nil, proxy.MarkUnsent(err)
	}
	return s.sendToAny(ctx, g, eps, o)
}

// sendToAny tries one instance after the other while they do not even get the
// request. How it ended is told to g.way by who reads the answer.
func (s *Service) sendToAny(ctx context.Context, g *sending, eps *discovery.Endpoints, o proxy.RoundTripOptions) (resp *proxy.Response, err error) {
	t := &g.target
	if t.cluster == nil {
		t.cluster = s.opt.Balance.Cluster(t.service)
	}
	t.cluster.Sync(eps)
	g.way.prepare(t.cluster, &g.request)
	for i := range min(len(eps.List()), maxEndpoints) {
		if i > 0 {
			if g.last = err; s.tellDeadline(ctx, &g.request, &g.call, true) != nil {
				break
			}
		}
		at, noneLeft := t.cluster.Pick(&g.way.picked)
		if noneLeft != nil {
			if i == 0 {
				err = proxy.MarkUnsent(noneLeft)
			}
			break
		}
		g.way.attempt = at
		g.to(at.Host.Endpoint().Address)
		resp, err = s.sendTo(ctx, t.service, &g.request, &g.way, o)
		if err == nil && resp.Upstream != "" {
			g.route.Upstream = resp.Upstream
		}
		if err == nil || !proxy.Unsent(err) || ctx.Err() != nil {
			return resp, err
		}
	}
	return resp, err
}
