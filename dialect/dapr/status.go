package dapr

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/proa-io/proa/mesh/proxy"
	"github.com/proa-io/proa/mesh/rpc"
)

// HTTPStatus returns the HTTP status that an HTTP caller gets for the gRPC
// status of an application.
func HTTPStatus(c codes.Code) int {
	switch c {
	case codes.OK:
		return http.StatusOK
	case codes.Canceled:
		return http.StatusRequestTimeout
	case codes.InvalidArgument, codes.FailedPrecondition, codes.OutOfRange:
		return http.StatusBadRequest
	case codes.DeadlineExceeded:
		return http.StatusGatewayTimeout
	case codes.NotFound:
		return http.StatusNotFound
	case codes.AlreadyExists, codes.Aborted:
		return http.StatusConflict
	case codes.PermissionDenied:
		return http.StatusForbidden
	case codes.Unauthenticated:
		return http.StatusUnauthorized
	case codes.ResourceExhausted:
		return http.StatusTooManyRequests
	case codes.Unimplemented:
		return http.StatusNotImplemented
	case codes.Unavailable:
		return http.StatusServiceUnavailable
	}
	return http.StatusInternalServerError
}

// CodeOfHTTP returns the gRPC status that a gRPC caller gets for the HTTP
// status of an application.
func CodeOfHTTP(httpStatus int) codes.Code {
	switch httpStatus {
	case http.StatusBadRequest:
		return codes.Internal
	case http.StatusUnauthorized:
		return codes.Unauthenticated
	case http.StatusForbidden:
		return codes.PermissionDenied
	case http.StatusNotFound:
		return codes.NotFound
	case http.StatusRequestTimeout:
		return codes.Canceled
	case http.StatusConflict:
		return codes.AlreadyExists
	case http.StatusTooManyRequests:
		return codes.ResourceExhausted
	case http.StatusNotImplemented:
		return codes.Unimplemented
	case http.StatusServiceUnavailable:
		return codes.Unavailable
	case http.StatusGatewayTimeout:
		return codes.DeadlineExceeded
	}
	if httpStatus >= 200 && httpStatus < 300 {
		return codes.OK
	}
	return codes.Unknown
}

// maxHTTPDetail bounds the text of an HTTP answer that goes into a status.
const maxHTTPDetail = 1 << 10

// HTTPFailure returns the gRPC status that tells of an HTTP status other than
// 2xx. detail is what the answer says.
func HTTPFailure(httpStatus int, detail string) *status.Status {
	text := http.StatusText(httpStatus)
	if text == "" {
		text = fmt.Sprintf("HTTP status %d", httpStatus)
	}
	st := status.New(CodeOfHTTP(httpStatus), text)
	rich, err := st.WithDetails(&errdetails.ErrorInfo{Reason: text, Domain: errorDomain, Metadata: map[string]string{
		"http.code": strconv.Itoa(httpStatus), "http.error_message": strings.ToValidUTF8(detail[:min(len(detail), maxHTTPDetail)], ""),
	}})
	if err != nil { // texts always can be encoded
		return st
	}
	return rich
}

// An answer of a gRPC application to InvokeService travels as an HTTP response,
// so that HTTP applications can invoke gRPC ones. These fields carry what HTTP
// has no place for.
const (
	// FieldTypeURL is the type of the message that is the content.
	FieldTypeURL = "proa-type-url"
	// statusPrefix begins the names of the fields of the gRPC status.
	statusPrefix = "proa-"
)

// AddStatus adds the fields that carry st to the header of an HTTP response.
func AddStatus(h *proxy.Header, st *status.Status) {
	for _, f := range rpc.StatusFields(st) {
		h.Add(statusPrefix+f.Name, f.Value)
	}
}

// TakeStatus returns the gRPC status that the header of an HTTP response
// carries, and the other fields. ok is false when it carries none: the
// application speaks HTTP.
func TakeStatus(h proxy.Header) (st *status.Status, rest proxy.Header, ok bool) {
	var fields proxy.Header
	rest = make(proxy.Header, 0, len(h))
	for _, f := range h {
		if name, ours := strings.CutPrefix(strings.ToLower(f.Name), statusPrefix); ours && strings.HasPrefix(name, "grpc-") {
			fields.Add(name, f.Value)
			continue
		}
		rest = append(rest, f)
	}
	st, ok = rpc.StatusOf(fields)
	return st, rest, ok
}
