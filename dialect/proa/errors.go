package proa

import (
	"encoding/json"
	"errors"
	"strconv"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/proa-io/proa/fault"
)

// errorDomain is the domain of every ErrorInfo.
const errorDomain = "proa.dev"

// An outcome is how a fault code is told over the two protocols.
type outcome struct {
	code codes.Code
	http int
	name string // of the code, in JSON
}

// outcomeOf is the error table of this API: that of gRPC, and over HTTP that of
// the Connect protocol, whose JSON names and statuses belong to those codes.
//
// What this process must show to a backend is not the caller's business: that it
// was not taken is Internal.
func outcomeOf(code fault.Code) outcome {
	switch code {
	case fault.Canceled:
		return outcome{codes.Canceled, 499, "canceled"}
	case fault.InvalidArgument:
		return outcome{codes.InvalidArgument, 400, "invalid_argument"}
	case fault.DeadlineExceeded:
		return outcome{codes.DeadlineExceeded, 504, "deadline_exceeded"}
	case fault.NotFound:
		return outcome{codes.NotFound, 404, "not_found"}
	case fault.AlreadyExists:
		return outcome{codes.AlreadyExists, 409, "already_exists"}
	case fault.PermissionDenied:
		return outcome{codes.PermissionDenied, 403, "permission_denied"}
	case fault.ResourceExhausted:
		return outcome{codes.ResourceExhausted, 429, "resource_exhausted"}
	case fault.FailedPrecondition:
		return outcome{codes.FailedPrecondition, 400, "failed_precondition"}
	case fault.Aborted:
		return outcome{codes.Aborted, 409, "aborted"}
	case fault.Unimplemented:
		return outcome{codes.Unimplemented, 501, "unimplemented"}
	case fault.Unavailable:
		return outcome{codes.Unavailable, 503, "unavailable"}
	}
	return outcome{codes.Internal, 500, "internal"}
}

// A detailed error has more to say than its text.
type detailed struct {
	error
	metadata map[string]string
}

func (e *detailed) Unwrap() error { return e.error }

// withDetail adds an entry to the metadata that err is told with.
func withDetail(err error, name, value string) error {
	return &detailed{err, map[string]string{name: value}}
}

func metadataOf(err error) map[string]string {
	if d, ok := errors.AsType[*detailed](err); ok {
		return d.metadata
	}
	return nil
}

// statusOf returns the gRPC status that tells of an error, never nil. A status
// that err carries already is left alone.
func statusOf(err error) *status.Status {
	if st, ok := status.FromError(err); ok {
		return st
	}
	st := status.New(outcomeOf(fault.CodeOf(err)).code, valid(fault.Message(err)))
	var details []protoadapt.MessageV1
	if after := fault.RetryAfterOf(err); after > 0 {
		details = append(details, &errdetails.RetryInfo{RetryDelay: durationpb.New(after)})
	}
	reason, metadata := fault.ReasonOf(err), metadataOf(err)
	if reason != "" || metadata != nil {
		details = append(details, &errdetails.ErrorInfo{Domain: errorDomain, Reason: string(reason), Metadata: metadata})
	}
	if rich, err := st.WithDetails(details...); err == nil && len(details) > 0 {
		return rich
	}
	return st
}

// valid replaces what is not UTF-8, which Protocol Buffers cannot carry.
func valid(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }

// errorJSON is an error over HTTP.
type errorJSON struct {
	Code     string            `json:"code"`
	Message  string            `json:"message"`
	Reason   string            `json:"reason,omitempty"`
	Metadata map[string]string `json:"metadata,omitempty"`
}

// jsonOf returns the HTTP status and the JSON form that tell of an error, never
// nil, and when to try again, in seconds; "" for no advice.
func jsonOf(err error) (httpStatus int, body []byte, retryAfter string) {
	if st, ok := status.FromError(err); ok { // what generated code says itself
		err = fault.New(faultOf(st.Code()), "%s", st.Message())
	}
	o := outcomeOf(fault.CodeOf(err))
	body, marshalErr := json.Marshal(errorJSON{o.name, valid(fault.Message(err)), string(fault.ReasonOf(err)), metadataOf(err)})
	if marshalErr != nil { // strings and maps of strings always can be
		body = []byte(`{"code":"internal","message":"internal error"}`)
	}
	if after := fault.RetryAfterOf(err); after > 0 {
		retryAfter = strconv.FormatInt(int64((after+time.Second-1)/time.Second), 10)
	}
	return o.http, body, retryAfter
}

// faultOf is the reverse of outcomeOf.
func faultOf(code codes.Code) fault.Code {
	for _, c := range fault.Codes() {
		if outcomeOf(c).code == code && c != fault.Unknown {
			return c
		}
	}
	return fault.Internal
}
