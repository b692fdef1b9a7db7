package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/proa-io/proa/fault"
)

func api(class int, code jetstream.ErrorCode) error {
	return &jetstream.APIError{Code: class, ErrorCode: code, Description: "d"}
}

func TestClassify(t *testing.T) {
	tests := []struct {
		err    error
		code   fault.Code
		reason fault.Reason
	}{
		{api(400, 10071), fault.Aborted, ReasonConflict},
		{fmt.Errorf("nats: %w", api(400, 10071)), fault.Aborted, ReasonConflict},
		{jetstream.ErrKeyExists, fault.Aborted, ReasonConflict},
		{jetstream.ErrKeyRevisionMismatch, fault.Aborted, ReasonConflict},
		{api(400, 10164), fault.Unavailable, ReasonNotReady},
		{api(503, 10163), fault.Unavailable, ReasonNotReady},
		{api(409, 10158), fault.Unavailable, ReasonNotReady},
		{api(400, 10054), fault.InvalidArgument, ReasonTooLarge},
		{api(400, 10097), fault.InvalidArgument, ReasonTooLarge},
		{nats.ErrMaxPayload, fault.InvalidArgument, ReasonTooLarge},
		{api(500, 10047), fault.ResourceExhausted, ""},
		{api(500, 10028), fault.ResourceExhausted, ""},
		{api(503, 10023), fault.ResourceExhausted, ""},
		{api(400, 10002), fault.ResourceExhausted, ""},
		{api(503, 10077), fault.ResourceExhausted, ""},
		{&jetstream.APIError{Code: 503, ErrorCode: 10077, Description: server.ErrStoreClosed.Error()}, fault.Unavailable, ReasonNotReady},
		{api(429, 10167), fault.ResourceExhausted, ""},
		{api(400, 10026), fault.ResourceExhausted, ""},
		{api(404, 10059), fault.NotFound, ""},
		{jetstream.ErrStreamNotFound, fault.NotFound, ""},
		{jetstream.ErrKeyNotFound, fault.NotFound, ""},
		{jetstream.ErrKeyDeleted, fault.NotFound, ""},
		{jetstream.ErrBucketNotFound, fault.NotFound, ""},
		{jetstream.ErrConsumerNotFound, fault.NotFound, ""},
		{jetstream.ErrConsumerDeleted, fault.NotFound, ""},
		{jetstream.ErrMsgNotFound, fault.NotFound, ""},
		{nats.ErrStreamNotFound, fault.NotFound, ""},
		{api(400, 10058), fault.AlreadyExists, ""},
		{errors.Join(jetstream.ErrBucketExists, jetstream.ErrStreamNameAlreadyInUse), fault.AlreadyExists, ""},
		{jetstream.ErrConsumerExists, fault.AlreadyExists, ""},
		{jetstream.ErrJetStreamNotEnabled, fault.FailedPrecondition, ""},
		{nats.ErrJetStreamNotEnabledForAccount, fault.FailedPrecondition, ""},
		{api(500, 10074), fault.FailedPrecondition, ""},
		{api(412, 10185), fault.Unimplemented, ReasonUnsupported},
		{api(400, 10166), fault.Unimplemented, ReasonUnsupported},
		{jetstream.ErrLimitMarkerTTLNotSupported, fault.Unimplemented, ReasonUnsupported},
		{api(503, 10008), fault.Unavailable, ""},
		{api(500, 10118), fault.Unavailable, ""},
		{nats.ErrTimeout, fault.Unavailable, ReasonInDoubt},
		{nats.ErrDisconnected, fault.Unavailable, ReasonInDoubt},
		{jetstream.ErrInvalidJSAck, fault.Unavailable, ReasonInDoubt},
		{nats.ErrNoResponders, fault.Unavailable, ReasonNotReady},
		{jetstream.ErrNoStreamResponse, fault.Unavailable, ReasonNotReady},
		{nats.ErrConnectionClosed, fault.Unavailable, ReasonNotReady},
		{jetstream.ErrConnectionClosed, fault.Unavailable, ReasonNotReady},
		{nats.ErrConnectionReconnecting, fault.Unavailable, ReasonNotReady},
		{nats.ErrReconnectBufExceeded, fault.Unavailable, ReasonNotReady},
		{nats.ErrNoServers, fault.Unavailable, ReasonNotReady},
		{jetstream.ErrServerShutdown, fault.Unavailable, ReasonNotReady},
		{jetstream.ErrNoHeartbeat, fault.Unavailable, ReasonNotReady},
		{fmt.Errorf("%w: to %q", nats.ErrPermissionViolation, "x"), fault.PermissionDenied, ""},
		{nats.ErrAuthorization, fault.Unauthenticated, ""},
		{nats.ErrAuthExpired, fault.Unauthenticated, ""},
		{nats.ErrSlowConsumer, fault.ResourceExhausted, ""},
		{nats.ErrMaxConnectionsExceeded, fault.ResourceExhausted, ""},
		{nats.ErrBadSubject, fault.InvalidArgument, ""},
		{jetstream.ErrInvalidKey, fault.InvalidArgument, ""},
		{jetstream.ErrInvalidBucketName, fault.InvalidArgument, ""},
		{jetstream.ErrHistoryTooLarge, fault.InvalidArgument, ""},
		{io.EOF, fault.Unavailable, ReasonInDoubt},
		{&net.OpError{Op: "read", Err: syscall.ECONNRESET}, fault.Unavailable, ReasonInDoubt},
		{&net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}, fault.Unavailable, ReasonNotReady},
		{&net.OpError{Op: "dial", Err: errors.New("odd")}, fault.Unavailable, ReasonInDoubt},
		{net.ErrClosed, fault.Unavailable, ReasonNotReady},
		{api(400, 19999), fault.InvalidArgument, ""},
		{api(404, 19999), fault.NotFound, ""},
		{api(408, 0), fault.Unavailable, ""},
		{api(409, 19999), fault.Aborted, ""},
		{api(412, 19999), fault.FailedPrecondition, ""},
		{api(429, 19999), fault.ResourceExhausted, ""},
		{api(500, 19999), fault.Internal, ""},
		{api(503, 19999), fault.Unavailable, ""},
		{&nats.APIError{Code: 404, ErrorCode: 10059}, fault.NotFound, ""},
		{errors.New("something else"), fault.Internal, ""},
		{context.Canceled, fault.Canceled, ""},
		{fmt.Errorf("x: %w", context.DeadlineExceeded), fault.DeadlineExceeded, ""},
		{fault.New(fault.Aborted, "mine"), fault.Aborted, ""},
	}
	for _, tt := range tests {
		got := Classify(tt.err)
		if fault.CodeOf(got) != tt.code || fault.ReasonOf(got) != tt.reason {
			t.Errorf("%v: got %v, reason %q; want %v, reason %q", tt.err, fault.CodeOf(got), fault.ReasonOf(got), tt.code, tt.reason)
		}
		if !errors.Is(got, tt.err) {
			t.Errorf("%v: the cause is lost", tt.err)
		}
	}
	if Classify(nil) != nil {
		t.Error("nil is not an error")
	}
}

// The server's list of errors grows; whatever it adds is classified by its
// class, and nothing is Unknown.
func TestEveryErrorOfTheServerHasACode(t *testing.T) {
	for id, e := range server.ApiErrors {
		err := Classify(api(e.Code, jetstream.ErrorCode(e.ErrCode)))
		if fault.Is(err, fault.Unknown) {
			t.Errorf("%v (%d) is unknown", id, e.ErrCode)
		}
	}
	if len(server.ApiErrors) < 100 {
		t.Fatalf("the server has only %d errors: this test looks at the wrong list", len(server.ApiErrors))
	}
}
