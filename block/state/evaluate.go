package state

import (
	"bytes"
	"cmp"
	"encoding/json"
	"io"
	"slices"
	"strconv"

	"github.com/proa-io/proa/fault"
)

// A Selector answers a query out of items that it is shown, for drivers whose
// store cannot look into values. It is the reference for those whose store can.
type Selector struct {
	query    *Query
	bounds   Bounds
	skip     int
	seen     int // items
	selected int // bytes
	found    []candidate
}

// Bounds are the most that a Selector takes; 0 stands for no bound.
type Bounds struct {
	Items int // it is shown
	Bytes int // in the values that the filter selects, on all pages together
}

// ScanBounds are for stores that have to send every item over the network.
func ScanBounds() Bounds { return Bounds{Items: 100_000, Bytes: 256 << 20} }

// NewSelector returns a Selector that has seen no item. It fails with
// ErrBadQuery when the token is not one of its pages.
func NewSelector(q *Query, b Bounds) (*Selector, error) {
	skip := 0
	if q.Token != "" {
		n, err := strconv.Atoi(q.Token)
		if err != nil || n <= 0 {
			return nil, ErrBadQuery("page.token is not one that this store gave")
		}
		skip = n
	}
	return &Selector{query: q, bounds: b, skip: skip}, nil
}

// Add shows it an item of the query's scope; each key once. It keeps the value
// of an item that the filter selects. It fails with FailedPrecondition when
// that is too much.
func (s *Selector) Add(item QueryItem) error {
	if s.seen++; s.bounds.Items > 0 && s.seen > s.bounds.Items {
		return fault.New(fault.FailedPrecondition, "there are more than %d items to look at, too many to query", s.bounds.Items)
	}
	doc := decodeJSON(item.Value)
	if !matches(doc, s.query.Filter) {
		return nil
	}
	if s.selected += len(item.Value); s.bounds.Bytes > 0 && s.selected > s.bounds.Bytes {
		return fault.New(fault.FailedPrecondition, "the values that the filter selects have more than %d bytes together", s.bounds.Bytes)
	}
	s.found = append(s.found, newCandidate(item, doc, s.query.Sort))
	return nil
}

// Page returns the page that the query asks for.
func (s *Selector) Page() QueryPage {
	slices.SortFunc(s.found, func(a, b candidate) int { return a.compare(b, s.query.Sort) })
	rest := s.found[min(s.skip, len(s.found)):]
	var out QueryPage
	if len(rest) > s.query.Limit {
		rest, out.Token = rest[:s.query.Limit], strconv.Itoa(s.skip+s.query.Limit)
	}
	for _, c := range rest {
		out.Items = append(out.Items, c.item)
	}
	return out
}

// decodeJSON returns a value as JSON; nil, which has no members, when it is none.
func decodeJSON(value []byte) any {
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

func matches(doc any, f *Filter) bool {
	if f == nil {
		return true
	}
	holds := func(f *Filter) bool { return matches(doc, f) }
	switch f.Operator {
	case And:
		return !slices.ContainsFunc(f.Filters, func(f *Filter) bool { return !holds(f) })
	case Or:
		return slices.ContainsFunc(f.Filters, holds)
	}
	v := at(doc, f.Path)
	switch f.Operator {
	case Equal, In:
		return slices.ContainsFunc(f.Operands, func(o any) bool { return equal(v, o) })
	case NotEqual:
		return !equal(v, f.Operands[0])
	}
	order, ok := compare(v, f.Operands[0])
	switch f.Operator {
	case Greater:
		return ok && order > 0
	case GreaterOrEqual:
		return ok && order >= 0
	case Less:
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
	item QueryItem
	by   []any
}

func newCandidate(item QueryItem, doc any, sort []SortKey) candidate {
	c := candidate{item: item}
	for _, k := range sort {
		c.by = append(c.by, at(doc, k.Path))
	}
	return c
}

func (c candidate) compare(other candidate, sort []SortKey) int {
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
	return cmp.Compare(c.item.Key, other.item.Key)
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
