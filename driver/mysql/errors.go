package mysql

import (
	"context"
	"errors"
	"fmt"

	"github.com/go-sql-driver/mysql"

	"github.com/proa-io/proa/fault"
)

// The error numbers of the servers that are told apart.
const (
	errUnknownDatabase = 1049
	errNoSuchTable     = 1146
	errLockWait        = 1205
	errDeadlock        = 1213
	errChanged         = 1020
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
	if me, ok := errors.AsType[*mysql.MySQLError](err); ok {
		return classifyReply(me)
	}
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return fault.Wrap(err, fault.DeadlineExceeded, "the database did not answer within the timeout of the component")
	case errors.Is(err, mysql.ErrPktTooLarge):
		return fault.Wrap(err, fault.InvalidArgument, "this is larger than the database takes at once (max_allowed_packet)")
	case errors.Is(err, mysql.ErrNoTLS):
		return fault.Wrap(err, fault.FailedPrecondition, "the server does not encrypt, and the connection string asks for it")
	}
	return fault.Wrap(err, fault.Unavailable, "the database cannot be reached, or the connection is lost")
}

// A verdict is what an error reply means: a code, and words for the caller,
// for the server's own may quote what the caller must not see.
type verdict struct {
	code fault.Code
	text string
}

func verdictOf(number uint16) verdict {
	switch number {
	case 1045, 1698:
		return verdict{fault.Unauthenticated, "the database refused the credentials"}
	case 1044, 1142, 1143, 1227, 1370:
		return verdict{fault.PermissionDenied, "the database does not permit this user to do that"}
	case errUnknownDatabase, errNoSuchTable, 1054:
		return verdict{fault.FailedPrecondition, "the database lacks a schema, a table or a column that this needs"}
	case 1040, 1203, 1226:
		return verdict{fault.ResourceExhausted, "the database takes no more connections"}
	case 1021, 1041, 1114:
		return verdict{fault.ResourceExhausted, "the database has no room for more"}
	case errLockWait, errDeadlock, errChanged:
		return verdict{fault.Unavailable, "the database gave up on this for others that were faster"}
	case 1290, 1792, 1836:
		return verdict{fault.Unavailable, "this server is read-only: a failover may be under way"}
	case 1053, 1077, 1927, 3169:
		return verdict{fault.Unavailable, "the database is shutting down"}
	case 1317, 1969, 3024:
		return verdict{fault.DeadlineExceeded, "the database stopped a statement that took too long"}
	case 1153, 1301, 1406, 3140, 4025:
		return verdict{fault.InvalidArgument, "this is larger than the database takes, or not what it takes"}
	}
	return verdict{fault.Internal, "the database answered with an error"}
}

func classifyReply(me *mysql.MySQLError) error {
	v := verdictOf(me.Number)
	if v.code == fault.InvalidArgument || v.code == fault.Internal {
		// The texts of such errors may quote the data.
		return fault.Wrap(fmt.Errorf("error %d (%s)", me.Number, me.SQLState[:]), v.code, "%s", v.text)
	}
	return fault.Wrap(me, v.code, "%s", v.text)
}

// hasNumber reports whether err is an error reply with one of the numbers.
func hasNumber(err error, numbers ...uint16) bool {
	me, ok := errors.AsType[*mysql.MySQLError](err)
	if !ok {
		return false
	}
	for _, n := range numbers {
		if me.Number == n {
			return true
		}
	}
	return false
}
