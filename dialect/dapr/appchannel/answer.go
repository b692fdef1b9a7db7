package appchannel

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/proa-io/proa/fault"
)

// AnswerError is an application's answer that means failure. Its message names
// the call and the status; the content of the answer is for logs only. Retry
// policies can match the status.
type AnswerError struct {
	http  int // 0 for a gRPC application
	grpc  int // -1 for an HTTP application
	fault *fault.Error
}

// Error returns the message followed by what the application said.
func (e *AnswerError) Error() string { return e.fault.Error() }

// Unwrap returns the fault that the answer stands for.
func (e *AnswerError) Unwrap() error { return e.fault }

// HTTPStatus returns the HTTP status of the answer, 0 when it had none.
func (e *AnswerError) HTTPStatus() int { return e.http }

// GRPCStatusCode returns the gRPC status code of the answer, -1 when it had
// none.
func (e *AnswerError) GRPCStatusCode() int { return e.grpc }

// httpError returns the error that an answer with a status stands for.
func httpError(method, target string, status int, content []byte, retryAfter time.Duration) error {
	code := codeOfStatus(status)
	var f *fault.Error
	if text := excerpt(content); text != "" {
		f = fault.Wrap(errors.New(text), code, "the application answered %s %s with status %d", method, target, status)
	} else {
		f = fault.New(code, "the application answered %s %s with status %d", method, target, status)
	}
	return &AnswerError{http: status, grpc: -1, fault: f.WithRetryAfter(retryAfter)}
}

// codeOfStatus classifies an HTTP status that is not 2xx.
func codeOfStatus(status int) fault.Code {
	switch status {
	case 401:
		return fault.Unauthenticated
	case 403:
		return fault.PermissionDenied
	case 404, 410:
		return fault.NotFound
	case 408, 504:
		return fault.DeadlineExceeded
	case 409:
		return fault.Aborted
	case 412:
		return fault.FailedPrecondition
	case 425, 502, 503:
		return fault.Unavailable
	case 429:
		return fault.ResourceExhausted
	case 501:
		return fault.Unimplemented
	}
	switch {
	case status >= 500:
		return fault.Internal
	case status >= 400:
		return fault.InvalidArgument
	}
	return fault.FailedPrecondition // a redirection: callbacks do not follow any
}

// rpcError returns the error that a failed call of a method stands for.
func rpcError(ctx context.Context, method string, err error) error {
	if cause := ctx.Err(); cause != nil {
		return fault.Wrap(err, fault.CodeOf(cause), "call %s of the application", method)
	}
	st := status.Convert(err)
	f := fault.Wrap(errors.New(st.Message()), codeOfRPC(st.Code()), "the application answered %s with %s", method, st.Code())
	return &AnswerError{grpc: int(st.Code()), fault: f}
}

// codeOfRPC classifies a gRPC status code. That the application canceled
// something of its own does not mean that the sidecar gave up.
func codeOfRPC(code codes.Code) fault.Code {
	switch code {
	case codes.Canceled, codes.Unavailable:
		return fault.Unavailable
	case codes.InvalidArgument, codes.OutOfRange:
		return fault.InvalidArgument
	case codes.DeadlineExceeded:
		return fault.DeadlineExceeded
	case codes.NotFound:
		return fault.NotFound
	case codes.AlreadyExists:
		return fault.AlreadyExists
	case codes.PermissionDenied:
		return fault.PermissionDenied
	case codes.ResourceExhausted:
		return fault.ResourceExhausted
	case codes.FailedPrecondition:
		return fault.FailedPrecondition
	case codes.Aborted:
		return fault.Aborted
	case codes.Unimplemented:
		return fault.Unimplemented
	case codes.Unauthenticated:
		return fault.Unauthenticated
	}
	return fault.Internal
}

// maxExcerpt bounds what logs quote of an answer, in bytes.
const maxExcerpt = 256

// excerpt returns the beginning of an answer as one line.
func excerpt(content []byte) string {
	if len(content) > maxExcerpt {
		content = content[:maxExcerpt]
		for len(content) > 0 && !utf8.RuneStart(content[len(content)-1]) {
			content = content[:len(content)-1]
		}
	}
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(string(content), "?")))
}

// maxRetryAfter bounds how long an application can hold up the next attempt.
const maxRetryAfter = time.Minute

// parseRetryAfter reads a Retry-After field (RFC 9110, section 10.2.3) that
// gives seconds; 0 for anything else.
func parseRetryAfter(text string) time.Duration {
	n, err := strconv.ParseUint(text, 10, 31)
	if err != nil {
		return 0
	}
	return min(time.Duration(n)*time.Second, maxRetryAfter)
}
