package config

import (
	"context"
	"io"

	"github.com/proa-io/proa/component"
)

// Block is the first part of the type string of every component of this block.
const Block = "configuration"

// Driver is what a configuration store implements.
//
// A driver does I/O and names its errors with fault codes, nothing else; Store
// adds subscriptions, resumption and policies for all drivers. Methods are
// safe for concurrent use and return soon after ctx ends.
type Driver interface {
	// Get returns the items that q selects. Keys that do not exist are left
	// out. The map belongs to the caller, as does that of an Event.
	Get(ctx context.Context, q Query) (map[string]Item, error)

	// Watch reports the items that q selects and then each change of them,
	// in order, by calling report, until ctx ends. The first report is
	// complete (Event.Complete); so is the first after any moment in which a
	// change may have been missed. report is called by one goroutine at a
	// time and may take its time; it is not called after Watch has returned.
	//
	// Watch returns the cause when ctx ends, and another error, never nil,
	// when it cannot go on; it does not try again by itself.
	Watch(ctx context.Context, q Query, report func(Event)) error

	io.Closer
}

// Writer is implemented by drivers that can change items.
type Writer interface {
	// Set stores value at key and returns the version that it gave it.
	Set(ctx context.Context, key, value string) (version string, err error)
	// Delete removes key. Deleting a key that does not exist succeeds.
	Delete(ctx context.Context, key string) error
}

// Query selects items.
type Query struct {
	// Keys names the items; empty means all there are.
	Keys []string
	// Metadata are the caller's hints to the store, such as a label; unknown
	// ones are ignored.
	Metadata map[string]string
}

// Item is one configuration value.
type Item struct {
	Value    string
	Version  string            // empty when the store keeps none
	Metadata map[string]string // what else the store knows; often nil
}

// Event is one report of a Watch.
type Event struct {
	// Complete tells that Items holds all items there are; those known from
	// before and not in it have been deleted.
	Complete bool
	// Items are the items that are new or changed, by key.
	Items map[string]Item
	// Deleted are the keys of items that are gone.
	Deleted []string
}

// Spec describes a driver of type "configuration.<name>" to the catalog.
func Spec[C any, D Driver](d component.Description, defaults C,
	open func(context.Context, C, component.Env) (D, error)) component.Spec {
	return component.NewSpec(Block, d, defaults, nil, []component.Capability{
		component.Can[Writer]("WRITE"),
	}, open)
}
