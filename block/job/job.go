// Package job is the building block of jobs: an application says when it wants
// to be called, once or again and again, and is.
//
// Dialects call Store; jobs stores implement Driver.
//
// # What is promised
//
//   - A job that Schedule has accepted is triggered when it is due: at least
//     once, never before, and by one of the application's replicas. It is
//     triggered twice only when a process dies, or loses the store for longer
//     than its lease, between a trigger and the note of its success.
//   - Nothing is triggered while there is no replica whose application is well.
//     A job that was due meanwhile is triggered once when one is back, however
//     many of its times have passed; then it goes on as its schedule says. A
//     trigger that takes longer than the next one is away is followed by one
//     more at once, never by several.
//   - A job is not triggered again before the trigger before it has ended.
//   - Times are those of the clocks of the sidecars, which should agree. When a
//     clock is set forward what has been skipped counts as missed; when it is
//     set back a schedule of the calendar waits until its time comes again, and
//     one of fixed distances goes on at its distance.
//   - A job ends with its last repetition, or when its time to live is over
//     before it is due again. What was due before that is still triggered.
package job

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"log/slog"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/policy"
)

// Reasons of the errors that Store returns.
const (
	// ReasonNameEmpty marks a job without a name.
	ReasonNameEmpty fault.Reason = "job.name_empty"
	// ReasonName marks a name that no job can have.
	ReasonName fault.Reason = "job.name"
	// ReasonScheduleEmpty marks a job with neither a schedule nor a due time.
	ReasonScheduleEmpty fault.Reason = "job.schedule_empty"
	// ReasonSchedule marks a schedule that cannot be read or never comes.
	ReasonSchedule fault.Reason = "job.schedule"
	// ReasonDueTime marks a due time that cannot be read.
	ReasonDueTime fault.Reason = "job.due_time"
	// ReasonTTL marks a time to live that cannot be read or makes no sense.
	ReasonTTL fault.Reason = "job.ttl"
	// ReasonRepeats marks a number of repetitions that makes no sense.
	ReasonRepeats fault.Reason = "job.repeats"
	// ReasonFailurePolicy marks a failure policy that makes no sense.
	ReasonFailurePolicy fault.Reason = "job.failure_policy"
	// ReasonExists marks a Schedule of a job that exists.
	ReasonExists fault.Reason = "job.exists"
	// ReasonNotFound marks a job that does not exist.
	ReasonNotFound fault.Reason = "job.not_found"
)

// Job is what an application wants to be called for.
type Job struct {
	// Name tells the jobs of an application apart. It has no control
	// characters, and none of / \ # ? %.
	Name string
	// Schedule says when the job recurs: six fields as in cron, second,
	// minute, hour, day of the month, month and day of the week ("0 30 9 * *
	// MON-FRI"); "@every 90s"; or @hourly, @daily, @weekly, @monthly or
	// @yearly. "CRON_TZ=Europe/Berlin " before it sets the time zone, else it
	// is that of the process. Empty for a job that is triggered once.
	Schedule string
	// DueTime is when the job is triggered first, and then as Schedule says:
	// RFC 3339, or a duration from now on ("90s", "PT1M30S"). What has passed
	// is due now. Empty for the first time of the schedule.
	DueTime string
	// Repeats is how often the job is triggered; nil for no bound.
	Repeats *uint32
	// TTL is when a recurring job ends, written as DueTime and counted from it
	// or, without one, from now on. Empty for never.
	TTL string
	// Data goes to the application with each trigger; nil for none.
	Data *Data
	// FailurePolicy says what happens when the application fails; nil for
	// three more tries, a second apart.
	FailurePolicy *FailurePolicy

	// Due is when the job is due next, and Triggered how often it was
	// triggered. Get and List fill them in; Schedule does not look at them.
	Due       time.Time
	Triggered uint32
}

// Data is a value with a type.
type Data struct {
	// TypeURL says what Value is, "type.googleapis.com/google.protobuf.Value".
	TypeURL string
	Value   []byte
}

// FailurePolicy says what happens when the application fails at a trigger.
type FailurePolicy struct {
	// Drop gives up at once. The other fields do not count then.
	Drop bool
	// Interval is the wait before each further try.
	Interval time.Duration
	// MaxInterval, if longer, lets the wait double with each try up to it.
	MaxInterval time.Duration
	// MaxRetries bounds the tries after the first; nil for no bound.
	MaxRetries *uint32
}

func defaultFailurePolicy() FailurePolicy {
	three := uint32(3)
	return FailurePolicy{Interval: time.Second, MaxRetries: &three}
}

func (p FailurePolicy) stored() onFailure {
	if p.Drop {
		return onFailure{Drop: true}
	}
	f := onFailure{Interval: p.Interval.String(), MaxRetries: p.MaxRetries}
	if p.MaxInterval > p.Interval {
		f.MaxInterval = p.MaxInterval.String()
	}
	return f
}

func (f onFailure) policy() *FailurePolicy {
	p := &FailurePolicy{Drop: f.Drop, MaxRetries: f.MaxRetries}
	p.Interval, _ = time.ParseDuration(f.Interval)       // as stored wrote it
	p.MaxInterval, _ = time.ParseDuration(f.MaxInterval) // empty for none
	return p
}

// minRetry is the shortest wait before another try.
const minRetry = 10 * time.Millisecond

// delay is the wait after a number of failed tries.
func (p *FailurePolicy) delay(failed uint32) time.Duration {
	d := max(p.Interval, minRetry)
	for n := uint32(1); n < failed && d < p.MaxInterval; n++ {
		d = min(2*d, p.MaxInterval)
	}
	return d
}

// Options configure a Store.
type Options struct {
	// Namespace and AppID say whose jobs they are.
	Namespace, AppID string
	// Kind keeps jobs of different kinds of one application apart, also in the
	// names of operations that policies see: "schedule", "trigger" and so on,
	// with the kind before it unless it is "job", as it is when empty.
	Kind string
	// Chains gives the policies around calls and triggers.
	Chains policy.Chains
	// Grace is how long triggers under way may go on after Run has been told
	// to stop; 5 s when zero.
	Grace time.Duration
	// MaxTriggers bounds how many triggers are under way at a time; 256 when
	// zero.
	MaxTriggers int
	// Log takes what no caller is told, such as triggers that are given up.
	// It should name the component. Nil discards.
	Log *slog.Logger
}

// Store is the jobs of one application in a jobs component. It is safe for
// concurrent use.
type Store struct {
	handle  *component.Handle[Driver]
	opts    Options
	scope   Scope
	log     *slog.Logger
	now     func() time.Time // the clock on the wall
	put     *policy.Operation
	get     *policy.Operation
	del     *policy.Operation
	list    *policy.Operation
	trigger *policy.Operation
}

// New returns a Store over the driver that h opens.
func New(h *component.Handle[Driver], o Options) *Store {
	if o.Kind == "" {
		o.Kind = "job"
	}
	if o.Grace == 0 {
		o.Grace = 5 * time.Second
	}
	if o.MaxTriggers == 0 {
		o.MaxTriggers = 256
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	kind := ""
	if o.Kind != "job" {
		kind = o.Kind + "_"
	}
	outbound := o.Chains.Component(Block, h.Name(), false)
	bind := func(op string) *policy.Operation {
		return outbound.Bind(policy.Op{Block: Block, Component: h.Name(), Name: kind + op})
	}
	inbound := o.Chains.Component(Block, h.Name(), true)
	return &Store{
		handle: h, opts: o, scope: Scope{Kind: o.Kind, Namespace: o.Namespace, AppID: o.AppID}, log: o.Log,
		now: func() time.Time { return time.Now().Round(0) },
		put: bind("schedule"), get: bind("get"), del: bind("delete"), list: bind("list"),
		trigger: inbound.Bind(policy.Op{Block: Block, Component: h.Name(), Name: kind + "trigger", Inbound: true}),
	}
}

// Name returns the component's name.
func (s *Store) Name() string { return s.handle.Name() }

// Namespace returns the namespace of the application.
func (s *Store) Namespace() string { return s.opts.Namespace }

func (s *Store) key(name string) Key { return Key{s.scope, name} }

func invalid(reason fault.Reason, format string, args ...any) error {
	return fault.New(fault.InvalidArgument, format, args...).WithReason(reason)
}

// checkName refuses a name that cannot be part of the path at which the
// application is called, or of the store.
func checkName(name string) error {
	switch {
	case name == "":
		return invalid(ReasonNameEmpty, "the name of the job is empty")
	case len(name) > MaxName:
		return invalid(ReasonName, "the name of the job has %d bytes; the most is %d", len(name), MaxName)
	case !utf8.ValidString(name):
		return invalid(ReasonName, "the name of the job is not UTF-8")
	case name == "." || name == "..":
		return invalid(ReasonName, "the name of the job must not be %q", name)
	}
	if i := strings.IndexFunc(name, func(c rune) bool { return c < ' ' || c == 0x7f || strings.ContainsRune(`/\#?%`, c) }); i >= 0 {
		return invalid(ReasonName, `the name of the job has %q at byte %d: / \ # ? %% and control characters are not allowed`, name[i], i)
	}
	return nil
}

// check refuses a job that can never work.
func (j *Job) check() error {
	if err := checkName(j.Name); err != nil {
		return err
	}
	p := j.FailurePolicy
	switch {
	case j.Schedule == "" && j.DueTime == "":
		return invalid(ReasonScheduleEmpty, "the job has neither a schedule nor a dueTime")
	case j.Repeats != nil && *j.Repeats == 0:
		return invalid(ReasonRepeats, "repeats: a job cannot be triggered 0 times; leave it out for no bound")
	case j.Schedule == "" && j.Repeats != nil && *j.Repeats > 1:
		return invalid(ReasonRepeats, "repeats: a job needs a schedule to be triggered %d times", *j.Repeats)
	case j.Schedule == "" && j.TTL != "":
		return invalid(ReasonTTL, "ttl: a job without a schedule ends with its one trigger")
	case p != nil && (p.Interval < 0 || p.MaxInterval < 0):
		return invalid(ReasonFailurePolicy, "failurePolicy: the interval is negative")
	}
	return nil
}

// Schedule stores a job. A job of the same name is AlreadyExists with
// ReasonExists, unless overwrite: then the new one takes its place and begins
// from the beginning. A job that can never work is InvalidArgument.
func (s *Store) Schedule(ctx context.Context, j *Job, overwrite bool) error {
	if err := j.check(); err != nil {
		return err
	}
	r, err := newRecord(j, newID(), s.now())
	if err != nil {
		return err
	}
	value, err := r.encode()
	if err != nil {
		return fault.Wrap(err, fault.Internal, "encode job %q", j.Name)
	}
	call := policy.Call{Key: j.Name, Bytes: len(value), Idempotent: true} // its ID tells a repetition
	return s.put.Run(ctx, &call, func(ctx context.Context) error {
		d, err := s.handle.Get(ctx)
		if err != nil {
			return err
		}
		expect := Absent()
		if overwrite {
			expect = Anything()
		}
		_, err = d.Put(ctx, s.key(j.Name), value, expect)
		if fault.ReasonOf(err) == ReasonConflict {
			err = s.replace(ctx, d, j.Name, value, r.ID)
		}
		return s.wrap(err, "schedule job %q", j.Name)
	})
}

// replace decides what becomes of a job whose name is taken: it may be that
// very job, stored by a call whose answer was lost, or one that has ended.
func (s *Store) replace(ctx context.Context, d Driver, name string, value []byte, id string) error {
	there, err := d.Get(ctx, s.key(name))
	if fault.Is(err, fault.NotFound) {
		_, err = d.Put(ctx, s.key(name), value, Absent())
		return err
	}
	if err != nil {
		return err
	}
	switch old, err := decode(there.Value); {
	case err != nil || !old.over(s.now()) && old.ID != id:
		return fault.New(fault.AlreadyExists, "job already exists: %q", name).WithReason(ReasonExists)
	case old.ID == id:
		return nil
	}
	_, err = d.Put(ctx, s.key(name), value, Revision(there.Revision))
	return err
}

// Get returns a job, or NotFound with ReasonNotFound.
func (s *Store) Get(ctx context.Context, name string) (Job, error) {
	if err := checkName(name); err != nil {
		return Job{}, err
	}
	return policy.Do(ctx, s.get, policy.Call{Key: name, Idempotent: true}, func(ctx context.Context) (Job, error) {
		d, err := s.handle.Get(ctx)
		if err != nil {
			return Job{}, err
		}
		e, err := d.Get(ctx, s.key(name))
		if fault.Is(err, fault.NotFound) {
			return Job{}, notFound(name)
		}
		if err != nil {
			return Job{}, s.wrap(err, "get job %q", name)
		}
		r, err := decode(e.Value)
		if err != nil {
			return Job{}, fault.Wrap(err, fault.Internal, "read job %q", name)
		}
		if r.over(s.now()) {
			return Job{}, notFound(name)
		}
		return r.job(name), nil
	})
}

func notFound(name string) error {
	return fault.New(fault.NotFound, "job not found: %s", name).WithReason(ReasonNotFound)
}

// Delete removes a job. A trigger that is under way goes on. Deleting a job
// that does not exist succeeds.
func (s *Store) Delete(ctx context.Context, name string) error {
	if err := checkName(name); err != nil {
		return err
	}
	return s.del.Run(ctx, &policy.Call{Key: name, Idempotent: true}, func(ctx context.Context) error {
		d, err := s.handle.Get(ctx)
		if err != nil {
			return err
		}
		return s.wrap(d.Delete(ctx, s.key(name), Anything()), "delete job %q", name)
	})
}

// Withdraw removes a job unless it is being triggered at this moment, and
// reports whether it did, and how many tries at the trigger it was due for had
// failed: after none it is certain that nobody has seen it, or will.
func (s *Store) Withdraw(ctx context.Context, name string) (failed uint32, ok bool, err error) {
	if err := checkName(name); err != nil {
		return 0, false, err
	}
	call := policy.Call{Key: name} // another try would not know what came of the first
	err = s.del.Run(ctx, &call, func(ctx context.Context) error {
		d, err := s.handle.Get(ctx)
		if err == nil {
			failed, ok, err = s.withdraw(ctx, d, name)
		}
		return s.wrap(err, "withdraw job %q", name)
	})
	return failed, ok, err
}

func (s *Store) withdraw(ctx context.Context, d Driver, name string) (failed uint32, ok bool, err error) {
	for {
		there, err := d.Get(ctx, s.key(name))
		if fault.Is(err, fault.NotFound) {
			return 0, false, nil
		}
		if err != nil {
			return 0, false, err
		}
		r, err := decode(there.Value)
		if err != nil {
			return 0, false, fault.Wrap(err, fault.Internal, "read job %q", name)
		}
		if r.Claim != "" {
			return r.Attempts, false, nil
		}
		err = d.Delete(ctx, s.key(name), Revision(there.Revision))
		if fault.ReasonOf(err) != ReasonConflict {
			return r.Attempts, err == nil, err
		}
	}
}

// DeletePrefix removes the jobs whose names begin with prefix; the empty prefix
// removes them all. When it fails some of them may be gone.
func (s *Store) DeletePrefix(ctx context.Context, prefix string) error {
	return s.del.Run(ctx, &policy.Call{Key: prefix, Idempotent: true}, func(ctx context.Context) error {
		d, err := s.handle.Get(ctx)
		if err != nil {
			return err
		}
		entries, err := s.all(ctx, d)
		for _, e := range entries {
			if err == nil && strings.HasPrefix(e.Name, prefix) {
				err = d.Delete(ctx, s.key(e.Name), Anything())
			}
		}
		return s.wrap(err, "delete jobs by the prefix %q", prefix)
	})
}

// List returns all jobs by name.
func (s *Store) List(ctx context.Context) ([]Job, error) {
	return policy.Do(ctx, s.list, policy.Call{Idempotent: true}, func(ctx context.Context) ([]Job, error) {
		d, err := s.handle.Get(ctx)
		if err != nil {
			return nil, err
		}
		entries, err := s.all(ctx, d)
		if err != nil {
			return nil, s.wrap(err, "list jobs")
		}
		jobs := make([]Job, 0, len(entries))
		for _, e := range entries {
			if r, err := decode(e.Value); err == nil && !r.over(s.now()) {
				jobs = append(jobs, r.job(e.Name))
			}
		}
		slices.SortFunc(jobs, func(a, b Job) int { return strings.Compare(a.Name, b.Name) })
		return jobs, nil
	})
}

// all returns the entries that are jobs: what a watch reports first.
func (s *Store) all(ctx context.Context, d Driver) ([]Entry, error) {
	wctx, enough := context.WithCancel(ctx)
	defer enough()
	entries, complete := map[string]Entry{}, false
	err := d.Watch(wctx, s.scope, func(c Change) {
		switch {
		case complete:
		case c.Op == OpSynced:
			complete = true
			enough()
		case c.Op == OpDelete:
			delete(entries, c.Name)
		case !isSession(c.Name):
			entries[c.Name] = c.Entry
		}
	})
	switch {
	case complete:
		out := make([]Entry, 0, len(entries))
		for _, e := range entries {
			out = append(out, e)
		}
		return out, nil
	case ctx.Err() != nil:
		return nil, ctx.Err()
	}
	return nil, err
}

// wrap says of the error of a driver what was being done.
func (s *Store) wrap(err error, format string, args ...any) error {
	if err == nil || fault.ReasonOf(err) == ReasonExists {
		return err
	}
	return fault.Wrap(err, fault.CodeOf(err), format, args...)
}

// newID returns a random id.
func newID() string {
	var b [12]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}
