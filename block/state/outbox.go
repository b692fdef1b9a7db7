package state

import (
	"context"

	"github.com/proa-io/proa/fault"
)

// Outbox makes transactions publish what they say: it adds a row to each, which
// is there exactly when the transaction has happened. See [Options.Outbox].
type Outbox interface {
	// Begin looks at a transaction before it is carried out. It may refuse it.
	Begin(ctx context.Context, r *TransactRequest) (*OutboxTransaction, error)
}

// OutboxTransaction is what an Outbox makes of a transaction.
type OutboxTransaction struct {
	// Keep tells which operations are carried out, in this order.
	Keep []int
	// Row is the name of the row that is written with them, and Value what it
	// holds; an empty name for none.
	Row   string
	Value []byte
	// End is called with what became of it.
	End func(context.Context, Outcome)
}

// Outcome is what became of a transaction.
type Outcome uint8

// The outcomes.
const (
	Committed Outcome = iota // it has happened
	Failed                   // it has not and will not
	InDoubt                  // nobody knows: the store did not answer
)

// outboxPart is where the rows of outboxes are.
const outboxPart = "outbox"

// checkUnpublished refuses an operation that asks to be published in a store
// that has no outbox: its event would be lost without a word.
func (s *Store) checkUnpublished(o *Operation) error {
	if len(o.Metadata) == 0 {
		return nil
	}
	for _, name := range [...]string{"outbox.topic", "outbox.pubsub"} {
		if o.Metadata[name] != "" {
			return s.explain(fault.New(fault.InvalidArgument,
				"the metadata %s asks for an event, but the store has no outbox: set outboxPublishPubsub and outboxPublishTopic", name),
				"transaction", o.Key)
		}
	}
	return nil
}

// withOutbox carries out a transaction that may publish something.
func (s *Store) withOutbox(ctx context.Context, r TransactRequest) error {
	t, err := s.outbox.Begin(ctx, &r)
	if err != nil {
		return s.explain(err, "transaction", "")
	}
	kept := r
	if len(t.Keep) < len(r.Operations) {
		kept.Operations = make([]Operation, len(t.Keep))
		for j, i := range t.Keep {
			kept.Operations[j] = r.Operations[i]
		}
	}
	a := attempts{keep: t.Keep}
	if t.Row != "" {
		a.row = &Op{Key: s.outboxRows.prefix + t.Row, Value: t.Value}
	}
	err = s.carryOut(ctx, kept, &a)
	switch {
	case err == nil:
		t.End(ctx, Committed)
	case a.doubt:
		t.End(ctx, InDoubt)
	default:
		t.End(ctx, Failed)
	}
	return err
}

// attempts is what the outbox adds to a transaction and has to know of it.
type attempts struct {
	row   *Op   // what is written too; nil for nothing
	keep  []int // the place of each operation in the request
	doubt bool  // some attempt may have happened although it failed
}

// note takes over how an attempt ended.
func (a *attempts) note(err error) {
	if err == nil {
		return
	}
	switch fault.CodeOf(err) {
	case fault.InvalidArgument, fault.NotFound, fault.AlreadyExists, fault.PermissionDenied, fault.ResourceExhausted,
		fault.FailedPrecondition, fault.Aborted, fault.Unimplemented, fault.Unauthenticated:
		return // refused
	case fault.Unknown, fault.Canceled, fault.DeadlineExceeded, fault.Internal, fault.Unavailable:
	}
	a.doubt = true
}

// place returns which operation of the request the driver blames, and false
// for none of them.
func (a *attempts) place(index int) (int, bool) {
	if index < 0 || index >= len(a.keep) {
		return 0, false
	}
	return a.keep[index], true
}
