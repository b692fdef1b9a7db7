package mongodb

import (
	"context"
	"math"
	"strings"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"github.com/proa-io/proa/block/state"
	"github.com/proa-io/proa/internal/textkey"
)

// Query implements state.Querier. The server finds the items that may be meant,
// with the help of indexes on value.path where somebody has made such, and those
// are looked at here: arrays on a path, and what compares with what, mean
// something else to MongoDB. Values that are JSON but were not stored as such
// are looked at one and all.
func (s *State) Query(ctx context.Context, scope state.Scope, q *state.Query, _ state.QueryOptions) (state.QueryPage, error) {
	selector, err := state.NewSelector(q, state.ScanBounds())
	if err != nil {
		return state.QueryPage{}, err
	}
	err = s.call(ctx, func(ctx context.Context) error {
		for _, in := range ranges(scope.Prefix, "") {
			filter := bson.D{in, {Key: "$and", Value: bson.A{bson.D{s.live()}}}}
			if f, ok := superset(q.Filter); ok {
				// What is no document is to be looked at.
				opaque := bson.D{{Key: fieldValue, Value: bson.D{{Key: "$not", Value: bson.D{{Key: "$type", Value: "object"}}}}}}
				filter = append(filter, bson.E{Key: "$or", Value: bson.A{f, opaque}})
			}
			err := s.each(ctx, s.items, filter, func(d *document) error {
				key, err := textkey.Decode(d.ID)
				if err != nil || !scope.Holds(key) {
					return nil
				}
				item, err := d.item()
				if err != nil {
					return err
				}
				return selector.Add(state.QueryItem{Key: key, Item: item})
			}, options.Find().SetCollation(simple()))
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return state.QueryPage{}, err
	}
	return selector.Page(), nil
}

// superset returns a condition that holds for all documents that a filter
// selects, and some more; ok is false when it would hold for any.
func superset(f *state.Filter) (cond bson.D, ok bool) {
	if f == nil {
		return nil, false
	}
	switch f.Operator {
	case state.And:
		var all bson.A
		for _, inner := range f.Filters {
			if c, ok := superset(inner); ok {
				all = append(all, c)
			}
		}
		return bson.D{{Key: "$and", Value: all}}, len(all) > 0
	case state.Or:
		var all bson.A
		for _, inner := range f.Filters {
			c, ok := superset(inner)
			if !ok {
				return nil, false
			}
			all = append(all, c)
		}
		return bson.D{{Key: "$or", Value: all}}, true
	}
	operator, ok := map[state.Operator]string{
		state.Equal: "$in", state.In: "$in",
		state.Greater: "$gt", state.GreaterOrEqual: "$gte", state.Less: "$lt", state.LessOrEqual: "$lte",
	}[f.Operator]
	if !ok {
		return nil, false
	}
	for _, name := range f.Path {
		if strings.ContainsAny(name, "$.\x00") {
			return nil, false
		}
	}
	for _, o := range f.Operands {
		if !alike(o) {
			return nil, false
		}
	}
	var operand any = f.Operands
	if operator != "$in" {
		operand = f.Operands[0]
	}
	return bson.D{{Key: fieldValue + "." + strings.Join(f.Path, "."), Value: bson.D{{Key: operator, Value: operand}}}}, true
}

// alike reports whether MongoDB finds all that compares with an operand as a
// query says: not with what is missing, nor with whole numbers beyond those that
// a floating point number can tell apart.
func alike(operand any) bool {
	const exact = 1 << 53
	switch o := operand.(type) {
	case nil:
		return false
	case int64:
		return -exact < o && o < exact
	case float64:
		return math.Abs(o) < exact
	}
	return true
}
