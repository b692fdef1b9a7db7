package engine

import (
	"context"
	"errors"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/proa-io/proa/fault"
)

// A feed delivers messages of a bucket, in order and without a gap, until the
// connection breaks.
type feed struct {
	bucket    *Bucket
	config    jetstream.ConsumerConfig // what to deliver
	heartbeat time.Duration
	receiver  receiver

	expect uint64 // the consumer sequence of the last message
}

// A receiver takes what a feed delivers. An error of it ends the feed.
type receiver interface {
	// begun is called once the consumer stands; pending is how many messages
	// there are for it at that moment.
	begun(pending uint64) error
	// message takes a message; pending is how many there are behind it.
	message(e Entry, gone bool, pending uint64) error
	// idle is called when the server says that there is nothing to deliver.
	idle() error
}

// errSilent ends a feed whose server stopped its heartbeats.
var errSilent = errors.New("the server stopped sending heartbeats")

// run delivers until the connection breaks, a message is lost, or the receiver
// fails.
func (f *feed) run(ctx context.Context, c *Conn) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	nc := c.NATS()
	sub, err := nc.SubscribeSync(nc.NewInbox())
	if err != nil {
		return err
	}
	defer func() { _ = sub.Unsubscribe() }()
	cfg := f.config
	cfg.DeliverSubject, cfg.AckPolicy, cfg.MaxDeliver = sub.Subject, jetstream.AckNonePolicy, 1
	cfg.IdleHeartbeat, cfg.FlowControl, cfg.MemoryStorage, cfg.Replicas = f.heartbeat, true, true, 1
	cfg.InactiveThreshold = time.Minute
	consumer, err := c.js.CreatePushConsumer(ctx, f.bucket.stream, cfg)
	if err != nil {
		return err
	}
	// The server would remove it in the end; a list a second would add up.
	defer func() {
		_ = nc.PublishRequest("$JS.API.CONSUMER.DELETE."+f.bucket.stream+"."+consumer.CachedInfo().Name, nc.NewInbox(), nil)
	}()
	if err := f.receiver.begun(consumer.CachedInfo().NumPending); err != nil {
		return err
	}
	watchdog := time.AfterFunc(watchSilence, func() { cancel(errSilent) })
	defer watchdog.Stop()
	for {
		m, err := sub.NextMsgWithContext(ctx)
		if err != nil {
			if errors.Is(context.Cause(ctx), errSilent) {
				return fault.Wrap(errSilent, fault.Unavailable, "the engine did not answer")
			}
			return err
		}
		watchdog.Reset(watchSilence)
		if err := f.take(nc, m); err != nil {
			return err
		}
	}
}

// take handles one message of the consumer.
func (f *feed) take(nc *nats.Conn, m *nats.Msg) error {
	if m.Header.Get("Status") != "" {
		return f.control(nc, m)
	}
	meta, err := m.Metadata()
	if err != nil {
		return err
	}
	if f.expect++; meta.Sequence.Consumer != f.expect {
		return errGap()
	}
	e := newEntry(f.bucket.keyOf(m.Subject),
		message{seq: meta.Sequence.Stream, data: m.Data, at: meta.Timestamp, header: m.Header})
	return f.receiver.message(e, isTombstone(m.Header), meta.NumPending)
}

// control handles a message of the consumer that is not one of the stream:
// flow control wants an answer, and a heartbeat tells that the consumer has
// nothing to send and what it sent last.
func (f *feed) control(nc *nats.Conn, m *nats.Msg) error {
	if m.Reply != "" {
		return nc.Publish(m.Reply, nil)
	}
	if reply := m.Header.Get("Nats-Consumer-Stalled"); reply != "" { // an answer got lost
		return nc.Publish(reply, nil)
	}
	last := m.Header.Get("Nats-Last-Consumer")
	if last == "" {
		return nil
	}
	if last != strconv.FormatUint(f.expect, 10) {
		return errGap()
	}
	return f.receiver.idle()
}

func errGap() error { return fault.New(fault.Unavailable, "a message of the watch was lost") }
