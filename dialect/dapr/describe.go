package dapr

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"google.golang.org/grpc/codes"

	"github.com/proa-io/proa/block/binding"
	"github.com/proa-io/proa/block/config"
	"github.com/proa-io/proa/block/conversation"
	"github.com/proa-io/proa/block/crypto"
	"github.com/proa-io/proa/block/invoke"
	"github.com/proa-io/proa/block/lock"
	"github.com/proa-io/proa/block/outbox"
	"github.com/proa-io/proa/block/pubsub"
	"github.com/proa-io/proa/block/secret"
	"github.com/proa-io/proa/block/state"
	"github.com/proa-io/proa/fault"
)

// Operation is what a request asks for. Errors are told in terms of it.
type Operation uint8

// The operations.
const (
	StateGet Operation = iota
	StateBulkGet
	StateSave
	StateDelete
	StateBulkDelete
	StateTransaction
	StateQuery
	Publish
	BulkPublish
	Subscribe // to a topic, by a stream
	InvokeBinding
	SecretGet
	SecretBulkGet
	ConfigurationGet
	ConfigurationSubscribe
	ConfigurationUnsubscribe
	TryLock
	Unlock
	Invoke    // another application
	CryptoKey // the public half of one
	Crypto    // encrypt, decrypt, wrap, unwrap, sign, verify
	Converse  // with a language model
	JobSchedule
	JobGet
	JobDelete // one, or those with a prefix
	JobList
	numOperations
)

// Operations lists every operation, for tests that must prove that a mapping is
// total.
func Operations() []Operation {
	all := make([]Operation, numOperations)
	for i := range all {
		all[i] = Operation(i)
	}
	return all
}

// Subject is what an operation is about, as far as error texts name it.
type Subject struct {
	// Component is the name that the request gives.
	Component string
	// Key is the state key, the name of the secret, the id of the subscription
	// or that of the application to invoke.
	Key string
	// Keys are the keys of a request that has several.
	Keys []string
	// Operation is the kind of a transaction's operation.
	Operation string
	// Topic is that of a publish.
	Topic string
	// AppID is the id of the application that this process serves.
	AppID string
	// Namespace is that of the application, for errors about its jobs.
	Namespace string
	// Owner is that of a lock.
	Owner string
	// Request is the metadata of a publish.
	Request map[string]string
}

// Describe returns err as the Dapr API tells it. err must not be nil.
//
// What Dapr documents has the documented status, tag, reason and text. Where
// Dapr only says that the request failed (500, Internal), the code of err
// decides: what passes by itself is told apart (429, 503 and 504, and the codes
// that belong to them), and so is a request that can never succeed (400); the
// tag stays the documented one. Failures between this process and a backend
// stay 500, whatever the backend made of the credentials of this process.
func Describe(op Operation, s Subject, err error) *Error {
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	var e *Error
	if lookup, ok := lookupFailure(err); ok {
		e = describeLookup(op, s, lookup)
	}
	if e == nil {
		e = describeReason(op, s, err)
	}
	if e == nil {
		e = describeCode(op, s, err)
	}
	e.RetryAfter, e.cause = fault.RetryAfterOf(err), err
	if several, ok := errors.AsType[*state.BulkError](err); ok {
		e.Violations = itemProblems(several)
	}
	return e
}

// maxItemProblems bounds how many items the details of an error name: they
// travel in header fields.
const maxItemProblems = 10

// itemProblems tells of each item that failed why it did.
func itemProblems(e *state.BulkError) []Violation {
	var out []Violation
	for _, f := range e.Failed[:min(len(e.Failed), maxItemProblems)] {
		out = append(out, Violation{f.Key, fault.Message(f.Err)})
	}
	return out
}

// flat returns an error of the older generation.
func flat(status int, code codes.Code, tag, format string, args ...any) *Error {
	return &Error{HTTPStatus: status, Code: code, Tag: tag, Message: fmt.Sprintf(format, args...)}
}

// statusOf returns the statuses of a failed operation whose error has the code.
func statusOf(op Operation, code fault.Code) (int, codes.Code) {
	switch code {
	case fault.Canceled:
		return 499, codes.Canceled // "client closed request": nobody reads it
	case fault.InvalidArgument:
		return http.StatusBadRequest, codes.InvalidArgument
	case fault.DeadlineExceeded:
		return http.StatusGatewayTimeout, codes.DeadlineExceeded
	case fault.ResourceExhausted:
		return http.StatusTooManyRequests, codes.ResourceExhausted
	case fault.Unavailable:
		return http.StatusServiceUnavailable, codes.Unavailable
	case fault.Unimplemented:
		return http.StatusNotImplemented, codes.Unimplemented
	case fault.FailedPrecondition:
		return http.StatusInternalServerError, codes.FailedPrecondition
	case fault.Aborted:
		if op == StateGet || op == StateSave || op == StateDelete || op == StateBulkDelete {
			return http.StatusConflict, codes.Aborted
		}
	case fault.PermissionDenied:
		if op == Invoke {
			return http.StatusForbidden, codes.PermissionDenied
		}
	}
	return http.StatusInternalServerError, codes.Internal
}

// describeCode tells of a failure of which nothing is known but its code.
func describeCode(op Operation, s Subject, err error) *Error {
	status, code := statusOf(op, fault.CodeOf(err))
	return operationError(op, s, status, code, detail(err))
}

// operationError returns the error that an operation fails with when Dapr knows
// no more than that it did. It has a case for every operation.
func operationError(op Operation, s Subject, status int, code codes.Code, why string) *Error {
	switch op {
	case StateGet:
		return flat(status, code, "ERR_STATE_GET", "fail to get %s from state store %s: %s", s.Key, s.Component, why)
	case StateBulkGet:
		return flat(status, code, "ERR_STATE_BULK_GET", "%s", why)
	case StateSave:
		return flat(status, code, "ERR_STATE_SAVE", "failed saving state in state store %s: %s", s.Component, why)
	case StateDelete:
		return flat(status, code, "ERR_STATE_DELETE", "failed deleting state with key %s: %s", s.Key, why)
	case StateBulkDelete:
		return flat(status, code, "ERR_STATE_BULK_DELETE", "failed deleting state in state store %s: %s", s.Component, why)
	case StateTransaction:
		return flat(status, code, "ERR_STATE_TRANSACTION", "error while executing state transaction: %s", why)
	case StateQuery:
		return &Error{
			HTTPStatus: status, Code: code, Tag: "ERR_STATE_QUERY",
			Message: fmt.Sprintf("state store %s query failed: %s", s.Component, why), Reason: "DAPR_STATE_QUERY_FAILED",
			ResourceType: state.Block, ResourceName: s.Component,
		}
	case Publish, BulkPublish:
		return publishError(s, status, code, why)
	case Subscribe:
		return flat(status, code, "ERR_PUBSUB_SUBSCRIBE", "failed to subscribe to topic %s of pubsub %s: %s", s.Topic, s.Component, why)
	case InvokeBinding:
		return flat(status, code, "ERR_INVOKE_OUTPUT_BINDING", "error invoking output binding %s: %s", s.Component, why)
	case SecretGet:
		return flat(status, code, "ERR_SECRET_GET", "failed getting secret with key %s from secret store %s: %s", s.Key, s.Component, why)
	case SecretBulkGet:
		return flat(status, code, "ERR_SECRET_GET", "failed getting secrets from secret store %s: %s", s.Component, why)
	case ConfigurationGet:
		return flat(status, code, "ERR_CONFIGURATION_GET", "failed to get %v from Configuration store %s: %s", s.Keys, s.Component, why)
	case ConfigurationSubscribe:
		return flat(status, code, "ERR_CONFIGURATION_SUBSCRIBE", "failed to subscribe %v from Configuration store %s: %s", s.Keys, s.Component, why)
	case ConfigurationUnsubscribe:
		return flat(status, code, "ERR_CONFIGURATION_UNSUBSCRIBE", "failed to unsubscribe to configuration request %s: %s", s.Key, why)
	case TryLock:
		return flat(status, code, "ERR_TRY_LOCK", "failed to try acquiring lock: %s", why)
	case Unlock:
		return flat(status, code, "ERR_UNLOCK", "failed to release lock: %s", why)
	case CryptoKey:
		return flat(status, code, "ERR_CRYPTO_KEY", "failed to retrieve key %s: %s", s.Key, why)
	case Crypto:
		return flat(status, code, "ERR_CRYPTO", "failed to perform operation: %s", why)
	case Converse:
		return flat(status, code, "ERR_CONVERSATION_INVOKE", "failed conversing with component %s: %s", s.Component, why)
	case Invoke:
		return flat(status, code, "ERR_DIRECT_INVOKE", "failed to invoke, id: %s, err: %s", s.Key, why)
	case JobSchedule:
		return jobError(s, status, code, "SCHEDULE_JOB", "failed to schedule job due to: "+why)
	case JobGet:
		return jobError(s, status, code, "GET_JOB", "failed to get job due to: "+why)
	case JobDelete:
		return jobError(s, status, code, "DELETE_JOB", "failed to delete job due to: "+why)
	case JobList:
		return jobError(s, status, code, "LIST_JOBS", "failed to list jobs due to: "+why)
	}
	return flat(status, code, "ERR_INTERNAL", "%s", why)
}

// describeReason tells of what a block has a reason for and Dapr a tag; nil
// for everything else.
func describeReason(op Operation, s Subject, err error) *Error {
	reason := fault.ReasonOf(err)
	switch op {
	case StateGet, StateBulkGet, StateSave, StateDelete, StateBulkDelete, StateTransaction, StateQuery:
		return describeState(op, s, reason, err)
	case Publish, BulkPublish, Subscribe:
		return describePubSub(s, reason, err)
	case InvokeBinding:
		switch reason {
		case binding.ReasonNoOperation, binding.ReasonBadOperation, binding.ReasonNotOutput:
			return operationError(op, s, http.StatusInternalServerError, codes.Internal, detail(err))
		}
	case SecretGet, SecretBulkGet:
		if reason == secret.ReasonDenied {
			return flat(http.StatusForbidden, codes.PermissionDenied, "ERR_PERMISSION_DENIED",
				"access denied by policy to get %q from %q", s.Key, s.Component)
		}
	case ConfigurationUnsubscribe:
		if reason == config.ReasonNoSubscription {
			return operationError(op, s, http.StatusInternalServerError, codes.Internal, detail(err))
		}
	case TryLock, Unlock:
		return describeLock(s, reason)
	case Crypto:
		if reason == crypto.ReasonOptions {
			return BadRequest(errors.New(detail(err)))
		}
	case Converse:
		switch reason {
		case conversation.ReasonNoInput:
			return flat(http.StatusBadRequest, codes.InvalidArgument, "ERR_CONVERSATION_MISSING_INPUTS",
				"failed conversing with component %s: missing inputs in request", s.Component)
		case conversation.ReasonParameters:
			return flat(http.StatusBadRequest, codes.InvalidArgument, "ERR_CONVERSATION_INVALID_PARMS",
				"failed conversing with component %s: %s", s.Component, detail(err))
		}
	case Invoke:
		if reason == invoke.ReasonNoTarget {
			return InvokeNoAppID()
		}
	case JobSchedule, JobGet, JobDelete:
		return describeJob(op, s, reason, err)
	}
	return nil
}

func describeState(op Operation, s Subject, reason fault.Reason, err error) *Error {
	why := detail(err)
	switch reason {
	case state.ReasonIllegalKey:
		return illegalKey(s)
	case state.ReasonEmptyKey:
		return flat(http.StatusBadRequest, codes.InvalidArgument, tagMalformed, `"key" is a required field`)
	case state.ReasonETagMismatch:
		status, code := statusOf(op, fault.Aborted)
		return operationError(op, s, status, code, "possible etag mismatch. error from state store: "+why)
	case state.ReasonETagInvalid:
		if op == StateTransaction {
			return operationError(op, s, http.StatusInternalServerError, codes.Internal, "invalid etag value: "+why)
		}
		return operationError(op, s, http.StatusBadRequest, codes.InvalidArgument, "invalid etag value: "+why)
	case state.ReasonTransactionsNotSupported:
		return &Error{
			HTTPStatus: http.StatusInternalServerError, Code: codes.Unimplemented, Tag: "ERR_STATE_STORE_NOT_SUPPORTED",
			Message:      fmt.Sprintf("state store %s doesn't support transactions", s.Component),
			Reason:       "DAPR_STATE_TRANSACTIONS_NOT_SUPPORTED",
			ResourceType: state.Block, ResourceName: s.Component,
			HelpURL:  "https://docs.dapr.io/reference/components-reference/supported-state-stores/",
			HelpText: "Check the list of state stores and the features they support",
		}
	case state.ReasonQueryEncrypted, state.ReasonUndecipherable:
		return operationError(op, s, http.StatusInternalServerError, codes.Internal, why)
	case state.ReasonQueryNotSupported:
		return queryNotSupported(s, "")
	case state.ReasonQueryNotAvailable:
		return queryNotSupported(s, ": "+why)
	case state.ReasonTooManyOperations:
		return tooManyOperations(s, err)
	case outbox.ReasonRefused:
		return &Error{
			HTTPStatus: http.StatusInternalServerError, Code: codes.Internal, Tag: "ERR_PUBLISH_OUTBOX",
			Message: "error while publishing outbox message: " + why, Reason: "DAPR_PUBSUB_OUTBOX",
			Info: map[string]string{"appID": s.AppID, "error": why},
		}
	case state.ReasonBadOperation:
		return flat(http.StatusBadRequest, codes.Unimplemented, "ERR_NOT_SUPPORTED_STATE_OPERATION",
			"operation type %s not supported", s.Operation)
	}
	return nil
}

// queryNotSupported tells that a store cannot be queried, be it that its kind
// cannot or that its server lacks something.
func queryNotSupported(s Subject, why string) *Error {
	return &Error{
		HTTPStatus: http.StatusInternalServerError, Code: codes.Internal, Tag: "ERR_STATE_STORE_NOT_SUPPORTED",
		Message: "state store does not support querying" + why, Reason: "DAPR_STATE_QUERYING_NOT_SUPPORTED",
		ResourceType: state.Block, ResourceName: s.Component,
	}
}

// illegalKey tells of a key with the separator of prefixes in it.
func illegalKey(s Subject) *Error {
	key := s.Key
	for _, k := range s.Keys {
		if strings.Contains(k, "||") {
			key = k
			break
		}
	}
	text := fmt.Sprintf("input key/keyPrefix '%s' can't contain '||'", key)
	return &Error{
		HTTPStatus: http.StatusBadRequest, Code: codes.InvalidArgument, Tag: tagMalformed, Message: text,
		Reason: "DAPR_STATE_ILLEGAL_KEY", ResourceType: state.Block, ResourceName: s.Component,
		Violations: []Violation{{key, text}},
	}
}

func tooManyOperations(s Subject, err error) *Error {
	e := &Error{
		HTTPStatus: http.StatusBadRequest, Code: codes.InvalidArgument, Tag: "ERR_STATE_STORE_TOO_MANY_TRANSACTIONS",
		Message: detail(err), Reason: "DAPR_STATE_TOO_MANY_TRANSACTIONS", ResourceType: state.Block, ResourceName: s.Component,
	}
	if size, ok := errors.AsType[*state.SizeError](err); ok {
		e.Message = fmt.Sprintf("the transaction contains %d operations, which is more than what the state store supports: %d",
			size.Operations, size.Max)
		e.Info = map[string]string{
			"currentOpsTransaction": strconv.Itoa(size.Operations), "maxOpsPerTransaction": strconv.Itoa(size.Max),
		}
	}
	return e
}

// pubsubError returns an error of the newer generation about a pub/sub
// component.
func pubsubError(s Subject, status int, code codes.Code, tag, reason, message string, info map[string]string) *Error {
	return &Error{
		HTTPStatus: status, Code: code, Tag: tag, Message: message, Reason: "DAPR_PUBSUB_" + reason, Info: info,
		ResourceType: pubsub.Block, ResourceName: s.Component, Description: message,
	}
}

func publishError(s Subject, status int, code codes.Code, why string) *Error {
	return pubsubError(s, status, code, "ERR_PUBSUB_PUBLISH_MESSAGE", "PUBLISH_MESSAGE",
		fmt.Sprintf("error when publishing to topic %s in pubsub %s: %s", s.Topic, s.Component, why),
		map[string]string{"topic": s.Topic, "error": why})
}

func describePubSub(s Subject, reason fault.Reason, err error) *Error {
	why := detail(err)
	app := map[string]string{"appID": s.AppID, "error": why}
	switch reason {
	case pubsub.ReasonTopicEmpty:
		return TopicEmpty(s)
	case pubsub.ReasonForbidden:
		return pubsubError(s, http.StatusForbidden, codes.PermissionDenied, "ERR_PUBSUB_FORBIDDEN", "FORBIDDEN",
			fmt.Sprintf("topic %s is not allowed for app id %s", s.Topic, s.AppID), map[string]string{"topic": s.Topic, "error": why})
	case pubsub.ReasonMetadata:
		return pubsubError(s, http.StatusBadRequest, codes.InvalidArgument, "ERR_PUBSUB_REQUEST_METADATA", "METADATA_DESERIALIZATION",
			"failed deserializing metadata. Error: "+why, s.Request)
	case pubsub.ReasonEnvelope:
		return pubsubError(s, http.StatusInternalServerError, codes.InvalidArgument, "ERR_PUBSUB_CLOUD_EVENTS_SER", "CLOUD_EVENT_CREATION",
			"cannot create cloudevent", app)
	case pubsub.ReasonMarshalEvents:
		return pubsubError(s, http.StatusBadRequest, codes.InvalidArgument, "ERR_PUBSUB_EVENTS_SER", "MARSHAL_EVENTS",
			fmt.Sprintf("error marshaling events to bytes for topic %s pubsub %s. error: %s", s.Topic, s.Component, why), app)
	}
	return nil
}

func describeLock(s Subject, reason fault.Reason) *Error {
	problem := ""
	switch reason {
	case lock.ReasonNoResource:
		problem = "ResourceId is empty in lock store %s"
	case lock.ReasonNoOwner:
		problem = "LockOwner is empty in lock store %s"
	case lock.ReasonBadTTL:
		problem = "ExpiryInSeconds is not positive in lock store %s"
	default:
		return nil
	}
	return flat(http.StatusBadRequest, codes.InvalidArgument, tagMalformed, problem, s.Component)
}

// describeLookup tells of a component that there is not; nil for an operation
// that has no component.
func describeLookup(op Operation, s Subject, l *LookupError) *Error {
	none := len(l.Names) == 0
	switch op {
	case StateGet, StateBulkGet, StateSave, StateDelete, StateBulkDelete, StateTransaction, StateQuery:
		return lookupError(none, l, s, state.Block+" store", "STATE_STORE", "STATE", http.StatusInternalServerError, http.StatusBadRequest)
	case Publish, BulkPublish, Subscribe:
		if l.Name == "" && !none {
			return PubSubNameEmpty(s)
		}
		return lookupError(none, l, s, pubsub.Block, "PUBSUB", "PUBSUB", http.StatusBadRequest, http.StatusNotFound)
	case InvokeBinding:
		return operationError(op, s, http.StatusInternalServerError, codes.Internal, "couldn't find output binding "+l.Name+l.hint())
	case SecretGet, SecretBulkGet:
		if none {
			return flat(http.StatusInternalServerError, codes.FailedPrecondition, "ERR_SECRET_STORES_NOT_CONFIGURED", "secret store is not configured")
		}
		return flat(http.StatusUnauthorized, codes.InvalidArgument, "ERR_SECRET_STORE_NOT_FOUND",
			"failed finding secret store with key %s%s", l.Name, l.hint())
	case ConfigurationGet, ConfigurationSubscribe, ConfigurationUnsubscribe:
		if none {
			return flat(http.StatusInternalServerError, codes.FailedPrecondition, "ERR_CONFIGURATION_STORE_NOT_CONFIGURED",
				"configuration stores not configured")
		}
		return flat(http.StatusBadRequest, codes.InvalidArgument, "ERR_CONFIGURATION_STORE_NOT_FOUND",
			"configuration store %s not found%s", l.Name, l.hint())
	case TryLock, Unlock:
		if none {
			return flat(http.StatusInternalServerError, codes.FailedPrecondition, "ERR_LOCK_STORE_NOT_CONFIGURED", "lock store is not configured")
		}
		return flat(http.StatusBadRequest, codes.InvalidArgument, "ERR_LOCK_STORE_NOT_FOUND", "lock store %s not found%s", l.Name, l.hint())
	case Converse:
		return flat(http.StatusBadRequest, codes.InvalidArgument, "ERR_CONVERSATION_NOT_FOUND",
			"failed finding conversation component %s%s", l.Name, l.hint())
	case CryptoKey, Crypto:
		switch {
		case none:
			return flat(http.StatusInternalServerError, codes.Internal, "ERR_CRYPTO_PROVIDERS_NOT_CONFIGURED", "crypto providers not configured")
		case l.Name == "":
			return BadRequest(errors.New("missing component name"))
		}
		return flat(http.StatusBadRequest, codes.InvalidArgument, "ERR_CRYPTO_PROVIDER_NOT_FOUND",
			"crypto provider %s not found%s", l.Name, l.hint())
	case JobSchedule, JobGet, JobDelete, JobList:
		return operationError(op, s, http.StatusInternalServerError, codes.FailedPrecondition, l.Error())
	}
	return nil
}

// lookupError returns an error of the newer generation about a component that
// there is not.
func lookupError(none bool, l *LookupError, s Subject, kind, tag, reason string, noneStatus, missingStatus int) *Error {
	e := &Error{
		HTTPStatus: missingStatus, Code: codes.InvalidArgument, Tag: "ERR_" + tag + "_NOT_FOUND", Reason: "DAPR_" + reason + "_NOT_FOUND",
		Message: fmt.Sprintf("%s %s is not found%s", kind, l.Name, l.hint()),
	}
	if none {
		e.HTTPStatus, e.Code = noneStatus, codes.FailedPrecondition
		e.Tag, e.Reason = "ERR_"+tag+"_NOT_CONFIGURED", "DAPR_"+reason+"_NOT_CONFIGURED"
		e.Message = fmt.Sprintf("%s %s is not configured", kind, l.Name)
	}
	if s.AppID != "" {
		e.Info = map[string]string{"appID": s.AppID}
	}
	return e
}
