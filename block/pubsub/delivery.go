package pubsub

import (
	"cmp"
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/policy"
)

// Back-off between deliveries of the same message, as far as the broker can
// wait. A message that is no envelope waits longer, because only a change of
// the subscription can help it.
const (
	firstRedelivery  = 500 * time.Millisecond
	lastRedelivery   = 30 * time.Second
	firstPoisonDelay = 10 * time.Second
	lastPoisonDelay  = 5 * time.Minute
)

// errInterrupted ends a delivery because the subscription ends.
func errInterrupted() error { return fault.New(fault.Canceled, "the subscription ends") }

// outcome is what the attempts to deliver an event came to.
type outcome struct {
	status Status // when err is nil
	err    error  // why it was not processed
	cause  error  // why it is Drop; nil when the application did not say
	calls  int    // of the application
	first  time.Time
}

// handle processes one message from the broker: it is the [Handler] of every
// subscription.
//
// A message is acknowledged when the application has processed it, or dropped
// it, or when it is published to the dead letter topic. A message that the
// application was never asked about, because a policy refused or the
// subscription ends, is never dead-lettered.
func (s *subscription) handle(_ context.Context, d *Delivery) error {
	d.Topic = cmp.Or(d.Topic, s.spec.Topic)
	e, err := s.decode(d)
	now := time.Now()
	if err != nil {
		return s.poison(d, err)
	}
	if e.expired(now) || s.raw && d.expired(now) {
		return s.discard(d, e, outcome{first: now, err: errors.New("the message has expired")})
	}
	route, ok := s.router.route(e)
	if !ok {
		return s.discard(d, e, outcome{first: now, err: errors.New("no routing rule matches and there is no default route")})
	}
	if s.batches != nil {
		return s.settle(d, e, s.batches.deliver(s.work, batchItem{event: e, route: route}))
	}
	return s.settle(d, e, s.call(e, route))
}

// decode returns the event in a message.
func (s *subscription) decode(d *Delivery) (*Event, error) {
	e := &Event{
		JSON: d.Data, Component: s.broker.name, Topic: d.Topic, Metadata: d.Metadata, Attempt: d.Attempt,
		contentType: d.contentType(),
	}
	switch {
	case s.raw:
		e.Raw = d.Data
		if e.Raw == nil {
			e.Raw = []byte{}
		}
		e.JSON = wrapRaw(s.broker.name, d)
	case d.isBinaryMode():
		e.JSON = d.structured()
	}
	if !e.parse() {
		return nil, errors.New("the message is not a CloudEvent in JSON")
	}
	return e, nil
}

func (d *Delivery) contentType() string {
	if d.ContentType != "" {
		return d.ContentType
	}
	v, _ := lookup(d.Metadata, "content-type")
	return v
}

// expired reports whether the time to live that a bare payload was published
// with is over.
func (d *Delivery) expired(now time.Time) bool {
	text, ok := lookup(d.Metadata, metaTTL)
	if !ok || d.Published.IsZero() {
		return false
	}
	ttl, err := parseTTL(text)
	return err == nil && d.Published.Add(ttl).Before(now)
}

// deliveryCall is the delivery of one event under way.
type deliveryCall struct {
	policy.Call
	sub   *subscription
	f     *flight
	event *Event
	route string
	out   outcome
}

// call delivers one event through the inbound policies.
func (s *subscription) call(e *Event, route string) outcome {
	ctx, f := s.begin()
	defer s.end(f)
	c := &deliveryCall{sub: s, f: f, event: e, route: route}
	c.Key, c.Bytes, c.Idempotent = s.spec.Topic, len(e.JSON), true
	c.out.first = time.Now()
	c.out.err = interrupted(ctx, s.broker.deliver.Run(ctx, &c.Call, c.do))
	return c.out
}

// interrupted returns err, or that the subscription ends when that is why the
// policies gave up: ctx is the context of the delivery.
func interrupted(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil {
		return errInterrupted()
	}
	return err
}

func (c *deliveryCall) do(ctx context.Context) error {
	if !c.sub.enter(c.f) {
		return errInterrupted()
	}
	c.out.calls++
	status, err := c.sub.app.Deliver(ctx, c.route, c.event)
	again := c.sub.leave(c.f)
	switch {
	case err != nil && fault.ReasonOf(err) == ReasonNoHandler:
		c.out.status, c.out.cause, c.Outcome = Drop, err, policy.Unwanted
		return nil
	case err == nil && status != Retry:
		c.out.status = status
		if status == Drop {
			c.Outcome = policy.Rejected
		}
		return nil
	case err != nil && fault.CodeOf(err) == fault.Canceled, !again:
		return errInterrupted()
	}
	return notProcessed(err)
}

// notProcessed returns what the inbound policies see of an event that the
// application did not process: something worth trying again, whatever the
// reason.
func notProcessed(err error) error {
	if err == nil {
		return fault.New(fault.Unavailable, "the application asked for another delivery").WithReason(ReasonNotProcessed)
	}
	return fault.Wrap(err, fault.Unavailable, "the application did not process the event").
		WithReason(ReasonNotProcessed).WithRetryAfter(fault.RetryAfterOf(err))
}

// settle returns the answer to the broker for an event that was delivered.
func (s *subscription) settle(d *Delivery, e *Event, o outcome) error {
	switch {
	case o.err == nil && o.status == Success:
		return nil
	case o.err == nil:
		if o.err = o.cause; o.err == nil {
			o.err = errors.New("the application dropped it")
		}
		return s.discard(d, e, o)
	case fault.CodeOf(o.err) == fault.Canceled && s.intake.Err() != nil:
		return o.err
	case fault.CodeOf(o.err) == fault.Canceled:
		return again(o.err, d.Attempt)
	case o.calls == 0, s.spec.DeadLetterTopic == "":
		return again(o.err, d.Attempt)
	}
	return s.deadLetter(d, e, o)
}

// discard gives up a message: it goes to the dead letter topic if there is
// one, and is dropped if not.
func (s *subscription) discard(d *Delivery, e *Event, o outcome) error {
	if s.spec.DeadLetterTopic != "" {
		return s.deadLetter(d, e, o)
	}
	s.broker.log.WarnContext(s.work, "message is dropped",
		"topic", s.spec.Topic, "message_id", d.ID, "event_id", e.ID(), "cause", causeText(o.err))
	return nil
}

// poison deals with a message that is no envelope. With a dead letter topic it
// goes there. Without one it stays with the broker and comes again, less and
// less often, until the subscription is changed or the broker's own limits
// remove it: it may be somebody's data, and a subscription with rawPayload
// could read it.
func (s *subscription) poison(d *Delivery, err error) error {
	if s.spec.DeadLetterTopic != "" {
		return s.deadLetter(d, nil, outcome{err: err, first: time.Now()})
	}
	s.broker.log.ErrorContext(s.work, "message is not a CloudEvent and stays with the broker; "+
		"set rawPayload on the subscription to receive it, or deadLetterTopic to move it away",
		"topic", s.spec.Topic, "message_id", d.ID, "attempt", d.Attempt)
	return fault.Wrap(err, fault.InvalidArgument, "").WithRetryAfter(growing(d.Attempt, firstPoisonDelay, lastPoisonDelay))
}

// again returns a negative acknowledgement with back-off.
func again(err error, attempt int) error {
	wait := max(growing(attempt, firstRedelivery, lastRedelivery), fault.RetryAfterOf(err))
	return fault.Wrap(err, fault.CodeOf(err), "").WithRetryAfter(wait)
}

// growing doubles first for every attempt after the first, up to last, with up
// to a quarter of jitter.
func growing(attempt int, first, last time.Duration) time.Duration {
	wait := last
	if n := max(attempt, 1) - 1; n < 20 {
		wait = min(first<<n, last)
	}
	return wait + rand.N(wait/4) //nolint:gosec // jitter needs no secrecy
}

// maxCause bounds the text of a cause in a dead letter, in bytes.
const maxCause = 1024

// causeText returns why a message was given up, fit for a header: one line of
// valid UTF-8.
func causeText(err error) string {
	text := err.Error()
	if _, classified := errors.AsType[*fault.Error](err); classified {
		text = cmp.Or(fault.Message(err), text)
	}
	text = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text, "?"))
	if len(text) > maxCause {
		text = strings.ToValidUTF8(text[:maxCause], "")
	}
	return text
}
