package state

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/policy"
)

// Bounds of a query. One that exceeds them is refused, but for the limit of a
// page, which is lowered.
const (
	// DefaultQueryLimit is how many items a page has at most when the query
	// does not say.
	DefaultQueryLimit = 1000
	// MaxQueryLimit is how many a page has at most whatever it says.
	MaxQueryLimit = 10_000

	maxQueryDepth    = 32   // of AND and OR in each other
	maxQueryOperands = 1000 // of all comparisons together
	maxQuerySort     = 8    // sort keys
	maxPath          = 32   // names in a path
	maxQueryToken    = 4096 // bytes
)

// Query selects, orders and pages items by what is in their values.
//
// The value of an item is read as JSON. A path is a list of names, each of a
// member of the object that the names before it lead to. A value that is not
// JSON, a name that the object does not have, and one that meets an array or
// a scalar lead nowhere: what is there is missing. A null counts as missing
// too.
//
// Comparisons know the types of JSON: "1" is not 1. Strings compare by the
// bytes of their UTF-8, numbers by their value: exactly as far as they are
// integers of 64 bits, as 64-bit floating point numbers otherwise.
type Query struct {
	// Filter is what the items have in common; nil selects all.
	Filter *Filter
	// Sort orders the items: by the first key, those alike by the second, and
	// so on. Items that all keys leave alike are in the byte order of their
	// keys in the store, or in another fixed order when the store has no such.
	// Missing values come first, then numbers by value and strings by their
	// bytes; which of these two comes first, and where other kinds of values
	// are, is up to the store. A descending key turns all of that round.
	Sort []SortKey
	// Limit is how many items a page may have, from 1 to MaxQueryLimit.
	Limit int
	// Token is QueryPage.Token of the page before; "" for the first. Callers
	// may have made it up: one that the driver did not make for such a query
	// is ErrBadQuery, or a token for another page of what the scope holds.
	Token string
}

// SortKey is one criterion of an order.
type SortKey struct {
	Path       []string // one or more names
	Descending bool
}

// Filter is one condition on an item: a comparison of what is at Path with
// Operands, or a combination of Filters.
type Filter struct {
	Operator Operator
	// Path and Operands belong to comparisons. Path has one or more names. An
	// operand is nil, or a bool, int64, float64 (finite) or string; of Greater,
	// GreaterOrEqual, Less and LessOrEqual it is a number or a string. In has
	// one or more, the others one.
	Path     []string
	Operands []any
	// Filters belong to And and Or; one or more.
	Filters []*Filter
}

// Operator says what a Filter demands.
type Operator string

// The operators, under the names that they have in a query.
const (
	// Equal holds when the value is the operand. A nil operand demands that
	// the value is missing. Objects and arrays equal nothing.
	Equal Operator = "EQ"
	// NotEqual holds when Equal does not; so it does for missing values unless
	// the operand is nil.
	NotEqual Operator = "NEQ"
	// Greater, GreaterOrEqual, Less and LessOrEqual hold when the value is of
	// the type of the operand, a number or a string, and so compares.
	Greater        Operator = "GT"
	GreaterOrEqual Operator = "GTE"
	Less           Operator = "LT"
	LessOrEqual    Operator = "LTE"
	// In holds when Equal does for one of the operands.
	In Operator = "IN"
	// And holds when all Filters do, Or when one does.
	And Operator = "AND"
	Or  Operator = "OR"
)

// ErrBadQuery returns the error of a query that this store cannot answer, or
// of a token that is not one of its own; why says so in words, without values
// or keys.
func ErrBadQuery(why string) error {
	return fault.New(fault.InvalidArgument, "%s", why).WithReason(ReasonBadQuery)
}

// ParseQuery reads a query in the JSON form of Dapr:
//
//	{
//	  "filter": {"AND": [{"EQ": {"address.city": "Rome"}}, {"IN": {"size": [1, 2]}}]},
//	  "sort":   [{"key": "name", "order": "DESC"}],
//	  "page":   {"limit": 10, "token": "..."}
//	}
//
// All parts are optional; the names in a path are separated by dots. The error
// is ErrBadQuery and says which part is wrong.
func ParseQuery(text []byte) (*Query, error) {
	var parts struct {
		Filter any `json:"filter"`
		Sort   []struct {
			Key   string `json:"key"`
			Order string `json:"order"`
		} `json:"sort"`
		Page struct {
			Limit json.Number `json:"limit"`
			Token string      `json:"token"`
		} `json:"page"`
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	d.DisallowUnknownFields()
	if err := d.Decode(&parts); err != nil {
		return nil, ErrBadQuery("the query is not what it must be: " + plain(err))
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, ErrBadQuery("the query goes on after its end")
	}
	q := &Query{Token: parts.Page.Token}
	if len(q.Token) > maxQueryToken {
		return nil, ErrBadQuery("page.token is longer than any token of a store")
	}
	var err error
	if q.Limit, err = queryLimit(parts.Page.Limit); err != nil {
		return nil, err
	}
	if len(parts.Sort) > maxQuerySort {
		return nil, badQuery("sort", "has %d keys, more than %d", len(parts.Sort), maxQuerySort)
	}
	for i, s := range parts.Sort {
		where := fmt.Sprintf("sort[%d]", i)
		key, err := sortKey(where, s.Key, s.Order)
		if err != nil {
			return nil, err
		}
		q.Sort = append(q.Sort, key)
	}
	p := filterParser{operands: maxQueryOperands}
	q.Filter, err = p.optional(parts.Filter)
	return q, err
}

// plain returns the text of an error of encoding/json in our words.
func plain(err error) string {
	switch err {
	case io.EOF:
		return "it is empty"
	case io.ErrUnexpectedEOF:
		return "it ends too early"
	}
	return strings.TrimPrefix(err.Error(), "json: ")
}

func badQuery(where, format string, args ...any) error {
	return ErrBadQuery(where + " " + fmt.Sprintf(format, args...))
}

func queryLimit(text json.Number) (int, error) {
	if text == "" {
		return DefaultQueryLimit, nil
	}
	n, err := strconv.ParseInt(string(text), 10, 32)
	switch {
	case err != nil || n < 0:
		return 0, badQuery("page.limit", "wants a whole number from 0, not %s", text)
	case n == 0:
		return DefaultQueryLimit, nil
	}
	return min(int(n), MaxQueryLimit), nil
}

func sortKey(where, key, order string) (SortKey, error) {
	path, err := parsePath(where+".key", key)
	if err != nil {
		return SortKey{}, err
	}
	switch strings.ToUpper(order) {
	case "", "ASC":
		return SortKey{Path: path}, nil
	case "DESC":
		return SortKey{Path: path, Descending: true}, nil
	}
	return SortKey{}, badQuery(where+".order", "wants %q or %q, not %q", "ASC", "DESC", order)
}

func parsePath(where, key string) ([]string, error) {
	path := strings.Split(key, ".")
	switch {
	case key == "":
		return nil, badQuery(where, "is empty: it wants the name of a member of the values")
	case slices.Contains(path, ""):
		return nil, badQuery(where, "has an empty name between its dots: %q", key)
	case len(path) > maxPath:
		return nil, badQuery(where, "has %d names, more than %d", len(path), maxPath)
	}
	return path, nil
}

// filterParser reads filters out of decoded JSON.
type filterParser struct {
	operands int // how many more there may be
}

// optional reads a filter that may be absent: null, or an object without
// members.
func (p *filterParser) optional(v any) (*Filter, error) {
	if m, ok := v.(map[string]any); v == nil || ok && len(m) == 0 {
		return nil, nil
	}
	return p.filter("filter", v, 1)
}

func (p *filterParser) filter(where string, v any, depth int) (*Filter, error) {
	if depth > maxQueryDepth {
		return nil, badQuery(where, "is nested more than %d deep", maxQueryDepth)
	}
	name, inner, err := only(where, v, "an operator")
	if err != nil {
		return nil, err
	}
	where += "." + name
	f := &Filter{Operator: Operator(name)}
	switch f.Operator {
	case And, Or:
		f.Filters, err = p.filters(where, inner, depth)
	case Equal, NotEqual, In, Greater, GreaterOrEqual, Less, LessOrEqual:
		err = p.comparison(where, f, inner)
	default:
		return nil, ErrBadQuery(where + " is no operator: there are EQ, NEQ, GT, GTE, LT, LTE, IN, AND and OR")
	}
	return f, err
}

// only returns the only member of an object.
func only(where string, v any, what string) (name string, inner any, err error) {
	m, ok := v.(map[string]any)
	if !ok || len(m) != 1 {
		return "", nil, badQuery(where, "wants an object with one member, %s", what)
	}
	for name, inner = range m {
	}
	return name, inner, nil
}

func (p *filterParser) filters(where string, v any, depth int) ([]*Filter, error) {
	list, ok := v.([]any)
	if !ok || len(list) == 0 {
		return nil, badQuery(where, "wants an array of filters")
	}
	var out []*Filter
	for i, inner := range list {
		f, err := p.filter(fmt.Sprintf("%s[%d]", where, i), inner, depth+1)
		if err != nil {
			return nil, err
		}
		out = append(out, f)
	}
	return out, nil
}

func (p *filterParser) comparison(where string, f *Filter, v any) error {
	key, value, err := only(where, v, "the path of a value in the items")
	if err != nil {
		return err
	}
	if f.Path, err = parsePath(where, key); err != nil {
		return err
	}
	where += "[" + strconv.Quote(key) + "]"
	values := []any{value}
	if f.Operator == In {
		list, ok := value.([]any)
		if !ok || len(list) == 0 {
			return badQuery(where, "wants an array of values")
		}
		values = list
	}
	if p.operands -= len(values); p.operands < 0 {
		return badQuery(where, "comes after too many values: a query compares with %d at most", maxQueryOperands)
	}
	for _, v := range values {
		operand, err := operandOf(where, f.Operator, v)
		if err != nil {
			return err
		}
		f.Operands = append(f.Operands, operand)
	}
	return nil
}

// operandOf returns a decoded JSON value as an operand.
func operandOf(where string, op Operator, v any) (any, error) {
	switch v := v.(type) {
	case json.Number:
		return numberOf(where, v)
	case string:
		return v, nil
	case nil, bool:
		if op == Equal || op == NotEqual || op == In {
			return v, nil
		}
		return nil, badQuery(where, "wants a number or a string")
	}
	return nil, badQuery(where, "wants a number, a string, true, false or null, not an object or an array")
}

func numberOf(where string, text json.Number) (any, error) {
	if n, err := strconv.ParseInt(string(text), 10, 64); err == nil {
		return n, nil
	}
	f, err := strconv.ParseFloat(string(text), 64)
	if err != nil {
		return nil, badQuery(where, "has a number that is too large: %s", text)
	}
	return f, nil
}

// QueryRequest asks for the items that a query selects.
type QueryRequest struct {
	Text     []byte            // the query, see ParseQuery
	Metadata map[string]string // as in GetRequest
}

// Query returns one page of the items that r.Text selects, under the keys as
// the caller wrote them. It sees the items of its own prefix only, whatever the
// token.
func (s *Store) Query(ctx context.Context, r QueryRequest) (QueryPage, error) {
	scope := Scope{Prefix: s.prefix, Without: separator}
	c := policy.Call{Bytes: len(r.Text), Idempotent: true}
	page, err := policy.Do(ctx, s.query, c, func(ctx context.Context) (QueryPage, error) {
		d, keys, err := s.driver(ctx)
		if err != nil {
			return QueryPage{}, err
		}
		querier, ok := d.(Querier)
		if !ok {
			return QueryPage{}, fault.New(fault.Unimplemented, "this kind of store cannot be queried").WithReason(ReasonQueryNotSupported)
		}
		if keys != nil {
			return QueryPage{}, fault.New(fault.FailedPrecondition, "cannot query encrypted store").WithReason(ReasonQueryEncrypted)
		}
		q, err := ParseQuery(r.Text)
		if err != nil {
			return QueryPage{}, err
		}
		return querier.Query(ctx, scope, q, QueryOptions{r.Metadata})
	})
	if err != nil {
		return QueryPage{}, s.explain(err, "query", "")
	}
	visible := page.Items[:0]
	for _, item := range page.Items {
		if scope.Holds(item.Key) && len(item.Key) > len(s.prefix) {
			item.Key = item.Key[len(s.prefix):]
			visible = append(visible, item)
		}
	}
	page.Items = visible
	return page, nil
}
