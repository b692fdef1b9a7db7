package nats

import (
	"context"
	"strconv"

	"github.com/proa-io/proa/block/state"
	"github.com/proa-io/proa/engine"
)

// Query implements state.Querier. It looks at every item of the application, of
// which there may be 100,000.
func (s *State) Query(ctx context.Context, scope state.Scope, q *state.Query, _ state.QueryOptions) (state.QueryPage, error) {
	if err := s.usable(ctx); err != nil {
		return state.QueryPage{}, err
	}
	selector, err := state.NewSelector(q, state.ScanBounds())
	if err != nil {
		return state.QueryPage{}, err
	}
	err = s.bucket.Each(ctx, patternOf(scope.Prefix), func(e engine.Entry) error {
		key, ok := decodeStateKey(e.Key, e.Header.Get(keyHeader))
		if !ok || !scope.Holds(key) || over(e) {
			return nil
		}
		item := state.Item{Value: e.Value, ETag: strconv.FormatUint(e.Revision, 10), Expires: endOf(e)}
		return selector.Add(state.QueryItem{Key: key, Item: item})
	})
	if err != nil {
		return state.QueryPage{}, err
	}
	return selector.Page(), nil
}
