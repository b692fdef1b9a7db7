package nats

import (
	"context"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/proa-io/proa/block/pubsub"
	"github.com/proa-io/proa/engine"
)

// Publish implements pubsub.Driver.
func (p *PubSub) Publish(ctx context.Context, m *pubsub.Message) error {
	if p.isClosed() {
		return errBrokerClosed()
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	at, err := p.placeOf(ctx, m.Topic)
	if err != nil {
		return err
	}
	err = p.send(ctx, at, m)
	if err == nil || !noStream(err) || !at.own {
		return err
	}
	// Somebody has deleted the stream since we made it.
	p.topics.CompareAndDelete(m.Topic, at)
	if at, err = p.placeOf(ctx, m.Topic); err != nil {
		return err
	}
	return p.send(ctx, at, m)
}

func (p *PubSub) send(ctx context.Context, at *place, m *pubsub.Message) error {
	msg, err := encode(at, m)
	if err != nil {
		return err
	}
	c, err := p.engine.Conn(ctx)
	if err != nil {
		return err
	}
	js, err := p.jetstream(c)
	if err != nil {
		return err
	}
	return c.Do(ctx, func(ctx context.Context) error {
		_, err := js.PublishMsg(ctx, msg)
		return err
	})
}

// bulkSize is how many messages are sent before the first answer is awaited.
const bulkSize = 500

// BulkPublish implements pubsub.BulkPublisher.
func (p *PubSub) BulkPublish(ctx context.Context, messages []*pubsub.Message) []error {
	errs := make([]error, len(messages))
	for start := 0; start < len(messages); start += bulkSize {
		end := min(start+bulkSize, len(messages))
		p.sendTogether(ctx, messages[start:end], errs[start:end])
	}
	return errs
}

// sendTogether publishes messages over one connection, so that they keep their
// order.
func (p *PubSub) sendTogether(ctx context.Context, messages []*pubsub.Message, errs []error) {
	encoded := make([]*nats.Msg, len(messages))
	for i, m := range messages {
		if encoded[i], errs[i] = p.prepare(ctx, m); errs[i] != nil {
			encoded[i] = nil
		}
	}
	answered := make([]bool, len(messages))
	err := p.do(ctx, messages[0].Topic, func(ctx context.Context, js jetstream.JetStream) error {
		return publishAll(ctx, js, encoded, func(i int, err error) {
			answered[i] = true
			if errs[i] = err; err != nil && noStream(err) {
				p.topics.Delete(messages[i].Topic)
			}
		})
	})
	for i := range messages {
		if encoded[i] != nil && !answered[i] {
			errs[i] = err
		}
	}
}

func (p *PubSub) prepare(ctx context.Context, m *pubsub.Message) (*nats.Msg, error) {
	if p.isClosed() {
		return nil, errBrokerClosed()
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	at, err := p.placeOf(ctx, m.Topic)
	if err != nil {
		return nil, err
	}
	return encode(at, m)
}

// publishAll sends the messages that are not nil, and calls answer with the
// fate of each. It returns an error, without answers for the rest, when ctx
// ends.
func publishAll(ctx context.Context, js jetstream.JetStream, messages []*nats.Msg, answer func(i int, err error)) error {
	futures := make([]jetstream.PubAckFuture, len(messages))
	for i, m := range messages {
		if m == nil {
			continue
		}
		var err error
		if futures[i], err = js.PublishMsgAsync(m); err != nil {
			answer(i, engine.Classify(err))
		}
	}
	for i, f := range futures {
		if f == nil {
			continue
		}
		select {
		case <-f.Ok():
			answer(i, nil)
		case err := <-f.Err():
			answer(i, engine.Classify(err))
		case <-ctx.Done():
			return ctx.Err() // not the cause: Do knows what it means
		}
	}
	return nil
}
