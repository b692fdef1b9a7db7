// Package middleware is the building block that looks at HTTP requests on their
// way: those of the application to the API of its sidecar (httpPipeline of the
// Configuration), and those to the application (appHttpPipeline). What it does
// with them, the drivers say.
package middleware

import (
	"context"
	"encoding/json"
	"io"

	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/mesh/proxy"
)

// Block is the first part of the type string of every component of this block:
// "middleware.http.<name>".
const Block = "middleware"

// Driver is what a middleware implements. Methods are safe for concurrent use.
type Driver interface {
	// Handle answers ex, or hands it on to next; not both, and next at most
	// once. It may change the request first, and may hand on an exchange of
	// its own that wraps ex, to look at the answer. It must not keep ex.
	Handle(ex proxy.Exchange, next proxy.Handler)

	io.Closer
}

// Spec describes a driver of type "middleware.http.<name>" to the catalog.
func Spec[C any, D Driver](d component.Description, defaults C,
	open func(context.Context, C, component.Env) (D, error)) component.Spec {
	d.Name = "http." + d.Name
	for i := range d.Aliases {
		d.Aliases[i] = "http." + d.Aliases[i]
	}
	return component.NewSpec(Block, d, defaults, nil, nil, open)
}

// Options configure a Middleware.
type Options struct {
	// Enter and Leave, if set, are called around each Handle, so that it is
	// known when the driver is in use.
	Enter, Leave func()
}

// Middleware is a named middleware. It is safe for concurrent use.
type Middleware struct {
	handle *component.Handle[Driver]
	opts   Options
}

// New returns a Middleware over the driver that h opens.
func New(h *component.Handle[Driver], o Options) *Middleware {
	if o.Enter == nil {
		o.Enter = func() {}
	}
	if o.Leave == nil {
		o.Leave = func() {}
	}
	return &Middleware{h, o}
}

// Handle takes ex through the middleware. While it is not open, ex is answered
// with an error: nothing passes by.
func (m *Middleware) Handle(ex proxy.Exchange, next proxy.Handler) {
	m.opts.Enter()
	defer m.opts.Leave()
	d, err := m.handle.Get(ex.Context())
	if err != nil {
		Refuse(ex, 500, "ERR_MIDDLEWARE", "middleware "+m.handle.Name()+": "+fault.Message(err))
		return
	}
	d.Handle(ex, next)
}

// Refuse answers ex with an error as the Dapr API tells one, and fields.
func Refuse(ex proxy.Exchange, status int, code, message string, fields ...proxy.Field) {
	body, err := json.Marshal(map[string]string{"errorCode": code, "message": message})
	if err != nil {
		body = nil // two strings can always be written
	}
	h := append(proxy.Header{{Name: "Content-Type", Value: "application/json"}}, fields...)
	if ex.Respond(status, h, int64(len(body))) == nil && ex.Request().Method != "HEAD" {
		_, _ = ex.Write(body) // an error means that the client has gone
	}
}

// Pipeline is the middleware that requests pass, in order.
type Pipeline struct {
	// Names are those of the components, the first to see a request first.
	Names []string
	// Find returns the component of a name as it is now.
	Find func(name string) (*Middleware, error)
}

// Wrap returns a handler that takes exchanges through the pipeline, and those
// that come out of it to last. It returns last itself when there is nothing in
// the pipeline.
func (p Pipeline) Wrap(last proxy.Handler) proxy.Handler {
	h := last
	for i := len(p.Names) - 1; i >= 0; i-- {
		name, next := p.Names[i], h
		h = func(ex proxy.Exchange) {
			m, err := p.Find(name)
			if err != nil {
				Refuse(ex, 500, "ERR_MIDDLEWARE", fault.Message(err))
				return
			}
			m.Handle(ex, next)
		}
	}
	return h
}
