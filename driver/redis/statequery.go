package redis

import (
	"context"
	"slices"

	"github.com/proa-io/proa/block/state"
	"github.com/proa-io/proa/fault"
)

// Query implements state.Querier. It needs no module of the server: it looks at
// every item of the application, of which there may be 100,000, at the cost of a
// scan of all keys.
func (s *State) Query(ctx context.Context, scope state.Scope, q *state.Query, _ state.QueryOptions) (state.QueryPage, error) {
	selector, err := state.NewSelector(q, state.ScanBounds())
	if err != nil {
		return state.QueryPage{}, err
	}
	if s.client.cluster {
		return state.QueryPage{}, fault.New(fault.Unimplemented, "querying the items of a redis cluster is not supported").
			WithReason(state.ReasonQueryNotAvailable)
	}
	seen := map[string]struct{}{} // a scan may show a key twice
	err = s.scan(ctx, scope.Prefix, func(page []string) error {
		keys := slices.DeleteFunc(page, func(k string) bool {
			_, twice := seen[k]
			if !twice && scope.Holds(k) {
				seen[k] = struct{}{}
				return false
			}
			return true
		})
		return s.show(ctx, keys, selector)
	})
	if err != nil {
		return state.QueryPage{}, err
	}
	return selector.Page(), nil
}

// show shows the items at keys.
func (s *State) show(ctx context.Context, keys []string, selector *state.Selector) error {
	for i, res := range s.BulkGet(ctx, keys, state.GetOptions{}) {
		if res.Err != nil {
			return res.Err
		}
		if !res.Found {
			continue
		}
		if err := selector.Add(state.QueryItem{Key: keys[i], Item: res.Item}); err != nil {
			return err
		}
	}
	return nil
}
