package dapr

import (
	"cmp"
	"encoding/json"
	"errors"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/proa-io/proa/block/state"
	"github.com/proa-io/proa/fault"
)

// errorDomain is the domain of every ErrorInfo.
const errorDomain = "dapr.io"

// Error is an error as the Dapr API shows it. There are two generations: the
// older one has a tag and a message; the newer one has details as well (see
// the Google API error model), with a reason of its own.
type Error struct {
	// HTTPStatus and Code are the statuses of the two APIs.
	HTTPStatus int
	Code       codes.Code
	// Tag is the errorCode of the HTTP API, "ERR_STATE_GET".
	Tag     string
	Message string
	// Reason is that of the newer generation, "DAPR_STATE_NOT_FOUND"; empty
	// for errors of the older one.
	Reason string
	// Info is the metadata of the ErrorInfo; nil for none.
	Info map[string]string
	// ResourceType and ResourceName name the component that the error is
	// about; empty for no ResourceInfo. Owner and Description go with them.
	ResourceType, ResourceName string
	Owner, Description         string
	// Violations name arguments, or items, and what is wrong with each; none
	// for no BadRequest.
	Violations []Violation
	// HelpURL and HelpText point to a document; empty for no Help.
	HelpURL, HelpText string
	// RetryAfter, when positive, tells how long a retry should wait at least.
	RetryAfter time.Duration

	cause error
}

// Violation is what is wrong with one argument of a request, or with one item of
// several.
type Violation struct {
	Field       string `json:"field"`
	Description string `json:"description"`
}

// Error returns the message.
func (e *Error) Error() string { return e.Message }

// Unwrap returns the error that e describes, for logs; nil when there is none.
func (e *Error) Unwrap() error { return e.cause }

// Category returns the part of the API that e belongs to, as metrics tell it:
// "state", "pubsub", "common".
func (e *Error) Category() string {
	code := cmp.Or(e.Reason, e.Tag)
	for _, c := range [...]struct{ part, category string }{
		{"WORKFLOW", "workflow"}, {"ACTOR", "actor"}, {"STATE", "state"}, {"CONFIGURATION", "configuration"}, {"CRYPTO", "crypto"},
		{"SECRET", "secret"}, {"ERR_PERMISSION_DENIED", "secret"}, {"PUBSUB", "pubsub"}, {"TOPIC", "pubsub"}, {"PUBLISH", "pubsub"},
		{"CONVERSATION", "conversation"}, {"DIRECT_INVOKE", "service-invocation"}, {"BINDING", "binding"}, {"LOCK", "lock"},
		{"SCHEDULER", "job"}, {"HEALTH", "health"},
	} {
		if strings.Contains(code, c.part) {
			return c.category
		}
	}
	return "common"
}

// rich reports whether e is of the newer generation.
func (e *Error) rich() bool { return e.Reason != "" }

// RetryAfterSeconds returns the value of a Retry-After header field, or "" for
// none.
func (e *Error) RetryAfterSeconds() string {
	if e.RetryAfter <= 0 {
		return ""
	}
	return strconv.FormatInt(int64((e.RetryAfter+time.Second-1)/time.Second), 10)
}

// The parts of the JSON form. Their names are those that Dapr sends, which are
// not those of the JSON mapping of Protocol Buffers.
type errorJSON struct {
	ErrorCode string `json:"errorCode"`
	Message   string `json:"message"`
	Details   []any  `json:"details,omitempty"`
}

type infoJSON struct {
	Type     string            `json:"@type"`
	Domain   string            `json:"domain"`
	Metadata map[string]string `json:"metadata"`
	Reason   string            `json:"reason"`
}

type resourceJSON struct {
	Type         string `json:"@type"`
	Description  string `json:"description"`
	Owner        string `json:"owner"`
	ResourceName string `json:"resource_name"`
	ResourceType string `json:"resource_type"`
}

type badRequestJSON struct {
	Type       string      `json:"@type"`
	Violations []Violation `json:"field_violations"`
}

type helpJSON struct {
	Type  string     `json:"@type"`
	Links []linkJSON `json:"links"`
}

type linkJSON struct {
	Description string `json:"description"`
	URL         string `json:"url"`
}

const typePrefix = "type.googleapis.com/google.rpc."

// JSON returns the body of an HTTP response that reports e.
func (e *Error) JSON() []byte {
	out := errorJSON{ErrorCode: e.Tag, Message: e.Message}
	if len(e.Violations) > 0 {
		out.Details = append(out.Details, badRequestJSON{typePrefix + "BadRequest", e.Violations})
	}
	if e.HelpURL != "" {
		out.Details = append(out.Details, helpJSON{typePrefix + "Help", []linkJSON{{e.HelpText, e.HelpURL}}})
	}
	if e.ResourceType != "" {
		out.Details = append(out.Details, resourceJSON{typePrefix + "ResourceInfo", e.Description, e.Owner, e.ResourceName, e.ResourceType})
	}
	if e.rich() {
		out.Details = append(out.Details, infoJSON{typePrefix + "ErrorInfo", errorDomain, e.Info, e.Reason})
	}
	b, err := json.Marshal(out)
	if err != nil { // strings and maps of strings always can be
		return []byte(`{"errorCode":"ERR_INTERNAL","message":"internal error"}`)
	}
	return b
}

// GRPCStatus returns the gRPC status that reports e. It makes e an error that
// gRPC servers send as it is.
func (e *Error) GRPCStatus() *status.Status {
	info := &errdetails.ErrorInfo{Domain: errorDomain, Reason: cmp.Or(e.Reason, e.Tag), Metadata: validMap(e.Info)}
	var details []protoadapt.MessageV1
	if len(e.Violations) > 0 {
		bad := &errdetails.BadRequest{}
		for _, v := range e.Violations {
			bad.FieldViolations = append(bad.FieldViolations, &errdetails.BadRequest_FieldViolation{
				Field: valid(v.Field), Description: valid(v.Description),
			})
		}
		details = append(details, bad)
	}
	if e.HelpURL != "" {
		details = append(details, &errdetails.Help{Links: []*errdetails.Help_Link{{Description: e.HelpText, Url: e.HelpURL}}})
	}
	if e.ResourceType != "" {
		details = append(details, &errdetails.ResourceInfo{
			ResourceType: e.ResourceType, ResourceName: valid(e.ResourceName), Owner: valid(e.Owner), Description: valid(e.Description),
		})
	}
	if e.RetryAfter > 0 {
		details = append(details, &errdetails.RetryInfo{RetryDelay: durationpb.New(e.RetryAfter)})
	}
	plain := status.New(e.Code, valid(e.Message))
	if s, err := plain.WithDetails(append(details, info)...); err == nil {
		return s
	}
	return plain
}

// valid replaces what is not UTF-8, which Protocol Buffers cannot carry.
func valid(s string) string {
	if utf8.ValidString(s) {
		return s
	}
	return string([]rune(s))
}

func validMap(m map[string]string) map[string]string {
	if len(m) == 0 {
		return nil
	}
	out := make(map[string]string, len(m))
	for k, v := range m {
		out[valid(k)] = valid(v)
	}
	return out
}

// detail returns what fault.Message does, less the first message if that only
// says what was being done, as the texts of this dialect say that themselves.
func detail(err error) string {
	outer, ok := errors.AsType[*fault.Error](err)
	if !ok {
		return fault.Message(err)
	}
	if _, several := errors.AsType[*state.BulkError](err); several {
		return fault.Message(err)
	}
	if inner, ok := errors.AsType[*fault.Error](outer.Unwrap()); ok {
		return fault.Message(inner)
	}
	return fault.Message(err)
}
