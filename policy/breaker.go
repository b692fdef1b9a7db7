package policy

import (
	"context"
	"fmt"
	"sync"
	"time"

	"cel.dev/cel-go/cel"

	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/telemetry"
)

// ReasonBreakerOpen marks a call that was refused by an open circuit breaker.
const ReasonBreakerOpen fault.Reason = "policy.breaker_open"

// Counts are what a circuit breaker has seen since it changed state or its
// interval began.
type Counts struct {
	Requests             uint32
	TotalSuccesses       uint32
	TotalFailures        uint32
	ConsecutiveSuccesses uint32
	ConsecutiveFailures  uint32
}

// BreakerOptions configure a CircuitBreaker.
type BreakerOptions struct {
	// HalfOpenRequests is how many calls may pass at once while the breaker
	// finds out whether the target is well again; 1 when zero.
	HalfOpenRequests uint32
	// Interval is how often the counts of a closed breaker start from zero;
	// never when zero.
	Interval time.Duration
	// OpenFor is how long the breaker refuses calls; 60 s when zero.
	OpenFor time.Duration
	// Trip decides when a closed breaker opens; when nil, after more than 5
	// consecutive failures.
	Trip func(Counts) bool
	// OnChange, if set, is told of every change of state. It must not block.
	OnChange func(from, to BreakerState)
	// Stats, if set, counts calls and changes.
	Stats *telemetry.PolicyStats
}

// BreakerState is the state of a circuit breaker.
type BreakerState uint8

// The states of a circuit breaker.
const (
	BreakerClosed   BreakerState = iota // calls pass
	BreakerHalfOpen                     // a few calls pass, to try
	BreakerOpen                         // calls are refused
)

// String returns the state in lower case.
func (s BreakerState) String() string { return [...]string{"closed", "half-open", "open"}[s] }

// CircuitBreaker refuses calls to a target that keeps failing, and tries again
// after a while. One breaker serves all operations of one target; it is safe
// for concurrent use.
type CircuitBreaker struct {
	opt BreakerOptions

	mu         sync.Mutex
	state      BreakerState
	counts     Counts
	generation uint64    // grows with each change, so that late answers do not count
	until      time.Time // end of the interval, or of being open; zero for never
}

// NewCircuitBreaker returns a closed breaker.
func NewCircuitBreaker(o BreakerOptions) *CircuitBreaker {
	if o.HalfOpenRequests == 0 {
		o.HalfOpenRequests = 1
	}
	if o.OpenFor <= 0 {
		o.OpenFor = time.Minute
	}
	if o.Trip == nil {
		o.Trip = func(c Counts) bool { return c.ConsecutiveFailures > 5 }
	}
	b := &CircuitBreaker{opt: o}
	b.restart()
	o.Stats.InState(b.state.String())
	return b
}

// State returns the present state.
func (b *CircuitBreaker) State() BreakerState {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.tick()
	return b.state
}

// Policy is a Policy that passes calls through b. Errors that tell of trouble
// at the target count as failures: those that RetryableError names.
func (b *CircuitBreaker) Policy(op Op, next Handler) Handler {
	return func(ctx context.Context, c *Call) error { return b.run(ctx, op, c, next) }
}

// run carries out a call through b.
func (b *CircuitBreaker) run(ctx context.Context, op Op, c *Call, next Handler) error {
	generation, err := b.enter(op)
	if err != nil {
		return err
	}
	finished := false
	defer func() { // a panic is a failure too
		if !finished {
			b.leave(generation, true)
		}
	}()
	err = next(ctx, c)
	finished = true
	b.leave(generation, err != nil && RetryableError(err))
	return err
}

func (b *CircuitBreaker) enter(op Op) (uint64, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.tick()
	b.opt.Stats.Executed(b.state.String())
	switch {
	case b.state == BreakerOpen:
		wait := max(0, time.Until(b.until))
		return 0, fault.New(fault.Unavailable, "%s %q: the circuit breaker is open after repeated failures; next try in %v",
			op.Block, op.Component, wait.Round(time.Millisecond)).WithReason(ReasonBreakerOpen).WithRetryAfter(wait)
	case b.state == BreakerHalfOpen && b.counts.Requests >= b.opt.HalfOpenRequests:
		return 0, fault.New(fault.Unavailable, "%s %q: the circuit breaker is half-open and its trial calls are under way",
			op.Block, op.Component).WithReason(ReasonBreakerOpen)
	}
	b.counts.Requests++
	return b.generation, nil
}

func (b *CircuitBreaker) leave(generation uint64, failed bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.tick()
	if generation != b.generation {
		return
	}
	if failed {
		b.counts.TotalFailures++
		b.counts.ConsecutiveFailures++
		b.counts.ConsecutiveSuccesses = 0
		if b.state == BreakerHalfOpen || b.opt.Trip(b.counts) {
			b.change(BreakerOpen)
		}
		return
	}
	b.counts.TotalSuccesses++
	b.counts.ConsecutiveSuccesses++
	b.counts.ConsecutiveFailures = 0
	if b.state == BreakerHalfOpen && b.counts.ConsecutiveSuccesses >= b.opt.HalfOpenRequests {
		b.change(BreakerClosed)
	}
}

// tick lets time do its part. The time is looked at only when it matters. b.mu is
// held.
func (b *CircuitBreaker) tick() {
	if b.until.IsZero() || time.Until(b.until) > 0 {
		return
	}
	switch b.state {
	case BreakerClosed:
		b.restart()
	case BreakerOpen:
		b.change(BreakerHalfOpen)
	case BreakerHalfOpen: // has no end of its own
	}
}

func (b *CircuitBreaker) change(to BreakerState) {
	from := b.state
	b.state = to
	b.restart()
	b.opt.Stats.Activated(to.String())
	b.opt.Stats.InState(to.String())
	if b.opt.OnChange != nil {
		b.opt.OnChange(from, to)
	}
}

func (b *CircuitBreaker) restart() {
	b.generation++
	b.counts = Counts{}
	b.until = time.Time{}
	switch {
	case b.state == BreakerOpen:
		b.until = time.Now().Add(b.opt.OpenFor)
	case b.state == BreakerClosed && b.opt.Interval > 0:
		b.until = time.Now().Add(b.opt.Interval)
	}
}

// ParseTrip compiles a CEL condition over requests, totalSuccesses,
// totalFailures, consecutiveSuccesses and consecutiveFailures for
// BreakerOptions.Trip.
func ParseTrip(expr string) (func(Counts) bool, error) {
	names := []string{"requests", "totalSuccesses", "totalFailures", "consecutiveSuccesses", "consecutiveFailures"}
	var opts []cel.EnvOption
	for _, n := range names {
		opts = append(opts, cel.Variable(n, cel.IntType))
	}
	env, err := cel.NewEnv(opts...)
	if err != nil {
		return nil, err
	}
	ast, issues := env.Compile(expr)
	if issues.Err() != nil {
		return nil, fmt.Errorf("wants a condition over %v: %w", names, issues.Err())
	}
	if ast.OutputType() != cel.BoolType {
		return nil, fmt.Errorf("wants a condition (true or false), but %q is of type %s", expr, ast.OutputType())
	}
	program, err := env.Program(ast)
	if err != nil {
		return nil, err
	}
	return func(c Counts) bool {
		out, _, err := program.Eval(map[string]any{
			names[0]: int64(c.Requests), names[1]: int64(c.TotalSuccesses), names[2]: int64(c.TotalFailures),
			names[3]: int64(c.ConsecutiveSuccesses), names[4]: int64(c.ConsecutiveFailures),
		})
		if err != nil { // such as a division by zero requests
			return false
		}
		trip, ok := out.Value().(bool)
		return ok && trip
	}, nil
}
