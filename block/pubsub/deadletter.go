package pubsub

import (
	"context"
	"maps"
	"strconv"
	"strings"
	"time"

	"github.com/proa-io/proa/fault"
)

// A dead letter is the message as it came, with what happened to it added:
// as metadata, which arrives as headers, and, when the message is an envelope,
// also as CloudEvents extension attributes. An expiration is taken off, or the
// dead letter would be dropped in its turn. The attributes topic and
// pubsubname stay as they were.
const (
	// DeadLetterReason holds why the message was given up.
	DeadLetterReason = "deadletterreason"
	// DeadLetterAttempts holds how often the application was asked to process
	// it, as far as is known: 0 for a message that is no envelope, has expired
	// or matches no rule. A number in the envelope.
	DeadLetterAttempts = "deadletterattempts"
	// DeadLetterFirstTime holds when this delivery began (RFC 3339, UTC).
	DeadLetterFirstTime = "deadletterfirsttime"
	// DeadLetterLastTime holds when it was given up (RFC 3339, UTC).
	DeadLetterLastTime = "deadletterlasttime"
	// DeadLetterTopic holds the topic it came from.
	DeadLetterTopic = "deadlettertopic"
)

const deadLetterPrefix = "deadletter"

// deadLetterTimeout bounds the publish of a dead letter, which must not end
// with the deadline of the delivery.
const deadLetterTimeout = 30 * time.Second

// deadLetter publishes a message to the dead letter topic and acknowledges it
// only when that succeeded. e is nil when the message is no envelope.
func (s *subscription) deadLetter(d *Delivery, e *Event, o outcome) error {
	b := s.broker
	topic := s.spec.DeadLetterTopic
	log := b.log.With("topic", s.spec.Topic, "dead_letter_topic", topic, "message_id", d.ID, "cause", causeText(o.err))
	err := b.checkTopic(topic, &b.publishing, "publish to")
	if err == nil {
		ctx, cancel := context.WithTimeout(s.work, deadLetterTimeout)
		defer cancel()
		err = b.publishMessage(ctx, s.deadMessage(d, e, o))
	}
	if err != nil {
		log.ErrorContext(s.work, "dead letter is not published and the message stays with the broker", "error", err)
		return again(fault.Wrap(err, fault.CodeOf(err), "publish the dead letter"), d.Attempt)
	}
	log.WarnContext(s.work, "message is moved to the dead letter topic", "attempts", o.attempts(d))
	return nil
}

// attempts counts how often the application was asked about a message, in
// earlier deliveries by the broker too: each of those asked at least once.
func (o *outcome) attempts(d *Delivery) int {
	if o.calls == 0 {
		return 0
	}
	return o.calls + max(d.Attempt-1, 0)
}

func (s *subscription) deadMessage(d *Delivery, e *Event, o outcome) *Message {
	notes := map[string]string{
		DeadLetterReason:    causeText(o.err),
		DeadLetterAttempts:  strconv.Itoa(o.attempts(d)),
		DeadLetterFirstTime: o.first.UTC().Format(time.RFC3339),
		DeadLetterLastTime:  time.Now().UTC().Format(time.RFC3339),
		DeadLetterTopic:     d.Topic,
	}
	m := &Message{Topic: s.spec.DeadLetterTopic, Data: d.Data, ContentType: d.ContentType, Key: d.Key}
	m.Metadata = make(map[string]string, len(d.Metadata)+len(notes))
	for k, v := range d.Metadata {
		if !strings.EqualFold(k, metaTTL) && !strings.EqualFold(k, metaTTLAlias) {
			m.Metadata[k] = v
		}
	}
	maps.Copy(m.Metadata, notes)
	if e != nil && e.Raw == nil && !d.isBinaryMode() {
		m.Data = e.annotated(notes)
	}
	return m
}

// annotated returns the envelope with the notes of a dead letter, in place of
// those it may have from an earlier time.
func (e *Event) annotated(notes map[string]string) []byte {
	b := make([]byte, 0, len(e.JSON)+300+len(notes[DeadLetterReason])+len(notes[DeadLetterTopic]))
	b = append(b, `{"`+DeadLetterAttempts+`":`...)
	b = append(b, notes[DeadLetterAttempts]...)
	for _, name := range [...]string{DeadLetterTopic, DeadLetterReason, DeadLetterFirstTime, DeadLetterLastTime} {
		b = appendAttr(b, name, notes[name])
	}
	b = e.appendMembers(b, func(name string) bool {
		return name != attrExpiration && !strings.HasPrefix(name, deadLetterPrefix)
	})
	return append(b, '}')
}
