package pubsub

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/policy"
)

// Reasons of the errors of dead letters.
const (
	// ReasonBrowseNotSupported: the broker cannot show what it keeps.
	ReasonBrowseNotSupported fault.Reason = "pubsub.browse_not_supported"
	// ReasonNoDeadLetter: there is no message with that id in the topic, or it
	// does not say where it came from.
	ReasonNoDeadLetter fault.Reason = "pubsub.no_dead_letter"
)

// DeadLetter is a message in a dead letter topic. A message that somebody else
// has put there says nothing of what happened to it: Topic, Cause and the times
// are empty then.
type DeadLetter struct {
	// ID is the id of the event; empty for a bare payload.
	ID string
	// MessageID is the broker's name for the message.
	MessageID string
	// Topic is where it came from.
	Topic string
	// Cause is why it was given up.
	Cause string
	// Attempts is how often the application was asked to process it.
	Attempts int
	// First and Last are when the last delivery began and when it was given
	// up.
	First, Last time.Time
	// Data is the message as it is in the dead letter topic.
	Data        []byte
	ContentType string
	Metadata    map[string]string

	delivery *Delivery
	event    *Event // nil for a bare payload
}

// readDeadLetter takes a message of a dead letter topic apart.
func readDeadLetter(d *Delivery) DeadLetter {
	l := DeadLetter{MessageID: d.ID, Data: d.Data, ContentType: d.ContentType, Metadata: d.Metadata, delivery: d}
	if e := (&Event{JSON: d.Data}); e.parse() && e.Value(attrSpecVersion) != nil {
		l.event, l.ID = e, e.ID()
	} else if d.isBinaryMode() {
		l.ID = d.header(attrID)
	}
	l.Topic, l.Cause = l.note(DeadLetterTopic), l.note(DeadLetterReason)
	l.Attempts, _ = strconv.Atoi(l.note(DeadLetterAttempts))
	l.First, _ = time.Parse(time.RFC3339, l.note(DeadLetterFirstTime))
	l.Last, _ = time.Parse(time.RFC3339, l.note(DeadLetterLastTime))
	return l
}

// note returns what was noted on the message: in its envelope or, for brokers
// that keep them, in its metadata.
func (l *DeadLetter) note(name string) string {
	if l.event != nil {
		if text, ok := unquote(l.event.Value(name)); ok {
			return text
		}
		if value := l.event.Value(name); value != nil {
			return string(value)
		}
	}
	text, _ := lookup(l.Metadata, name)
	return text
}

// message returns the message as it was before it became a dead letter.
func (l *DeadLetter) message(topic string) *Message {
	m := &Message{Topic: topic, Data: l.Data, ContentType: l.ContentType, Key: l.delivery.Key}
	for k, v := range l.Metadata {
		if strings.HasPrefix(strings.ToLower(k), deadLetterPrefix) {
			continue
		}
		if m.Metadata == nil {
			m.Metadata = make(map[string]string, len(l.Metadata))
		}
		m.Metadata[k] = v
	}
	if l.event != nil {
		m.Data = l.event.without(func(name string) bool { return strings.HasPrefix(name, deadLetterPrefix) })
	}
	return m
}

// without returns the envelope without some members.
func (e *Event) without(gone func(name string) bool) []byte {
	b := e.appendMembers(make([]byte, 0, len(e.JSON)+1), func(name string) bool { return !gone(name) })
	if len(b) > 0 {
		b[0] = '{' // in place of the comma before the first member
	} else {
		b = append(b, '{')
	}
	return append(b, '}')
}

// Bounds of a page of dead letters.
const (
	defaultDeadLetters = 100
	maxDeadLetters     = 1000
)

// DeadLetters returns a page of the messages in a dead letter topic, oldest
// first, without consuming them, and what after must be for the next page; ""
// when this is the last one. A limit that is not positive is 100; 1,000 is the
// most. The application must be allowed to subscribe to the topic. It fails
// with Unimplemented when the broker cannot show what it keeps.
func (b *Broker) DeadLetters(ctx context.Context, topic, after string, limit int) (letters []DeadLetter, next string, err error) {
	if err := b.checkTopic(topic, &b.subscribing, "subscribe to"); err != nil {
		return nil, "", err
	}
	if limit <= 0 {
		limit = defaultDeadLetters
	}
	limit = min(limit, maxDeadLetters)
	list, err := b.browsePage(ctx, topic, after, limit+1)
	if err != nil {
		return nil, "", b.explain(err, "browse", topic)
	}
	more := len(list) > limit
	for _, d := range list[:min(limit, len(list))] {
		letters = append(letters, readDeadLetter(d))
	}
	if more {
		next = letters[limit-1].MessageID
	}
	return letters, next, nil
}

// browser returns the driver, if it can show what its broker keeps.
func (b *Broker) browser(ctx context.Context) (Browser, error) {
	d, err := b.handle.Get(ctx)
	if err != nil {
		return nil, err
	}
	if w, ok := d.(Browser); ok {
		return w, nil
	}
	return nil, fault.New(fault.Unimplemented, "this kind of broker does not show what it keeps; subscribe to the dead letter topic instead").
		WithReason(ReasonBrowseNotSupported)
}

func (b *Broker) browsePage(ctx context.Context, topic, after string, limit int) ([]*Delivery, error) {
	return policy.Do(ctx, b.browse, policy.Call{Key: topic, Idempotent: true}, func(ctx context.Context) ([]*Delivery, error) {
		w, err := b.browser(ctx)
		if err != nil {
			return nil, err
		}
		return w.Browse(ctx, topic, after, limit)
	})
}

// RedriveRequest sends dead letters back.
type RedriveRequest struct {
	// Topic is the dead letter topic.
	Topic string
	// IDs choose messages by the id of the event or the broker's; empty for
	// all.
	IDs []string
	// Limit is how many are sent back at most; 1,000 when not positive.
	Limit int
	// To is where they go in place of the topics they came from; may be empty.
	To string
}

// RedriveResult says what a redrive did.
type RedriveResult struct {
	// Redriven are the messages that went back, by MessageID and Topic, the one
	// they went to.
	Redriven []DeadLetter
	// Failed are the messages that stay in the dead letter topic, and why.
	Failed []FailedRedrive
	// More tells that there are messages that were not looked at.
	More bool
}

// FailedRedrive is a message that could not be sent back.
type FailedRedrive struct {
	ID  string // the broker's; as it was asked for when there is no such message
	Err error
}

// redriveChunk is how many messages are sent back before they are removed.
const redriveChunk = 100

// Redrive publishes dead letters to the topics they came from, oldest first, as
// they were, with their ids, and removes each from the dead letter topic once
// the broker has it. What comes to the topic meanwhile stays there. Nothing is lost: what dies in between leaves a message in
// both topics. It fails as a whole only when nothing was done; what breaks off
// later is in the result of each message.
func (b *Broker) Redrive(ctx context.Context, r *RedriveRequest) (*RedriveResult, error) {
	if err := b.checkTopic(r.Topic, &b.subscribing, "subscribe to"); err != nil {
		return nil, err
	}
	if r.To != "" {
		if err := b.checkTopic(r.To, &b.publishing, "publish to"); err != nil {
			return nil, err
		}
	}
	c := &redrive{broker: b, r: r, began: time.Now(), left: r.Limit, wanted: map[string]bool{}}
	if c.left <= 0 {
		c.left = maxDeadLetters
	}
	for _, id := range r.IDs {
		c.wanted[id] = false
	}
	err := c.run(ctx)
	for _, id := range r.IDs {
		if found := c.wanted[id]; !found && err == nil && !c.out.More {
			c.out.Failed = append(c.out.Failed, FailedRedrive{id, fault.New(fault.NotFound, "there is no message %q in topic %q", id, r.Topic).
				WithReason(ReasonNoDeadLetter)})
		}
	}
	if len(c.out.Redriven)+len(c.out.Failed) > 0 {
		if err != nil {
			c.out.More = true
		}
		return &c.out, nil
	}
	return &c.out, b.explain(err, "redrive", r.Topic)
}

// redrive is a Redrive under way.
type redrive struct {
	broker *Broker
	r      *RedriveRequest
	began  time.Time
	left   int
	wanted map[string]bool // the ids asked for, and whether they were found
	out    RedriveResult
}

func (c *redrive) run(ctx context.Context) error {
	for after := ""; ; {
		page, err := c.broker.browsePage(ctx, c.r.Topic, after, redriveChunk)
		if err != nil || len(page) == 0 {
			return err
		}
		after = page[len(page)-1].ID
		var letters []DeadLetter
		over := false
		for _, d := range page {
			if d.Published.After(c.began) {
				over = true // it may have come back already
				break
			}
			l := readDeadLetter(d)
			if !c.takes(&l) {
				continue
			}
			if c.left == 0 {
				c.out.More = true
				break
			}
			c.left--
			letters = append(letters, l)
		}
		if err := c.sendBack(ctx, letters); err != nil || over || c.out.More {
			return err
		}
	}
}

// takes reports whether a message was asked for.
func (c *redrive) takes(l *DeadLetter) bool {
	if len(c.wanted) == 0 {
		return true
	}
	takes := false
	for _, id := range []string{l.ID, l.MessageID} {
		if _, ok := c.wanted[id]; ok && id != "" {
			c.wanted[id], takes = true, true
		}
	}
	return takes
}

// sendBack publishes messages and removes those that the broker has taken.
func (c *redrive) sendBack(ctx context.Context, letters []DeadLetter) error {
	var sent []DeadLetter
	var broken error
	for i := range letters {
		l := &letters[i]
		err := c.publish(ctx, l)
		if err == nil {
			sent = append(sent, *l)
			continue
		}
		c.out.Failed = append(c.out.Failed, FailedRedrive{l.MessageID, err})
		if broken = ctx.Err(); broken != nil {
			break
		}
	}
	if len(sent) == 0 {
		return broken
	}
	ids := make([]string, len(sent))
	for i := range sent {
		ids[i] = sent[i].MessageID
	}
	if err := c.remove(ctx, ids); err != nil {
		for _, l := range sent {
			c.out.Failed = append(c.out.Failed, FailedRedrive{l.MessageID,
				fault.Wrap(err, fault.CodeOf(err), "the message went to topic %q and is still in %q", l.Topic, c.r.Topic)})
		}
		return err
	}
	c.out.Redriven = append(c.out.Redriven, sent...)
	return broken
}

// publish sends one message back, and sets l.Topic to where it went.
func (c *redrive) publish(ctx context.Context, l *DeadLetter) error {
	b := c.broker
	if c.r.To != "" {
		l.Topic = c.r.To
	}
	if l.Topic == "" {
		return fault.New(fault.FailedPrecondition, "the message does not say which topic it came from; name the one it is to go to").
			WithReason(ReasonNoDeadLetter)
	}
	if err := b.checkTopic(l.Topic, &b.publishing, "publish to"); err != nil {
		return err
	}
	return b.explain(b.publishMessage(ctx, l.message(l.Topic)), "publish to", l.Topic)
}

func (c *redrive) remove(ctx context.Context, ids []string) error {
	// It goes on when the caller gives up: the messages are published.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), deadLetterTimeout)
	defer cancel()
	call := policy.Call{Key: c.r.Topic, Idempotent: true}
	return c.broker.browse.Run(ctx, &call, func(ctx context.Context) error {
		w, err := c.broker.browser(ctx)
		if err != nil {
			return err
		}
		return w.Remove(ctx, c.r.Topic, slices.Clone(ids))
	})
}
