package redis

import (
	"context"
	"slices"

	"github.com/proa-io/proa/block/state"
	"github.com/proa-io/proa/fault"
)

// Bounds of a query: how many items of an application it looks at, and how many
// bytes the values have together that its filter selects, on all pages.
const (
	maxQueried  = 100_000
	maxSelected = 256 << 20
)

// Query implements state.Querier. It needs no module of the server: it looks at
// every item of the application, of which there may be 100,000, at the cost of a
// scan of all keys.
func (s *State) Query(ctx context.Context, scope state.Scope, q *state.Query, _ state.QueryOptions) (state.QueryPage, error) {
	selector, err := state.NewSelector(q)
	if err != nil {
		return state.QueryPage{}, err
	}
	if s.client.cluster {
		return state.QueryPage{}, fault.New(fault.Unimplemented, "querying the items of a redis cluster is not supported").
			WithReason(state.ReasonQueryNotAvailable)
	}
	selected := 0
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
		if len(seen) > maxQueried {
			return fault.New(fault.FailedPrecondition, "there are more than %d items to look at, too many to query", maxQueried)
		}
		n, err := s.show(ctx, keys, selector)
		if selected += n; err == nil && selected > maxSelected {
			err = fault.New(fault.FailedPrecondition, "the values that the filter selects have more than %d bytes together", maxSelected)
		}
		return err
	})
	if err != nil {
		return state.QueryPage{}, err
	}
	return selector.Page(), nil
}

// show shows the items at keys, and returns the size of what was selected.
func (s *State) show(ctx context.Context, keys []string, selector *state.Selector) (selected int, err error) {
	for i, res := range s.BulkGet(ctx, keys, state.GetOptions{}) {
		if res.Err != nil {
			return 0, res.Err
		}
		if res.Found && selector.Add(state.QueryItem{Key: keys[i], Item: res.Item}) {
			selected += len(res.Item.Value)
		}
	}
	return selected, nil
}
