package sqlite

import (
	"context"
	"errors"

	"modernc.org/sqlite"

	"github.com/proa-io/proa/fault"
)

// The result codes of SQLite that are told apart (sqlite.org/rescode.html).
const (
	codePerm      = 3
	codeBusy      = 5
	codeLocked    = 6
	codeNoMem     = 7
	codeReadOnly  = 8
	codeInterrupt = 9
	codeIO        = 10
	codeCorrupt   = 11
	codeFull      = 13
	codeCantOpen  = 14
	codeTooBig    = 18
	codeAuth      = 23
	codeNotADB    = 26
)

// classify names an error of the client library for a call made with ctx. It
// returns nil for nil.
func classify(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	if _, named := errors.AsType[*fault.Error](err); named {
		return err
	}
	switch ctx.Err() {
	case context.Canceled:
		return context.Canceled
	case context.DeadlineExceeded:
		return fault.New(fault.DeadlineExceeded, "the database did not answer in time")
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return fault.Wrap(err, fault.DeadlineExceeded, "the database did not answer within the timeout of the component")
	}
	se, ok := errors.AsType[*sqlite.Error](err)
	if !ok {
		return fault.Wrap(err, fault.Internal, "the database cannot be used")
	}
	const primary = 0xff // the rest of a code says more than is needed
	switch se.Code() & primary {
	case codeBusy, codeLocked:
		return fault.Wrap(err, fault.Unavailable, "the database is in use by somebody who writes")
	case codePerm, codeAuth:
		return fault.Wrap(err, fault.PermissionDenied, "the database's file may not be used")
	case codeReadOnly:
		return fault.Wrap(err, fault.FailedPrecondition, "the database's file cannot be written to")
	case codeCantOpen:
		return fault.Wrap(err, fault.FailedPrecondition, "the database's file cannot be opened")
	case codeCorrupt, codeNotADB:
		return fault.Wrap(err, fault.FailedPrecondition, "the file is not a database, or damaged")
	case codeFull, codeNoMem:
		return fault.Wrap(err, fault.ResourceExhausted, "there is no room for more")
	case codeTooBig:
		return fault.Wrap(err, fault.InvalidArgument, "this is too large for the database")
	case codeInterrupt:
		return fault.Wrap(err, fault.DeadlineExceeded, "the database did not answer within the timeout of the component")
	case codeIO:
		return fault.Wrap(err, fault.Unavailable, "the database's file cannot be read or written")
	}
	return fault.Wrap(err, fault.Internal, "the database answered with an error")
}
