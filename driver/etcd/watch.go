package etcd

import (
	"context"
	"errors"
	"strconv"
	"sync"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/proa-io/proa/block/state"
)

// Bounds of a watch.
const (
	// pageSize is how many of the initial items are read at once.
	pageSize = 500
	// backlog is how many answers of the cluster wait for a slow report. Beyond
	// it the watch stops and is begun anew where the report has got to: etcd
	// remembers what came since, until its history is compacted.
	backlog = 64
)

// Watch implements state.Watcher. A revision is one of the cluster.
func (s *State) Watch(ctx context.Context, prefix string, opt state.WatchOptions, report func(state.Change) error) error {
	if err := s.client.ready(ctx); err != nil {
		return err
	}
	w := stateWatch{state: s, prefix: s.path + prefix, report: report}
	if err := w.begin(ctx, opt); err != nil {
		return err
	}
	for {
		if err := w.session(ctx); err != nil {
			return err
		}
	}
}

// stateWatch is one Watch under way.
type stateWatch struct {
	state  *State
	prefix string // of the keys in etcd
	report func(state.Change) error
	done   int64 // the last revision of which everything has been reported
}

// begin reports what comes before the changes.
func (w *stateWatch) begin(ctx context.Context, opt state.WatchOptions) error {
	// Linearizable: a member that lags must not make us believe that a revision
	// lies in the future, nor pass over a write that has been acknowledged.
	now, err := w.state.client.Client.Get(ctx, w.prefix, clientv3.WithCountOnly())
	if err != nil {
		return w.state.client.classify(ctx, err)
	}
	w.done = now.Header.Revision
	switch {
	case opt.After != "":
		after, err := strconv.ParseInt(opt.After, 10, 64)
		if err != nil || after < 0 || strconv.FormatInt(after, 10) != opt.After {
			return state.ErrRevisionInvalid("revisions are whole numbers")
		}
		if after > w.done {
			return state.ErrRevisionInvalid("the cluster has not come so far: was it restored from a backup?")
		}
		w.done = after
		if err := w.check(ctx); err != nil {
			return err
		}
	case opt.Initial:
		if err := w.initial(ctx); err != nil {
			return err
		}
	}
	return w.report(state.Change{Kind: state.Synced, Revision: strconv.FormatInt(w.done, 10)})
}

// check fails when the cluster has forgotten what came after w.done.
func (w *stateWatch) check(ctx context.Context) error {
	if w.done == 0 {
		return nil // watching from the first revision tells
	}
	_, err := w.state.client.Client.Get(ctx, w.prefix, clientv3.WithCountOnly(), clientv3.WithRev(w.done))
	if errors.Is(err, rpctypes.ErrCompacted) {
		return state.ErrRevisionGone()
	}
	return w.state.client.classify(ctx, err)
}

// initial reports the items that there are at revision w.done.
func (w *stateWatch) initial(ctx context.Context) error {
	for start, end := w.prefix, clientv3.GetPrefixRangeEnd(w.prefix); ; {
		page, err := w.state.client.Client.Get(ctx, start, clientv3.WithRange(end), clientv3.WithRev(w.done), clientv3.WithLimit(pageSize))
		if errors.Is(err, rpctypes.ErrCompacted) {
			return state.ErrRevisionGone()
		}
		if err != nil {
			return w.state.client.classify(ctx, err)
		}
		for _, kv := range page.Kvs {
			item, err := w.state.item(ctx, kv)
			if err != nil {
				return err
			}
			if err := w.report(state.Change{Kind: state.ItemPut, Key: string(kv.Key[len(w.state.path):]), Item: item}); err != nil {
				return err
			}
			start = string(kv.Key) + "\x00"
		}
		if !page.More {
			return nil
		}
	}
}

// session reports changes until there is a reason to stop, or it cannot keep
// up: then it returns nil, to be called again.
func (w *stateWatch) session(ctx context.Context) error {
	watching, cancel := context.WithCancel(ctx)
	defer cancel()
	answers := w.state.client.Watch(clientv3.WithRequireLeader(watching), w.prefix, clientv3.WithPrefix(), clientv3.WithRev(w.done+1))
	queue := make(chan clientv3.WatchResponse, backlog)
	overrun := false // to be read once queue is closed
	var reading sync.WaitGroup
	defer reading.Wait()
	defer cancel()
	reading.Go(func() {
		defer close(queue)
		for answer := range answers { // ends soon after cancel
			select {
			case queue <- answer:
			default:
				overrun = true
				cancel()
			}
			if overrun {
				return
			}
		}
	})
	for answer := range queue {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		if err := w.take(ctx, answer); err != nil {
			return err
		}
	}
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case overrun:
		return nil
	}
	return w.state.client.classify(ctx, errWatchEnded())
}

func (w *stateWatch) take(ctx context.Context, answer clientv3.WatchResponse) error {
	if err := answer.Err(); err != nil {
		if errors.Is(err, rpctypes.ErrCompacted) {
			return state.ErrRevisionGone()
		}
		return w.state.client.classify(ctx, err)
	}
	for i, e := range answer.Events {
		// Several changes may share a revision, and come together: only with
		// the last of them it has been reported.
		if i == len(answer.Events)-1 || answer.Events[i+1].Kv.ModRevision != e.Kv.ModRevision {
			w.done = e.Kv.ModRevision
		} else {
			w.done = e.Kv.ModRevision - 1
		}
		change := state.Change{
			Kind: state.ItemGone, Key: string(e.Kv.Key[len(w.state.path):]), Revision: strconv.FormatInt(w.done, 10),
		}
		if e.Type == clientv3.EventTypePut {
			item, err := w.state.item(ctx, e.Kv)
			if err != nil {
				return err
			}
			change.Kind, change.Item = state.ItemPut, item
		}
		if err := w.report(change); err != nil {
			return err
		}
	}
	return nil
}
