package config

import (
	"context"
	"io"

	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
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
	// Write makes all the changes or none of them, and returns the version of
	// each item that it set, in their order; "" for one that it deleted.
	// There is one at least, and no key twice. When what one of them expects
	// is not so, Write fails with ErrConflict. A driver that cannot change
	// several items as one fails with Unimplemented when there are several.
	Write(ctx context.Context, writes []Write) (versions []string, err error)
}

// Write is one change of an item.
type Write struct {
	Key   string
	Value string
	// Delete removes the item, be there one or not; Value does not count.
	Delete bool
	// Expect is what must be so for the change to happen, compared and changed
	// in one step.
	Expect Expect
}

// Expect is what a Write expects of a key. The zero value expects nothing.
type Expect struct {
	// Absent expects that there is no item.
	Absent bool
	// Version, unless empty, expects an item that has it. An item without a
	// version has none that could be expected, until it is written.
	Version string
}

// Nothing reports whether there is nothing to compare.
func (e Expect) Nothing() bool { return e == Expect{} }

// Met reports whether an item, or there being none, is what was expected.
func (e Expect) Met(item Item, exists bool) bool {
	switch {
	case e.Absent:
		return !exists
	case e.Version != "":
		return exists && item.Version == e.Version
	}
	return true
}

// ReasonConflict marks a Write that found another version than it expected.
const ReasonConflict fault.Reason = "config.conflict"

// ErrConflict returns the error of a Write that found another version than it
// expected at key; key is empty when it is not known at which.
func ErrConflict(key string) error {
	if key == "" {
		return fault.New(fault.Aborted, "an item does not have the version that was expected").WithReason(ReasonConflict)
	}
	return fault.New(fault.Aborted, "item %q does not have the version that was expected", key).WithReason(ReasonConflict)
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
