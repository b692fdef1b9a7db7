package runtime

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/resource"
	"github.com/proa-io/proa/telemetry"
)

// Reload tells what came of a change of the resources.
type Reload struct {
	// Generation counts the changes that were taken into use since the start.
	Generation int
	// Changes are those that this one brought.
	Changes resource.Changes
	// Rotated names what was opened anew because secrets that it refers to have
	// changed.
	Rotated []string
	// Pending names components whose former version goes on serving, because
	// the new one cannot be opened, and why; each is taken into use as soon as
	// it can.
	Pending []string
	// NeedsRestart names fields of the Configuration that have changed but
	// take effect only when the process starts.
	NeedsRestart []string
	// Err says why nothing was taken into use.
	Err error
	At  time.Time
}

// String sums it up.
func (r *Reload) String() string {
	switch {
	case r.Err != nil:
		return "refused, and what was there before keeps serving: " + r.Err.Error()
	case len(r.Pending) > 0:
		return "partly in use; the former version keeps serving of " + strings.Join(r.Pending, "; ")
	case len(r.NeedsRestart) > 0:
		return "in use, but a restart is needed for " + strings.Join(r.NeedsRestart, ", ")
	}
	return "in use"
}

// reloader takes changes of the resources into use while the process runs: it
// builds what is new beside what is there, publishes a table with it, and
// closes what is no longer reached once nobody uses it any more.
type reloader struct {
	rt      *Runtime
	watcher *resource.Watcher
	plan    *plan  // what is wanted; nil when it is all in use
	hot     bool   // changes of files are noticed
	signals string // the digest of what the signals in use are made from
	last    Reload
	secrets *rotation
	// postponed is what was opened with secrets that have changed, and waits
	// for plan to be published.
	postponed []stale
	opened    chan *unit    // a unit of the plan has opened or ended
	former    chan struct{} // closed when nobody can hold a block of the tables before
	work      sync.WaitGroup
}

// hotReload is the feature that makes changes of files be noticed.
const hotReload = "HotReload"

// plan is what a change of the resources asks for.
type plan struct {
	changes   resource.Changes
	rotated   []string
	needs     []string
	policies  *policies
	signals   *signals // nil when they stay
	access    accessChange
	want      *components
	deadline  *time.Timer // for all components to be open
	published bool
}

// accessChange is what becomes of the access log.
type accessChange struct {
	changed bool
	to      *telemetry.AccessFile // nil for nowhere
}

func newReloader(rt *Runtime) *reloader {
	set := rt.table.Load().set
	hot := set.Configuration.Feature(hotReload, true)
	r := &reloader{
		rt: rt, hot: hot, signals: sectionsOfSignals(&set.Configuration), secrets: newRotation(rt),
		opened: make(chan *unit), former: make(chan struct{}),
	}
	close(r.former)
	r.watcher = resource.NewWatcher(resource.WatchOptions{
		Options: rt.resourceOptions(), Known: set, Settle: rt.cfg.ReloadSettle, Reread: rt.cfg.ReloadReconcile,
		Passive: !hot, Log: rt.cfg.Log,
	})
	return r
}

// run follows the resources until ctx ends.
func (r *reloader) run(ctx context.Context) error {
	defer func() {
		r.secrets.wait()
		r.work.Wait()
		r.replacePlan(ctx, nil)
	}()
	r.secrets.follow(ctx, r.rt.table.Load())
	snapshots := make(chan resource.Snapshot)
	r.work.Go(func() {
		_ = r.watcher.Run(ctx, func(ctx context.Context, s resource.Snapshot) { // nil when ctx has ended
			select {
			case snapshots <- s:
			case <-ctx.Done():
			}
		})
	})
	for {
		var overdue <-chan time.Time
		if r.plan != nil {
			overdue = r.plan.deadline.C
		}
		select {
		case <-ctx.Done():
			return nil
		case s := <-snapshots:
			r.take(ctx, s)
		case found := <-r.secrets.found:
			r.rotate(ctx, found)
		case <-r.opened:
		case <-overdue:
		}
		r.step(ctx)
		r.rotatePostponed(ctx)
	}
}

// take makes a plan of what the files say.
func (r *reloader) take(ctx context.Context, s resource.Snapshot) {
	if s.Err != nil {
		r.refuse(s.Err)
		return
	}
	rt, set, now := r.rt, s.Set, r.rt.table.Load()
	for _, ig := range set.Ignored {
		rt.cfg.Log.Debug("a document is passed over: its kind is not one that is read", "place", ig.Pos.String(), "kind", ig.Kind, "name", ig.Name)
	}
	set.Adopt(now.set)
	p := &plan{needs: keepFixed(&set.Configuration, &now.set.Configuration)}
	if set.Configuration.Feature(hotReload, true) != r.hot {
		p.needs = append(p.needs, "Configuration spec.features "+hotReload)
	}
	p.changes = resource.Diff(now.set, set)
	policies, err := compilePolicies(set.Resiliencies)
	if policies != nil {
		policies.limits = rt.limits.compile(set.RateLimits)
	}
	p.policies = policies
	b := rt.builder(set)
	b.reuse, b.there = r.reuse, r.endpoints()
	table, buildErr := b.build(rt.declared(set))
	if err = errors.Join(err, buildErr); err == nil {
		err = errors.Join(checkSubscriptions(set, table, rt.cfg.AppID), checkPipelines(set, table), checkLimits(set, table),
			checkMetrics(&set.Configuration), checkTunnels(&set.Configuration), checkRoutes(set, rt.cfg.Namespace))
		if err == nil && sectionsOfSignals(&set.Configuration) != r.signals {
			var s signals
			s, err = rt.newSignals(ctx, &set.Configuration)
			p.signals = &s
		}
		if to := rt.accessLogTo(&set.Configuration); err == nil && to != rt.accessLogTo(&now.set.Configuration) {
			p.access.changed = true
			p.access.to, err = rt.openAccessLog(&set.Configuration)
		}
		if err != nil {
			b.discard()
		}
	}
	if err != nil {
		r.refuse(err)
		return
	}
	p.want = table
	r.begin(ctx, p, b.fresh)
}

// begin opens the new components of a plan.
func (r *reloader) begin(ctx context.Context, p *plan, fresh []*unit) {
	rt, now := r.rt, r.rt.table.Load()
	p.deadline = time.NewTimer(0) // until it is known
	r.replacePlan(ctx, p)
	for _, u := range fresh {
		u.until, u.later = time.Now().Add(u.timeout), true
		rt.metrics.ComponentLoaded()
		if now.unit(u.spec.Block, u.name) == nil {
			rt.metrics.ComponentReady(u.name, u.spec.Type(), false)
		}
		if !rt.roster.start(u) {
			return // everything stops
		}
		r.work.Go(func() {
			u.await(ctx)
			select {
			case r.opened <- u:
			case <-ctx.Done():
			}
		})
	}
	r.beginEndpoints(ctx, p)
	wait := time.Duration(0)
	for _, u := range p.want.units {
		wait = max(wait, time.Until(u.until))
	}
	for _, e := range p.want.endpoints {
		wait = max(wait, time.Until(e.until))
	}
	p.deadline.Reset(wait)
}

// endpointWait is how long a change waits for the secrets of an endpoint before
// the former one serves on.
const endpointWait = 2 * time.Second

// beginEndpoints resolves what new endpoints refer to that others serve for.
func (r *reloader) beginEndpoints(ctx context.Context, p *plan) {
	now := r.rt.table.Load()
	for _, e := range p.want.endpoints {
		if !e.until.IsZero() || slices.Contains(now.endpoints, e) || now.endpoint(e.resource.Name()) == nil {
			continue
		}
		e.until = time.Now().Add(endpointWait)
		if ok, _ := e.ready(); ok {
			continue
		}
		r.work.Go(func() {
			e.warm(ctx)
			select {
			case r.opened <- nil:
			case <-ctx.Done():
			}
		})
	}
}

// reuse returns the unit that was made from the same: one that serves, or one
// that is not in use yet.
func (r *reloader) reuse(block, name, print string) *unit {
	tables := []*components{r.rt.table.Load()}
	if r.plan != nil {
		tables = append(tables, r.plan.want)
	}
	for _, t := range tables {
		if u := t.unit(block, name); u != nil && u.print == print {
			return u
		}
	}
	return nil
}

// endpoints are those that serve and those that are not in use yet.
func (r *reloader) endpoints() []*endpoint {
	all := slices.Clone(r.rt.table.Load().endpoints)
	if r.plan != nil {
		all = append(all, r.plan.want.endpoints...)
	}
	return all
}

// replacePlan gives up what is not in use yet and no longer wanted.
func (r *reloader) replacePlan(ctx context.Context, p *plan) {
	if r.plan != nil {
		r.plan.deadline.Stop()
		if r.plan.signals != nil && !r.plan.published {
			r.rt.endSignals(ctx, *r.plan.signals)
		}
		if !r.plan.published {
			_ = r.plan.access.to.Close() // nothing is in it
		}
		now := r.rt.table.Load()
		for _, u := range r.plan.want.units {
			if slices.Contains(now.units, u) || p != nil && slices.Contains(p.want.units, u) {
				continue
			}
			u.stop()
			if u.replace != nil {
				u.replace(newComponents(nil)) // nothing takes its place
			}
		}
		for _, e := range r.plan.want.endpoints {
			if !slices.Contains(now.endpoints, e) && (p == nil || !slices.Contains(p.want.endpoints, e)) {
				e.close()
			}
		}
	}
	r.plan = p
}

// refuse leaves everything as it is.
func (r *reloader) refuse(err error) {
	r.report(Reload{Generation: r.last.Generation, Err: err}, "refused", func() {
		r.rt.cfg.Log.Warn("a change of the resources is refused; what was there before keeps serving", "error", err)
	})
}

// step takes the plan into use as far as it has come: all at once when every
// component is open, or when the time for that is over; and what opens later
// then.
func (r *reloader) step(ctx context.Context) {
	p := r.plan
	if p == nil {
		return
	}
	now := r.rt.table.Load()
	table := newComponents(p.want.set)
	var pending []string
	waiting := false
	for _, e := range p.want.endpoints {
		if old := now.endpoint(e.resource.Name()); old != nil && old != e {
			if ok, why := e.ready(); !ok {
				pending = append(pending, fmt.Sprintf("HTTPEndpoint %s: %v", e.resource.Name(), cmp.Or(why, errResolving)))
				waiting = waiting || time.Now().Before(e.until)
				e = old
			}
		}
		table.endpoints = append(table.endpoints, e)
	}
	for _, u := range p.want.units {
		if old := now.unit(u.spec.Block, u.name); r.mustWait(u, old) {
			pending = append(pending, fmt.Sprintf("Component %s: %s", u.name, whyNotOpen(u.status())))
			waiting = waiting || time.Now().Before(u.until)
			u = old
		}
		table.add(u)
	}
	if waiting && !p.published {
		return
	}
	if p.published && slices.Equal(now.units, table.units) && slices.Equal(now.endpoints, table.endpoints) {
		return
	}
	if !p.published && p.policies != nil {
		r.rt.resiliency.set(p.policies)
		r.rt.limits.use(p.policies.limits)
	}
	if !p.published {
		r.signal(ctx, p)
		if p.access.changed {
			r.rt.access.Use(p.access.to)
		}
	}
	r.publish(ctx, now, table)
	r.published(p, pending)
}

// signal takes the signals of a plan into use. The former ones end when the calls
// that they recorded have ended, or the grace period is over.
func (r *reloader) signal(ctx context.Context, p *plan) {
	if p.signals == nil {
		return
	}
	r.signals = sectionsOfSignals(&p.want.set.Configuration)
	r.work.Go(func() { p.signals.warm(ctx) })
	former, grace := r.rt.signals.replace(*p.signals), time.NewTimer(r.rt.cfg.Grace)
	r.work.Go(func() {
		defer grace.Stop()
		select {
		case <-grace.C:
		case <-ctx.Done():
		}
		r.rt.endSignals(ctx, former)
	})
}

// errResolving says that the secrets of an endpoint have not been read yet.
var errResolving = errors.New("its secrets are being read")

// mustWait reports whether old goes on serving instead of u.
func (r *reloader) mustWait(u, old *unit) bool {
	return old != nil && old != u && u.status().State == component.Opening && old.status().State == component.Ready
}

func whyNotOpen(s component.Status) string {
	if s.Err == nil {
		return "still connecting"
	}
	return s.Err.Error()
}

// publish puts a table in the place of another one.
func (r *reloader) publish(ctx context.Context, old, table *components) {
	rt := r.rt
	rt.connect(table)
	rt.table.Store(table)
	r.secrets.follow(ctx, table)
	var gone []*unit
	for _, u := range old.units {
		if slices.Contains(table.units, u) {
			continue
		}
		gone = append(gone, u)
		if u.replace != nil {
			u.replace(table)
		}
		if next := table.unit(u.spec.Block, u.name); next == nil || next.spec.Type() != u.spec.Type() {
			rt.metrics.ComponentGone(u.name, u.spec.Type())
		}
	}
	rt.invoker.SetEndpoints(table.targets())
	if !sameTraffic(old.set, table.set) {
		rt.balance.Configure(trafficPolicies(table.set, rt.cfg.Namespace))
	}
	rt.setRoutes(table.set)
	rt.configure(&table.set.Configuration, &old.set.Configuration)
	var ending []*listener
	if rt.app != nil {
		ending = rt.app.follow(table)
	}
	before, unreached := r.former, make(chan struct{})
	r.former = unreached
	r.work.Go(func() {
		r.retire(ctx, retired{old: old, next: table, units: gone, listeners: ending, before: before, unreached: unreached})
	})
}

// retired is what a table that was replaced leaves behind.
type retired struct {
	old, next         *components
	units             []*unit
	listeners         []*listener
	before, unreached chan struct{} // see reloader.former
}

// retire closes what is no longer reached: when the calls that may have looked
// it up have ended, what was handed over is there, and nothing is under way, or
// the grace period is over.
func (r *reloader) retire(ctx context.Context, t retired) {
	bound, cancel := context.WithTimeout(ctx, r.rt.cfg.Grace)
	defer cancel()
	t.old.release()
	await(bound, t.before)
	await(bound, t.old.unset)
	close(t.unreached)
	for _, l := range t.listeners {
		await(ctx, l.done) // which has a grace period of its own
	}
	for _, e := range t.old.endpoints {
		if !slices.Contains(t.next.endpoints, e) {
			e.close()
		}
	}
	var wg sync.WaitGroup
	for _, u := range t.units {
		wg.Go(func() {
			if u.drain != nil {
				u.drain(bound)
			}
			u.chains.calls.leave()
			await(bound, u.chains.calls.idle)
			u.stop()
			await(ctx, u.done)
		})
	}
	wg.Wait()
}

func await(ctx context.Context, done <-chan struct{}) {
	select {
	case <-done:
	case <-ctx.Done():
	}
}

// published says what was taken into use.
func (r *reloader) published(p *plan, pending []string) {
	result := Reload{Generation: r.last.Generation + 1, Pending: pending, NeedsRestart: p.needs}
	again := p.published
	if !again {
		result.Changes, result.Rotated = p.changes, p.rotated
	}
	p.published = true
	if len(pending) == 0 {
		p.deadline.Stop()
		r.plan = nil
	}
	r.report(result, "applied", func() { r.log(result, again) })
}

// log says what was taken into use: of a plan of which a part was before when
// again is set.
func (r *reloader) log(result Reload, again bool) {
	log := r.rt.cfg.Log
	switch {
	case again:
		log.Info("a component that had to wait is in use", "generation", result.Generation)
	case len(result.Rotated) > 0:
		log.Info("opened anew, because secrets that they refer to have changed", "generation", result.Generation, "rotated", result.Rotated)
	default:
		log.Info("resources reloaded", "generation", result.Generation,
			"added", result.Changes.Added, "changed", result.Changes.Changed, "removed", result.Changes.Removed)
	}
	if !again {
		for _, field := range result.NeedsRestart {
			log.Warn("a change of the Configuration needs a restart; until then what was there before counts", "field", field)
		}
	}
	for _, c := range result.Pending {
		log.Warn("the new version of a component cannot be opened; the former one keeps serving until it can", "component", c)
	}
}

// report makes the result known, and logs it then: who reads the log finds it
// everywhere.
func (r *reloader) report(result Reload, metric string, log func()) {
	result.At = time.Now().UTC()
	r.last = result
	r.rt.reloaded.Store(&result)
	r.rt.metrics.Reloaded(metric, result.Err == nil)
	log()
	if f := r.rt.cfg.OnReload; f != nil {
		f(result)
	}
}
