package rabbitmq

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/proa-io/proa/fault"
)

func errClosed() error {
	return fault.New(fault.Unavailable, "the connection to rabbitmq is closed by its owner")
}

// classify names an error of the client library for a call made with ctx. It
// returns nil for nil.
func classify(ctx context.Context, err error) error {
	switch {
	case err == nil:
		return nil
	case fault.CodeOf(err) != fault.Unknown && !isContextError(err):
		return err // already named
	}
	if e, ok := errors.AsType[*amqp.Error](err); ok && e.Server {
		return classifyReply(e)
	}
	switch ctx.Err() {
	case context.Canceled:
		return context.Canceled
	case context.DeadlineExceeded:
		return fault.Wrap(err, fault.DeadlineExceeded, "rabbitmq did not answer in time")
	}
	return fault.Wrap(err, fault.Unavailable, "rabbitmq cannot be reached")
}

func isContextError(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}

// classifyReply names what the server has closed a channel or connection for.
// Its texts name exchanges, queues and virtual hosts, and no secrets.
func classifyReply(e *amqp.Error) error {
	text := strings.TrimSpace(e.Reason)
	code := fault.Internal
	switch e.Code {
	case amqp.AccessRefused:
		code = fault.PermissionDenied
		if strings.Contains(text, "ogin was refused") {
			code = fault.Unauthenticated
		}
	case amqp.NotFound:
		code = fault.NotFound
	case amqp.ResourceLocked, amqp.PreconditionFailed:
		code = fault.FailedPrecondition
		if m := differing(text); m != "" {
			return fault.Wrap(e, code, "%s", m)
		}
	case amqp.NotAllowed:
		code = fault.FailedPrecondition
		if strings.Contains(text, "limit") {
			code = fault.ResourceExhausted
		}
	case amqp.ConnectionForced:
		code = fault.Unavailable
	case amqp.ResourceError:
		code = fault.ResourceExhausted
	case amqp.ContentTooLarge:
		code = fault.InvalidArgument
	case amqp.NotImplemented:
		code = fault.Unimplemented
	}
	return fault.Wrap(e, code, "rabbitmq refuses: %s", text)
}

// inequivalent is the reply to a declaration that does not match what is there.
var inequivalent = regexp.MustCompile(`inequivalent arg '([^']*)' for (exchange|queue) '(.*)' in vhost '(.*)': received (.*) but current is (.*)$`)

// differing explains a declaration that does not match what is there: which
// exchange or queue it is, and the settings on both sides. It returns "" for
// another reply.
func differing(reply string) string {
	m := inequivalent.FindStringSubmatch(reply)
	if m == nil {
		return ""
	}
	setting := settingOf(m[2], m[1])
	return fmt.Sprintf("%s %q is there already with other settings: its %s is %s, and %s asks for %s; "+
		"make them the same, or delete the %s", m[2], m[3], m[1], value(m[6]), setting, value(m[5]), m[2])
}

// value strips what the server puts around a value: none, or the value 'x' of
// type 'y'.
func value(text string) string {
	text = strings.TrimSpace(text)
	if strings.Contains(text, "none") {
		return "not set"
	}
	return strings.TrimPrefix(text, "the value ")
}

// settingOf names the setting behind an argument of a declaration.
func settingOf(kind, arg string) string {
	switch arg {
	case "durable":
		return "the setting durable"
	case "auto_delete":
		return "the setting deletedWhenUnused (deleteWhenUnused of a binding)"
	case "exclusive":
		return "the setting exclusive"
	case "type":
		return "the setting exchangeKind"
	case argMaxLength:
		return "the setting maxLen"
	case argMaxLengthBytes:
		return "the setting maxLenBytes"
	case argMaxPriority:
		return "the setting maxPriority"
	case argDeadLetterExchange:
		return "the setting enableDeadLetter"
	case argMessageTTL:
		return "the setting ttlInSeconds"
	case amqp.QueueTypeArg:
		return "the subscription's queueType"
	case argSingleActive:
		return "the subscription's singleActiveConsumer"
	}
	return "this " + kind + "'s declaration"
}
