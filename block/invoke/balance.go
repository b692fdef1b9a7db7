package invoke

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/mesh/balance"
	"github.com/proa-io/proa/mesh/proxy"
	"github.com/proa-io/proa/policy"
)

// way is one request over all its attempts: where it has been, and where it
// is.
type way struct {
	call    *policy.Call
	ex      proxy.Exchange // of the client; nil for none
	picked  balance.Request
	attempt balance.Attempt
	began   bool
	cookie  string // that the answer sets
}

// prepare finds out what the policy of a target goes by.
func (w *way) prepare(c *balance.Cluster, r *proxy.Request) {
	if w.began || c.Plain() {
		return
	}
	w.began = true
	from := balance.Client{Request: r}
	if w.ex != nil {
		from.Address = w.ex.Remote().Addr()
	}
	w.cookie = c.Prepare(&w.picked, from)
}

// headed notes that the head of an answer has come, and adds the cookie that
// keeps the client where it is.
func (w *way) headed(resp *proxy.Response) {
	w.attempt.Headed()
	if w.cookie != "" && resp.Upgraded == nil {
		resp.Header.Add("set-cookie", w.cookie)
	}
}

// answered tells what the answer of the present attempt was: an HTTP status and,
// unless it is negative, one of gRPC.
func (w *way) answered(status, grpcStatus int, h proxy.Header) {
	if w.attempt.Host == nil {
		return
	}
	r := balance.Result{Status: status, GRPC: grpcStatus}
	if status == 429 || grpcStatus == 8 {
		r.RetryAfter = retryAfter(h.Get("retry-after"))
	}
	w.attempt.Done(r)
}

// broke tells that the answer of the present attempt broke off.
func (w *way) broke() { w.attempt.Done(balance.Result{Failure: balance.Broken, GRPC: -1}) }

// over ends an attempt of which nothing else was told: it says nothing about the
// endpoint.
func (w *way) over() { w.attempt.Done(balance.Result{Failure: balance.Abandoned, GRPC: -1}) }

// failed tells that the present attempt had no answer.
func (w *way) failed(ctx context.Context, err error) {
	w.attempt.Done(balance.Result{Failure: failureOf(ctx, err), GRPC: -1})
}

// failureOf says what an error of a transport says about the endpoint.
func failureOf(ctx context.Context, err error) balance.Failure {
	if _, ok := errors.AsType[*proxy.BodyError](err); ok {
		return balance.Abandoned
	}
	if ctx.Err() != nil && !errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return balance.Abandoned
	}
	switch code := fault.CodeOf(err); {
	case code == fault.DeadlineExceeded || ctx.Err() != nil:
		return balance.TimedOut
	case code != fault.Unavailable && code != fault.Internal:
		return balance.Abandoned // a request that cannot be sent, or no room for it here
	case proxy.Unsent(err):
		return balance.Unreachable
	}
	return balance.Broken
}

// refused tells what the other sidecar said instead of an answer.
func (w *way) refused(err error) {
	r := balance.Result{Status: 400, GRPC: -1}
	switch fault.CodeOf(err) {
	case fault.Unavailable:
		r.Status = 503
		if fault.ReasonOf(err) == ReasonMisdirected {
			r.Failure = balance.Unreachable
		}
	case fault.DeadlineExceeded:
		r.Status = 504
	case fault.ResourceExhausted:
		r.Status, r.RetryAfter = 429, fault.RetryAfterOf(err)
	case fault.Internal:
		r.Status = 500
	}
	w.attempt.Done(r)
}

// retryAfter reads the value of a Retry-After field (RFC 9110, section 10.2.3);
// 0 for none.
func retryAfter(text string) time.Duration {
	if text == "" {
		return 0
	}
	if n, err := strconv.Atoi(strings.TrimSpace(text)); err == nil {
		return max(0, time.Duration(min(n, 86400))*time.Second)
	}
	at, err := time.Parse("Mon, 02 Jan 2006 15:04:05 GMT", text)
	if err != nil {
		return 0
	}
	return max(0, time.Until(at))
}
