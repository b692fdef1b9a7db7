package redis

import (
	"context"
	"errors"
	"strings"

	"github.com/redis/rueidis"

	"github.com/proa-io/proa/block/state"
	"github.com/proa-io/proa/fault"
)

// classify names an error of the client library for a call made with ctx. It
// returns nil for nil.
func classify(ctx context.Context, err error) error {
	switch {
	case err == nil:
		return nil
	case fault.CodeOf(err) != fault.Unknown && !isContextError(err):
		return err // already named
	}
	if re, ok := rueidis.IsRedisErr(err); ok {
		return classifyReply(re)
	}
	switch ctx.Err() {
	case context.Canceled:
		return context.Canceled
	case context.DeadlineExceeded:
		return fault.Wrap(err, fault.DeadlineExceeded, "redis did not answer in time")
	}
	if errors.Is(err, rueidis.ErrClosing) {
		return state.ErrClosed()
	}
	// What is left is trouble with the connection, be it that a context ended
	// which was not this call's: the one of another call that was connecting.
	return fault.Wrap(err, fault.Unavailable, "redis cannot be reached")
}

func isContextError(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}

// A verdict is what an error reply means: a code, and words for the caller,
// for the server's own may quote what the caller must not see.
type verdict struct {
	code fault.Code
	text string
}

// verdictOf judges an error reply by its first word, which is its kind. The
// client library leaves out the commonest one, ERR.
func verdictOf(kind string) (verdict, bool) {
	switch kind {
	case "WRONGPASS", "NOAUTH":
		return verdict{fault.Unauthenticated, "redis refused the credentials"}, true
	case "NOPERM":
		return verdict{fault.PermissionDenied, "redis does not permit this user to do that"}, true
	case "OOM":
		return verdict{fault.ResourceExhausted, "redis is out of memory"}, true
	case "WRONGTYPE":
		return verdict{fault.FailedPrecondition, "redis holds something else at this key"}, true
	case "CROSSSLOT":
		return verdict{fault.InvalidArgument, "the keys are not in one hash slot of the redis cluster"}, true
	case "LOADING":
		return verdict{fault.Unavailable, "redis is loading its data"}, true
	case "READONLY":
		return verdict{fault.Unavailable, "this redis is a replica and takes no writes: a failover may be under way"}, true
	case "MOVED", "ASK", "TRYAGAIN", "CLUSTERDOWN":
		return verdict{fault.Unavailable, "the redis cluster is rearranging itself"}, true
	case "MASTERDOWN", "NOREPLICAS", "BUSY", "MISCONF", "UNBLOCKED", "NOTREADY":
		return verdict{fault.Unavailable, "redis does not serve this at present"}, true
	}
	return verdict{}, false
}

func classifyReply(re *rueidis.RedisError) error {
	text := re.Error()
	kind, _, _ := strings.Cut(text, " ")
	if v, ok := verdictOf(kind); ok {
		return fault.Wrap(re, v.code, "%s", v.text)
	}
	switch text = strings.ToLower(text); {
	case strings.Contains(text, "max number of clients"):
		return fault.Wrap(re, fault.ResourceExhausted, "redis takes no more connections")
	case strings.Contains(text, "auth") || strings.Contains(text, "password"):
		return fault.Wrap(re, fault.Unauthenticated, "redis refused the credentials")
	case strings.Contains(text, "unknown command"), strings.Contains(text, "cluster support disabled"):
		return fault.Wrap(re, fault.Unimplemented, "this redis does not offer that")
	case strings.Contains(text, "db index"):
		return fault.Wrap(re, fault.FailedPrecondition, "redis has no such database")
	}
	return fault.Wrap(re, fault.Internal, "redis answered with an error")
}
