package aws

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/proa-io/proa/block/state"
	"github.com/proa-io/proa/fault"
)

// maxTransaction is how many items one transaction may touch.
const maxTransaction = 100

// MaxTransaction implements state.Transactor.
func (s *State) MaxTransaction() int { return maxTransaction }

// attempts is how often a transaction is carried out that met another one: the
// service does not let one wait for the other.
const (
	attempts = 10
	pause    = 50 * time.Millisecond // at most, before the second
)

// Transact implements state.Transactor.
func (s *State) Transact(ctx context.Context, ops []state.Op, _ state.TransactOptions) error {
	if len(ops) == 0 {
		return ctx.Err()
	}
	for n := 1; ; n++ {
		parts, err := s.parts(ops)
		if err != nil {
			return err
		}
		items := make([]map[string]*write, len(parts))
		for i, p := range parts {
			items[i] = map[string]*write{p.kind: &p.write}
		}
		err = s.client.call(ctx, "TransactWriteItems", map[string]any{"TransactItems": items}, nil)
		conflict := false
		if r, ok := errors.AsType[*reply](err); ok && r.Type == "TransactionCanceledException" {
			if err, conflict = s.blame(r, parts, ops); !conflict {
				return err
			}
		} else if conflict = is(err, "TransactionConflictException", "TransactionInProgressException"); !conflict {
			return err
		}
		if n == attempts {
			return err
		}
		select {
		case <-time.After(rand.N(pause * time.Duration(n))):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// part is what a transaction does with one item.
type part struct {
	write
	kind string // what the service calls it
	ops  []int  // the operations that it stands for
}

// parts brings the operations on one item together: the service takes one of
// each item.
func (s *State) parts(ops []state.Op) ([]*part, error) {
	var all []*part
	byKey := map[string]*part{}
	for i := range ops {
		op := &ops[i]
		p := byKey[op.Key]
		if p == nil {
			key, err := s.key(op.Key)
			if err != nil {
				return nil, &state.OpError{Index: i, Err: err}
			}
			p = &part{kind: "ConditionCheck", write: write{TableName: s.cfg.Table, Key: key, ReturnValuesOnConditionCheckFailure: "ALL_OLD"}}
			byKey[op.Key] = p
			all = append(all, p)
		}
		p.ops = append(p.ops, i)
		if there, etag, conditional := condition(op); conditional {
			s.demand(&p.write, there, etag)
		}
		switch {
		case op.Check != state.NoCheck:
		case op.Delete:
			if p.kind == "Put" {
				p.Key, _ = s.key(op.Key) // it was one
			}
			p.kind, p.Item = "Delete", nil
		default:
			item, _, err := s.item(op.Key, op.Value, op.TTL)
			if err != nil {
				return nil, &state.OpError{Index: i, Err: err}
			}
			p.kind, p.Item, p.Key = "Put", item, nil
		}
	}
	return all, nil
}

// condition returns what an operation demands of the item before the
// transaction: that there is one, with an etag, or none.
func condition(op *state.Op) (there bool, etag string, conditional bool) {
	switch {
	case op.Check == state.CheckExists:
		return true, "", true
	case op.Check == state.CheckAbsent:
		return false, "", true
	case op.ETag != "":
		return true, op.ETag, true
	}
	return false, "", op.FirstWrite && !op.Delete
}

// blame returns why a transaction was given up, and whether others that were
// faster are the only reason.
func (s *State) blame(r *reply, parts []*part, ops []state.Op) (err error, conflict bool) { //nolint:revive,staticcheck // the error is not that of this function
	for i, reason := range r.Reasons {
		if i >= len(parts) {
			break
		}
		switch reason.Code {
		case "", "None":
		case "ConditionalCheckFailed":
			return s.lost(parts[i], ops, reason.Item), false
		case "TransactionConflict":
			err, conflict = fault.Wrap(r, fault.Unavailable, "the service gave up on this for others that were faster"), true
		case "ThrottlingError", "ProvisionedThroughputExceeded":
			return fault.Wrap(r, fault.ResourceExhausted, "the service takes no more requests for now"), false
		default:
			return fault.Wrap(r, fault.InvalidArgument, "the service does not take this transaction"), false
		}
	}
	if err == nil {
		err = fault.Wrap(r, fault.Internal, "the service gave up on the transaction and does not say why")
	}
	return err, conflict
}

// lost returns the error of the first operation whose condition the item that
// there is does not meet.
func (s *State) lost(p *part, ops []state.Op, stored map[string]attribute) error {
	item, found := s.read(stored)
	first := -1
	for _, i := range p.ops {
		there, etag, conditional := condition(&ops[i])
		if !conditional {
			continue
		}
		if first < 0 {
			first = i
		}
		if there != found || etag != "" && etag != item.ETag {
			first = i
			break
		}
	}
	return &state.OpError{Index: first, Err: ops[first].Lost()}
}
