// Package dapr is what the front doors of the Dapr v1 API share: its HTTP API
// (httpapi), its gRPC API (grpcapi) and its calls to the application
// (appchannel).
//
// It translates and decides nothing: errors of the blocks into the statuses,
// codes and texts that Dapr documents, the state of the process into the
// metadata document, and the headers of a request into its trace.
package dapr

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/proa-io/proa/block/binding"
	"github.com/proa-io/proa/block/config"
	"github.com/proa-io/proa/block/conversation"
	"github.com/proa-io/proa/block/crypto"
	"github.com/proa-io/proa/block/job"
	"github.com/proa-io/proa/block/lock"
	"github.com/proa-io/proa/block/pubsub"
	"github.com/proa-io/proa/block/secret"
	"github.com/proa-io/proa/block/state"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
)

// Blocks is what the dialect may reach of the process. It is safe for
// concurrent use. What it returns may differ from call to call when the
// configuration is reloaded.
//
// A component that cannot be had is an error that wraps a [*LookupError], best
// made by [Lookup]. A component that is not open yet is returned all the same:
// its block says so when it is used.
type Blocks interface {
	State(name string) (*state.Store, error)
	PubSub(name string) (*pubsub.Broker, error)
	Secret(name string) (*secret.Store, error)
	Lock(name string) (*lock.Store, error)
	Config(name string) (*config.Store, error)
	Binding(name string) (*binding.Binding, error)
	Crypto(name string) (*crypto.Provider, error)
	Conversation(name string) (*conversation.Model, error)
	// Jobs returns the jobs of the application: there is one component of them
	// at most, and calls do not name it.
	Jobs() (*job.Store, error)

	// Metadata returns what the process says of itself.
	Metadata() Metadata
	// SetMetadata keeps an entry of Metadata.Extended until the process ends.
	// An empty key is ignored. Dialects call the function SetMetadata, which
	// bounds what there can be.
	SetMetadata(key, value string)

	// NotReady names what keeps the process from being ready, nothing when it
	// is. With outbound it counts only what calls of the application need:
	// the APIs and the components, not the application itself.
	NotReady(outbound bool) []string

	// Shutdown begins to stop the process and returns without waiting for it.
	// With force it stops at once, without letting calls under way end.
	Shutdown(force bool)
}

// ConfigurationApp delivers changes of configuration items to the application.
type ConfigurationApp interface {
	// OnConfigurationUpdate hands u, which came from the named store, to the
	// application.
	OnConfigurationUpdate(ctx context.Context, store string, u config.Update) error
}

// Reasons of the errors that Lookup returns.
const (
	// ReasonNotConfigured: the block has no component at all.
	ReasonNotConfigured fault.Reason = "dapr.not_configured"
	// ReasonNotFound: the block has no component of that name.
	ReasonNotFound fault.Reason = "dapr.not_found"
)

// LookupError says that a block has no component of the name that a request
// gives.
type LookupError struct {
	Block string   // the first part of the components' type string: "state"
	Name  string   // as the request gives it
	Names []string // of the components that there are, sorted; empty for none
}

// Error says what was looked for and what resembles it.
func (e *LookupError) Error() string {
	if len(e.Names) == 0 {
		return fmt.Sprintf("there is no %s component", e.Block)
	}
	return fmt.Sprintf("there is no %s component %q%s", e.Block, e.Name, e.hint())
}

// hint names the component that was probably meant.
func (e *LookupError) hint() string {
	if near := component.Nearest(e.Name, e.Names); near != "" {
		return fmt.Sprintf("; did you mean %q?", near)
	}
	return ""
}

// Lookup returns the component with the name. When there is none the error is
// FailedPrecondition with ReasonNotConfigured or NotFound with ReasonNotFound,
// and wraps a *LookupError. block is the first part of the components' type
// string (state.Block, pubsub.Block, ...).
func Lookup[T any](block string, components map[string]T, name string) (T, error) {
	if c, ok := components[name]; ok {
		return c, nil
	}
	var none T
	e := &LookupError{Block: block, Name: name, Names: slices.Sorted(maps.Keys(components))}
	if len(e.Names) == 0 {
		return none, fault.Wrap(e, fault.FailedPrecondition, "%s", e.Error()).WithReason(ReasonNotConfigured)
	}
	return none, fault.Wrap(e, fault.NotFound, "%s", e.Error()).WithReason(ReasonNotFound)
}

// lookupFailure returns the *LookupError in err's chain.
func lookupFailure(err error) (*LookupError, bool) { return errors.AsType[*LookupError](err) }
