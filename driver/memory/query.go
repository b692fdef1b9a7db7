package memory

import (
	"context"
	"time"

	"github.com/proa-io/proa/block/state"
)

// Query implements state.Querier. It reads every value of the scope.
func (s *State) Query(ctx context.Context, scope state.Scope, q *state.Query, _ state.QueryOptions) (state.QueryPage, error) {
	if err := s.usable(ctx); err != nil {
		return state.QueryPage{}, err
	}
	selector, err := state.NewSelector(q, state.Bounds{})
	if err != nil {
		return state.QueryPage{}, err
	}
	for i := range s.shards {
		if err := ctx.Err(); err != nil {
			return state.QueryPage{}, err
		}
		for _, e := range s.shards[i].entries(scope, time.Now()) {
			item := state.Item{Value: e.value, ETag: e.etag, Expires: e.expires}
			if err := selector.Add(state.QueryItem{Key: e.key, Item: item}); err != nil {
				return state.QueryPage{}, err
			}
		}
	}
	return selector.Page(), nil
}

// entries returns the live items of a scope.
func (sh *shard) entries(scope state.Scope, now time.Time) (out []*entry) {
	sh.mu.RLock()
	defer sh.mu.RUnlock()
	for k, e := range sh.items {
		if e.live(now) && scope.Holds(k) {
			out = append(out, e)
		}
	}
	return out
}
