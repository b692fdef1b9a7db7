package pubsub

import (
	"context"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"sync"
)

// Runner keeps the subscriptions of an application alive: the declarative and
// programmatic ones; each stream runs its own. It is safe for concurrent use.
type Runner struct {
	opts RunnerOptions
	log  *slog.Logger

	mu      sync.Mutex
	specs   []SubscriptionSpec
	paused  bool
	stopped bool // Run has returned or is about to
	running []*runningSubscription
	changed chan struct{} // has room for one
}

// RunnerOptions configure a Runner.
type RunnerOptions struct {
	// Broker returns the component of that name; false when there is none. It
	// is asked again with every Set.
	Broker func(name string) (*Broker, bool)
	// App is where events go.
	App App
	// Log receives what happens to subscriptions; nil discards.
	Log *slog.Logger
}

// runningSubscription is a Subscribe call that the Runner has started.
type runningSubscription struct {
	spec   SubscriptionSpec
	broker *Broker
	cancel context.CancelFunc
	ending bool          // cancel was called
	done   chan struct{} // closed when Subscribe has returned
	err    error         // why it returned; valid once done is closed
}

// SubscriptionStatus tells how a subscription does.
type SubscriptionStatus struct {
	Spec SubscriptionSpec
	// Active tells that messages are received, or will be as soon as the
	// broker can be reached.
	Active bool
	// Err is why the subscription can never work as it is written.
	Err error
}

// NewRunner returns a Runner without subscriptions.
func NewRunner(o RunnerOptions) *Runner {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Runner{opts: o, log: o.Log, changed: make(chan struct{}, 1)}
}

// Set replaces the subscriptions. Those that stay the same, on the same
// Broker or the one in its place, go on undisturbed; the others end as when Run ends, and new ones
// begin. It returns at once.
func (r *Runner) Set(specs []SubscriptionSpec) {
	r.mu.Lock()
	r.specs = slices.Clone(specs)
	r.mu.Unlock()
	r.wake()
}

// Pause ends every subscription, as when Run ends, until Resume: the
// application is not well. It returns at once.
func (r *Runner) Pause() { r.setPaused(true) }

// Resume begins every subscription again.
func (r *Runner) Resume() { r.setPaused(false) }

func (r *Runner) setPaused(paused bool) {
	r.mu.Lock()
	r.paused = paused
	r.mu.Unlock()
	r.wake()
}

func (r *Runner) wake() {
	select {
	case r.changed <- struct{}{}:
	default: // a change that Run has not looked at yet covers this one
	}
}

// Run keeps the subscriptions alive until ctx ends. Then it takes no further
// message, waits until the deliveries under way have ended, see
// [Broker.Subscribe], and returns nil. Call it once.
func (r *Runner) Run(ctx context.Context) error {
	for {
		r.reconcile(ctx)
		select {
		case <-r.changed:
			continue
		case <-ctx.Done():
		}
		break
	}
	r.mu.Lock()
	r.stopped = true
	running := r.running
	r.mu.Unlock()
	for _, s := range running {
		<-s.done
	}
	return nil
}

// reconcile ends the subscriptions that shall no longer run and begins those
// that do not run yet.
func (r *Runner) reconcile(ctx context.Context) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var wanted []SubscriptionSpec
	if !r.paused {
		wanted = r.specs
	}
	keep := make([]bool, len(r.running))
	var next []*runningSubscription
	for _, spec := range wanted {
		broker, ok := r.opts.Broker(spec.PubSub)
		if !ok {
			broker = nil
		}
		i := slices.IndexFunc(r.running, func(s *runningSubscription) bool {
			return s.on(broker) && !s.ending && reflect.DeepEqual(s.spec, spec)
		})
		if i >= 0 && !keep[i] {
			keep[i] = true
			next = append(next, r.running[i])
			continue
		}
		if broker == nil {
			next = append(next, r.failed(ctx, spec))
			continue
		}
		next = append(next, r.begin(ctx, spec, broker))
	}
	for i, s := range r.running {
		if !keep[i] {
			s.cancel()
			s.ending = true
			if !s.ended() {
				next = append(next, s) // until it has drained
			}
		}
	}
	r.running = next
}

func (r *Runner) begin(ctx context.Context, spec SubscriptionSpec, broker *Broker) *runningSubscription {
	ctx, cancel := context.WithCancel(ctx)
	s := &runningSubscription{spec: spec, broker: broker, cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(s.done)
		defer cancel()
		s.err = broker.Subscribe(ctx, &spec, r.opts.App)
		if s.err != nil {
			r.log.ErrorContext(ctx, "subscription cannot work and is given up", "error", s.err)
		}
	}()
	return s
}

// failed stands for a subscription to a component that there is not.
func (r *Runner) failed(ctx context.Context, spec SubscriptionSpec) *runningSubscription {
	s := &runningSubscription{spec: spec, cancel: func() {}, done: make(chan struct{})}
	s.err = fmt.Errorf("%s: there is no pub/sub component %q", &spec, spec.PubSub)
	close(s.done)
	r.log.ErrorContext(ctx, "subscription cannot work and is given up", "error", s.err)
	return s
}

// on reports whether s is on the broker, or has moved there.
func (s *runningSubscription) on(broker *Broker) bool {
	return s.broker == broker || broker != nil && s.broker != nil && !s.ended() && s.broker.latest() == broker
}

func (s *runningSubscription) ended() bool {
	select {
	case <-s.done:
		return true
	default:
		return false
	}
}

// Subscriptions tells how each subscription of the last Set does.
func (r *Runner) Subscriptions() []SubscriptionStatus {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make([]SubscriptionStatus, len(r.specs))
	for i, spec := range r.specs {
		out[i].Spec = spec
		for _, s := range r.running {
			if !reflect.DeepEqual(s.spec, spec) {
				continue
			}
			if s.ended() {
				out[i].Err = s.err
			} else {
				out[i].Active = !r.paused && !r.stopped
			}
			break
		}
	}
	return out
}
