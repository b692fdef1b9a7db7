package httpapi

import (
	"context"
	"net/http"
	"strconv"

	"github.com/proa-io/proa/dialect/dapr"
	"github.com/proa-io/proa/telemetry"
)

// context returns the context of the request, with its trace. If that is
// recorded, the first call of context begins the span of the request.
func (c *call) context() context.Context {
	if c.span.Recording() {
		return telemetry.WithTrace(c.ex.Context(), c.trace)
	}
	ctx, recorded := c.fields.trace.Begin(c.ex.Context(), c.api.opts.Tracing)
	if !recorded {
		return ctx
	}
	ctx = c.beginSpan(ctx)
	if parent, state, ok := dapr.TraceOf(ctx); ok { // so that the caller can find the trace
		c.header.Add(dapr.TraceParent, parent)
		if state != "" {
			c.header.Add(dapr.TraceState, state)
		}
	}
	return ctx
}

func (c *call) beginSpan(ctx context.Context) context.Context {
	i := dapr.APISpan(c.path, "http", c.req.Method+" "+c.path)
	system := ""
	switch c.route.info().group {
	case "state":
		system = dapr.SystemState
	case "secrets":
		system = dapr.SystemSecrets
	case "bindings":
		system = dapr.SystemBindings
	case "publish":
		i.Attributes = append(i.Attributes, dapr.OfTopic(c.params[1])...)
	}
	if system != "" {
		i.Attributes = append(i.Attributes, dapr.OfStore(system, c.params[0], c.req.Method+" "+c.path)...)
	}
	i.Attributes = append(i.Attributes, dapr.OfUser(c.req.Header)...)
	ctx, c.span = c.api.opts.Tracing.StartSpan(ctx, i)
	c.trace, _ = telemetry.TraceFrom(ctx)
	return ctx
}

// beginInvocation begins the span of an invocation, if its trace is recorded,
// and makes the request part of it.
func (c *call) beginInvocation(id, method string) {
	if !c.api.opts.Tracing.Enabled() {
		return
	}
	ctx, recorded := c.fields.trace.Begin(c.ex.Context(), c.api.opts.Tracing)
	if !recorded {
		return
	}
	name, attributes := dapr.OfInvocation(id, method)
	i := dapr.APISpan(name, "http", c.req.Method+" "+c.req.Path())
	i.Attributes = append(append(i.Attributes, attributes...), dapr.OfUser(c.req.Header)...)
	ctx, c.span = c.api.opts.Tracing.StartSpan(ctx, i)
	c.trace, _ = telemetry.TraceFrom(ctx)
	c.req.Header.Set(dapr.TraceParent, c.trace.Traceparent())
}

// traceParent tells which trace the request belongs to.
func (c *call) traceParent() string {
	if c.span.Recording() {
		return c.trace.Traceparent()
	}
	return c.fields.trace.Parent
}

// endSpan ends the span of the request.
func (c *call) endSpan() {
	if !c.span.Recording() {
		return
	}
	if c.status != 0 {
		c.span.Set(dapr.AttrStatus, strconv.Itoa(c.status))
	}
	if c.status == 0 || c.status >= 400 {
		c.span.Fail(http.StatusText(c.status))
	}
	c.span.End(nil)
}
