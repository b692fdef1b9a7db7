package runtime

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/proa-io/proa/block/middleware"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/dialect/dapr"
	"github.com/proa-io/proa/internal/coroutine"
	"github.com/proa-io/proa/mesh/proxy"
	"github.com/proa-io/proa/resource"
)

// pipelines are the middleware of a table, put together; nil for none.
type pipelines struct {
	api proxy.Handler
	app proxy.RoundTripper
}

// ends are what comes behind the pipelines of every table.
type ends struct {
	api proxy.Handler
	app proxy.RoundTripper
}

// connect puts the pipelines of a table together, which is not in use yet.
func (rt *Runtime) connect(c *components) {
	spec := &c.set.Configuration.Spec
	if p := c.pipeline(spec.HTTPPipeline); len(p.Names) > 0 {
		c.pipelines.api = p.Wrap(rt.ends.api)
	}
	if p := c.pipeline(spec.AppHTTPPipeline); len(p.Names) > 0 && rt.ends.app != nil {
		c.pipelines.app = middleware.NewTransport(p, rt.ends.app)
	}
}

// pipeline returns the middleware that a part of the Configuration names.
func (c *components) pipeline(p *resource.Pipeline) middleware.Pipeline {
	out := middleware.Pipeline{Find: func(name string) (*middleware.Middleware, error) {
		return dapr.Lookup(middleware.Block, c.middlewares, name)
	}}
	if p != nil {
		for _, h := range p.Handlers {
			out.Names = append(out.Names, h.Name)
		}
	}
	return out
}

// wrapAPI puts the pipeline of the table in use before the HTTP API.
func (rt *Runtime) wrapAPI(last proxy.Handler) func() proxy.Handler {
	rt.ends.api = last
	return func() proxy.Handler { return rt.table.Load().pipelines.api }
}

// wrapApp puts the pipeline of the table in use before the application.
func (rt *Runtime) wrapApp(next proxy.RoundTripper) proxy.RoundTripper {
	rt.ends.app = next
	return toApp{rt}
}

// toApp sends requests to the application through the pipeline of the table in
// use.
type toApp struct{ rt *Runtime }

// RoundTrip implements proxy.RoundTripper.
func (t toApp) RoundTrip(ctx context.Context, r *proxy.Request, o proxy.RoundTripOptions) (*proxy.Response, error) {
	if through := t.rt.table.Load().pipelines.app; through != nil {
		coroutine.Detach(ctx) // middleware may wait for anything
		return through.RoundTrip(ctx, r, o)
	}
	return t.rt.ends.app.RoundTrip(ctx, r, o)
}

// checkPipelines reports pipelines that name what there is not.
func checkPipelines(set *resource.Set, table *components) error {
	var errs []error
	spec := &set.Configuration.Spec
	for _, p := range []struct {
		field    string
		pipeline *resource.Pipeline
	}{{"spec.httpPipeline", spec.HTTPPipeline}, {"spec.appHttpPipeline", spec.AppHTTPPipeline}} {
		if p.pipeline == nil {
			continue
		}
		for i, h := range p.pipeline.Handlers {
			if problem := checkHandler(h, table); problem != "" {
				errs = append(errs, &resource.Error{
					Pos: p.pipeline.Pos, Resource: "Configuration " + set.Configuration.Metadata.Name,
					Field: fmt.Sprintf("%s.handlers[%d]", p.field, i), Problem: problem,
				})
			}
		}
	}
	return errors.Join(errs...)
}

func checkHandler(h resource.PipelineHandler, table *components) string {
	if len(h.Selector) > 0 {
		return "selectors of handlers are not supported: a handler sees every request"
	}
	u := table.unit(middleware.Block, h.Name)
	switch {
	case u == nil:
		names := slices.Sorted(maps.Keys(table.middlewares))
		hint := "there is none"
		if near := component.Nearest(h.Name, names); near != "" {
			hint = fmt.Sprintf("did you mean %q?", near)
		} else if len(names) > 0 {
			hint = "there are " + strings.Join(names, ", ")
		}
		return fmt.Sprintf("names the component %q, which is no middleware; %s", h.Name, hint)
	case h.Type != "" && h.Type != u.spec.Type():
		return fmt.Sprintf("says that %q is of the type %s; it is of the type %s", h.Name, h.Type, u.spec.Type())
	}
	return ""
}
