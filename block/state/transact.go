package state

import (
	"context"
	"errors"
	"fmt"

	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/policy"
)

// TransactRequest writes several items atomically.
type TransactRequest struct {
	Operations []Operation
	Metadata   map[string]string // as in GetRequest, for the whole
}

// Operation is one write of a transaction.
type Operation struct {
	// Delete removes the item; of SetRequest only Key, ETag and Metadata mean
	// something then.
	Delete bool
	SetRequest
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
// nothing and succeeds.
func (s *Store) Transact(ctx context.Context, r TransactRequest) error {
	if len(r.Operations) == 0 {
		return nil
	}
	ops, c := make([]Op, len(r.Operations)), policy.Call{Idempotent: true}
	for i := range r.Operations {
		o := &r.Operations[i]
		if err := s.checkKey(o.Key); err != nil {
			return err
		}
		ops[i] = Op{Key: s.prefix + o.Key, Delete: o.Delete, PutOptions: PutOptions{ETag: o.ETag, Metadata: o.Metadata}}
		if !o.Delete {
			opt, err := s.putOptions(&o.SetRequest)
			if err != nil {
				return err
			}
			ops[i].Value, ops[i].PutOptions = o.Value, opt
			c.Bytes += len(o.Value)
		}
		c.Idempotent = c.Idempotent && idempotent(ops[i].PutOptions)
	}
	opt := TransactOptions{r.Metadata}
	err := s.transact.Run(ctx, &c, func(ctx context.Context) error {
		tx, err := s.transactor(ctx, len(ops))
		if err != nil {
			return err
		}
		return tx.Transact(ctx, ops, opt)
	})
	if oe, ok := errors.AsType[*OpError](err); ok && oe.Index < len(r.Operations) {
		return s.explain(err, "transaction", r.Operations[oe.Index].Key)
	}
	return s.explain(err, "transaction", "")
}

// transactor returns the driver, if it can carry out n operations at once.
func (s *Store) transactor(ctx context.Context, n int) (Transactor, error) {
	d, err := s.handle.Get(ctx)
	if err != nil {
		return nil, err
	}
	tx, ok := d.(Transactor)
	if !ok {
		return nil, fault.New(fault.Unimplemented, "this kind of store has no transactions").
			WithReason(ReasonTransactionsNotSupported)
	}
	if limit := tx.MaxTransaction(); limit > 0 && n > limit {
		e := &SizeError{n, limit}
		return nil, fault.Wrap(e, fault.InvalidArgument, "%s", e.Error()).WithReason(ReasonTooManyOperations)
	}
	return tx, nil
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
