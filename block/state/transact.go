package state

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/policy"
)

// TransactRequest writes several items atomically.
type TransactRequest struct {
	Operations []Operation
	Metadata   map[string]string // as in GetRequest, for the whole
	// TraceParent and TraceState are the W3C trace context of what the
	// transaction publishes.
	TraceParent, TraceState string
}

// Operation is one write of a transaction, or a check that comes with them.
type Operation struct {
	// Check, when not NoCheck, writes nothing and demands that its condition
	// holds; of SetRequest only Key and ETag mean something then, and ETag
	// only for CheckETag, where it is required. A transaction has at least one
	// operation that writes.
	Check Check
	// Delete removes the item; of SetRequest only Key, ETag and Metadata mean
	// something then.
	Delete bool
	SetRequest
	// JSON tells that Value came as JSON whatever it stands for: text is in
	// quotes then. It matters only for what is published.
	JSON bool
}

// ParseOperation reads "upsert" or "delete".
func ParseOperation(text string) (isDelete bool, err error) {
	switch text {
	case "upsert":
		return false, nil
	case "delete":
		return true, nil
	}
	return false, fault.New(fault.InvalidArgument, "a transaction's operation is %q or %q, not %q", "upsert", "delete", text).
		WithReason(ReasonBadOperation)
}

// Transact carries out all operations or none. Without operations it does
// nothing, and succeeds if the store has transactions. An error that one operation is to blame for has an
// *OpError beneath its text.
func (s *Store) Transact(ctx context.Context, r TransactRequest) error {
	if len(r.Operations) == 0 {
		_, _, err := s.transactor(ctx, 0)
		return s.explain(err, "transaction", "")
	}
	if err := s.checkBulk(len(r.Operations)); err != nil {
		return err
	}
	if s.outbox != nil {
		return s.withOutbox(ctx, r)
	}
	for i := range r.Operations {
		if err := s.checkUnpublished(&r.Operations[i]); err != nil {
			return err
		}
	}
	return s.carryOut(ctx, r, nil)
}

// carryOut is Transact with what the outbox adds to it; nil for nothing.
func (s *Store) carryOut(ctx context.Context, r TransactRequest, a *attempts) error {
	ops, c, err := s.operations(r.Operations)
	if err != nil {
		return err
	}
	if a != nil && a.row != nil {
		ops = append(ops, *a.row)
		c.Bytes += len(a.row.Value)
	}
	if len(ops) == 0 {
		return nil // a projection of nothing
	}
	if !slices.ContainsFunc(ops, func(o Op) bool { return o.Check == NoCheck }) {
		return s.explain(fault.New(fault.InvalidArgument, "a transaction that only checks has no effect: it wants an operation that writes").
			WithReason(ReasonBadOperation), "transaction", "")
	}
	c.Idempotent = c.Idempotent && !checks(ops)
	opt := TransactOptions{r.Metadata}
	err = s.transact.Run(ctx, &c, func(ctx context.Context) error {
		tx, keys, err := s.transactor(ctx, len(ops))
		if err != nil {
			return err
		}
		sealed, err := keys.ops(ops)
		if err != nil {
			return err
		}
		err = tx.Transact(ctx, sealed, opt)
		if a != nil {
			a.note(err)
		}
		return err
	})
	return s.blame(err, r.Operations, a)
}

// operations returns the operations as the driver wants them, and what the
// policies should know of them.
func (s *Store) operations(list []Operation) ([]Op, policy.Call, error) {
	ops, c := make([]Op, len(list), len(list)+1), policy.Call{Idempotent: true}
	for i := range list {
		var err error
		if ops[i], err = s.operation(&list[i]); err != nil {
			return nil, c, err
		}
		if list[i].Check == NoCheck {
			c.Bytes += len(ops[i].Value)
			c.Idempotent = c.Idempotent && idempotent(ops[i].PutOptions)
		}
	}
	return ops, c, nil
}

// blame says which operation of the request an error is about. It returns nil
// for nil.
func (s *Store) blame(err error, list []Operation, a *attempts) error {
	oe, ok := errors.AsType[*OpError](err)
	if !ok || a == nil && oe.Index >= len(list) {
		return s.explain(err, "transaction", "")
	}
	if a == nil {
		return s.explain(err, "transaction", list[oe.Index].Key)
	}
	at, ok := a.place(oe.Index)
	if !ok { // the outbox's own
		return s.explain(fault.Wrap(oe.Err, fault.CodeOf(err), "the row of the outbox"), "transaction", "")
	}
	key := list[oe.Index].Key
	if at != oe.Index {
		err = fault.Wrap(&OpError{Index: at, Err: oe.Err}, fault.CodeOf(err), "")
	}
	return s.explain(err, "transaction", key)
}

// operation returns an operation as the driver wants it.
func (s *Store) operation(o *Operation) (Op, error) {
	if err := s.checkKey(o.Key); err != nil {
		return Op{}, err
	}
	op := Op{Key: s.prefix + o.Key}
	switch {
	case o.Check == CheckETag && o.ETag == "":
		return Op{}, s.explain(fault.New(fault.InvalidArgument, "a check for an etag wants an etag").WithReason(ReasonBadOperation),
			"transaction", o.Key)
	case o.Check != NoCheck:
		op.Check, op.ETag = o.Check, o.ETag
		return op, nil
	case o.Delete:
		op.Delete, op.PutOptions = true, PutOptions{ETag: o.ETag, Metadata: o.Metadata}
		return op, nil
	}
	opt, err := s.putOptions(&o.SetRequest)
	op.Value, op.PutOptions = o.Value, opt
	return op, err
}

// checks reports whether some operation is a check: a repetition of the
// transaction may find that its own first try has made it fail.
func checks(ops []Op) bool {
	return slices.ContainsFunc(ops, func(o Op) bool { return o.Check != NoCheck })
}

// transactor returns the driver, if it can carry out n operations at once, and
// what encrypts its values.
func (s *Store) transactor(ctx context.Context, n int) (Transactor, *keyring, error) {
	d, keys, err := s.driver(ctx)
	if err != nil {
		return nil, nil, err
	}
	tx, ok := d.(Transactor)
	if !ok {
		return nil, nil, fault.New(fault.Unimplemented, "this kind of store has no transactions").
			WithReason(ReasonTransactionsNotSupported)
	}
	if limit := tx.MaxTransaction(); limit > 0 && n > limit {
		e := &SizeError{n, limit}
		return nil, nil, fault.Wrap(e, fault.InvalidArgument, "%s", e.Error()).WithReason(ReasonTooManyOperations)
	}
	return tx, keys, nil
}

// SizeError says that a transaction has more operations than its store can
// carry out at once. It is beneath an error with ReasonTooManyOperations.
type SizeError struct {
	Operations, Max int
}

// Error returns the two numbers in words.
func (e *SizeError) Error() string {
	return fmt.Sprintf("%d operations are too many: a transaction of this store has at most %d", e.Operations, e.Max)
}
