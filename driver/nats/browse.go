package nats

import (
	"context"
	"errors"
	"strconv"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/proa-io/proa/block/pubsub"
	"github.com/proa-io/proa/fault"
)

// existing returns where the messages of a topic are, without making anything;
// nil when there is no such topic.
func (p *PubSub) existing(ctx context.Context, topic string) (*place, error) {
	if known, ok := p.topics.Load(topic); ok {
		return known.(*place), nil
	}
	at, err := p.find(ctx, topic, func(context.Context, string) (*place, error) { return p.ownPlace(topic), nil })
	if err != nil || !at.own {
		return at, err
	}
	err = p.do(ctx, at.stream, func(ctx context.Context, js jetstream.JetStream) error {
		_, err := js.Stream(ctx, at.stream)
		return err
	})
	if fault.Is(err, fault.NotFound) {
		return nil, nil
	}
	return at, err
}

// Browse implements pubsub.Browser.
func (p *PubSub) Browse(ctx context.Context, topic, after string, limit int) ([]*pubsub.Delivery, error) {
	var last uint64
	if after != "" {
		var err error
		if last, err = strconv.ParseUint(after, 10, 63); err != nil {
			return nil, fault.New(fault.InvalidArgument, "messages of this broker have whole numbers as their ids, not %q", after)
		}
	}
	if p.isClosed() {
		return nil, errBrokerClosed()
	}
	at, err := p.existing(ctx, topic)
	if err != nil || at == nil {
		return nil, err
	}
	var out []*pubsub.Delivery
	err = p.do(ctx, at.stream, func(ctx context.Context, js jetstream.JetStream) error {
		stream, err := js.Stream(ctx, at.stream)
		if err != nil {
			return err
		}
		for len(out) < limit {
			m, err := stream.GetMsg(ctx, last+1, jetstream.WithGetMsgSubject(at.subject))
			if errors.Is(err, jetstream.ErrMsgNotFound) {
				return nil
			}
			if err != nil {
				return err
			}
			last = m.Sequence
			d := p.content(topic, &nats.Msg{Data: m.Data, Header: m.Header})
			d.ID, d.Published = strconv.FormatUint(m.Sequence, 10), m.Time
			out = append(out, d)
		}
		return nil
	})
	if fault.Is(err, fault.NotFound) { // the stream has gone
		return nil, nil
	}
	return out, err
}

// Remove implements pubsub.Browser.
func (p *PubSub) Remove(ctx context.Context, topic string, ids []string) error {
	if p.isClosed() {
		return errBrokerClosed()
	}
	at, err := p.existing(ctx, topic)
	if err != nil || at == nil {
		return err
	}
	return p.do(ctx, at.stream, func(ctx context.Context, js jetstream.JetStream) error {
		stream, err := js.Stream(ctx, at.stream)
		if err != nil {
			return err
		}
		for _, id := range ids {
			n, err := strconv.ParseUint(id, 10, 64)
			if err != nil {
				continue
			}
			err = stream.DeleteMsg(ctx, n)
			if err == nil {
				continue
			}
			// The error of a message that is not there has no code.
			if _, gone := stream.GetMsg(ctx, n); !errors.Is(gone, jetstream.ErrMsgNotFound) {
				return err
			}
		}
		return nil
	})
}
