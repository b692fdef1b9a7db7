package postgres

import (
	"context"
	"errors"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/proa-io/proa/fault"
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
	if pe, ok := errors.AsType[*pgconn.PgError](err); ok {
		return classifyReply(pe)
	}
	if _, ok := errors.AsType[pgx.ScanArgError](err); ok {
		return fault.Wrap(err, fault.Internal, "the database holds something of another kind than expected")
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return fault.Wrap(err, fault.DeadlineExceeded, "the database did not answer within the timeout of the component")
	}
	if _, ok := errors.AsType[*pgconn.ConnectError](err); ok {
		return fault.Wrap(err, fault.Unavailable, "the database cannot be reached")
	}
	return fault.Wrap(err, fault.Unavailable, "the connection to the database is lost")
}

// A verdict is what an error reply means: a code, and words for the caller,
// for the server's own may quote what the caller must not see.
type verdict struct {
	code fault.Code
	text string
}

// verdicts by SQLSTATE, or by its first two characters, which are its class.
func verdictOf(sqlState string) verdict {
	switch sqlState {
	case "53100":
		return verdict{fault.ResourceExhausted, "the database's disk is full"}
	case "53300":
		return verdict{fault.ResourceExhausted, "the database takes no more connections"}
	case "42501":
		return verdict{fault.PermissionDenied, "the database does not permit this user to do that"}
	case "42P01", "42703", "3F000", "42704", "42883":
		return verdict{fault.FailedPrecondition, "the database lacks a table, a column or a function that this needs"}
	case "3D000":
		return verdict{fault.FailedPrecondition, "there is no such database on the server"}
	case "25006":
		return verdict{fault.Unavailable, "this server is a replica and takes no writes: a failover may be under way"}
	case "40001", "40P01", "55P03":
		return verdict{fault.Unavailable, "the database gave up on this for others that were faster"}
	case "57014":
		return verdict{fault.DeadlineExceeded, "the database stopped a statement that took too long"}
	case "58030":
		return verdict{fault.Unavailable, "the database cannot read or write its files"}
	}
	switch sqlState[:min(2, len(sqlState))] {
	case "08", "57":
		return verdict{fault.Unavailable, "the database does not serve at present"}
	case "28":
		return verdict{fault.Unauthenticated, "the database refused the credentials"}
	case "53":
		return verdict{fault.ResourceExhausted, "the database is short of resources"}
	case "54":
		return verdict{fault.InvalidArgument, "this is too large or too complex for the database"}
	case "0A":
		return verdict{fault.Unimplemented, "this database does not offer that"}
	case "22":
		return verdict{fault.InvalidArgument, "the database refused the data"}
	}
	return verdict{fault.Internal, "the database answered with an error"}
}

func classifyReply(pe *pgconn.PgError) error {
	v := verdictOf(pe.Code)
	if strings.HasPrefix(pe.Code, "22") {
		// The texts of this class quote the data.
		return fault.Wrap(errors.New("SQLSTATE "+pe.Code), v.code, "%s", v.text)
	}
	return fault.Wrap(pe, v.code, "%s", v.text)
}

// hasState reports whether err is an error reply with one of the SQLSTATEs.
func hasState(err error, states ...string) bool {
	pe, ok := errors.AsType[*pgconn.PgError](err)
	if !ok {
		return false
	}
	for _, s := range states {
		if pe.Code == s {
			return true
		}
	}
	return false
}
