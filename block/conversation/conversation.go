// Package conversation is the building block that talks to language models.
//
// Dialects call Model; providers of models implement Driver. Checking a request,
// masking personal data and remembering answers happen here, for every dialect
// and every driver.
package conversation

import (
	"context"
	"encoding/json"
	"slices"

	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/policy"
)

// Reasons of the errors that Model returns.
const (
	// ReasonNoInput marks a request without messages.
	ReasonNoInput fault.Reason = "conversation.no_input"
	// ReasonParameters marks a request that says something it must not.
	ReasonParameters fault.Reason = "conversation.parameters"
)

// Options configure a Model.
type Options struct {
	// Chains gives the policies around the calls.
	Chains policy.Chains
	Config Config
}

// Model is a named language model. It is safe for concurrent use.
type Model struct {
	handle   *component.Handle[Driver]
	converse *policy.Operation
	cache    *cache // nil for none
}

// New returns a Model over the driver that h opens.
func New(h *component.Handle[Driver], o Options) *Model {
	chain := o.Chains.Component(Block, h.Name(), false)
	m := &Model{handle: h, converse: chain.Bind(policy.Op{Block: Block, Component: h.Name(), Name: "converse"})}
	if ttl := o.Config.CacheTTL.Std(); ttl > 0 {
		m.cache = newCache(ttl)
	}
	return m
}

// Name returns the component's name.
func (m *Model) Name() string { return m.handle.Name() }

// Scrub says where personal data are masked.
type Scrub struct {
	// Messages are the indices of the messages to mask before the model sees
	// them.
	Messages []int
	// Reply masks the answer.
	Reply bool
}

// Converse answers one turn. The request is not changed; what it returns must
// not be.
func (m *Model) Converse(ctx context.Context, r *Request, scrub Scrub) (*Reply, error) {
	r, err := prepare(r, scrub)
	if err != nil {
		return nil, err
	}
	key, kept := m.cache.get(r)
	if kept == nil {
		kept, err = policy.Do(ctx, m.converse, policy.Call{Idempotent: true}, func(ctx context.Context) (*Reply, error) {
			d, err := m.handle.Get(ctx)
			if err != nil {
				return nil, err
			}
			return d.Converse(ctx, r)
		})
		if err != nil {
			return nil, fault.Wrap(err, fault.CodeOf(err), "converse with %q", m.Name())
		}
		m.cache.put(key, kept)
	}
	if scrub.Reply {
		return scrubReply(kept), nil
	}
	return kept, nil
}

// Stream is Converse, and calls emit with each piece of the answer's text as it
// comes. A driver that cannot stream, an answer from the cache and one that has
// to be masked, which only a whole text can be, come in one piece per choice.
// Once a piece has been emitted the call is not tried again.
func (m *Model) Stream(ctx context.Context, r *Request, scrub Scrub, emit func(Delta) error) (*Reply, error) {
	prepared, err := prepare(r, scrub)
	if err != nil {
		return nil, err
	}
	key, kept := m.cache.get(prepared)
	if kept != nil || scrub.Reply {
		reply, err := m.Converse(ctx, r, scrub)
		if err != nil {
			return nil, err
		}
		return reply, emitWhole(reply, emit)
	}
	var emitted bool
	var failed error // of emit, or of a stream that cannot be begun again
	reply, err := policy.Do(ctx, m.converse, policy.Call{Idempotent: true}, func(ctx context.Context) (*Reply, error) {
		if failed != nil {
			return nil, failed
		}
		d, err := m.handle.Get(ctx)
		if err != nil {
			return nil, err
		}
		s, ok := d.(Streamer)
		if !ok {
			return d.Converse(ctx, prepared)
		}
		reply, err := s.Stream(ctx, prepared, func(d Delta) error {
			emitted = true
			return emit(d)
		})
		if err != nil && emitted {
			failed = fault.Wrap(err, lasting(fault.CodeOf(err)), "the answer broke off")
			return nil, failed
		}
		return reply, err
	})
	if err != nil {
		return nil, fault.Wrap(err, fault.CodeOf(err), "converse with %q", m.Name())
	}
	m.cache.put(key, reply)
	if !emitted {
		return reply, emitWhole(reply, emit)
	}
	return reply, nil
}

// lasting returns a code that is not worth a retry in place of one that is.
func lasting(c fault.Code) fault.Code {
	if c.Retryable() {
		return fault.Aborted
	}
	return c
}

func emitWhole(r *Reply, emit func(Delta) error) error {
	for _, o := range r.Outputs {
		for _, c := range o.Choices {
			if c.Content == "" {
				continue
			}
			if err := emit(Delta{Index: c.Index, Content: c.Content}); err != nil {
				return err
			}
		}
	}
	return nil
}

// prepare checks a request and returns it as the driver is to see it.
func prepare(r *Request, scrub Scrub) (*Request, error) {
	if len(r.Messages) == 0 {
		return nil, fault.New(fault.InvalidArgument, "there is no message in the request").WithReason(ReasonNoInput)
	}
	out := *r
	for i, t := range r.Tools {
		switch {
		case t.Name == "":
			return nil, parameters("tool %d has no name", i+1)
		case len(t.Parameters) > 0 && !json.Valid(t.Parameters):
			return nil, parameters("the parameters of tool %q are no JSON schema", t.Name)
		}
	}
	if err := out.chooseTool(); err != nil {
		return nil, err
	}
	if len(scrub.Messages) > 0 {
		out.Messages = slices.Clone(r.Messages)
		for _, i := range scrub.Messages {
			if i >= 0 && i < len(out.Messages) {
				out.Messages[i] = scrubMessage(out.Messages[i])
			}
		}
	}
	return &out, nil
}

// chooseTool checks the tool choice and fills in the default.
func (r *Request) chooseTool() error {
	switch r.ToolChoice {
	case "":
		if len(r.Tools) > 0 {
			r.ToolChoice = ChooseAuto
		}
		return nil
	case ChooseAuto, ChooseNone:
		if len(r.Tools) == 0 {
			r.ToolChoice = ""
		}
		return nil
	case ChooseRequired:
		if len(r.Tools) > 0 {
			return nil
		}
		return parameters("tool choice must be 'auto', 'none', 'required', or a specific tool name matching the tools available to be used")
	}
	if slices.ContainsFunc(r.Tools, func(t Tool) bool { return t.Name == r.ToolChoice }) {
		return nil
	}
	return parameters("tool choice selected was not found. Must be 'auto', 'none', 'required', or a specific tool name matching the tools available to be used")
}

func parameters(format string, args ...any) error {
	return fault.New(fault.InvalidArgument, format, args...).WithReason(ReasonParameters)
}
