package pluggable

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/types/known/anypb"

	componentsv1 "github.com/proa-io/proa/api/gen/dapr/proto/components/v1"
	"github.com/proa-io/proa/block/state"
	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/internal/textkey"
)

// Bounds of what one query makes a component answer. It knows no scopes, so it
// answers with the items of all applications.
const (
	maxAsked = 1000    // items at a time
	maxSeen  = 100_000 // items altogether
)

// queries is the state.Querier of a store.
type queries struct {
	s      *store
	client componentsv1.QueriableStateStoreClient
}

// Query implements state.Querier. A page is made up of what is in scope of as
// many pages of the component as it takes, from its first one on: so nothing of
// other applications shows in the token, which counts items.
func (q queries) Query(ctx context.Context, scope state.Scope, query *state.Query, opt state.QueryOptions) (state.QueryPage, error) {
	if err := q.s.ready(ctx); err != nil {
		return state.QueryPage{}, err
	}
	if err := texts(opt.Metadata); err != nil {
		return state.QueryPage{}, err
	}
	skip, err := skipOf(query.Token)
	if err != nil {
		return state.QueryPage{}, err
	}
	r, err := queryRequest(query, opt)
	if err != nil {
		return state.QueryPage{}, err
	}
	wanted := skip + query.Limit
	found, md, err := q.gather(ctx, scope, r, wanted)
	if err != nil {
		return state.QueryPage{}, err
	}
	page := state.QueryPage{Items: found[min(skip, len(found)):], Metadata: md}
	if len(page.Items) > query.Limit {
		page.Items, page.Token = page.Items[:query.Limit], strconv.Itoa(wanted)
	}
	return page, q.expiries(ctx, page.Items)
}

// gather asks for pages until more than wanted items are in scope.
func (q queries) gather(ctx context.Context, scope state.Scope, r *componentsv1.QueryRequest, wanted int) (found []state.QueryItem, md map[string]string, err error) {
	for seen := 0; ; {
		r.Query.Pagination.Limit = int64(min(maxAsked, wanted+1-len(found)))
		answer, err := q.client.Query(ctx, r)
		if err != nil {
			return nil, nil, q.s.quote(ctx, err)
		}
		if md == nil {
			md = answer.GetMetadata()
		}
		for _, i := range answer.GetItems() {
			item, err := queryItem(i)
			if err != nil {
				return nil, nil, err
			}
			if scope.Holds(item.Key) {
				found = append(found, item)
			}
		}
		seen += len(answer.GetItems())
		r.Query.Pagination.Token = answer.GetToken()
		switch {
		case len(found) > wanted, answer.GetToken() == "", len(answer.GetItems()) == 0:
			return found, md, nil
		case seen >= maxSeen:
			return nil, nil, fault.New(fault.FailedPrecondition, "there are more than %d items that the query selects, too many to look at", maxSeen)
		}
	}
}

func queryItem(i *componentsv1.QueryItem) (state.QueryItem, error) {
	if text := i.GetError(); text != "" {
		return state.QueryItem{}, fault.Wrap(errors.New(text), fault.Internal, "the component could not read an item")
	}
	key, err := textkey.Decode(i.GetKey())
	if err != nil {
		return state.QueryItem{}, fault.New(fault.Internal, "the component answered with a key that nobody wrote")
	}
	return state.QueryItem{Key: key, Item: state.Item{Value: i.GetData(), ETag: i.GetEtag().GetValue()}}, nil
}

// expiries asks when items expire, which the answer to a query has no place for.
func (q queries) expiries(ctx context.Context, items []state.QueryItem) error {
	if len(items) == 0 || !slices.Contains(q.s.features, featureTTL) {
		return nil
	}
	keys := make([]string, len(items))
	for i := range items {
		keys[i] = items[i].Key
	}
	for i, r := range q.s.BulkGet(ctx, keys, state.GetOptions{}) {
		if r.Err != nil {
			return r.Err
		}
		if r.Found && r.Item.ETag == items[i].ETag {
			items[i].Expires = r.Item.Expires
		}
	}
	return nil
}

func skipOf(token string) (int, error) {
	if token == "" {
		return 0, nil
	}
	n, err := strconv.ParseInt(token, 10, 32)
	if err != nil || n <= 0 {
		return 0, state.ErrBadQuery("page.token is not one that this store gave")
	}
	return int(min(n, maxSeen)), nil
}

func queryRequest(query *state.Query, opt state.QueryOptions) (*componentsv1.QueryRequest, error) {
	q := &componentsv1.Query{Pagination: &componentsv1.Pagination{}}
	if query.Filter != nil {
		text, err := json.Marshal(operand(query.Filter))
		if err != nil {
			return nil, fault.Wrap(err, fault.Internal, "write the filter of a query")
		}
		q.Filter = map[string]*anypb.Any{string(query.Filter.Operator): {Value: text}}
	}
	for _, k := range query.Sort {
		s := &componentsv1.Sorting{Key: strings.Join(k.Path, ".")}
		if k.Descending {
			s.Order = componentsv1.Sorting_DESC
		}
		q.Sort = append(q.Sort, s)
	}
	return &componentsv1.QueryRequest{Query: q, Metadata: opt.Metadata}, nil
}

// operand returns what belongs to the operator of a filter in JSON.
func operand(f *state.Filter) any {
	switch f.Operator {
	case state.And, state.Or:
		list := make([]any, len(f.Filters))
		for i, part := range f.Filters {
			list[i] = map[string]any{string(part.Operator): operand(part)}
		}
		return list
	case state.In:
		return map[string]any{strings.Join(f.Path, "."): f.Operands}
	}
	return map[string]any{strings.Join(f.Path, "."): f.Operands[0]}
}
