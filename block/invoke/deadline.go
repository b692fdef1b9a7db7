package invoke

import (
	"context"
	"time"

	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/mesh/proxy"
	"github.com/proa-io/proa/mesh/rpc"
	"github.com/proa-io/proa/policy"
)

// ReasonDeadline: the time that the caller of a gRPC method gives is over.
const ReasonDeadline fault.Reason = "invoke.deadline"

const fieldTimeout = "grpc-timeout"

// callerDeadline returns when the caller of a gRPC method gives up: the zero
// time when it does not say, or not in a form that a server understands. Such a
// field is passed on, and the server says what is wrong with it.
func callerDeadline(h proxy.Header) time.Time {
	text := timeoutOf(h)
	if text == "" || !isGRPC(h) {
		return time.Time{}
	}
	left, ok := rpc.DecodeTimeout(text)
	if !ok {
		return time.Time{}
	}
	return time.Now().Add(left)
}

// timeoutOf returns the value of the last grpc-timeout, which is the one that
// counts for servers.
func timeoutOf(h proxy.Header) string {
	for i := len(h) - 1; i >= 0; i-- {
		if proxy.SameName(h[i].Name, fieldTimeout) {
			return h[i].Value
		}
	}
	return ""
}

// tellDeadline has the grpc-timeout of a request say what is left: of the time
// that the caller gives, and of what ctx allows an attempt. A first try that ctx
// does not bound goes as it came. It fails when the caller's time is over.
func (s *Service) tellDeadline(ctx context.Context, r *proxy.Request, c *policy.Call, again bool) error {
	by := c.Deadline
	own, bounded := ctx.Deadline()
	if bounded = bounded && (by.IsZero() || own.Before(by)); bounded {
		by = own
	}
	if by.IsZero() || !again && !bounded || !isGRPC(r.Header) {
		return nil
	}
	if text := timeoutOf(r.Header); text != "" {
		if _, ok := rpc.DecodeTimeout(text); !ok {
			return nil
		}
	}
	left := time.Until(by)
	if left <= 0 && !bounded {
		c.Committed = true
		return fault.New(fault.DeadlineExceeded, "the time that the caller gave was over before the call could be sent again").WithReason(ReasonDeadline)
	}
	r.Header.Set(fieldTimeout, s.timeoutText(left))
	return nil
}

// timeoutText is a timeout that was encoded before.
type timeoutText struct {
	left time.Duration
	text string
}

// timeoutText encodes a timeout. One of a second or more is told in whole
// milliseconds, which is as exact as it is of use; those of a policy are the same
// from call to call then.
func (s *Service) timeoutText(left time.Duration) string {
	if left < time.Second {
		return rpc.EncodeTimeout(left)
	}
	left = left.Truncate(time.Millisecond)
	if last := s.timeout.Load(); last != nil && last.left == left {
		return last.text
	}
	t := &timeoutText{left, rpc.EncodeTimeout(left)}
	s.timeout.Store(t)
	return t.text
}
