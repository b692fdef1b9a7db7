package binding

import (
	"context"
	"io"

	"github.com/proa-io/proa/component"
)

// Block is the first part of the type string of every component of this block.
const Block = "bindings"

// Driver is what every binding implements; it is an Output, an Input, or both.
//
// A driver does I/O and names its errors with fault codes, nothing else;
// Binding adds restarts and policies for all drivers. Methods are safe for
// concurrent use and return soon after ctx ends.
type Driver interface {
	io.Closer
}

// Output is implemented by drivers through which an application acts on
// something outside.
type Output interface {
	Driver

	// Operations names what Invoke can do, in lower case.
	Operations() []string

	// Invoke carries out an operation, one of Operations. The Response may
	// hold data and metadata even when the error is not nil.
	Invoke(ctx context.Context, r Request) (Response, error)
}

// Input is implemented by drivers that bring events from outside to an
// application.
type Input interface {
	Driver

	// Listen hands each event to handle, until ctx ends; then it takes no
	// more events, waits for the calls of handle that are under way, and
	// returns the cause. It returns another error when it cannot go on, after
	// the same wait; it does not try again by itself. handle may be called
	// concurrently where the source promises no order.
	//
	// An event is acknowledged when handle returns nil. When handle fails
	// the event is left to the source's own way of delivering it again, if it
	// has one.
	Listen(ctx context.Context, handle Handler) error
}

// Repeatable is implemented by an Output that knows operations which do no
// harm when they are repeated. Without it none are taken to be so.
type Repeatable interface {
	// Repeatable reports whether the operation may be carried out twice.
	Repeatable(operation string) bool
}

// Handler takes an event.
type Handler func(ctx context.Context, e Event) error

// Event is something that happened outside.
type Event struct {
	Data     []byte
	Metadata map[string]string
}

// Request asks an Output for an operation.
type Request struct {
	Operation string
	Data      []byte
	Metadata  map[string]string
}

// Response is what an operation returned.
type Response struct {
	Data     []byte
	Metadata map[string]string
}

// The capabilities of a binding driver's component.Spec, named as Dapr's
// metadata API names them.
const (
	CapabilityInput  = "INPUT_BINDING"
	CapabilityOutput = "OUTPUT_BINDING"
)

func capabilities() []component.Capability {
	return []component.Capability{
		component.Can[Input](CapabilityInput),
		component.Can[Output](CapabilityOutput),
	}
}

// OutputSpec describes an output driver of type "bindings.<name>" to the
// catalog. A driver that is an Input too is listed as both.
func OutputSpec[C any, D Output](d component.Description, defaults C,
	open func(context.Context, C, component.Env) (D, error)) component.Spec {
	return component.NewSpec(Block, d, defaults, Config{}, capabilities(), open)
}

// InputSpec describes an input driver of type "bindings.<name>" to the
// catalog. A driver that is an Output too is listed as both.
func InputSpec[C any, D Input](d component.Description, defaults C,
	open func(context.Context, C, component.Env) (D, error)) component.Spec {
	return component.NewSpec(Block, d, defaults, Config{}, capabilities(), open)
}
