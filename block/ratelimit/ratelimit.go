// Package ratelimit is the building block of rate limits: how often something
// may be called, by one sidecar or by all of them together.
//
// A Rule says which calls it is about and how many of them are allowed; as a
// policy it stands around the calls of every other block, so that one rule can
// limit an application that invokes, a topic, a state store or a binding. The
// tokens of a Local limit are its own. Those of a Shared one are kept in a store,
// which implements Driver.
package ratelimit

import (
	"context"

	"github.com/proa-io/proa/component"
)

// Store is a named component that keeps the buckets of shared limits. It is safe
// for concurrent use.
type Store struct{ handle *component.Handle[Driver] }

// New returns a Store over the driver that h opens.
func New(h *component.Handle[Driver]) *Store { return &Store{h} }

// Name returns the component's name.
func (s *Store) Name() string { return s.handle.Name() }

// Take calls Driver.Take. There is no policy around it: policies are what calls
// it.
func (s *Store) Take(ctx context.Context, r Request) (Grant, error) {
	d, err := s.handle.Get(ctx)
	if err != nil {
		return Grant{}, err
	}
	return d.Take(ctx, r)
}
