package invoke

import (
	"strconv"
	"time"

	"github.com/proa-io/proa/mesh/proxy"
	"github.com/proa-io/proa/telemetry"
)

// asked is a request to another sidecar, as metrics see it. The zero value
// measures nothing.
type asked struct {
	metrics *telemetry.Metrics
	target  string
	began   time.Time
	took    time.Duration // until the head of the answer; of a gRPC call: 0
}

// asked notes that a request is sent.
func (s *Service) asked(t *target) asked {
	if t.self || t.endpoint != nil || !s.opt.Metrics.Enabled() {
		return asked{}
	}
	s.opt.Metrics.InvocationSent(t.id)
	return asked{metrics: s.opt.Metrics, target: t.id, began: time.Now()}
}

// headed notes that the answer has begun, which counts but for gRPC calls.
func (a *asked) headed(resp *proxy.Response) {
	if a.metrics != nil && !isGRPC(resp.Header) {
		a.took = time.Since(a.began)
	}
}

// answered notes the status of the answer: that of gRPC, unless it is negative.
func (a *asked) answered(status, grpcStatus int) {
	if a.metrics == nil || status == 0 {
		return
	}
	if a.took == 0 {
		a.took = time.Since(a.began)
	}
	if grpcStatus >= 0 {
		status = grpcStatus
	}
	a.metrics.InvocationAnswer(a.target, status, a.took)
}

// grpcCode returns the value of a grpc-status field; -1 for none.
func grpcCode(text string) int {
	if text == "" {
		return -1
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		return 2 // Unknown, as the gRPC specification has it
	}
	return n
}

// measureAccess notes what the access rules said of a request.
func (s *Service) measureAccess(a *access, d decision, namespace, appID string) {
	if a == nil {
		return
	}
	s.opt.Metrics.AccessDecided(telemetry.AccessDecision{
		AppID: appID, TrustDomain: a.domain, Namespace: namespace, ByPolicy: d.byPolicy, Allowed: d.allowed,
	})
}

// received notes a request of another sidecar, and later its answer.
func (s *Service) received(caller string) { s.opt.Metrics.InvocationReceived(caller) }

func (s *Service) replied(caller string, r proxy.Progress) {
	if r.Status == 0 {
		return
	}
	status := r.Status
	if code := grpcCode(r.GRPCStatus); code >= 0 {
		status = code
	}
	s.opt.Metrics.InvocationAnswered(caller, status)
}

// measureGRPC notes a gRPC call that was passed on to the application beside.
func (s *Service) measureGRPC(method string, r proxy.Progress, took time.Duration) {
	code := grpcCode(r.GRPCStatus)
	if code < 0 {
		code = 2 // it broke off: Unknown
	}
	s.opt.Metrics.GRPCCalled(telemetry.GRPCCall{Method: method, Code: code, Received: -1, Sent: -1, Duration: took})
}
