// Package fault is the one error vocabulary spoken across the waist.
//
// Drivers translate their client library's errors into a [Code]. Blocks wrap
// them with what they were doing. Dialects translate the Code into a gRPC
// status, an HTTP status or whatever their protocol has, through one total
// table each. Nothing in between inspects the text of an error.
//
// An error carries two texts: Error() is for logs and may quote a driver;
// [Message] is for the caller and never holds a secret, a driver's own text
// about credentials, or a key prefix the caller did not write.
package fault

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Code classifies an error. Programs act on the code, never on the message.
type Code uint8

// The codes mirror the names of gRPC's status codes, less the ones that no
// building block needs.
const (
	Unknown            Code = iota // not classified: a driver bug
	Canceled                       // the caller gave up
	InvalidArgument                // the request can never succeed as it stands
	DeadlineExceeded               // the time budget ran out
	NotFound                       // the named thing does not exist
	AlreadyExists                  // the named thing exists and must not
	PermissionDenied               // the caller may not do this
	ResourceExhausted              // a quota, size or rate limit is spent
	FailedPrecondition             // the system is not in the state this needs
	Aborted                        // lost a race: etag mismatch, lock held by another
	Unimplemented                  // this driver or build cannot do that
	Internal                       // an invariant broke
	Unavailable                    // not reachable now; trying again may help
	Unauthenticated                // the caller did not prove who it is
	numCodes
)

var names = [numCodes]string{
	"unknown", "canceled", "invalid_argument", "deadline_exceeded", "not_found",
	"already_exists", "permission_denied", "resource_exhausted",
	"failed_precondition", "aborted", "unimplemented", "internal", "unavailable",
	"unauthenticated",
}

// String returns the code in snake case, as it appears in metrics and logs.
func (c Code) String() string {
	if c >= numCodes {
		return fmt.Sprintf("code(%d)", uint8(c))
	}
	return names[c]
}

// Codes lists every code, for tests that must prove that a mapping is total.
func Codes() []Code {
	all := make([]Code, numCodes)
	for i := range all {
		all[i] = Code(i)
	}
	return all
}

// Retryable reports whether repeating the very same call may succeed.
func (c Code) Retryable() bool { return c == Unavailable || c == ResourceExhausted }

// A Reason names one condition precisely enough for a dialect to choose the
// error tag that its protocol documents, such as "state.illegal_key". Blocks
// declare their reasons as constants. An empty Reason means that the Code says
// it all.
type Reason string

// Error is a classified error. Use New or Wrap to make one, CodeOf and the
// other accessors to look at one through any wrapping.
type Error struct {
	Code   Code
	Reason Reason
	// RetryAfter, when positive, tells how long a retry should wait at least.
	RetryAfter time.Duration

	msg string // for the caller
	err error  // the cause, for logs; may be nil
}

// Error returns the message followed by the cause, for logs.
func (e *Error) Error() string {
	switch {
	case e.err == nil:
		return e.msg
	case e.msg == "":
		return e.err.Error()
	}
	return e.msg + ": " + e.err.Error()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.err }

// New returns an error with a code and a message that is fit for the caller.
// It does not treat %w specially: use Wrap to keep a cause.
func New(code Code, format string, args ...any) *Error {
	return &Error{Code: code, msg: fmt.Sprintf(format, args...)}
}

// Wrap returns an error with a code and a message that is fit for the caller,
// and keeps err as the cause for logs and for errors.Is. The message should
// name the operation, not say that it failed: Wrap(err, Unavailable, "put").
func Wrap(err error, code Code, format string, args ...any) *Error {
	return &Error{Code: code, msg: fmt.Sprintf(format, args...), err: err}
}

// WithReason sets the reason of e and returns e.
func (e *Error) WithReason(r Reason) *Error {
	e.Reason = r
	return e
}

// WithRetryAfter sets the least delay before a retry and returns e.
func (e *Error) WithRetryAfter(d time.Duration) *Error {
	e.RetryAfter = d
	return e
}

// CodeOf returns the code of the outermost classified error in err's chain. A
// bare context error maps to Canceled or DeadlineExceeded; anything else that
// nobody classified is Unknown. err must not be nil.
func CodeOf(err error) Code {
	var e *Error
	switch {
	case errors.As(err, &e):
		return e.Code
	case errors.Is(err, context.Canceled):
		return Canceled
	case errors.Is(err, context.DeadlineExceeded):
		return DeadlineExceeded
	}
	return Unknown
}

// Is reports whether err is not nil and has the given code.
func Is(err error, code Code) bool { return err != nil && CodeOf(err) == code }

// ReasonOf returns the first reason set in err's chain, or "".
func ReasonOf(err error) Reason {
	for {
		var e *Error
		if !errors.As(err, &e) {
			return ""
		}
		if e.Reason != "" {
			return e.Reason
		}
		err = e.err
	}
}

// RetryAfterOf returns the first positive RetryAfter in err's chain, or 0.
func RetryAfterOf(err error) time.Duration {
	for {
		var e *Error
		if !errors.As(err, &e) {
			return 0
		}
		if e.RetryAfter > 0 {
			return e.RetryAfter
		}
		err = e.err
	}
}

// Message returns the text of err that may be shown to a caller: the messages
// of the classified errors in the chain, joined outermost first, without the
// text of unclassified causes. It falls back to a text for the code.
func Message(err error) string {
	var out string
	code := CodeOf(err)
	for {
		var e *Error
		if !errors.As(err, &e) {
			break
		}
		if e.msg != "" {
			if out != "" {
				out += ": "
			}
			out += e.msg
		}
		err = e.err
	}
	if out != "" {
		return out
	}
	switch code {
	case Canceled:
		return "the call was canceled"
	case DeadlineExceeded:
		return "the call ran out of time"
	case Unknown, Internal:
		return "internal error"
	}
	return code.String()
}
