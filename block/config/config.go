// Package config is the building block of application configuration: items
// that an application reads and whose changes it is told of.
//
// Dialects call Store; configuration stores implement Driver.
package config

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/policy"
)

// Reasons of the errors that Store returns.
const (
	// ReasonNoSubscription marks an id that no subscription has.
	ReasonNoSubscription fault.Reason = "config.no_subscription"
	// ReasonNoStore marks a subscription that ended because the component was
	// removed.
	ReasonNoStore fault.Reason = "config.no_store"
	// ReasonNotText marks an item that cannot be told to an application.
	ReasonNotText fault.Reason = "config.not_text"
	// ReasonCannotWrite marks a store whose items cannot be changed.
	ReasonCannotWrite fault.Reason = "config.cannot_write"
	// ReasonBadWrite marks changes that no store could make.
	ReasonBadWrite fault.Reason = "config.bad_write"
)

// Options configure a Store.
type Options struct {
	// Chains gives the policies around the calls.
	Chains policy.Chains
	// Log takes what no caller is told: outages of a watch, updates that the
	// application refused. It should name the component. Nil discards.
	Log *slog.Logger
}

// Store is a named configuration component. It is safe for concurrent use.
type Store struct {
	handle  *component.Handle[Driver]
	log     *slog.Logger
	get     *policy.Operation
	write   *policy.Operation
	watch   *policy.Operation
	deliver *policy.Operation

	spawn   chan func(context.Context) // work for Run
	stopped chan struct{}              // closed when Run takes no more

	mu       sync.Mutex
	subs     map[string]subscriber // by id; nil once it was replaced
	next     *Store                // valid once replaced is closed; nil for none
	replaced chan struct{}         // closed by Replace
}

// subscriber is how to end a subscription.
type subscriber struct {
	cancel     context.CancelCauseFunc
	persistent bool // made by Subscribe
	since      time.Time
}

// New returns a Store over the driver that h opens.
func New(h *component.Handle[Driver], o Options) *Store {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	outbound := o.Chains.Component(Block, h.Name(), false)
	bind := func(op string) *policy.Operation {
		return outbound.Bind(policy.Op{Block: Block, Component: h.Name(), Name: op})
	}
	inbound := o.Chains.Component(Block, h.Name(), true)
	return &Store{
		handle: h, log: o.Log,
		get: bind("get"), write: bind("write"), watch: bind("watch"),
		deliver: inbound.Bind(policy.Op{Block: Block, Component: h.Name(), Name: "deliver", Inbound: true}),
		spawn:   make(chan func(context.Context)), stopped: make(chan struct{}),
		subs: map[string]subscriber{}, replaced: make(chan struct{}),
	}
}

// Name returns the component's name.
func (s *Store) Name() string { return s.handle.Name() }

// Get returns the items that q selects. Keys that do not exist are left out. The
// protocols carry text only: an item that q names and that is no UTF-8 is
// FailedPrecondition, and others that are none are left out.
func (s *Store) Get(ctx context.Context, q Query) (map[string]Item, error) {
	call := policy.Call{Idempotent: true}
	if len(q.Keys) == 1 {
		call.Key = q.Keys[0]
	}
	return policy.Do(ctx, s.get, call, func(ctx context.Context) (map[string]Item, error) {
		d, err := s.handle.Get(ctx)
		if err != nil {
			return nil, err
		}
		items, err := d.Get(ctx, q)
		if err != nil {
			return nil, s.wrap(err, "get from")
		}
		for key, item := range items {
			if isText(key, item) {
				continue
			}
			if slices.Contains(q.Keys, key) {
				return nil, fault.New(fault.FailedPrecondition, "item %q of configuration store %q is not text (UTF-8)", key, s.Name()).
					WithReason(ReasonNotText)
			}
			s.leaveOut(ctx, items, key)
		}
		return items, nil
	})
}

// isText reports whether an item can be told to an application.
func isText(key string, item Item) bool {
	if !utf8.ValidString(key) || !utf8.ValidString(item.Value) || !utf8.ValidString(item.Version) {
		return false
	}
	for k, v := range item.Metadata {
		if !utf8.ValidString(k) || !utf8.ValidString(v) {
			return false
		}
	}
	return true
}

func (s *Store) leaveOut(ctx context.Context, items map[string]Item, key string) {
	delete(items, key)
	s.log.WarnContext(ctx, "a configuration item is left out: it is not text (UTF-8)", "key", strings.ToValidUTF8(key, "\uFFFD"))
}

func (s *Store) wrap(err error, op string) error {
	if err == nil {
		return nil
	}
	return fault.Wrap(err, fault.CodeOf(err), "%s configuration store %q", op, s.Name())
}
