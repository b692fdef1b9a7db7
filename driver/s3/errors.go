package s3

import (
	"context"
	"errors"
	"io/fs"
	"net/http"

	"github.com/minio/minio-go/v7"

	"github.com/proa-io/proa/fault"
)

// classify names an error of a call made with ctx that was about the object key.
// It returns nil for nil.
func classify(ctx context.Context, err error, key string) error {
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
		return fault.New(fault.DeadlineExceeded, "the object store did not answer in time")
	}
	if r, ok := errors.AsType[minio.ErrorResponse](err); ok {
		code, text := verdict(r)
		if text == "" {
			text = "the object store answers " + r.Code
		}
		if key != "" {
			return fault.Wrap(err, code, "object %q: %s", key, text)
		}
		return fault.Wrap(err, code, "%s", text)
	}
	return fault.Wrap(err, fault.Unavailable, "the object store cannot be reached, or the connection is lost")
}

// verdict says what an answer of the service means: a code, and words where its
// own are not good enough.
func verdict(r minio.ErrorResponse) (fault.Code, string) {
	switch r.Code {
	case "NoSuchKey", "NoSuchVersion":
		return fault.NotFound, "does not exist"
	case "NoSuchBucket":
		return fault.FailedPrecondition, "the bucket does not exist"
	case "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "RequestTimeTooSkewed":
		return fault.Unauthenticated, "the object store refused the credentials: " + r.Code
	case "AccessDenied", "AllAccessDisabled", "AccountProblem":
		return fault.PermissionDenied, "the object store does not permit this"
	case "SlowDown", "TooManyRequests":
		return fault.ResourceExhausted, "the object store asks for fewer requests"
	case "InvalidObjectState":
		return fault.FailedPrecondition, "is archived and has to be restored first"
	}
	switch s := r.StatusCode; {
	case s == http.StatusNotFound:
		return fault.NotFound, ""
	case s == http.StatusUnauthorized:
		return fault.Unauthenticated, ""
	case s == http.StatusForbidden:
		return fault.PermissionDenied, ""
	case s == http.StatusConflict:
		return fault.Aborted, ""
	case s == http.StatusPreconditionFailed:
		return fault.FailedPrecondition, ""
	case s == http.StatusTooManyRequests:
		return fault.ResourceExhausted, ""
	case s == http.StatusNotImplemented, s == http.StatusMethodNotAllowed:
		return fault.Unimplemented, ""
	case s >= 300 && s < 400:
		return fault.FailedPrecondition, "the bucket is elsewhere: are region and endpoint right?"
	case s >= 400 && s < 500:
		return fault.InvalidArgument, r.Message
	}
	return fault.Unavailable, "the object store does not serve this at present: " + r.Code
}

// fileError names an error of a file on this machine.
func fileError(err error, what string) error {
	code := fault.Internal
	switch {
	case errors.Is(err, fs.ErrNotExist):
		code = fault.NotFound
	case errors.Is(err, fs.ErrPermission):
		code = fault.PermissionDenied
	}
	return fault.Wrap(err, code, "%s", what)
}
