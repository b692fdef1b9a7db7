package etcd

import (
	"context"
	"errors"
	"io"
	"strconv"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"

	"github.com/proa-io/proa/block/state"
)

// pageSize is how many of the initial items of a watch are read at once.
const pageSize = 500

// Watch implements state.Watcher. A revision is one of the cluster.
func (s *State) Watch(ctx context.Context, prefix string, opt state.WatchOptions, report func(state.Change) error) error {
	if err := s.client.ready(ctx); err != nil {
		return err
	}
	w := stateWatch{state: s, prefix: s.path + prefix, report: report}
	if err := w.begin(ctx, opt); err != nil {
		return err
	}
	err := w.follow(ctx)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
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

// follow reports changes until there is a reason to stop. It speaks the protocol
// of watches itself: the client library would hide that the connection was lost,
// and keep in memory without bound what a slow report does not take. Here the
// cluster keeps it.
func (w *stateWatch) follow(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends the stream
	stream, err := etcdserverpb.NewWatchClient(w.state.client.ActiveConnection()).
		Watch(clientv3.WithRequireLeader(ctx), grpc.MaxCallRecvMsgSize(maxReceive))
	if err != nil {
		return w.state.client.classify(ctx, err)
	}
	err = stream.Send(&etcdserverpb.WatchRequest{RequestUnion: &etcdserverpb.WatchRequest_CreateRequest{
		CreateRequest: &etcdserverpb.WatchCreateRequest{
			Key: []byte(w.prefix), RangeEnd: []byte(clientv3.GetPrefixRangeEnd(w.prefix)), StartRevision: w.done + 1,
		},
	}})
	if err != nil && !errors.Is(err, io.EOF) { // Recv says why
		return w.state.client.classify(ctx, err)
	}
	for {
		answer, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF):
			err = errWatchEnded()
			fallthrough
		case err != nil:
			return w.state.client.classify(ctx, err)
		case answer.GetCompactRevision() != 0:
			return state.ErrRevisionGone()
		case answer.GetCanceled():
			return w.state.client.classify(ctx, errors.New(answer.GetCancelReason()))
		}
		if err := w.take(ctx, answer); err != nil {
			return err
		}
	}
}

func (w *stateWatch) take(ctx context.Context, answer *etcdserverpb.WatchResponse) error {
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
		if e.Type == mvccpb.PUT {
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
