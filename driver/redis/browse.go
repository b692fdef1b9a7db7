package redis

import (
	"context"
	"slices"
	"strconv"
	"strings"

	"github.com/proa-io/proa/block/pubsub"
	"github.com/proa-io/proa/fault"
)

// Browse implements pubsub.Browser.
func (p *PubSub) Browse(ctx context.Context, topic, after string, limit int) ([]*pubsub.Delivery, error) {
	start := "-"
	if after != "" {
		if !isEntryID(after) {
			return nil, fault.New(fault.InvalidArgument, `ids of messages look like "1526919030474-55" here, not like %q`, after)
		}
		start = "(" + after
	}
	res, err := p.client.do(ctx, p.client.build().Xrange().Key(topic).Start(start).End("+").Count(int64(limit)).Build())
	if err != nil {
		return nil, p.explain(err)
	}
	entries, err := res.AsXRange()
	if err != nil {
		return nil, classify(ctx, err)
	}
	out := make([]*pubsub.Delivery, len(entries))
	for i, e := range entries {
		out[i] = p.message(topic, e.ID, e.FieldValues, 0)
	}
	return out, nil
}

// isEntryID reports whether a text is the id of a stream's entry.
func isEntryID(text string) bool {
	ms, seq, ok := strings.Cut(text, "-")
	if !ok {
		return false
	}
	_, err1 := strconv.ParseUint(ms, 10, 64)
	_, err2 := strconv.ParseUint(seq, 10, 64)
	return err1 == nil && err2 == nil
}

// Remove implements pubsub.Browser. Consumers acknowledge what they find gone.
func (p *PubSub) Remove(ctx context.Context, topic string, ids []string) error {
	ids = slices.DeleteFunc(slices.Clone(ids), func(id string) bool { return !isEntryID(id) })
	for chunk := range slices.Chunk(ids, bulkSize) {
		res, err := p.client.do(ctx, p.client.build().Xdel().Key(topic).Id(chunk...).Build())
		if err != nil {
			return p.explain(err)
		}
		if err := res.Error(); err != nil {
			return classify(ctx, err)
		}
	}
	return nil
}
