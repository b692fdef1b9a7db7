package discovery

import (
	"context"
	"io"

	"github.com/proa-io/proa/component"
)

// Block is the first part of the type string of every name resolution.
const Block = "nameresolution"

// Driver is a way in which applications find each other. One that is a
// Registrar too announces instances. Close is called when no Watch and no
// Register is under way any more.
type Driver interface {
	Source
	io.Closer
}

// Spec describes a way in which applications find each other. It is chosen with
// nameResolution.component of the Configuration.
func Spec[C any, D Driver](d component.Description, defaults C, open func(context.Context, C, component.Env) (D, error)) component.Spec {
	return component.NewSpec(Block, d, defaults, nil, []component.Capability{component.Can[Registrar]("register")}, open)
}
