package nats

import (
	"context"
	"slices"

	"github.com/proa-io/proa/block/state"
	"github.com/proa-io/proa/engine"
	"github.com/proa-io/proa/fault"
)

// MaxTransaction implements state.Transactor.
func (s *State) MaxTransaction() int { return engine.MaxCommit }

// Transact implements state.Transactor. It needs a server of version 2.12 for
// more than one key, and fails with Unimplemented on an older one.
func (s *State) Transact(ctx context.Context, ops []state.Op, _ state.TransactOptions) error {
	if err := s.usable(ctx); err != nil {
		return err
	}
	var writes []engine.Write
	places := map[string]int{} // of written keys in writes
	for i := range ops {
		w, err := s.operation(ctx, &ops[i])
		if err != nil {
			return blame(i, err)
		}
		place, twice := places[w.Key]
		if !twice {
			places[w.Key] = len(writes)
			writes = append(writes, w)
			continue
		}
		earlier := writes[place]
		if w.Check {
			earlier, w = w, earlier // the write stays
		}
		if w.Expect, err = both(earlier.Expect, w.Expect, &ops[i]); err != nil {
			return blame(i, err)
		}
		writes[place] = w // the later one stays
	}
	if err := s.commit(ctx, writes); err != nil {
		return s.explain(ctx, err, ops)
	}
	return nil
}

// commit makes all writes or none. One alone is not slow, and a check has to be
// near what it is for.
func (s *State) commit(ctx context.Context, writes []engine.Write) error {
	if len(writes) == 1 || slices.ContainsFunc(writes, func(w engine.Write) bool { return w.Check }) {
		return s.commitNow(ctx, writes)
	}
	return s.groups.do(ctx, writes)
}

func (s *State) commitNow(ctx context.Context, writes []engine.Write) error {
	_, err := s.bucket.Commit(ctx, writes)
	return err
}

// operation returns an operation as the engine wants it.
func (s *State) operation(ctx context.Context, op *state.Op) (engine.Write, error) {
	if op.Check != state.NoCheck {
		written, _ := encodeStateKey(op.Key)
		expect, err := s.checked(ctx, written, op)
		return engine.Write{Key: written, Check: true, PutOptions: engine.PutOptions{Expect: expect}}, err
	}
	opt := op.PutOptions
	if op.Delete {
		opt = state.PutOptions{ETag: op.ETag}
	}
	w, err := s.write(ctx, op.Key, op.Value, opt)
	w.Delete = op.Delete // what write adds for a hashed key marks the deletion
	return w, err
}

// checked returns what a check demands. Where the server does not remove items
// that are over, it looks whether there is one: that counts as missing.
func (s *State) checked(ctx context.Context, written string, op *state.Op) (engine.Expect, error) {
	var expect engine.Expect
	switch op.Check {
	case state.CheckExists:
		expect = engine.Present()
	case state.CheckAbsent:
		expect = engine.Absent()
	default:
		revision, err := revisionOf(op.ETag)
		if fault.Is(err, fault.Aborted) { // not one that a server gives
			err = op.Lost()
		}
		if err != nil {
			return engine.Anything(), err
		}
		expect = engine.Revision(revision)
	}
	if s.old == nil {
		return expect, nil
	}
	e, err := s.bucket.Get(ctx, written, engine.Strong)
	switch {
	case fault.Is(err, fault.NotFound):
		return expect, nil
	case err != nil:
		return engine.Anything(), err
	case !over(e):
		return expect, nil
	case op.Check == state.CheckAbsent:
		return engine.Revision(e.Revision), nil
	}
	return engine.Anything(), op.Lost()
}

func blame(i int, err error) error {
	switch fault.ReasonOf(err) {
	case state.ReasonETagMismatch, state.ReasonETagInvalid, state.ReasonConditionFailed:
		return &state.OpError{Index: i, Err: err}
	}
	return err
}

// both returns a demand that holds when a and b do; op is to blame when none
// can.
func both(a, b engine.Expect, op *state.Op) (engine.Expect, error) {
	switch {
	case a == engine.Anything() || a == b:
		return b, nil
	case b == engine.Anything():
		return a, nil
	case a == engine.Present() && b != engine.Absent():
		return b, nil
	case b == engine.Present() && a != engine.Absent():
		return a, nil
	}
	return a, op.Lost() // no item has two revisions
}

// explain finds the operation that a conflict is about, which the server does
// not tell: the first whose condition does not hold now.
func (s *State) explain(ctx context.Context, err error, ops []state.Op) error {
	if fault.Is(err, fault.Unimplemented) {
		return fault.Wrap(err, fault.Unimplemented, "transactions of several keys").WithReason(state.ReasonTransactionsNotSupported)
	}
	if fault.ReasonOf(err) != engine.ReasonConflict {
		return err
	}
	for i := range ops {
		op := &ops[i]
		first := op.FirstWrite && !op.Delete
		if op.Check == state.NoCheck && op.ETag == "" && !first {
			continue
		}
		item, found, getErr := s.Get(ctx, op.Key, state.GetOptions{Consistency: state.Strong})
		if getErr != nil {
			return state.ErrETagMismatch()
		}
		if !holds(op, item, found) {
			return &state.OpError{Index: i, Err: op.Lost()}
		}
	}
	return state.ErrETagMismatch()
}

// holds reports whether the condition of an operation, which has one, holds for
// what is there.
func holds(op *state.Op, item state.Item, found bool) bool {
	switch {
	case op.Check == state.CheckExists:
		return found
	case op.Check == state.CheckAbsent, op.Check == state.NoCheck && op.ETag == "":
		return !found
	}
	return found && item.ETag == op.ETag
}
