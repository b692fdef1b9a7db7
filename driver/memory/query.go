package memory

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"io"
	"slices"
	"strconv"
	"time"

	"github.com/proa-io/proa/block/state"
)

// Query implements state.Querier. It reads every value of the scope.
func (s *State) Query(ctx context.Context, scope state.Scope, q *state.Query, _ state.QueryOptions) (state.QueryPage, error) {
	if err := s.usable(ctx); err != nil {
		return state.QueryPage{}, err
	}
	skip, err := offsetOf(q.Token)
	if err != nil {
		return state.QueryPage{}, err
	}
	var found []candidate
	for i := range s.shards {
		if err := ctx.Err(); err != nil {
			return state.QueryPage{}, err
		}
		for _, e := range s.shards[i].entries(scope, time.Now()) {
			doc := decode(e.value)
			if matches(doc, q.Filter) {
				found = append(found, newCandidate(e, doc, q.Sort))
			}
		}
	}
	slices.SortFunc(found, func(a, b candidate) int { return a.compare(b, q.Sort) })
	return page(found, skip, q.Limit), nil
}

// offsetOf reads a token: the number of items on the pages before.
func offsetOf(token string) (int, error) {
	if token == "" {
		return 0, nil
	}
	n, err := strconv.Atoi(token)
	if err != nil || n <= 0 {
		return 0, state.ErrBadQuery("page.token is not one that this store gave")
	}
	return n, nil
}

func page(found []candidate, skip, limit int) state.QueryPage {
	rest := found[min(skip, len(found)):]
	var out state.QueryPage
	if len(rest) > limit {
		rest, out.Token = rest[:limit], strconv.Itoa(skip+limit)
	}
	for _, c := range rest {
		e := c.entry
		out.Items = append(out.Items, state.QueryItem{
			Key: e.key, Item: state.Item{Value: e.value, ETag: e.etag, Expires: e.expires},
		})
	}
	return out
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

// decode returns a value as JSON; nil, which has no members, when it is none.
func decode(value []byte) any {
	d := json.NewDecoder(bytes.NewReader(value))
	d.UseNumber()
	var doc any
	if d.Decode(&doc) != nil {
		return nil
	}
	if _, err := d.Token(); err != io.EOF {
		return nil
	}
	return doc
}

// at returns what a path leads to; nil when that is missing. Numbers are int64
// or float64.
func at(doc any, path []string) any {
	for _, name := range path {
		object, ok := doc.(map[string]any)
		if !ok {
			return nil
		}
		doc = object[name]
	}
	n, ok := doc.(json.Number)
	if !ok {
		return doc
	}
	if i, err := strconv.ParseInt(string(n), 10, 64); err == nil {
		return i
	}
	f, _ := strconv.ParseFloat(string(n), 64) // too large a number is infinite
	return f
}

func matches(doc any, f *state.Filter) bool {
	if f == nil {
		return true
	}
	holds := func(f *state.Filter) bool { return matches(doc, f) }
	switch f.Operator {
	case state.And:
		return !slices.ContainsFunc(f.Filters, func(f *state.Filter) bool { return !holds(f) })
	case state.Or:
		return slices.ContainsFunc(f.Filters, holds)
	}
	v := at(doc, f.Path)
	switch f.Operator {
	case state.Equal, state.In:
		return slices.ContainsFunc(f.Operands, func(o any) bool { return equal(v, o) })
	case state.NotEqual:
		return !equal(v, f.Operands[0])
	}
	order, ok := compare(v, f.Operands[0])
	switch f.Operator {
	case state.Greater:
		return ok && order > 0
	case state.GreaterOrEqual:
		return ok && order >= 0
	case state.Less:
		return ok && order < 0
	}
	return ok && order <= 0
}

func equal(v, operand any) bool {
	switch operand.(type) {
	case nil, bool:
		if _, object := v.(map[string]any); object {
			return false
		}
		if _, array := v.([]any); array {
			return false
		}
		return v == operand
	}
	order, ok := compare(v, operand)
	return ok && order == 0
}

// compare orders two strings or two numbers; ok is false for others.
func compare(a, b any) (order int, ok bool) {
	if x, isText := a.(string); isText {
		y, ok := b.(string)
		return cmp.Compare(x, y), ok
	}
	if x, isInt := a.(int64); isInt {
		if y, isInt := b.(int64); isInt {
			return cmp.Compare(x, y), true
		}
	}
	x, okX := floating(a)
	y, okY := floating(b)
	return cmp.Compare(x, y), okX && okY
}

func floating(v any) (float64, bool) {
	switch v := v.(type) {
	case int64:
		return float64(v), true
	case float64:
		return v, true
	}
	return 0, false
}

// candidate is an item that the filter selects, with what it is ordered by.
type candidate struct {
	entry *entry
	by    []any
}

func newCandidate(e *entry, doc any, sort []state.SortKey) candidate {
	c := candidate{entry: e}
	for _, k := range sort {
		c.by = append(c.by, at(doc, k.Path))
	}
	return c
}

func (c candidate) compare(other candidate, sort []state.SortKey) int {
	for i, k := range sort {
		order := cmp.Compare(rank(c.by[i]), rank(other.by[i]))
		if order == 0 {
			order, _ = compare(c.by[i], other.by[i])
		}
		if order != 0 && k.Descending {
			return -order
		}
		if order != 0 {
			return order
		}
	}
	return cmp.Compare(c.entry.key, other.entry.key)
}

// rank orders values of different kinds.
func rank(v any) int {
	switch v := v.(type) {
	case nil:
		return 0
	case int64, float64:
		return 1
	case string:
		return 2
	case bool:
		if v {
			return 4
		}
		return 3
	}
	return 5
}
