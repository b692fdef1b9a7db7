package pubsub

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/policy"
)

// bulkParallelism is how many messages are published at a time to a broker
// that cannot take many at once.
const bulkParallelism = 100

// BulkPublishRequest publishes several messages to one topic.
type BulkPublishRequest struct {
	Topic   string
	Entries []PublishEntry
	// Metadata holds for every entry that does not say otherwise itself.
	Metadata                map[string]string
	TraceParent, TraceState string // as in PublishRequest
}

// PublishEntry is one message of several.
type PublishEntry struct {
	ID          string // tells the entries apart; not empty
	Data        []byte
	ContentType string
	Metadata    map[string]string
	Key         string // of the message when the metadata have none
}

// FailedEntry is a message that was not published, and why.
type FailedEntry struct {
	ID  string
	Err error
}

// BulkPublish publishes the entries, not atomically, and returns those that
// failed. It fails as a whole only when nothing was tried: for a bad request,
// a forbidden topic, a policy that forbids the call, or a broker that is not
// ready.
func (b *Broker) BulkPublish(ctx context.Context, r *BulkPublishRequest) ([]FailedEntry, error) {
	if err := b.checkTopic(r.Topic, &b.publishing, "publish to"); err != nil {
		return nil, err
	}
	if err := checkEntries(r.Entries); err != nil {
		return nil, b.explain(err, "publish to", r.Topic)
	}
	p := bulkCall{broker: b, entries: make([]bulkEntry, len(r.Entries))}
	var later []int
	for i := range r.Entries {
		e := &r.Entries[i]
		m, due, err := b.message(ctx, &PublishRequest{
			Topic: r.Topic, Data: e.Data, ContentType: e.ContentType, Metadata: joinMetadata(r.Metadata, e.Metadata), Key: e.Key,
			TraceParent: r.TraceParent, TraceState: r.TraceState,
		}, time.Time{})
		p.entries[i] = bulkEntry{m, due, err}
		switch {
		case err != nil:
		case !due.IsZero():
			later = append(later, i)
		default:
			p.left = append(p.left, i)
			p.Bytes += len(m.Data)
		}
	}
	p.keepAll(ctx, later)
	if err := p.run(ctx, r.Topic); err != nil {
		if len(later) == 0 {
			return nil, b.explain(err, "publish to", r.Topic)
		}
		for _, i := range p.left {
			p.entries[i].err = err
		}
	}
	var failed []FailedEntry
	for i, e := range p.entries {
		if e.err != nil {
			failed = append(failed, FailedEntry{r.Entries[i].ID, b.explain(e.err, "publish to", r.Topic)})
		}
	}
	return failed, nil
}

func checkEntries(entries []PublishEntry) error {
	seen := make(map[string]struct{}, len(entries))
	for i, e := range entries {
		problem := ""
		if _, dup := seen[e.ID]; dup {
			problem = fmt.Sprintf("entry %d has the id %q of an earlier one", i+1, e.ID)
		}
		if e.ID == "" {
			problem = fmt.Sprintf("entry %d has no id", i+1)
		}
		if problem != "" {
			return fault.New(fault.InvalidArgument, "%s; entries of a bulk publish need ids that differ", problem).
				WithReason(ReasonMarshalEvents)
		}
		seen[e.ID] = struct{}{}
	}
	return nil
}

// joinMetadata returns the entry's metadata and, for what it does not say, the
// request's.
func joinMetadata(request, entry map[string]string) map[string]string {
	if len(request) == 0 {
		return entry
	}
	if len(entry) == 0 {
		return request
	}
	out := make(map[string]string, len(request)+len(entry))
	when := saysWhen(entry)
	for k, v := range request {
		if !when || !isDelay(k) {
			out[k] = v
		}
	}
	for k, v := range entry {
		out[k] = v
	}
	return out
}

// bulkCall is a BulkPublish under way. A retry of it tries only what may still
// succeed.
type bulkCall struct {
	policy.Call
	broker  *Broker
	entries []bulkEntry
	left    []int // which entries the next attempt tries
	tally   policy.Tally
}

type bulkEntry struct {
	message *Message
	due     time.Time // zero for now
	err     error
}

// run carries out the call through the policies. It returns an error only when
// no attempt was made.
func (p *bulkCall) run(ctx context.Context, topic string) error {
	if len(p.left) == 0 {
		return nil
	}
	p.Key, p.Idempotent, p.Tally = topic, true, &p.tally
	sending := p.left
	tried := false
	err := p.broker.bulkPublish.Run(ctx, &p.Call, func(ctx context.Context) error {
		d, err := p.broker.handle.Get(ctx)
		if err != nil {
			return err
		}
		tried = true
		err = p.attempt(ctx, d)
		p.count(sending)
		return err
	})
	if tried {
		return nil
	}
	return err
}

// count brings the tally of the entries that are sent up to date.
func (p *bulkCall) count(sending []int) {
	p.tally = policy.Tally{}
	for _, i := range sending {
		if p.entries[i].err == nil {
			p.tally.Done++
		} else {
			p.tally.Failed++
		}
	}
}

// attempt publishes what is left and returns an error when some of it failed,
// one that is worth another attempt if there is any.
func (p *bulkCall) attempt(ctx context.Context, d Driver) error {
	if bp, ok := d.(BulkPublisher); ok {
		messages := make([]*Message, len(p.left))
		for j, i := range p.left {
			messages[j] = p.entries[i].message
		}
		for j, err := range bp.BulkPublish(ctx, messages) {
			p.entries[p.left[j]].err = err
		}
	} else {
		p.fanOut(ctx, d)
	}
	var again []int
	var worth, other error
	for _, i := range p.left {
		err := p.entries[i].err
		switch {
		case err == nil:
		case fault.CodeOf(err).Retryable() || fault.CodeOf(err) == fault.DeadlineExceeded:
			again = append(again, i)
			worth = err
		default:
			other = err
		}
	}
	p.left = again
	if worth != nil {
		return worth
	}
	return other
}

// fanOut publishes what is left one by one, several at a time. Messages with
// the same key keep their order.
func (p *bulkCall) fanOut(ctx context.Context, d Driver) {
	lanes, laneOf := [][]int{}, map[string]int{}
	for _, i := range p.left {
		key := p.entries[i].message.Key
		lane, ok := laneOf[key]
		if !ok || key == "" {
			lane = len(lanes)
			lanes = append(lanes, nil)
			laneOf[key] = lane
		}
		lanes[lane] = append(lanes[lane], i)
	}
	var next atomic.Int64
	var wg sync.WaitGroup
	for range min(len(lanes), bulkParallelism) {
		wg.Go(func() {
			for {
				n := int(next.Add(1)) - 1
				if n >= len(lanes) {
					return
				}
				for _, i := range lanes[n] {
					p.entries[i].err = d.Publish(ctx, p.entries[i].message)
				}
			}
		})
	}
	wg.Wait()
}
