package config

import (
	"context"
	"unicode/utf8"

	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/policy"
)

// MaxWrites is the most changes that one Write may make.
const MaxWrites = 1000

// Write makes all changes or none of them, and returns the version of each item
// that it set, in their order; "" for one that it deleted. Deleting an item
// that does not exist succeeds.
//
// When what a change expects is not so, Write is Aborted with ReasonConflict. It
// is InvalidArgument for changes that no store could make, and Unimplemented
// when this one's items cannot be changed, or not several as one.
func (s *Store) Write(ctx context.Context, writes []Write) (versions []string, err error) {
	if err := s.checkWrites(writes); err != nil || len(writes) == 0 {
		return nil, err
	}
	// What expects something may fail when it is made again only because it
	// was made before.
	call := policy.Call{Idempotent: true}
	for _, w := range writes {
		call.Bytes += len(w.Key) + len(w.Value)
		call.Idempotent = call.Idempotent && w.Expect.Nothing()
	}
	if len(writes) == 1 {
		call.Key = writes[0].Key
	}
	return policy.Do(ctx, s.write, call, func(ctx context.Context) ([]string, error) {
		d, err := s.handle.Get(ctx)
		if err != nil {
			return nil, err
		}
		w, ok := d.(Writer)
		if !ok {
			return nil, fault.New(fault.Unimplemented, "configuration store %q (%s) cannot be written through this API",
				s.Name(), s.handle.Type()).WithReason(ReasonCannotWrite)
		}
		versions, err := w.Write(ctx, writes)
		return versions, s.wrap(err, "write to")
	})
}

func (s *Store) checkWrites(writes []Write) error {
	bad := func(format string, args ...any) error {
		return fault.Wrap(fault.New(fault.InvalidArgument, format, args...), fault.InvalidArgument, "configuration store %q", s.Name()).
			WithReason(ReasonBadWrite)
	}
	if len(writes) > MaxWrites {
		return bad("%d changes at once are too many: at most %d", len(writes), MaxWrites)
	}
	seen := make(map[string]struct{}, len(writes))
	for i, w := range writes {
		_, twice := seen[w.Key]
		switch {
		case w.Key == "":
			return bad("the key of change %d is empty", i+1)
		case twice:
			return bad("key %q is changed twice", w.Key)
		case !utf8.ValidString(w.Key) || !utf8.ValidString(w.Value):
			return bad("the key or the value of change %d (%q) is not UTF-8", i+1, w.Key)
		case w.Expect.Absent && w.Expect.Version != "":
			return bad("key %q cannot be expected to be absent and to have a version", w.Key)
		case w.Expect.Absent && w.Delete:
			return bad("key %q is to be deleted and yet expected to be absent", w.Key)
		}
		seen[w.Key] = struct{}{}
	}
	return nil
}
