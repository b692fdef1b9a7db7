package mongodb

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/google/uuid"
	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
	"go.mongodb.org/mongo-driver/v2/mongo/readconcern"
	"go.mongodb.org/mongo-driver/v2/mongo/readpref"

	"github.com/proa-io/proa/block/state"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/internal/textkey"
)

// State is a state.Driver on a collection of MongoDB.
//
// A read of strong consistency asks the primary, whatever the connection string
// prefers. Whether something has expired is judged by the clock of the server,
// as far as it can be known from here: how much it differed when the store was
// opened.
type State struct {
	cfg     StateConfig
	client  *mongo.Client
	items   *mongo.Collection
	primary *mongo.Collection // the same, read from the primary
	settled *mongo.Collection // the same, as change streams want it
	ahead   time.Duration     // of the server's clock
	replica bool              // there are transactions and change streams
	life    context.Context   //nolint:containedctx // of the store itself; ends with Close
	end     context.CancelFunc
}

// OpenState connects to the server and makes sure that there is an index by
// which it removes what has expired.
func OpenState(ctx context.Context, cfg StateConfig, _ component.Env) (*State, error) {
	client, err := mongo.Connect(cfg.client())
	if err != nil {
		return nil, component.Invalid("connectionString", "cannot be used: %v", bare(err))
	}
	s := &State{cfg: cfg, client: client, items: client.Database(cfg.DatabaseName).Collection(cfg.CollectionName, cfg.collection())}
	s.primary = client.Database(cfg.DatabaseName).Collection(cfg.CollectionName, cfg.collection().SetReadPreference(readpref.Primary()))
	s.settled = client.Database(cfg.DatabaseName).Collection(cfg.CollectionName, options.Collection().SetReadConcern(readconcern.Majority()))
	s.life, s.end = context.WithCancel(context.WithoutCancel(ctx))
	if err := s.call(ctx, s.prepare); err != nil {
		_ = s.Close()
		return nil, err
	}
	return s, nil
}

// prepare learns what the server is and creates the index.
func (s *State) prepare(ctx context.Context) error {
	var hello struct {
		SetName   string    `bson:"setName"`
		Message   string    `bson:"msg"`
		LocalTime time.Time `bson:"localTime"`
	}
	before := time.Now()
	greet := func(command string) error {
		return s.client.Database("admin").RunCommand(ctx, bson.D{{Key: command, Value: 1}}).Decode(&hello)
	}
	err := greet("hello")
	if hasNumber(err, errNoSuchCommand) { // of the protocol's other speakers
		err = greet("isMaster")
	}
	if err != nil {
		return err
	}
	if trip := time.Since(before); !hello.LocalTime.IsZero() {
		s.ahead = hello.LocalTime.Sub(before.Add(trip / 2))
	}
	const sharded = "isdbgrid"
	s.replica = hello.SetName != "" || hello.Message == sharded
	_, err = s.items.Indexes().CreateOne(ctx, mongo.IndexModel{
		Keys: bson.D{{Key: fieldTTL, Value: 1}}, Options: options.Index().SetExpireAfterSeconds(0),
	})
	return err
}

// now returns what the server's clock shows.
func (s *State) now() time.Time { return time.Now().Add(s.ahead) }

// call runs f within the timeout of the component and names its error.
func (s *State) call(ctx context.Context, f func(context.Context) error) error {
	if err := ctx.Err(); err != nil {
		return classify(ctx, err)
	}
	limited, cancel := context.WithTimeout(ctx, s.cfg.OperationTimeout.Std())
	defer cancel()
	err := f(limited)
	if err != nil && s.life.Err() != nil {
		return state.ErrClosed()
	}
	return classify(ctx, err)
}

// closeWithin bounds the farewell to the servers.
const closeWithin = 2 * time.Second

// Close ends the connections.
func (s *State) Close() error {
	s.end()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.life), closeWithin)
	defer cancel()
	if err := s.client.Disconnect(ctx); err != nil && !errors.Is(err, mongo.ErrClientDisconnected) && ctx.Err() == nil {
		return fault.Wrap(bare(err), fault.Unavailable, "the connections have not ended in order")
	}
	return nil
}

// live is the condition that an item has not expired.
func (s *State) live() bson.E {
	return bson.E{Key: "$or", Value: bson.A{
		bson.D{{Key: fieldTTL, Value: nil}}, // or there is no such field
		bson.D{{Key: fieldTTL, Value: bson.D{{Key: "$gt", Value: s.now()}}}},
	}}
}

func is(key string) bson.E { return bson.E{Key: fieldID, Value: textkey.Encode(key)} }

// Get implements state.Driver.
func (s *State) Get(ctx context.Context, key string, opt state.GetOptions) (item state.Item, found bool, err error) {
	err = s.call(ctx, func(ctx context.Context) error {
		var d document
		err := s.from(opt).FindOne(ctx, bson.D{is(key), s.live()}).Decode(&d)
		if errors.Is(err, mongo.ErrNoDocuments) {
			return nil
		}
		if err != nil {
			return err
		}
		found = true
		item, err = d.item()
		return err
	})
	return item, found && err == nil, err
}

func (s *State) from(opt state.GetOptions) *mongo.Collection {
	if opt.Consistency == state.Strong {
		return s.primary
	}
	return s.items
}

// BulkGet implements state.BulkGetter.
func (s *State) BulkGet(ctx context.Context, keys []string, opt state.GetOptions) []state.GetResult {
	out := make([]state.GetResult, len(keys))
	ids := make([]string, len(keys))
	for i, k := range keys {
		ids[i] = textkey.Encode(k)
	}
	found := make(map[string]state.GetResult, len(keys))
	err := s.call(ctx, func(ctx context.Context) error {
		return s.each(ctx, s.from(opt), bson.D{{Key: fieldID, Value: bson.D{{Key: "$in", Value: ids}}}, s.live()}, func(d *document) error {
			item, err := d.item()
			found[d.ID] = state.GetResult{Item: item, Found: err == nil, Err: err}
			return nil
		})
	})
	for i, id := range ids {
		if err != nil {
			out[i].Err = err
		} else {
			out[i] = found[id]
		}
	}
	return out
}

// each calls f for each document that a filter finds.
func (s *State) each(ctx context.Context, from *mongo.Collection, filter bson.D, f func(*document) error, opts ...options.Lister[options.FindOptions]) (err error) {
	cursor, err := from.Find(ctx, filter, opts...)
	if err != nil {
		return err
	}
	defer func() { _ = cursor.Close(ctx) }() // the first error counts
	for cursor.Next(ctx) {
		var d document
		if err := cursor.Decode(&d); err != nil {
			return fault.Wrap(err, fault.FailedPrecondition, "the collection holds a document that is no item")
		}
		if err := f(&d); err != nil {
			return err
		}
	}
	return cursor.Err()
}

// Put implements state.Driver.
func (s *State) Put(ctx context.Context, key string, value []byte, opt state.PutOptions) (etag string, err error) {
	etag = uuid.NewString()
	d, err := newDocument(key, value, etag, &opt, s.now())
	if err != nil {
		return "", err
	}
	if err := s.call(ctx, func(ctx context.Context) error { return s.put(ctx, d, key, &opt) }); err != nil {
		return "", err
	}
	return etag, nil
}

// attempts is how often a write is carried out that met another one which
// created the same item: then there is something to overwrite.
const attempts = 10

func (s *State) put(ctx context.Context, d *document, key string, opt *state.PutOptions) error {
	upsert := options.Replace().SetUpsert(true)
	switch {
	case opt.ETag != "":
		res, err := s.items.ReplaceOne(ctx, bson.D{is(key), {Key: fieldETag, Value: opt.ETag}, s.live()}, d)
		if err == nil && res.MatchedCount == 0 {
			return state.ErrETagMismatch()
		}
		return err
	case opt.FirstWrite:
		// What is there and has not expired is not found, and then the new
		// item's key is a duplicate.
		expired := bson.E{Key: fieldTTL, Value: bson.D{{Key: "$lte", Value: s.now()}}}
		_, err := s.items.ReplaceOne(ctx, bson.D{is(key), expired}, d, upsert)
		if hasNumber(err, errDuplicateKey) {
			return state.ErrExists()
		}
		return err
	}
	_, err := s.items.ReplaceOne(ctx, bson.D{is(key)}, d, upsert)
	for n := 1; n < attempts && hasNumber(err, errDuplicateKey); n++ {
		_, err = s.items.ReplaceOne(ctx, bson.D{is(key)}, d, upsert)
	}
	return err
}

// Delete implements state.Driver.
func (s *State) Delete(ctx context.Context, key string, opt state.DeleteOptions) error {
	return s.call(ctx, func(ctx context.Context) error {
		if opt.ETag == "" {
			_, err := s.items.DeleteOne(ctx, bson.D{is(key)})
			return err
		}
		res, err := s.items.DeleteOne(ctx, bson.D{is(key), {Key: fieldETag, Value: opt.ETag}, s.live()})
		if err == nil && res.DeletedCount == 0 {
			return state.ErrETagMismatch()
		}
		return err
	})
}

// BulkPut implements state.BulkPutter.
func (s *State) BulkPut(ctx context.Context, puts []state.PutOp) []state.PutResult {
	out := make([]state.PutResult, len(puts))
	var together []int
	var models []mongo.WriteModel
	seen := map[string]struct{}{}
	now := s.now()
	for i := range puts {
		p := &puts[i]
		_, repeated := seen[p.Key]
		seen[p.Key] = struct{}{}
		if p.ETag != "" || p.FirstWrite || repeated {
			continue
		}
		out[i].ETag = uuid.NewString()
		d, err := newDocument(p.Key, p.Value, out[i].ETag, &p.PutOptions, now)
		if err != nil {
			out[i] = state.PutResult{Err: err}
			continue
		}
		together = append(together, i)
		models = append(models, mongo.NewReplaceOneModel().SetFilter(bson.D{is(p.Key)}).SetReplacement(d).SetUpsert(true))
	}
	s.bulkWrite(ctx, models, func(n int, err error) { out[together[n]] = state.PutResult{Err: err} })
	for i := range puts {
		if out[i] == (state.PutResult{}) {
			out[i].ETag, out[i].Err = s.Put(ctx, puts[i].Key, puts[i].Value, puts[i].PutOptions)
		}
	}
	return out
}

// BulkDelete implements state.BulkDeleter.
func (s *State) BulkDelete(ctx context.Context, deletes []state.DeleteOp) []error {
	out := make([]error, len(deletes))
	var together []int
	var models []mongo.WriteModel
	for i, d := range deletes {
		if d.ETag != "" {
			out[i] = s.Delete(ctx, d.Key, d.DeleteOptions)
			continue
		}
		together = append(together, i)
		models = append(models, mongo.NewDeleteOneModel().SetFilter(bson.D{is(d.Key)}))
	}
	s.bulkWrite(ctx, models, func(n int, err error) { out[together[n]] = err })
	return out
}

// bulkWrite carries out writes in any order and calls failed for those that
// fail.
func (s *State) bulkWrite(ctx context.Context, models []mongo.WriteModel, failed func(n int, err error)) {
	if len(models) == 0 {
		return
	}
	var partly []mongo.BulkWriteError
	err := s.call(ctx, func(ctx context.Context) error {
		_, err := s.items.BulkWrite(ctx, models, options.BulkWrite().SetOrdered(false))
		if bulk, ok := errors.AsType[mongo.BulkWriteException](err); ok && bulk.WriteConcernError == nil && len(bulk.WriteErrors) > 0 {
			partly = bulk.WriteErrors
			return nil
		}
		return err
	})
	if err != nil {
		for n := range models {
			failed(n, err)
		}
	}
	for _, e := range partly {
		failed(e.Index, classifyReply(e.Code, false))
	}
}

// List implements state.Lister.
func (s *State) List(ctx context.Context, prefix, after string, limit int) (keys []string, err error) {
	err = s.call(ctx, func(ctx context.Context) error {
		for _, in := range ranges(prefix, after) {
			opt := options.Find().SetSort(bson.D{{Key: fieldID, Value: 1}}).SetLimit(int64(limit)).
				SetProjection(bson.D{{Key: fieldID, Value: 1}}).SetCollation(simple())
			err := s.each(ctx, s.items, bson.D{in, s.live()}, func(d *document) error {
				key, err := textkey.Decode(d.ID)
				if err == nil { // others are not ours
					keys = append(keys, key)
				}
				return nil
			}, opt)
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	slices.Sort(keys)
	return keys[:min(limit, len(keys))], nil
}

// simple orders text by its bytes, whatever the language of a collection.
func simple() *options.Collation { return &options.Collation{Locale: "simple"} }

// ranges returns the conditions on the identities of the items whose keys start
// with prefix and come after after; each is to be asked for on its own.
func ranges(prefix, after string) (out []bson.E) {
	plain, marked := textkey.Ranges(prefix, after)
	for _, r := range []textkey.Range{plain, marked} {
		if r.Empty {
			continue
		}
		cond := bson.D{{Key: "$gte", Value: r.First}}
		if r.End != "" {
			cond = append(cond, bson.E{Key: "$lt", Value: r.End})
		}
		if r == plain { // where marked ones are another order's
			cond = append(cond, bson.E{Key: "$not", Value: bson.Regex{Pattern: "^" + textkey.Marker}})
		}
		out = append(out, bson.E{Key: fieldID, Value: cond})
	}
	return out
}
