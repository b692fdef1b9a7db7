package aws

import (
	"context"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/proa-io/proa/fault"
)

// classify names an error of a request that got no answer.
func classify(ctx context.Context, err error) error {
	switch {
	case errors.Is(ctx.Err(), context.Canceled), errors.Is(err, context.Canceled):
		return context.Canceled
	case errors.Is(ctx.Err(), context.DeadlineExceeded), errors.Is(err, context.DeadlineExceeded):
		return fault.New(fault.DeadlineExceeded, "the service did not answer in time")
	}
	return fault.Wrap(err, fault.Unavailable, "the service cannot be reached, or the connection is lost")
}

func errClosed() error { return fault.New(fault.Unavailable, "the component is closed") }

// reply is an error that a service has answered with.
type reply struct {
	Status int
	// Type is what the service calls it: "ResourceNotFoundException".
	Type string
	// Reasons say what became of each part of a transaction.
	Reasons []reason
}

type reason struct {
	Code string
	Item map[string]attribute // what there is
}

// Error returns no words of the service, which may quote what it was sent.
func (r *reply) Error() string { return fmt.Sprintf("%s (status %d)", r.Type, r.Status) }

// is reports whether err is an answer of one of the types.
func is(err error, types ...string) bool {
	r, ok := errors.AsType[*reply](err)
	if !ok {
		return false
	}
	for _, t := range types {
		if r.Type == t {
			return true
		}
	}
	return false
}

// replyError reads an answer that is an error, in JSON or XML.
func replyError(status int, body []byte) error {
	var fields struct {
		Type    string   `json:"__type"`
		Reasons []reason `json:"CancellationReasons"`
	}
	r := &reply{Status: status, Type: "error"}
	if json.Unmarshal(body, &fields) == nil {
		r.Type, r.Reasons = fields.Type, fields.Reasons
	} else {
		var form struct {
			Code string `xml:"Error>Code"`
		}
		if xml.Unmarshal(body, &form) == nil {
			r.Type = form.Code
		}
	}
	if _, name, ok := strings.Cut(r.Type, "#"); ok {
		r.Type = name
	}
	if ok, err := regexp.MatchString(`^[A-Za-z.]{1,80}$`, r.Type); err != nil || !ok {
		r.Type = "error"
	}
	code, text := verdict(r)
	return fault.Wrap(r, code, "%s", text)
}

// verdict says what an answer means.
func verdict(r *reply) (fault.Code, string) {
	name := strings.TrimSuffix(r.Type, "Exception")
	has := func(parts ...string) bool {
		for _, p := range parts {
			if strings.Contains(name, p) {
				return true
			}
		}
		return false
	}
	switch {
	case has("Throttl", "LimitExceeded", "TooManyRequests", "ThroughputExceeded", "RequestThrottled", "OverLimit"):
		return fault.ResourceExhausted, "the service takes no more requests for now"
	case has("UnrecognizedClient", "InvalidClientTokenId", "InvalidSignature", "SignatureDoesNotMatch", "ExpiredToken", "MissingAuthenticationToken",
		"IncompleteSignature", "RequestExpired"):
		return fault.Unauthenticated, "the service refused the credentials"
	case has("AccessDenied", "NotAuthorized", "AuthorizationError", "KMSAccessDenied", "OptInRequired", "DecryptionFailure"):
		return fault.PermissionDenied, "the service does not permit these credentials to do that"
	case has("ResourceNotFound", "NonExistentQueue", "QueueDoesNotExist", "NotFound"):
		return fault.FailedPrecondition, "the service has no such table, queue or topic"
	case has("TransactionConflict", "TransactionInProgress"):
		return fault.Unavailable, "the service gave up on this for others that were faster"
	case has("Validation", "Invalid", "ItemCollectionSize", "UnsupportedOperation", "Missing", "ParameterVersion"):
		return fault.InvalidArgument, "the service does not take this"
	case r.Status >= 500 || has("Internal", "ServiceUnavailable"):
		return fault.Unavailable, "the service cannot answer for now"
	case r.Status == 413:
		return fault.InvalidArgument, "this is larger than the service takes"
	}
	return fault.Internal, "the service answered with an error"
}
