package dapr

import (
	"fmt"
	"net/http"
	"strings"

	"google.golang.org/grpc/codes"
)

// tagMalformed is the tag of a request that cannot be read.
const tagMalformed = "ERR_MALFORMED_REQUEST"

// Malformed tells of a body that cannot be read.
func Malformed(why error) *Error {
	e := flat(http.StatusBadRequest, codes.InvalidArgument, tagMalformed, "failed deserializing HTTP body: %v", why)
	e.cause = why
	return e
}

// Invalid tells of a request that is wrong in itself; the text says how.
func Invalid(format string, args ...any) *Error {
	return flat(http.StatusBadRequest, codes.InvalidArgument, tagMalformed, format, args...)
}

// StateKeyEmpty tells of an item without a key, as the gRPC API does.
func StateKeyEmpty() *Error {
	return flat(http.StatusBadRequest, codes.InvalidArgument, "ERR_STATE_SAVE", "state key cannot be empty")
}

// BadRequest tells of a query that cannot be read.
func BadRequest(why error) *Error {
	return flat(http.StatusBadRequest, codes.InvalidArgument, "ERR_BAD_REQUEST", "invalid request: %v", why)
}

// BodyRead tells of a body that did not arrive.
func BodyRead(why string) *Error {
	return flat(http.StatusBadRequest, codes.InvalidArgument, "ERR_BODY_READ", "failed to read request body: %s", why)
}

// BodyTooLarge tells of a body of more than limit bytes.
func BodyTooLarge(limit int64) *Error {
	return flat(http.StatusRequestEntityTooLarge, codes.ResourceExhausted, "ERR_BODY_READ",
		"failed to read request body: it has more than %d bytes, the most allowed", limit)
}

// NotImplemented tells of a part of the API that this version does not have.
func NotImplemented(what string) *Error {
	return flat(http.StatusNotImplemented, codes.Unimplemented, "ERR_API_UNIMPLEMENTED",
		"this API is currently not implemented: %s", what)
}

// UnmarshalEvents tells of the body of a bulk publish that cannot be read.
func UnmarshalEvents(s Subject, why error) *Error {
	return pubsubError(s, http.StatusBadRequest, codes.InvalidArgument, "ERR_PUBSUB_EVENTS_SER", "UNMARSHAL_EVENTS",
		fmt.Sprintf("error when unmarshaling the request for topic %s pubsub %s: %v", s.Topic, s.Component, why),
		map[string]string{"appID": s.AppID})
}

// MarshalEnvelope tells of an entry of a bulk publish whose event is not what
// its content type says.
func MarshalEnvelope(s Subject, why error) *Error {
	return pubsubError(s, http.StatusBadRequest, codes.InvalidArgument, "ERR_PUBSUB_EVENTS_SER", "MARSHAL_ENVELOPE",
		fmt.Sprintf("error when marshalling cloud event envelope for topic %s pubsub %s: %v", s.Topic, s.Component, why),
		map[string]string{"appID": s.AppID, "error": why.Error()})
}

// PubSubNameEmpty tells of a publish that names no component.
func PubSubNameEmpty(s Subject) *Error {
	return pubsubError(s, http.StatusNotFound, codes.InvalidArgument, "ERR_PUBSUB_EMPTY", "NAME_EMPTY", "pubsub name is empty", s.Request)
}

// TopicEmpty tells of a publish that names no topic.
func TopicEmpty(s Subject) *Error {
	return pubsubError(s, http.StatusNotFound, codes.InvalidArgument, "ERR_TOPIC_NAME_EMPTY", "TOPIC_NAME_EMPTY",
		"topic is empty in pubsub "+s.Component, s.Request)
}

// AppChannelMissing tells that there is no application to deliver to.
func AppChannelMissing(consequence string) *Error {
	return flat(http.StatusInternalServerError, codes.Internal, "ERR_APP_CHANNEL_NIL", "app channel is not initialized. %s", consequence)
}

// InvokeNoAppID tells of an invocation that names no application.
func InvokeNoAppID() *Error {
	return flat(http.StatusNotFound, codes.NotFound, "ERR_DIRECT_INVOKE",
		"failed getting app id either from the URL path or the header dapr-app-id")
}

// InvokeNotReady tells that applications cannot be invoked.
func InvokeNotReady() *Error {
	return flat(http.StatusInternalServerError, codes.Internal, "ERR_DIRECT_INVOKE", "invoke API is not ready")
}

// HealthNotReady tells that the process is not ready, and what is not.
func HealthNotReady(what []string) *Error {
	return flat(http.StatusInternalServerError, codes.Internal, "ERR_HEALTH_NOT_READY", "dapr is not ready: [%s]", strings.Join(what, " "))
}

// OutboundNotReady tells that calls of the application cannot be served yet.
func OutboundNotReady() *Error {
	return flat(http.StatusInternalServerError, codes.Internal, "ERR_OUTBOUND_HEALTH_NOT_READY", "dapr outbound is not ready")
}

// AppIDMismatch tells that the process serves another application.
func AppIDMismatch() *Error {
	return flat(http.StatusInternalServerError, codes.Internal, "ERR_HEALTH_APPID_NOT_MATCH", "dapr app-id does not match")
}

// JobNameInBody tells of a job whose name stands where it must not.
func JobNameInBody(s Subject) *Error {
	return jobError(s, http.StatusBadRequest, codes.InvalidArgument, "JOB_NAME", "Set the job name in the url only")
}
