package runtime

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/proa-io/proa/block/invoke"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/dialect/dapr/grpcapi"
	"github.com/proa-io/proa/dialect/dapr/httpapi"
	"github.com/proa-io/proa/dialect/proa"
	"github.com/proa-io/proa/driver/all"
	"github.com/proa-io/proa/engine"
	"github.com/proa-io/proa/mesh/balance"
	"github.com/proa-io/proa/mesh/discovery"
	"github.com/proa-io/proa/mesh/proxy"
	"github.com/proa-io/proa/mesh/rpc"
	"github.com/proa-io/proa/resource"
	"github.com/proa-io/proa/telemetry"
)

// Runtime is a wired process, ready to Run.
type Runtime struct {
	cfg          Config
	engine       *engine.Engine
	catalog      *component.Catalog
	metrics      *telemetry.Metrics
	metricsPort  *metricsPort
	local        *slog.Logger // whose lines stay on this machine
	signals      signals
	resiliency   *resiliency
	limits       *limits
	table        atomic.Pointer[components]
	ends         ends
	roster       *roster
	names        *resolution
	directory    *discovery.Directory
	balance      *balance.Table
	announcement *discovery.Announcement
	transports   *transports
	security     *security // nil without mutual TLS
	invoker      *invoke.Service
	routing      *routing     // before the invoker
	app          *application // nil without an application to call
	access       *telemetry.AccessLog
	apiCalls     *telemetry.APILog // nil before it is asked for
	late         late
	http         *httpapi.API
	grpc         *grpcapi.API
	proa         *proa.API
	listeners    *listeners
	reloader     *reloader
	reloaded     atomic.Pointer[Reload] // the last one; nil before

	haste    chan struct{} // closed by Hasten
	hasten   sync.Once
	mu       sync.Mutex
	extended map[string]string
	stop     context.CancelFunc
}

// New reads the resources, builds every part and binds the listeners. It
// reaches no network and opens no component: Run does. On error nothing is
// left behind.
func New(ctx context.Context, c Config) (_ *Runtime, err error) {
	if c, err = c.withDefaults(); err != nil {
		return nil, err
	}
	rt := &Runtime{cfg: c, extended: map[string]string{}, haste: make(chan struct{}), transports: &transports{log: c.Log, maxHead: c.maxHead()}, roster: newRoster()}
	rt.metrics, rt.metricsPort = telemetry.NewMetrics(c.AppID, c.Namespace), newMetricsPort(rt)
	if err := rt.prepareSignals(ctx); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = rt.signals.end(ctx) // nothing has happened that would matter
		}
	}()
	rt.access = telemetry.NewAccessLog(telemetry.AccessLogOptions{Metrics: rt.metrics, Log: rt.local})
	defer func() {
		if err != nil {
			_ = rt.access.Close() // nothing is in it
		}
	}()
	set, err := resource.Load(rt.resourceOptions())
	if err != nil {
		return nil, fmt.Errorf("the resources have problems:\n%w", err)
	}
	for _, ig := range set.Ignored {
		rt.cfg.Log.Warn("a document is passed over: its kind is not one that is read", "place", ig.Pos.String(), "kind", ig.Kind, "name", ig.Name)
	}
	if err := rt.build(ctx, set); err != nil {
		return nil, err
	}
	if rt.listeners, err = bind(&rt.cfg, rt.metrics.Enabled()); err != nil {
		return nil, err
	}
	if limit, known := fileLimit(); known {
		sayFewFiles(c.Log, limit)
	}
	rt.metricsPort.use(rt.listeners.metrics)
	return rt, nil
}

// build makes everything that needs no socket, from the bottom up.
func (rt *Runtime) build(ctx context.Context, set *resource.Set) (err error) {
	c := &rt.cfg
	c.Engine.Name, c.Engine.Log = c.AppID, c.Log
	if rt.engine, err = engine.Open(ctx, c.Engine); err != nil {
		return err
	}
	s, err := rt.newSignals(ctx, &set.Configuration)
	if err != nil {
		return err
	}
	rt.signals.replace(s) // which were none
	rt.signals.headers = s.headers
	if rt.catalog, err = all.Catalog(all.Deps{Engine: rt.engine}); err != nil {
		return err
	}
	file, err := rt.openAccessLog(&set.Configuration)
	if err != nil {
		return err
	}
	rt.access.Use(file)
	p, err := compilePolicies(set.Resiliencies)
	problems := []error{err, checkMetrics(&set.Configuration), checkTunnels(&set.Configuration)}
	if problems[1] == nil {
		rt.measure(&set.Configuration)
	}
	rt.limits = newLimits(c, rt.pinned, rt.metrics)
	if p != nil {
		p.limits = rt.limits.compile(set.RateLimits)
		rt.limits.use(p.limits)
	}
	rt.resiliency = newResiliency(p, c.Log, rt.metrics, rt.signals.tracing)
	table, err := rt.builder(set).build(rt.declared(set))
	problems = append(problems, err, checkSubscriptions(set, table, c.AppID), checkPipelines(set, table), checkLimits(set, table), checkRoutes(set, c.Namespace))
	rt.table.Store(table)
	for _, u := range table.units {
		rt.metrics.ComponentLoaded()
		rt.metrics.ComponentReady(u.name, u.spec.Type(), false)
	}
	if rt.names, err = newResolution(set.Configuration.Spec.NameResolution, rt.catalog, c); err != nil {
		problems = append(problems, err)
	} else {
		rt.directory = discovery.New(discovery.Options{Sources: rt.names.sources, Log: c.Log})
	}
	if err := errors.Join(problems...); err != nil {
		return fmt.Errorf("the resources have problems:\n%w", err)
	}
	if rt.security, err = newSecurity(c, &set.Configuration, rt.metrics); err != nil {
		return fmt.Errorf("the identity of this sidecar: %w", err)
	}
	rt.transports.secure = rt.security
	rt.app = newApplication(rt)
	rt.balance = rt.newBalance(set)
	rt.buildInvoker()
	rt.buildRouting()
	rt.buildAPIs()
	rt.reloader = newReloader(rt)
	return nil
}

// resourceOptions say which resources are read.
func (rt *Runtime) resourceOptions() resource.Options {
	return resource.Options{
		Paths: rt.cfg.ResourcesPaths, ConfigPaths: rt.cfg.ConfigPaths, AppID: rt.cfg.AppID, Namespace: os.Getenv("NAMESPACE"),
	}
}

// Reload reads the resources again now, whether or not a change was noticed. It
// returns at once; see Config.OnReload.
func (rt *Runtime) Reload() { rt.reloader.watcher.Reread() }

// builder returns what makes a table of what set declares.
func (rt *Runtime) builder(set *resource.Set) *builder {
	return &builder{cfg: &rt.cfg, set: set, catalog: rt.catalog, resiliency: rt.resiliency, metrics: rt.metrics, pinned: rt.pinned}
}

// declared are the components that a set stands for.
func (rt *Runtime) declared(set *resource.Set) []resource.Component {
	if rt.cfg.NoDefaultComponents {
		return set.Components
	}
	return withDefaults(set)
}

func (rt *Runtime) buildInvoker() {
	chains := rt.resiliency.owner()
	o := invoke.Options{
		AppID: rt.cfg.AppID, Namespace: rt.cfg.Namespace, Host: rt.cfg.advertised(), Chains: chains, Inbound: chains.Receive(),
		Directory: rt.directory, Balance: rt.balance, Peer: rt.transports.peer, Caller: rt.security.caller, External: rt.transports.origin,
		Endpoints: rt.table.Load().targets(), Access: accessRules(&rt.table.Load().set.Configuration), Tracing: rt.signals.tracing, Metrics: rt.metrics, Log: rt.cfg.Log,
	}
	if rt.app != nil {
		o.App = rt.app.invocable()
	}
	o.Dial = rt.dialTunnel
	o.Tunnels, _ = tunnelRules(&rt.table.Load().set.Configuration) // which has been checked
	rt.invoker = invoke.New(o)
}

// inline reports whether a request to the API may be answered by the goroutine
// that reads it: one that is only passed on to another sidecar. Middleware may
// wait for anything. An application that asks for itself has its own connection
// waited for by the same goroutine in any case.
func (rt *Runtime) inline(r *proxy.Request) bool {
	if rpc.IsGRPC(r.Header) {
		return r.Header.Has(invoke.FieldTarget)
	}
	id := r.Header.Get(invoke.FieldTarget)
	if id == "" {
		if rest, ok := strings.CutPrefix(r.Target, "/v1.0/invoke/"); ok {
			id, _, _ = strings.Cut(rest, "/method/")
		}
	}
	return id != "" && id != rt.cfg.AppID && rt.table.Load().pipelines.api == nil
}

// handle serves both APIs on every API port: what is gRPC is known by its
// content type.
func (rt *Runtime) handle(ex proxy.Exchange) {
	if ex.Request().Method == "CONNECT" { // which lasts, and needs no component
		rt.http.Handle(ex)
		return
	}
	defer rt.pinned().release()
	if rpc.IsGRPC(ex.Request().Header) {
		rt.grpc.Handle(ex)
		return
	}
	rt.http.Handle(ex)
}

// pinned returns the table in use, pinned.
func (rt *Runtime) pinned() *components {
	for {
		if t := rt.table.Load(); t.pin() {
			return t
		}
	}
}

// Addresses tells where the process can be reached.
func (rt *Runtime) Addresses() Addresses {
	a := Addresses{
		HTTPPort: portOf(rt.listeners.http[0]), GRPCPort: portOf(rt.listeners.grpc[0]),
		InternalPort: portOf(rt.listeners.internal), Engine: rt.engine.String(), MetricsPort: rt.metricsPort.port(),
	}
	for _, ln := range rt.listeners.forwards {
		a.Forwards = append(a.Forwards, ln.Addr().String())
	}
	for _, c := range rt.table.Load().describe() {
		a.Components = append(a.Components, c.Name+" ("+c.Type+")")
	}
	return a
}

// Run serves until ctx ends, then stops in good order within the grace period.
// It returns nil after an orderly stop. Call it once.
func (rt *Runtime) Run(ctx context.Context) error {
	defer rt.transports.close()
	defer rt.limits.use(nil)
	defer func() {
		for _, e := range rt.table.Load().endpoints {
			e.close()
		}
	}()
	ctx, rt.stop = context.WithCancel(ctx)
	defer rt.stop()
	remove := rt.recordInstance()
	defer remove()
	if rt.cfg.OnListening != nil {
		rt.cfg.OnListening(rt.Addresses())
	}
	rt.announcement = discovery.Announce(rt.self(), rt.endpoint())
	rt.announcement.AppPort, rt.announcement.HTTPPort = rt.cfg.AppPort, rt.Addresses().HTTPPort
	defer context.AfterFunc(ctx, func() { // so that others look elsewhere before this one is gone
		rt.announcement.Update(func(ep *discovery.Endpoint) { ep.Health = discovery.Draining })
	})()
	return runStages(rt.blocked(ctx), stopping{rt.cfg.Grace, rt.haste, rt.cfg.Log}, rt.stages()...)
}

// Hasten makes a process that stops end at once, as far as it can: nothing under
// way is waited for any more. It is safe to call at any time, and more than
// once.
func (rt *Runtime) Hasten() { rt.hasten.Do(func() { close(rt.haste) }) }

// blocked delays the order to stop by BlockShutdown, or until the application
// takes nothing any more.
func (rt *Runtime) blocked(ctx context.Context) context.Context {
	if rt.cfg.BlockShutdown <= 0 {
		return ctx
	}
	later, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var gone <-chan struct{} // never, without an application to look at
	context.AfterFunc(ctx, func() {
		defer cancel()
		if rt.app != nil {
			gone = rt.app.idle()
		}
		rt.cfg.Log.Info("the order to stop is delayed", "by", rt.cfg.BlockShutdown)
		select {
		case <-time.After(rt.cfg.BlockShutdown):
		case <-gone:
			rt.cfg.Log.Info("the application is gone or not well: there is nothing to wait for")
		case <-rt.haste:
		}
	})
	return later
}

// stages are all services, from the bottom up.
func (rt *Runtime) stages() [][]service {
	l := rt.listeners
	bottom := []service{{"engine", rt.engine.Run}, {"identity", rt.security.Run}}
	if rt.cfg.MetricsPort >= 0 {
		bottom = append(bottom, service{"metrics", rt.metricsPort.run})
	}
	if l.profile != nil {
		bottom = append(bottom, service{"profiles", func(ctx context.Context) error { return telemetry.ServeHTTP(ctx, l.profile, profiles()) }})
	}
	components := []service{
		{"components", func(ctx context.Context) error { return rt.roster.run(ctx, rt.table.Load().units) }},
		{"discovery", rt.directory.Run},
		{"health checks", rt.balance.Run},
		{"mirrors", rt.routing.router.Mirrors.Run},
	}
	servers := []service{
		{"API", serveHTTP(rt.handle, rt.inline, &rt.cfg, append(append([]net.Listener{}, l.http...), l.grpc...)...)},
		{"internal server", servePeers(rt.logInbound(rt.invoker.Receive), &rt.cfg, rt.security, l.internal)},
	}
	for i, f := range rt.cfg.Forwards {
		servers = append(servers, service{"forward to " + f.App, rt.serveForward(f, l.forwards[i])})
	}
	if l.public != nil {
		servers = append(servers, service{"public server", serveHTTP(rt.http.HandlePublic, nil, &rt.cfg, l.public)})
	}
	stages := [][]service{{{"telemetry", rt.runSignals}}, {{"access log", rt.access.Run}, {"API log", rt.late.run}}, bottom, rt.names.services, components, {{"relays", rt.roster.relays}}, servers}
	if rt.cfg.Process != nil {
		stages = append(stages, []service{{"application", rt.cfg.Process}})
	}
	top := []service{{"streams", func(ctx context.Context) error {
		<-ctx.Done()
		rt.grpc.Stop() // they would never end by themselves
		rt.proa.Stop()
		return nil
	}}}
	for _, r := range rt.names.registrars {
		top = append(top, service{"registration", func(ctx context.Context) error { return r.Register(ctx, rt.announcement) }})
	}
	if rt.app != nil {
		top = append(top, rt.app.services()...)
	}
	return append(stages, append(top, service{"reload", rt.reloader.run}))
}

func (rt *Runtime) self() discovery.Service {
	return discovery.Service{Namespace: rt.cfg.Namespace, AppID: rt.cfg.AppID}
}

func (rt *Runtime) endpoint() discovery.Endpoint {
	return discovery.Endpoint{
		Address: net.JoinHostPort(rt.cfg.advertised(), strconv.Itoa(portOf(rt.listeners.internal))),
		ID:      uuid.NewString(), MTLS: rt.security != nil,
		Locality: rt.cfg.Locality, Labels: rt.cfg.Labels,
	}
}

// recordInstance lets commands of this user find the sidecar.
func (rt *Runtime) recordInstance() func() {
	a := rt.Addresses()
	if a.HTTPPort == 0 {
		return func() {}
	}
	home, err := Home(rt.cfg.Engine.Dir)
	var remove func()
	if err == nil {
		remove, err = Instance{
			AppID: rt.cfg.AppID, Namespace: rt.cfg.Namespace, PID: os.Getpid(),
			HTTPPort: a.HTTPPort, GRPCPort: a.GRPCPort, AppPort: rt.cfg.AppPort, Started: time.Now().UTC(),
		}.record(home)
	}
	if err != nil {
		rt.cfg.Log.Warn("commands of this user will not find the sidecar by itself", "error", err)
		return func() {}
	}
	return remove
}
