package secret

import (
	"context"
	"io"

	"github.com/proa-io/proa/component"
)

// Block is the first part of the type string of every component of this block.
const Block = "secretstores"

// Driver is what a secret store implements.
//
// A driver does I/O and names its errors with fault codes, nothing else; Store
// adds access scopes and policies for all drivers. No error text may hold the
// value of a secret. Methods are safe for concurrent use and return soon after
// ctx ends.
type Driver interface {
	// Get returns the values of the named secret: one or more, by key. A
	// store that holds one value per secret uses the secret's name as the
	// key. A secret that does not exist, or that the store must not hand out,
	// is fault.NotFound. metadata are the caller's hints to the store, such
	// as "version_id"; unknown ones are ignored.
	Get(ctx context.Context, name string, metadata map[string]string) (map[string]string, error)

	io.Closer
}

// Lister is implemented by drivers that can enumerate their secrets.
type Lister interface {
	// List returns every secret whose name want accepts, in the form that
	// Get returns it, by name. It does not read the values of the others.
	List(ctx context.Context, metadata map[string]string, want func(name string) bool) (map[string]map[string]string, error)
}

// Watcher is implemented by drivers that can tell when secrets change. Those of
// other drivers are read at intervals by whoever wants to know.
type Watcher interface {
	// Watch calls changed once it will be told of changes, and then whenever
	// one of the named secrets has changed, appeared or disappeared, or may
	// have: what is new, and whether anything is, Get tells. changed is called
	// by one goroutine at a time, and not after Watch has returned. Several
	// changes may come as one call.
	//
	// Watch returns the cause when ctx ends, and another error, never nil,
	// when it cannot go on; it does not try again by itself.
	Watch(ctx context.Context, names []string, changed func()) error
}

// Spec describes a driver of type "secretstores.<name>" to the catalog.
func Spec[C any, D Driver](d component.Description, defaults C,
	open func(context.Context, C, component.Env) (D, error)) component.Spec {
	return component.NewSpec(Block, d, defaults, nil, []component.Capability{
		component.Can[Lister]("LIST"),
		component.Can[Watcher]("WATCH"),
	}, open)
}
