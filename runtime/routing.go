package runtime

import (
	"bytes"
	"cmp"
	"context"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/proa-io/proa/block/invoke"
	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/mesh/discovery"
	"github.com/proa-io/proa/mesh/proxy"
	"github.com/proa-io/proa/mesh/route"
	"github.com/proa-io/proa/mesh/tcp"
	"github.com/proa-io/proa/resource"
	"github.com/proa-io/proa/telemetry"
)

// routing lets what the application asks of others meet their routes. Without
// routes it passes everything on to the service below.
type routing struct {
	below     *invoke.Service
	namespace string
	tables    atomic.Pointer[Routes] // nil for no routes
	router    route.Router
	metrics   *telemetry.Metrics
}

func (rt *Runtime) buildRouting() {
	r := &routing{below: rt.invoker, namespace: rt.cfg.Namespace, metrics: rt.metrics}
	to := backends{rt.invoker}
	r.router = route.Router{Sender: to, Mirrors: route.NewMirrors(to, rt.cfg.Log), Observe: r.observe}
	rt.routing = r
	rt.setRoutes(rt.table.Load().set)
}

// checkRoutes reports what is wrong with the routes of a set beyond their form.
func checkRoutes(set *resource.Set, namespace string) error {
	_, err := CompileRoutes(set, namespace)
	return err
}

// setRoutes takes the routes of a set into use, which have been checked. Requests
// under way go on. What stays the same keeps its retry budgets.
func (rt *Runtime) setRoutes(set *resource.Set) {
	routes, err := CompileRoutes(set, rt.cfg.Namespace)
	if err != nil {
		return // it has been checked
	}
	old := rt.routing.tables.Load()
	switch {
	case routes.Empty():
		rt.routing.tables.Store(nil)
	case old == nil || old.digest != routes.digest || !old.sameProblems(routes):
		rt.routing.tables.Store(routes)
	}
}

// sameProblems reports whether the backends of two equal declarations can be
// reached alike: other resources decide on that, too.
func (r *Routes) sameProblems(o *Routes) bool {
	problems := func(r *Routes) (out []string) {
		for app, t := range r.Apps {
			for _, rule := range t.Rules() {
				for i := range rule.Backends {
					out = append(out, app.String()+rule.String()+rule.Backends[i].Problem)
				}
			}
		}
		slices.Sort(out)
		return out
	}
	return slices.Equal(problems(r), problems(o))
}

// service returns the application that an id names; false when it is none.
func (r *routing) service(id string) (discovery.Service, bool) {
	app, ns, dotted := strings.Cut(id, ".")
	if !dotted {
		ns = r.namespace
	}
	return discovery.Service{Namespace: ns, AppID: app}, !strings.Contains(id, "/")
}

func (r *routing) table(id string) *route.Table {
	t := r.tables.Load()
	if t == nil {
		return nil
	}
	app, ok := r.service(id)
	if !ok {
		return nil
	}
	return t.Apps[app]
}

func arrival(id, path string) route.Arrival {
	app, _, _ := strings.Cut(id, ".")
	if !strings.HasPrefix(path, "/") {
		path = "/" + path
	}
	return route.Arrival{Host: strings.ToLower(app), Target: path, Scheme: "http"}
}

// Forward implements the Invoker of dialects.
func (r *routing) Forward(ex proxy.Exchange, id, path string) (proxy.Progress, error) {
	t := r.table(id)
	if t == nil {
		return r.below.Forward(ex, id, path)
	}
	return r.router.Serve(ex, t, arrival(id, path))
}

// Call implements the Invoker of dialects.
func (r *routing) Call(ctx context.Context, id string, in invoke.Request, maxBody int64) (*invoke.Reply, error) {
	t := r.table(id)
	if t == nil {
		return r.below.Call(ctx, id, in, maxBody)
	}
	q := proxy.Request{Method: in.Method, Scheme: "http", Authority: id, Target: in.Path, Header: in.Header, ContentLength: int64(len(in.Body))}
	if len(in.Body) > 0 {
		q.Body = bytes.NewReader(in.Body)
	}
	m, err := r.router.Call(ctx, t, arrival(id, in.Path), q, maxBody)
	if err != nil {
		return nil, err
	}
	return &invoke.Reply{Status: m.Status, Header: m.Header, Body: m.Body, Trailer: m.Trailer}, nil
}

// backends are reached like every application that is invoked.
type backends struct{ below *invoke.Service }

// Forward implements route.Sender.
func (r backends) Forward(ex proxy.Exchange, to *route.Backend, target string) (proxy.Progress, error) {
	id := to.Name
	if to.Kind == route.Application {
		id += "." + to.Namespace
	}
	return r.below.Forward(ex, id, target)
}

func (r *routing) observe(o route.Outcome) {
	if !r.metrics.Enabled() {
		return
	}
	v := telemetry.Routed{Status: o.Status}
	if o.Rule != nil {
		v.Route, v.Rule = o.Rule.Route.String(), o.Rule.Label()
	}
	if o.Backend != nil {
		v.Backend = o.Backend.String()
	}
	r.metrics.RequestRouted(v)
}

// tunnel opens a raw connection to a port of an application, or of the backend that
// its TCPRoute chooses. A backend has the port that its reference names, else the
// one asked for.
func (r *routing) tunnel(ctx context.Context, id string, port int) (tcp.Stream, error) {
	t := r.tables.Load()
	if t == nil {
		return r.below.Tunnel(ctx, id, port)
	}
	app, _ := r.service(id)
	rule := t.Ports[app]
	if rule == nil {
		return r.below.Tunnel(ctx, id, port)
	}
	b := rule.Pick(rand.Uint64())
	switch {
	case b == nil:
		return nil, fault.New(fault.Unavailable, "%v has no backend with a weight", rule)
	case b.Problem != "":
		return nil, fault.New(fault.Unavailable, "%v, backend %s: %s", rule, b, b.Problem)
	}
	return r.below.Tunnel(ctx, b.Name+"."+b.Namespace, cmp.Or(b.Port, port))
}
