package balance

import (
	"context"
	"sync"
	"time"

	"github.com/proa-io/proa/mesh/discovery"
)

// CheckKind is how a check asks.
type CheckKind uint8

// The kinds of checks.
const (
	CheckTCP  CheckKind = iota // a connection can be opened
	CheckHTTP                  // a request is answered with an expected status
	CheckGRPC                  // grpc.health.v1.Health/Check says SERVING
)

// Check is an active health check. Every endpoint is asked again and again,
// whether it is in use or not.
type Check struct {
	Kind CheckKind
	// Method, Path and Host make the request of CheckHTTP; Expected says which
	// statuses are good, and Wanted the same in words.
	Method, Path, Host string
	Expected           func(status int) bool
	Wanted             string
	// Service is what CheckGRPC asks for; "" for the whole server.
	Service string
	// Interval is how often, Unhealthy how often while the endpoint fails. Each
	// is up to Jitter (0 to 1) longer or shorter.
	Interval, Unhealthy time.Duration
	Jitter              float64
	// Timeout is how long an answer may take.
	Timeout time.Duration
	// FailAfter and PassAfter are how many results in a row change what is held
	// of an endpoint. The first result counts at once.
	FailAfter, PassAfter int
}

// Prober carries out a check and returns why the endpoint failed it, or nil. Its
// context ends with the timeout.
type Prober func(ctx context.Context, svc discovery.Service, ep discovery.Endpoint, c *Check) error

// checkState is what active health checks say of a host. The cluster's mutex
// guards it.
type checkState struct {
	failing bool
	why     string
	results []results // by check
}

// results are those of one check.
type results struct {
	known, failing bool
	row            int // results in a row that say otherwise
	why            string
}

// check checks all endpoints until ctx ends.
func (c *Cluster) check(ctx context.Context, svc discovery.Service, probe Prober) {
	var wg sync.WaitGroup
	defer wg.Wait()
	running := map[*Host]context.CancelFunc{}
	policy := (*Policy)(nil)
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		s := c.state.Load()
		if s.policy != policy {
			policy = s.policy
			for h, cancel := range running {
				cancel()
				delete(running, h)
			}
		}
		there := make(map[*Host]bool, len(s.hosts))
		for _, h := range s.hosts {
			there[h] = true
			if running[h] != nil {
				continue
			}
			own, cancel := context.WithCancel(ctx)
			running[h] = cancel
			for i := range s.policy.Checks {
				wg.Go(func() { c.checkHost(own, checking{svc, h, s.policy, i}, probe) })
			}
		}
		for h, cancel := range running {
			if !there[h] {
				cancel()
				delete(running, h)
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			for _, cancel := range running {
				cancel()
			}
			return
		}
	}
}

// checking is one check of one host.
type checking struct {
	svc    discovery.Service
	host   *Host
	policy *Policy
	number int
}

// checkHost repeats one check of one host until ctx ends.
func (c *Cluster) checkHost(ctx context.Context, k checking, probe Prober) {
	check := &k.policy.Checks[k.number]
	wait := time.Duration(0)
	for {
		if wait > 0 {
			select {
			case <-ctx.Done():
				return
			case <-time.After(wait):
			}
		}
		attempt, cancel := context.WithTimeout(ctx, check.Timeout)
		err := probe(attempt, k.svc, *k.host.Endpoint(), check)
		cancel()
		if ctx.Err() != nil {
			return
		}
		wait = check.Interval
		if c.checked(k, err) {
			wait = check.Unhealthy
		}
		wait += time.Duration(float64(wait) * check.Jitter * (2*float64(c.random()>>11)/(1<<53) - 1))
		wait = max(wait, time.Millisecond)
	}
}

// checked takes one result in and reports whether the host fails the check.
func (c *Cluster) checked(k checking, err error) bool {
	c.mu.Lock()
	defer c.unlock()
	if c.policy != k.policy {
		return false // whose result nobody wants any more
	}
	state := &k.host.health.check
	if len(state.results) != len(k.policy.Checks) {
		state.results = make([]results, len(k.policy.Checks))
	}
	r, check := &state.results[k.number], &k.policy.Checks[k.number]
	most := check.PassAfter
	if err != nil {
		r.why, most = err.Error(), check.FailAfter
	}
	switch failed := err != nil; {
	case !r.known:
		r.known, r.failing = true, failed
	case failed == r.failing:
		r.row = 0
	default:
		if r.row++; r.row >= most {
			r.failing, r.row = failed, 0
		}
	}
	c.conclude(k.host)
	return r.failing
}

// conclude says what the checks of a host come to. The mutex is held.
func (c *Cluster) conclude(h *Host) {
	state := &h.health.check
	was := state.failing
	state.failing, state.why = false, ""
	for _, r := range state.results {
		if r.failing {
			state.failing, state.why = true, r.why
			break
		}
	}
	switch {
	case state.failing == was:
		return
	case state.failing:
		c.event(h, CheckFailed, state.why, 0)
	default:
		h.record.reset()
		h.begins(c.now(), c.policy.SlowStart)
		c.event(h, CheckPassed, "its health checks succeed", 0)
	}
	c.rebuild()
}
