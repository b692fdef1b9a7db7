// Package sqlstate holds what the state stores on SQL databases have in common:
// the plan of a transaction, and the translation of queries.
package sqlstate

import (
	"maps"
	"slices"

	"github.com/proa-io/proa/block/state"
)

// Plan is a transaction as it goes to a database: conditions that must hold
// against what is there before it, and one write per key, the last one.
type Plan struct {
	// Keys are all that occur, as the database has them, sorted.
	Keys []string
	// Conditional tells that there are conditions. Without any, only the writes
	// need to be carried out.
	Conditional bool
	// Writes are the places of the operations that say what becomes of a key,
	// in the order of the keys.
	Writes []int

	ops   []state.Op
	texts []string       // the key of each operation
	etags []string       // the etag that each demands
	last  map[string]int // the place of the last write of each key
}

// NewPlan makes the plan of a transaction. text and etag return a key and an
// etag as the database has them; their errors become *state.OpError.
func NewPlan(ops []state.Op, text, etag func(string) (string, error)) (*Plan, error) {
	p := &Plan{ops: ops, texts: make([]string, len(ops)), etags: make([]string, len(ops)), last: map[string]int{}}
	seen := make(map[string]struct{}, len(ops))
	for i := range ops {
		op := &ops[i]
		var err error
		if p.texts[i], err = text(op.Key); err != nil {
			return nil, &state.OpError{Index: i, Err: err}
		}
		if demandsETag(op) {
			if p.etags[i], err = etag(op.ETag); err != nil {
				return nil, &state.OpError{Index: i, Err: err}
			}
		}
		p.Conditional = p.Conditional || conditional(op)
		seen[p.texts[i]] = struct{}{}
		if op.Check == state.NoCheck {
			p.last[p.texts[i]] = i
		}
	}
	p.Keys = slices.Sorted(maps.Keys(seen))
	for _, key := range p.Keys {
		if i, written := p.last[key]; written {
			p.Writes = append(p.Writes, i)
		}
	}
	return p, nil
}

func demandsETag(op *state.Op) bool {
	return op.ETag != "" && (op.Check == state.NoCheck || op.Check == state.CheckETag)
}

func demandsAbsence(op *state.Op) bool {
	return op.Check == state.CheckAbsent || op.Check == state.NoCheck && op.ETag == "" && op.FirstWrite && !op.Delete
}

func conditional(op *state.Op) bool {
	return op.Check != state.NoCheck || demandsETag(op) || demandsAbsence(op)
}

// Claim is a key where nothing must be until the transaction ends.
type Claim struct {
	Key string
	// Written tells that the transaction writes or removes what is there, so
	// that what stands for the claim need not be removed.
	Written bool

	op    *state.Op
	index int
}

// Lost returns the error of a transaction that finds something at the key.
func (c *Claim) Lost() error { return &state.OpError{Index: c.index, Err: c.op.Lost()} }

// Check compares the conditions with the etags of the items there are, which
// are locked. It returns the keys that must stay free, in their order, or the
// error of the first operation whose condition does not hold.
func (p *Plan) Check(etags map[string]string) ([]Claim, error) {
	claims := map[string]Claim{}
	for i := range p.ops {
		op, key := &p.ops[i], p.texts[i]
		etag, exists := etags[key]
		holds := true
		switch {
		case demandsETag(op):
			holds = exists && etag == p.etags[i]
		case demandsAbsence(op):
			holds = !exists
		case op.Check == state.CheckExists:
			holds = exists
		}
		if !holds {
			return nil, &state.OpError{Index: i, Err: op.Lost()}
		}
		if _, dup := claims[key]; demandsAbsence(op) && !dup {
			_, written := p.last[key]
			claims[key] = Claim{Key: key, Written: written, op: op, index: i}
		}
	}
	out := make([]Claim, 0, len(claims))
	for _, key := range slices.Sorted(maps.Keys(claims)) {
		out = append(out, claims[key])
	}
	return out, nil
}
