package kafka

import (
	"context"
	"errors"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/proa-io/proa/fault"
)

// errClosed is what a driver that is closed answers.
func errClosed() error { return fault.New(fault.Unavailable, "the connection to kafka is closed") }

// classify names an error of the client library for a call made with ctx. It
// returns nil for nil.
func classify(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	if _, named := errors.AsType[*fault.Error](err); named {
		return err
	}
	if answer, ok := errors.AsType[*kerr.Error](err); ok {
		v := verdictOf(answer)
		return fault.Wrap(err, v.code, "%s", v.text)
	}
	switch {
	case ctx.Err() == context.Canceled:
		return context.Canceled
	case ctx.Err() == context.DeadlineExceeded:
		return fault.Wrap(err, fault.DeadlineExceeded, "kafka did not answer in time")
	case errors.Is(err, kgo.ErrClientClosed):
		return errClosed()
	case errors.Is(err, kgo.ErrMaxBuffered):
		return fault.Wrap(err, fault.ResourceExhausted, "too many messages wait for kafka to take them")
	}
	// What is left is trouble with connections.
	return fault.Wrap(err, fault.Unavailable, "kafka cannot be reached")
}

// A verdict is what an error code of the protocol means: a code, and words for
// the caller.
type verdict struct {
	code fault.Code
	text string
}

// verdictOf judges an error code. What is not named here is worth another try
// if the protocol says so.
func verdictOf(answer *kerr.Error) verdict {
	switch answer {
	case kerr.MessageTooLarge, kerr.RecordListTooLarge:
		return verdict{fault.InvalidArgument, "the message is larger than maxMessageBytes, or than the topic takes"}
	case kerr.InvalidTopicException:
		return verdict{fault.InvalidArgument, "kafka cannot have a topic of that name"}
	case kerr.SaslAuthenticationFailed, kerr.IllegalSaslState, kerr.UnsupportedSaslMechanism:
		return verdict{fault.Unauthenticated, "kafka refused the credentials"}
	case kerr.TopicAuthorizationFailed, kerr.GroupAuthorizationFailed, kerr.ClusterAuthorizationFailed, kerr.SecurityDisabled:
		return verdict{fault.PermissionDenied, "kafka does not permit this user to do that"}
	case kerr.ThrottlingQuotaExceeded:
		return verdict{fault.ResourceExhausted, "a quota of kafka is spent"}
	case kerr.GroupMaxSizeReached:
		return verdict{fault.ResourceExhausted, "the consumer group has as many consumers as kafka permits"}
	case kerr.UnknownTopicOrPartition, kerr.UnknownTopicID:
		return verdict{fault.Unavailable, "kafka does not know the topic"}
	case kerr.InconsistentGroupProtocol:
		return verdict{fault.FailedPrecondition, "other consumers of the group have another consumerGroupRebalanceStrategy"}
	case kerr.InvalidSessionTimeout:
		return verdict{fault.FailedPrecondition, "sessionTimeout is not within what the brokers permit"}
	case kerr.InvalidPartitions, kerr.InvalidReplicationFactor, kerr.PolicyViolation, kerr.InvalidConfig:
		return verdict{fault.FailedPrecondition, "kafka refuses to create the topic"}
	case kerr.UnsupportedVersion, kerr.UnsupportedForMessageFormat, kerr.UnsupportedCompressionType:
		return verdict{fault.Unimplemented, "this kafka does not offer that"}
	}
	if answer.Retriable {
		return verdict{fault.Unavailable, "kafka does not serve this at present"}
	}
	return verdict{fault.Internal, "kafka answered with an error"}
}
