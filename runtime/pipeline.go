package runtime

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/proa-io/proa/block/middleware"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/dialect/dapr"
	"github.com/proa-io/proa/mesh/proxy"
	"github.com/proa-io/proa/resource"
)

// pipeline returns the middleware that a part of the Configuration names. What
// it names may be replaced while the process runs; which names there are counts
// as at the start.
func (rt *Runtime) pipeline(p *resource.Pipeline) middleware.Pipeline {
	out := middleware.Pipeline{Find: func(name string) (*middleware.Middleware, error) {
		return dapr.Lookup(middleware.Block, rt.table.Load().middlewares, name)
	}}
	if p != nil {
		for _, h := range p.Handlers {
			out.Names = append(out.Names, h.Name)
		}
	}
	return out
}

// wrapAPI puts the pipeline of the Configuration before the HTTP API; nil for
// none.
func (rt *Runtime) wrapAPI() func(proxy.Handler) proxy.Handler {
	p := rt.pipeline(rt.table.Load().set.Configuration.Spec.HTTPPipeline)
	if len(p.Names) == 0 {
		return nil
	}
	return p.Wrap
}

// wrapApp puts the pipeline of the Configuration before the application.
func (rt *Runtime) wrapApp(next proxy.RoundTripper) proxy.RoundTripper {
	return middleware.NewTransport(rt.pipeline(rt.table.Load().set.Configuration.Spec.AppHTTPPipeline), next)
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
