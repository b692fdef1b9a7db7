package outbox

import (
	"cmp"
	"context"
	"time"

	"github.com/proa-io/proa/fault"
)

// Bounds of one call of the publisher.
const (
	maxBatch       = 500
	maxBatchBytes  = 1 << 20
	publishTimeout = 30 * time.Second
)

// A lane publishes the messages of one place, one batch after the other. A
// message that fails is tried again; those with the same key wait for it, the
// others do not.
type lane struct {
	session *session
	place   place
	fresh   chan struct{} // has room for one: queue has got longer

	// Guarded by session.mu.
	queue []*queued

	// Belongs to run.
	stuck map[string]stuckKey
	said  string
}

// queued is a message in a lane.
type queued struct {
	Message
	row  *row
	done bool
}

// stuckKey is a key whose oldest message failed.
type stuckKey struct {
	failures int
	until    time.Time
}

// push appends a message. session.mu is held.
func (l *lane) push(q *queued) {
	l.queue = append(l.queue, q)
	l.session.bytes += len(q.Envelope)
	select {
	case l.fresh <- struct{}{}:
	default:
	}
}

// run publishes until the queue is empty or the session ends.
func (l *lane) run() {
	failures := 0
	for {
		batch, wait := l.batch()
		if batch == nil && wait == 0 {
			return
		}
		if batch != nil {
			err := l.publish(batch)
			if err == nil {
				failures = 0
				continue
			}
			failures++
			wait = max(backOff(failures), fault.RetryAfterOf(err))
		}
		timer := time.NewTimer(wait)
		fresh := l.fresh
		if batch != nil {
			fresh = nil // it would fail as well
		}
		select {
		case <-l.session.ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		case <-fresh:
			timer.Stop()
		}
	}
}

// backOff returns how long to wait after so many failures in a row.
func backOff(failures int) time.Duration {
	if failures > 10 {
		return lastTrouble
	}
	return min(firstTrouble<<(failures-1), lastTrouble)
}

// batch returns what to publish next, oldest first. When everything has to
// wait it returns how long; when there is nothing, or the session is over,
// nothing at all, and the lane is gone.
func (l *lane) batch() ([]*queued, time.Duration) {
	s := l.session
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(l.queue) == 0 || s.ctx.Err() != nil {
		delete(s.lanes, l.place) // the next message makes a new one
		return nil, 0
	}
	now, size := time.Now(), 0
	var out []*queued
	wait := lastTrouble
	var again map[string]bool // keys of which one message is tried again, alone
	for _, q := range l.queue {
		if k, ok := l.stuck[q.Key]; ok {
			if left := k.until.Sub(now); left > 0 || again[q.Key] {
				wait = min(wait, left)
				continue
			}
			if again == nil {
				again = map[string]bool{}
			}
			again[q.Key] = true
		}
		if len(out) == maxBatch || size > 0 && size+len(q.Envelope) > maxBatchBytes {
			break
		}
		size += len(q.Envelope)
		out = append(out, q)
	}
	if out == nil {
		return nil, max(wait, time.Millisecond)
	}
	return out, 0
}

// publish publishes a batch. It returns an error when the broker takes nothing
// at all now.
func (l *lane) publish(batch []*queued) error {
	messages := make([]Message, len(batch))
	for i, q := range batch {
		messages[i] = q.Message
	}
	ctx, cancel := context.WithTimeout(l.session.ctx, publishTimeout)
	defer cancel()
	errs := l.session.o.opts.Publisher.Publish(ctx, l.place.pubsub, l.place.topic, messages)
	failed, first := l.settle(batch, errs)
	l.report(failed, first)
	l.session.o.nudge()
	if failed == len(batch) && worthWaiting(first) {
		return first
	}
	return nil
}

// worthWaiting reports whether an error is about the broker rather than about
// one message.
func worthWaiting(err error) bool {
	switch fault.CodeOf(err) {
	case fault.Unavailable, fault.DeadlineExceeded, fault.Canceled, fault.ResourceExhausted:
		return true
	}
	return false
}

// settle takes over what became of a batch, and returns how many are to be
// published again, and why the first of them failed.
func (l *lane) settle(batch []*queued, errs []error) (failed int, first error) {
	s := l.session
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	var stuck map[string]bool // the keys of which a message of this batch failed
	for i, q := range batch {
		err := errs[i]
		switch {
		case stuck[q.Key]:
			// It came after one that failed, and has to come after it again.
			failed++
		case err != nil:
			failed++
			first = cmp.Or(first, err)
			if stuck == nil {
				stuck = map[string]bool{}
			}
			stuck[q.Key] = true
			if l.stuck == nil {
				l.stuck = map[string]stuckKey{}
			}
			k := l.stuck[q.Key]
			k.failures++
			k.until = now.Add(max(backOff(k.failures), fault.RetryAfterOf(err)))
			l.stuck[q.Key] = k
		default:
			q.done = true
			delete(l.stuck, q.Key)
			s.published(q)
		}
	}
	if failed == len(batch) && worthWaiting(first) {
		clear(l.stuck) // it is the broker, and the whole lane waits
	}
	l.sweep(len(batch), failed)
	return failed, first
}

// sweep takes the messages that are published out of the queue. session.mu is
// held.
func (l *lane) sweep(batch, failed int) {
	if failed == batch {
		return
	}
	left := l.queue[:0]
	for _, q := range l.queue {
		if !q.done {
			left = append(left, q)
		}
	}
	clear(l.queue[len(left):])
	l.queue = left
}

// report logs when messages begin to fail, and when they are published again.
func (l *lane) report(failed int, err error) {
	log := l.session.o.log.With("pubsub", l.place.pubsub, "topic", l.place.topic)
	switch {
	case err == nil && l.said != "" && failed == 0 && len(l.stuck) == 0:
		l.said = ""
		log.InfoContext(l.session.ctx, "events of the outbox are published again")
	case err != nil && l.session.ctx.Err() == nil && err.Error() != l.said:
		l.said = err.Error()
		log.WarnContext(l.session.ctx, "events of the outbox cannot be published and wait", "error", err)
	}
}
