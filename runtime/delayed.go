package runtime

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"sync"
	"time"

	"github.com/proa-io/proa/block/job"
	"github.com/proa-io/proa/block/pubsub"
	"github.com/proa-io/proa/fault"
)

// Messages that are to be delivered later are kept as jobs of a kind of their
// own, which no API of jobs shows: one that is due is published through the
// component that it was given to, by one of the sidecars of the application that
// published it, whether or not that application is well.

// delayedKind is the kind of these jobs.
const delayedKind = "delayed"

// idBytes is how many random bytes the id of a message has.
const idBytes = 16

// How long a message waits after it could not be published.
const (
	firstDelayedRetry = time.Second
	lastDelayedRetry  = time.Minute
)

// delayed keeps messages in the jobs component that there is. It is a
// pubsub.Scheduler.
type delayed struct {
	pinned func() *components
}

// Keep implements pubsub.Scheduler.
func (d delayed) Keep(ctx context.Context, k pubsub.Kept) (string, error) {
	table := d.pinned()
	defer table.release()
	if table.delayed == nil {
		return "", errNoJobs()
	}
	value, err := encodeKept(k)
	if err != nil {
		return "", fault.Wrap(err, fault.Internal, "encode the message")
	}
	var random [idBytes]byte
	_, _ = rand.Read(random[:]) // never fails
	j := &job.Job{
		Name: hex.EncodeToString(random[:]), DueTime: k.Due.UTC().Format(time.RFC3339Nano), Data: &job.Data{Value: value},
		FailurePolicy: &job.FailurePolicy{Interval: firstDelayedRetry, MaxInterval: lastDelayedRetry},
	}
	return j.Name, table.delayed.Schedule(ctx, j, false)
}

func errNoJobs() error {
	return fault.New(fault.FailedPrecondition, "there is no jobs component to keep messages in until they are due").
		WithReason(pubsub.ReasonNoScheduler)
}

// CancelDelayed takes back a message that waits to be published, by the id that
// Keep gave it. It reports whether it will not be published any more, and how
// often that had been tried, in vain as far as is known.
func (rt *Runtime) CancelDelayed(ctx context.Context, id string) (tries uint32, ok bool, err error) {
	table := rt.pinned()
	defer table.release()
	if table.delayed == nil {
		return 0, false, errNoJobs()
	}
	if b, err := hex.DecodeString(id); err != nil || len(b) != idBytes {
		return 0, false, nil // it is not of ours
	}
	return table.delayed.Withdraw(ctx, id)
}

// keptHead is a kept message as it is stored, less its data, which follow behind
// a newline. What may be no UTF-8 is base64.
type keptHead struct {
	Component   string        `json:"component"`
	Topic       string        `json:"topic"`
	ContentType []byte        `json:"contentType,omitempty"`
	Key         []byte        `json:"key,omitempty"`
	TTL         time.Duration `json:"ttl,omitempty"`
	Metadata    [][2][]byte   `json:"metadata,omitempty"`
}

func encodeKept(k pubsub.Kept) ([]byte, error) {
	m := k.Message
	head := keptHead{Component: k.Component, Topic: m.Topic, ContentType: []byte(m.ContentType), Key: []byte(m.Key), TTL: m.TTL}
	for name, value := range m.Metadata {
		head.Metadata = append(head.Metadata, [2][]byte{[]byte(name), []byte(value)})
	}
	out, err := json.Marshal(&head)
	if err != nil {
		return nil, err
	}
	return append(append(out, '\n'), m.Data...), nil
}

func decodeKept(value []byte) (component string, m *pubsub.Message, err error) {
	text, data, ok := bytes.Cut(value, []byte{'\n'})
	if !ok {
		return "", nil, errors.New("it has no data")
	}
	var head keptHead
	if err := json.Unmarshal(text, &head); err != nil {
		return "", nil, err
	}
	m = &pubsub.Message{Topic: head.Topic, Data: data, ContentType: string(head.ContentType), Key: string(head.Key), TTL: head.TTL}
	if len(head.Metadata) > 0 {
		m.Metadata = make(map[string]string, len(head.Metadata))
		for _, pair := range head.Metadata {
			m.Metadata[string(pair[0])] = string(pair[1])
		}
	}
	return head.Component, m, nil
}

// deliverer publishes the messages that are due. It is a job.App.
type deliverer struct {
	pinned func() *components

	mu   sync.Mutex
	away map[string]*outage // by component
}

// outage is a component that did not take a message.
type outage struct {
	till  time.Time
	pause time.Duration
}

// How long nothing is published to a component that is away: the messages that
// are due meanwhile must not keep others waiting that could be published.
const (
	firstPause = 250 * time.Millisecond
	lastPause  = 10 * time.Second
)

func newDeliverer(pinned func() *components) *deliverer {
	return &deliverer{pinned: pinned, away: map[string]*outage{}}
}

// OnJobEvent implements job.App.
func (d *deliverer) OnJobEvent(ctx context.Context, e job.Event) error {
	if e.Data == nil {
		return fault.New(fault.Internal, "a delayed message has no content")
	}
	name, m, err := decodeKept(e.Data.Value)
	if err != nil {
		return fault.Wrap(err, fault.Internal, "a delayed message cannot be read")
	}
	if d.isAway(name) {
		return fault.New(fault.Unavailable, "pubsub %q has just not taken another message", name)
	}
	table := d.pinned()
	defer table.release()
	b, err := table.broker(name)
	if err != nil {
		return err
	}
	err = b.PublishKept(ctx, m)
	d.note(name, err)
	return err
}

func (d *deliverer) isAway(component string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	o, ok := d.away[component]
	return ok && time.Now().Before(o.till)
}

// note learns from what came of a publish.
func (d *deliverer) note(component string, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch fault.CodeOf(err) {
	case fault.Unavailable, fault.DeadlineExceeded, fault.ResourceExhausted:
		o, ok := d.away[component]
		if !ok {
			o = &outage{}
			d.away[component] = o
		}
		if time.Now().After(o.till) { // else it is told of by another message
			o.pause = min(max(2*o.pause, firstPause), lastPause)
			o.till = time.Now().Add(o.pause)
		}
	default:
		delete(d.away, component)
	}
}
