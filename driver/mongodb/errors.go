package mongodb

import (
	"context"
	"errors"
	"fmt"

	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/x/mongo/driver"

	"github.com/proa-io/proa/fault"
)

// The numbers of the server's errors that are told apart.
const (
	errDuplicateKey   = 11000
	errNoSuchCommand  = 59
	errNoChangeStream = 40573 // of a server that is of no replica set
	errHistoryLost    = 286
	errCannotResume   = 280
	errUnknownStage   = 40324
)

// labelTransient is on errors that a new transaction may not meet.
const labelTransient = "TransientTransactionError"

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
	if n, label := number(err); n != 0 {
		return classifyReply(n, label)
	}
	switch {
	case errors.Is(err, driver.ErrDocumentTooLarge):
		return errTooLarge()
	case mongo.IsTimeout(err), errors.Is(err, context.DeadlineExceeded):
		return fault.Wrap(bare(err), fault.DeadlineExceeded, "the database did not answer within the timeout of the component")
	}
	return fault.Wrap(bare(err), fault.Unavailable, "the database cannot be reached, or the connection is lost")
}

// bare returns an error whose text is as short as it can be: that of the
// client library lists all servers it knows.
func bare(err error) error {
	for next := errors.Unwrap(err); next != nil; next = errors.Unwrap(err) {
		err = next
	}
	return err
}

func errTooLarge() error {
	return fault.New(fault.InvalidArgument, "this is larger than the database takes at once: a document has at most 16 MiB")
}

// number returns the number of the server's error that err is, or that a write
// of it has; 0 when it is none. label tells errors that a new transaction may
// not meet.
func number(err error) (n int, transient bool) {
	if se, ok := errors.AsType[mongo.ServerError](err); ok {
		transient = se.HasErrorLabel(labelTransient)
		if codes := se.ErrorCodes(); len(codes) > 0 {
			return codes[0], transient
		}
	}
	if de, ok := errors.AsType[driver.Error](err); ok { // while a connection is opened
		return int(de.Code), transient
	}
	return 0, transient
}

// hasNumber reports whether err is an error of the server with one of the
// numbers.
func hasNumber(err error, numbers ...int) bool {
	got, _ := number(err)
	for _, n := range numbers {
		if got == n {
			return true
		}
	}
	return false
}

// classifyReply names an error of the server, whose text may quote the data.
func classifyReply(n int, transient bool) error {
	code, text := fault.Internal, "the database answered with an error"
	switch n {
	case 18:
		code, text = fault.Unauthenticated, "the database refused the credentials"
	case 13, 8000:
		code, text = fault.PermissionDenied, "the database does not permit this user to do that"
	case errDuplicateKey, 112, 24, 246:
		code, text = fault.Unavailable, "the database gave up on this for others that were faster"
	case 10334, 17419, 17420, 17280:
		return errTooLarge()
	case 9, 14, 52, 121:
		code, text = fault.InvalidArgument, "the database does not take this"
	case errNoSuchCommand, 72, 115, 238, 303:
		code, text = fault.Unimplemented, "this database does not offer that"
	case 26, 73, 85, 86:
		code, text = fault.FailedPrecondition, "the database lacks a collection or an index that this needs, or has another one in its place"
	case 50, 262:
		code, text = fault.DeadlineExceeded, "the database stopped a call that took too long"
	case 14031, 12501:
		code, text = fault.ResourceExhausted, "the database has no room for more"
	case 6, 7, 64, 89, 91, 133, 189, 11600, 11602, 10107, 13435, 13436, 317, 358, 175:
		code, text = fault.Unavailable, "the database is shutting down, or another server of the replica set is about to take over"
	}
	if transient && code == fault.Internal {
		code, text = fault.Unavailable, "the database gave up on a transaction for others that were faster"
	}
	return fault.Wrap(fmt.Errorf("error %d", n), code, "%s", text)
}
