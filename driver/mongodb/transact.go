package mongodb

import (
	"context"

	"github.com/google/uuid"
	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
	"go.mongodb.org/mongo-driver/v2/mongo/readconcern"
	"go.mongodb.org/mongo-driver/v2/mongo/readpref"
	"go.mongodb.org/mongo-driver/v2/mongo/writeconcern"

	"github.com/proa-io/proa/block/state"
	"github.com/proa-io/proa/driver/internal/sqlstate"
	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/internal/textkey"
)

// MaxTransaction implements state.Transactor: there is no limit.
func (s *State) MaxTransaction() int { return 0 }

// Transact implements state.Transactor. A server that is of no replica set has
// no transactions: more than one operation is Unimplemented there.
func (s *State) Transact(ctx context.Context, ops []state.Op, _ state.TransactOptions) error {
	if len(ops) == 0 {
		return ctx.Err()
	}
	if !s.replica {
		if len(ops) == 1 {
			return s.one(ctx, &ops[0])
		}
		return s.call(ctx, func(context.Context) error {
			if s.life.Err() != nil {
				return state.ErrClosed()
			}
			return fault.New(fault.Unimplemented, "transactions of several keys want a MongoDB that is a replica set or a sharded cluster").
				WithReason(state.ReasonTransactionsNotSupported)
		})
	}
	encode := func(key string) (string, error) { return textkey.Encode(key), nil }
	p, err := sqlstate.NewPlan(ops, encode, func(etag string) (string, error) { return etag, nil })
	if err != nil {
		return err
	}
	models, err := s.writes(ops, p.Writes)
	if err != nil {
		return err
	}
	return s.call(ctx, func(ctx context.Context) error {
		session, err := s.client.StartSession()
		if err != nil {
			return err
		}
		defer session.EndSession(context.WithoutCancel(ctx))
		opt := options.Transaction().SetReadConcern(readconcern.Snapshot()).SetWriteConcern(writeconcern.Majority()).SetReadPreference(readpref.Primary())
		// It is carried out again when others have been faster.
		_, err = session.WithTransaction(ctx, func(ctx context.Context) (any, error) { return nil, s.carryOut(ctx, p, models) }, opt)
		return err
	})
}

// one carries out a transaction of a single operation.
func (s *State) one(ctx context.Context, op *state.Op) (err error) {
	if op.Delete {
		err = s.Delete(ctx, op.Key, state.DeleteOptions{ETag: op.ETag})
	} else {
		_, err = s.Put(ctx, op.Key, op.Value, op.PutOptions)
	}
	if fault.Is(err, fault.Aborted) || fault.Is(err, fault.InvalidArgument) {
		return &state.OpError{Err: err}
	}
	return err
}

// writes returns what the operations at the given places, each of a key of its
// own, do to the collection.
func (s *State) writes(ops []state.Op, places []int) ([]mongo.WriteModel, error) {
	var out []mongo.WriteModel
	now := s.now()
	for _, i := range places {
		op := &ops[i]
		filter := bson.D{is(op.Key)}
		if op.Delete {
			out = append(out, mongo.NewDeleteOneModel().SetFilter(filter))
			continue
		}
		d, err := newDocument(op.Key, op.Value, uuid.NewString(), &op.PutOptions, now)
		if err != nil {
			return nil, &state.OpError{Index: i, Err: err}
		}
		out = append(out, mongo.NewReplaceOneModel().SetFilter(filter).SetReplacement(d).SetUpsert(true))
	}
	return out, nil
}

// carryOut carries out a plan within a transaction. What it only reads, it
// writes to: a transaction sees what there was when it began, and only those
// that write the same get in each other's way.
func (s *State) carryOut(ctx context.Context, p *sqlstate.Plan, models []mongo.WriteModel) error {
	if p.Conditional {
		filter := bson.D{{Key: fieldID, Value: bson.D{{Key: "$in", Value: p.Keys}}}, s.live()}
		etags := map[string]string{}
		err := s.each(ctx, s.items, filter, func(d *document) error {
			etags[d.ID] = d.ETag
			return nil
		})
		if err != nil {
			return err
		}
		claims, err := p.Check(etags)
		if err != nil {
			return err
		}
		mark := bson.D{{Key: "$set", Value: bson.D{{Key: fieldCheck, Value: uuid.NewString()}}}}
		if _, err := s.items.UpdateMany(ctx, filter, mark); err != nil {
			return err
		}
		for _, c := range claims {
			if c.Written {
				continue
			}
			id := bson.D{{Key: fieldID, Value: c.Key}}
			if _, err := s.items.UpdateOne(ctx, id, mark, options.UpdateOne().SetUpsert(true)); err != nil {
				return err
			}
			if _, err := s.items.DeleteOne(ctx, id); err != nil { // it was only to stay free
				return err
			}
		}
	}
	if len(models) == 0 {
		return nil
	}
	_, err := s.items.BulkWrite(ctx, models)
	return err
}
