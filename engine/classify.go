package engine

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/proa-io/proa/fault"
)

// Reasons of the errors of this package.
const (
	// ReasonNotReady marks a call that was never sent because the engine was
	// not ready. Repeating it is always safe.
	ReasonNotReady fault.Reason = "engine.not_ready"
	// ReasonInDoubt marks a call that was sent and not answered: it may or may
	// not have taken effect. Repeat it only when that is harmless, or after
	// reading what is there.
	ReasonInDoubt fault.Reason = "engine.in_doubt"
	// ReasonConflict marks a write whose expected revision was not the last.
	ReasonConflict fault.Reason = "engine.conflict"
	// ReasonTooLarge marks a message that is larger than the server, the
	// stream or the bucket takes.
	ReasonTooLarge fault.Reason = "engine.too_large"
	// ReasonForgotten marks a point of a bucket after which not everything is
	// known any more.
	ReasonForgotten fault.Reason = "engine.forgotten"
	// ReasonUnsupported marks something the connected server is too old for.
	ReasonUnsupported fault.Reason = "engine.unsupported"
)

// verdict is what an error means: a code, a reason and words for the caller.
type verdict struct {
	code   fault.Code
	reason fault.Reason
	text   string
}

// busyCode is the error of a server that still checks another write to the
// same subject. It comes also when nobody else writes, for some milliseconds
// after an acknowledgement, and says nothing about the sequence: the write
// did not happen and may be repeated.
const busyCode = jetstream.JSErrCodeStreamWrongLastSequenceConstant

// apiVerdict judges the JetStream error codes whose HTTP-like class says too
// little.
func apiVerdict(code jetstream.ErrorCode) (verdict, bool) {
	switch code {
	case 10071, 10070: // wrong last sequence, wrong last message id
		return verdict{fault.Aborted, ReasonConflict, "the value was changed by another writer"}, true
	case busyCode, 10163, 10158: // a check or a duplicate is still in process
		return verdict{fault.Unavailable, ReasonNotReady, "the engine is still busy with another write to the same key"}, true
	case 10054, 10097: // message or header exceeds the maximum
		return verdict{fault.InvalidArgument, ReasonTooLarge, "the message is larger than the engine takes"}, true
	case 10002, 10023, 10026, 10027, 10028, 10047, 10053, 10122, 10167, 10210, 10211, 10117:
		return verdict{fault.ResourceExhausted, "", "the engine's storage or limits are spent"}, true
	case 10077: // the store refused the message
		return verdict{fault.ResourceExhausted, "", "the engine could not store the message"}, true
	case 10039, 10076, 10035, 10120: // not enabled, no account, no limits
		return verdict{fault.FailedPrecondition, "", "JetStream is not enabled on the engine's server or for this account"}, true
	case 10014, 10037, 10043, 10059, 10149, 10068:
		return verdict{fault.NotFound, "", "not found"}, true
	case 10013, 10058, 10065, 10105, 10148:
		return verdict{fault.AlreadyExists, "", "exists already with another configuration"}, true
	case 10074, 10005:
		return verdict{fault.FailedPrecondition, "", "the engine's servers cannot keep so many replicas"}, true
	case 10010, 10036, 10052, 10055, 10061, 10056, 10060, 10063, 10109, 10180, 10123, 10124, 10226:
		return verdict{fault.FailedPrecondition, "", "the engine's server does not allow this in its present state"}, true
	case 10166, 10168, 10174, 10188, 10205, 10185:
		return verdict{fault.Unimplemented, ReasonUnsupported, "the stream or the engine's server does not offer this"}, true
	case 10118, 10119, 10194, 10195, 10004, 10006, 10007, 10008, 10009, 10041, 10075:
		return verdict{fault.Unavailable, "", "the stream is not available now"}, true
	}
	return verdict{}, false
}

// classVerdict falls back on the HTTP-like class of a JetStream error.
func classVerdict(class int) verdict {
	switch {
	case class == 404:
		return verdict{fault.NotFound, "", "not found"}
	case class == 408 || class == 503:
		return verdict{fault.Unavailable, "", "the engine is not available now"}
	case class == 409:
		return verdict{fault.Aborted, "", "the engine was asked for something that is going on already"}
	case class == 412:
		return verdict{fault.FailedPrecondition, "", "the engine's server does not allow this in its present state"}
	case class == 429:
		return verdict{fault.ResourceExhausted, "", "the engine's limits are spent"}
	case class >= 400 && class < 500:
		return verdict{fault.InvalidArgument, "", "the engine refused the request"}
	}
	return verdict{fault.Internal, "", "the engine had an internal error"}
}

// clientVerdict judges the errors of the client library; the first match wins.
func clientVerdict(err error) (verdict, bool) {
	for _, group := range clientVerdicts() {
		for _, target := range group.errs {
			if errors.Is(err, target) {
				return group.verdict, true
			}
		}
	}
	return verdict{}, false
}

type clientGroup struct {
	errs    []error
	verdict verdict
}

func clientVerdicts() []clientGroup {
	return []clientGroup{
		{[]error{jetstream.ErrKeyNotFound, jetstream.ErrKeyDeleted, jetstream.ErrBucketNotFound, jetstream.ErrNoKeysFound,
			jetstream.ErrMsgNotFound, jetstream.ErrNoMessages, jetstream.ErrStreamNotFound, jetstream.ErrConsumerNotFound,
			jetstream.ErrConsumerDeleted, jetstream.ErrObjectNotFound, nats.ErrKeyNotFound, nats.ErrStreamNotFound, nats.ErrConsumerNotFound},
			verdict{fault.NotFound, "", "not found"}},
		{[]error{jetstream.ErrKeyRevisionMismatch, jetstream.ErrKeyExists},
			verdict{fault.Aborted, ReasonConflict, "the value was changed by another writer"}},
		{[]error{jetstream.ErrBucketExists, jetstream.ErrStreamNameAlreadyInUse, jetstream.ErrConsumerNameAlreadyInUse,
			jetstream.ErrObjectAlreadyExists},
			verdict{fault.AlreadyExists, "", "exists already with another configuration"}},
		{[]error{jetstream.ErrJetStreamNotEnabled, jetstream.ErrJetStreamNotEnabledForAccount, nats.ErrJetStreamNotEnabled,
			nats.ErrJetStreamNotEnabledForAccount},
			verdict{fault.FailedPrecondition, "", "JetStream is not enabled on the engine's server or for this account"}},
		{[]error{nats.ErrMaxPayload},
			verdict{fault.InvalidArgument, ReasonTooLarge, "the message is larger than the engine takes"}},
		{[]error{nats.ErrPermissionViolation},
			verdict{fault.PermissionDenied, "", "the engine's server does not permit this to this account"}},
		{[]error{nats.ErrAuthorization, nats.ErrAuthExpired, nats.ErrAuthRevoked, nats.ErrAccountAuthExpired},
			verdict{fault.Unauthenticated, "", "the engine's server refused the credentials"}},
		{[]error{nats.ErrMaxConnectionsExceeded, nats.ErrMaxAccountConnectionsExceeded, nats.ErrMaxSubscriptionsExceeded,
			nats.ErrSlowConsumer, jetstream.ErrMaxBytesExceeded, jetstream.ErrTooManyStalledMsgs},
			verdict{fault.ResourceExhausted, "", "the engine's limits are spent"}},
		{[]error{jetstream.ErrLimitMarkerTTLNotSupported, jetstream.ErrTTLOnDeleteNotSupported, nats.ErrHeadersNotSupported,
			jetstream.ErrConsumerMultipleFilterSubjectsNotSupported, jetstream.ErrStreamSubjectTransformNotSupported,
			jetstream.ErrStreamSourceNotSupported, jetstream.ErrStreamSourceSubjectTransformNotSupported,
			jetstream.ErrStreamSourceMultipleFilterSubjectsNotSupported},
			verdict{fault.Unimplemented, ReasonUnsupported, "the engine's server is too old for this"}},
		{[]error{nats.ErrBadSubject, nats.ErrInvalidMsg, nats.ErrInvalidArg, nats.ErrBadHeaderMsg, nats.ErrBadQueueName,
			jetstream.ErrInvalidKey, jetstream.ErrInvalidBucketName, jetstream.ErrInvalidStreamName, jetstream.ErrInvalidSubject,
			jetstream.ErrInvalidConsumerName, jetstream.ErrStreamNameRequired, jetstream.ErrHistoryTooLarge,
			jetstream.ErrInvalidOption, jetstream.ErrBadBucket},
			verdict{fault.InvalidArgument, "", "the engine does not take this name or message"}},
		{[]error{nats.ErrTimeout, jetstream.ErrAsyncPublishTimeout, jetstream.ErrInvalidJSAck, jetstream.ErrInvalidJetStreamResponse,
			jetstream.ErrConsumerCreationResponseEmpty, nats.ErrStaleConnection, nats.ErrDisconnected, jetstream.ErrJetStreamPublisherClosed,
			io.ErrUnexpectedEOF, io.EOF, syscall.ECONNRESET, syscall.EPIPE},
			verdict{fault.Unavailable, ReasonInDoubt, "the engine did not answer"}},
		{[]error{nats.ErrNoResponders, jetstream.ErrNoStreamResponse, nats.ErrConnectionClosed, jetstream.ErrConnectionClosed,
			nats.ErrConnectionDraining, nats.ErrDrainTimeout, nats.ErrConnectionReconnecting, nats.ErrReconnectBufExceeded, nats.ErrNoServers, nats.ErrNoInfoReceived,
			nats.ErrBadSubscription, nats.ErrInvalidConnection, nats.ErrSecureConnRequired, nats.ErrSecureConnWanted, nats.ErrTLS,
			jetstream.ErrNoHeartbeat, jetstream.ErrServerShutdown, jetstream.ErrConsumerLeadershipChanged, jetstream.ErrMsgIteratorClosed,
			jetstream.ErrOrderedConsumerReset, net.ErrClosed, syscall.ECONNREFUSED, syscall.ENOENT},
			verdict{fault.Unavailable, ReasonNotReady, "the engine is not reachable now"}},
	}
}

// Classify gives err the fault code it means. It returns nil for nil, leaves
// classified errors and context errors as they are, and never returns an
// error whose code is Unknown. It keeps err as the cause.
func Classify(err error) error {
	if err == nil {
		return nil
	}
	if fault.CodeOf(err) != fault.Unknown {
		return err
	}
	v := judge(err)
	out := fault.Wrap(err, v.code, "%s", v.text).WithReason(v.reason)
	if isBusy(err) {
		return out.WithRetryAfter(10 * time.Millisecond)
	}
	return out
}

func judge(err error) verdict {
	code, class := apiError(err)
	if code == 10077 && strings.Contains(err.Error(), server.ErrStoreClosed.Error()) {
		// The code alone says that the store refused, for whatever reason.
		return verdict{fault.Unavailable, ReasonNotReady, "the engine's store is closed"}
	}
	if v, ok := apiVerdict(code); ok {
		return v
	}
	if v, ok := clientVerdict(err); ok {
		return v
	}
	if class != 0 {
		return classVerdict(class)
	}
	if _, ok := errors.AsType[net.Error](err); ok || errors.Is(err, os.ErrDeadlineExceeded) {
		return verdict{fault.Unavailable, ReasonInDoubt, "the engine did not answer"}
	}
	return verdict{fault.Internal, "", "the engine had an error of an unknown kind"}
}

// apiError returns the JetStream error code and HTTP-like class in err's
// chain, or zeroes. Both client packages have a type of their own for it.
func apiError(err error) (code jetstream.ErrorCode, class int) {
	if e, ok := errors.AsType[*jetstream.APIError](err); ok {
		return e.ErrorCode, e.Code
	}
	if e, ok := errors.AsType[jetstream.JetStreamError](err); ok && e.APIError() != nil {
		return e.APIError().ErrorCode, e.APIError().Code
	}
	if e, ok := errors.AsType[*nats.APIError](err); ok {
		return jetstream.ErrorCode(e.ErrorCode), e.Code
	}
	if e, ok := errors.AsType[nats.JetStreamError](err); ok && e.APIError() != nil {
		return jetstream.ErrorCode(e.APIError().ErrorCode), e.APIError().Code
	}
	return 0, 0
}

// isBusy reports whether err is the refusal that a short wait resolves.
func isBusy(err error) bool {
	if err == nil {
		return false
	}
	code, _ := apiError(err)
	return code == busyCode || code == 10163
}

// isDisabled reports whether err says that the server has no JetStream.
func isDisabled(err error) bool {
	code, _ := apiError(err)
	return code == jetstream.JSErrCodeJetStreamNotEnabled || code == jetstream.JSErrCodeJetStreamNotEnabledForAccount
}

// isUnsent reports whether err says that nothing was sent because there is no
// connection at present. The buffer that the library speaks of is off.
func isUnsent(err error) bool {
	return errors.Is(err, nats.ErrReconnectBufExceeded) || errors.Is(err, nats.ErrConnectionReconnecting)
}

// isTimeout reports whether err is a wait that ended without an answer.
func isTimeout(err error) bool {
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, nats.ErrTimeout)
}
