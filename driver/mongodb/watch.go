package mongodb

import (
	"context"
	"fmt"
	"hash/crc32"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"github.com/proa-io/proa/block/state"
	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/internal/textkey"
)

// Watch implements state.Watcher by a change stream, which only servers of a
// replica set have. It goes on after an interruption as long as the servers
// remember what was changed meanwhile, in their oplog.
func (s *State) Watch(ctx context.Context, prefix string, opt state.WatchOptions, report func(state.Change) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	w := &watch{State: s, prefix: prefix, report: report}
	if opt.After != "" {
		if err := w.goOn(opt.After); err != nil {
			return err
		}
	}
	watching, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(s.life, cancel)()
	err := w.run(watching, opt.Initial)
	switch {
	case w.failed != nil:
		return w.failed
	case ctx.Err() != nil:
		return ctx.Err()
	case s.life.Err() != nil:
		return state.ErrClosed()
	case hasNumber(err, errNoChangeStream, errUnknownStage):
		return fault.New(fault.Unimplemented, "change streams, which a watch stands on, want a MongoDB that is a replica set or a sharded cluster").
			WithReason(state.ReasonWatchNotSupported)
	case hasNumber(err, errHistoryLost, errCannotResume):
		return state.ErrRevisionGone()
	}
	return classify(ctx, err)
}

// watch is one Watch under way.
type watch struct {
	*State
	prefix string
	report func(state.Change) error
	failed error // of report

	// at is the time of the cluster of the last change, and count how many of
	// that time have been seen: those of a transaction have one time.
	at    bson.Timestamp
	count int
	skip  int // how many of the time at which it goes on have been reported
}

// revision returns the place in the stream. It holds for the changes of one
// prefix, which its sum stands for.
func (w *watch) revision() string {
	if w.at.IsZero() {
		return ""
	}
	return fmt.Sprintf("%d.%d.%d.%08x", w.at.T, w.at.I, w.count, w.sum())
}

func (w *watch) sum() uint32 { return crc32.ChecksumIEEE([]byte(w.prefix)) }

// goOn reads a revision.
func (w *watch) goOn(revision string) error {
	var sum uint32
	n, err := fmt.Sscanf(revision, "%d.%d.%d.%08x", &w.at.T, &w.at.I, &w.skip, &sum)
	if err != nil || n != 4 || w.skip < 0 || w.at.IsZero() || fmt.Sprintf("%d.%d.%d.%08x", w.at.T, w.at.I, w.skip, sum) != revision {
		return state.ErrRevisionInvalid("want four numbers with dots between, as it gave them")
	}
	if sum != w.sum() {
		w.skip = 0 // they may be others: some come again
	}
	return nil
}

func (w *watch) tell(c state.Change) error {
	w.failed = w.report(c)
	return w.failed
}

func (w *watch) run(ctx context.Context, initial bool) error {
	in := ctx
	if w.replica {
		session, err := w.client.StartSession()
		if err != nil {
			return err
		}
		defer session.EndSession(context.WithoutCancel(ctx))
		in = mongo.NewSessionContext(ctx, session)
		// Where it begins is asked for first: it is the revision of Synced.
		if err := w.client.Database("admin").RunCommand(in, bson.D{{Key: "ping", Value: 1}}).Err(); err != nil {
			return err
		}
		if at := session.OperationTime(); w.at.IsZero() && at != nil {
			w.at = *at
		}
	}
	var any bson.A
	for _, in := range ranges(w.prefix, "") {
		any = append(any, bson.D{{Key: "documentKey." + fieldID, Value: in.Value}})
	}
	changes := bson.D{{Key: "fullDocument", Value: "updateLookup"}}
	if !w.at.IsZero() {
		changes = append(changes, bson.E{Key: "startAtOperationTime", Value: w.at})
	}
	endings := bson.D{{Key: "operationType", Value: bson.D{{Key: "$in", Value: bson.A{"drop", "rename", "dropDatabase", "invalidate"}}}}}
	// Not the client library's change stream, which goes on by itself.
	stream, err := w.settled.Aggregate(in, mongo.Pipeline{
		{{Key: "$changeStream", Value: changes}}, {{Key: "$match", Value: bson.D{{Key: "$or", Value: append(any, endings)}}}},
	})
	if err != nil {
		return err
	}
	defer func() { _ = stream.Close(context.WithoutCancel(ctx)) }() // the first error counts
	w.count = w.skip
	if initial {
		if err := w.initial(ctx); err != nil {
			return err
		}
	}
	if err := w.tell(state.Change{Kind: state.Synced, Revision: w.revision()}); err != nil {
		return err
	}
	w.count = 0
	for stream.Next(ctx) {
		var e event
		if err := stream.Decode(&e); err != nil {
			return fault.Wrap(err, fault.FailedPrecondition, "the collection holds a document that is no item")
		}
		if err := w.event(&e); err != nil {
			return err
		}
	}
	return stream.Err()
}

// initial reports the items that there are.
func (w *watch) initial(ctx context.Context) error {
	for _, in := range ranges(w.prefix, "") {
		err := w.each(ctx, w.primary, bson.D{in, w.live()}, func(d *document) error {
			key, err := textkey.Decode(d.ID)
			if err != nil {
				return nil // not ours
			}
			item, err := d.item()
			if err != nil {
				return err
			}
			return w.tell(state.Change{Kind: state.ItemPut, Key: key, Item: item})
		}, options.Find().SetCollation(simple()))
		if err != nil {
			return err
		}
	}
	return nil
}

// event is what a change stream tells of one change.
type event struct {
	Operation string         `bson:"operationType"`
	Time      bson.Timestamp `bson:"clusterTime"`
	Key       struct {
		ID string `bson:"_id"`
	} `bson:"documentKey"`
	Document *document `bson:"fullDocument"`
}

func (w *watch) event(e *event) error {
	switch e.Operation {
	case "drop", "rename", "dropDatabase", "invalidate":
		return state.ErrRevisionGone()
	}
	if e.Time != w.at {
		w.at, w.count, w.skip = e.Time, 0, 0
	}
	if w.count++; w.count <= w.skip {
		return nil // it has been reported
	}
	key, err := textkey.Decode(e.Key.ID)
	if err != nil {
		return nil // not ours
	}
	c := state.Change{Kind: state.ItemGone, Key: key, Revision: w.revision()}
	if e.Operation != "delete" && e.Document != nil && !e.Document.Value.IsZero() { // else it has gone since
		c.Kind = state.ItemPut
		if c.Item, err = e.Document.item(); err != nil {
			return err
		}
	}
	return w.tell(c)
}
