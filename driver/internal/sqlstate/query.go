package sqlstate

import (
	"fmt"
	"slices"
	"strings"

	"github.com/proa-io/proa/block/state"
)

// Dialect writes the parts of a query in which databases differ.
type Dialect interface {
	// Path returns the columns that hold what is at a path in an item, where
	// each name is that of a member of an object: one called value, and others
	// whose names begin so.
	Path(a *Args, path []string, value string) string

	// What follows is about such columns.

	// Missing returns a condition: nothing is there, or a null.
	Missing(value string) string
	// Number, Text and Bool return a value of that kind, and NULL for one of
	// another. Numbers compare by their value, texts by their bytes.
	Number(value string) string
	Text(value string) string
	Bool(value string) string
	// NumberArg, TextArg and BoolArg add an operand, to compare with these. A
	// number is an int64, a float64, or a string that NumberText has returned.
	NumberArg(a *Args, n any) string
	TextArg(a *Args, s string) string
	BoolArg(a *Args, b bool) string
	// NumberText returns a number as text that loses nothing.
	NumberText(number string) string
	// None returns a number and a text that stand in the place of the ones that
	// values of other kinds do not have.
	None() (number, text string)

	// Key returns the expression that orders keys, and KeyArg adds a key to
	// compare with it.
	Key() string
	KeyArg(a *Args, key string) string
}

// Args are the arguments of a statement, in the order in which the statement
// names them.
type Args struct {
	Values []any
	// Placeholder returns what stands for the n-th argument, counted from 1.
	Placeholder func(n int) string
}

// Add adds an argument and returns what stands for it.
func (a *Args) Add(v any) string {
	a.Values = append(a.Values, v)
	return a.Placeholder(len(a.Values))
}

// Selection is a query in parts of SQL, which belong together so:
//
//	SELECT <item>, Outputs() FROM (
//	  SELECT *, Order() FROM (
//	    SELECT *, Paths(a) FROM (SELECT <item>, <document> ... WHERE <scope>)
//	  ) WHERE Where(a)
//	) WHERE After(a) ORDER BY OrderBy() LIMIT ...
//
// The methods with arguments are to be called in this order.
type Selection struct {
	query *state.Query
	d     Dialect
	token *token
	paths [][]string
}

// Select prepares a query whose scope begins with prefix. The error is that of
// a token that is not one of ours.
func Select(q *state.Query, prefix string, d Dialect) (*Selection, error) {
	s := &Selection{query: q, d: d}
	s.collect(q.Filter)
	for _, k := range q.Sort {
		s.add(k.Path)
	}
	var err error
	s.token, err = readToken(q.Token, prefix, len(q.Sort))
	return s, err
}

func (s *Selection) collect(f *state.Filter) {
	if f == nil {
		return
	}
	for _, inner := range f.Filters {
		s.collect(inner)
	}
	if len(f.Path) > 0 {
		s.add(f.Path)
	}
}

func (s *Selection) add(path []string) {
	if s.place(path) < 0 {
		s.paths = append(s.paths, path)
	}
}

func (s *Selection) place(path []string) int {
	return slices.IndexFunc(s.paths, func(p []string) bool { return slices.Equal(p, path) })
}

func (s *Selection) value(path []string) string { return fmt.Sprint("p", s.place(path)) }

// Paths returns the columns of what is at the paths, each after a comma.
func (s *Selection) Paths(a *Args) string {
	var b strings.Builder
	for _, p := range s.paths {
		b.WriteString(", " + s.d.Path(a, p, s.value(p)))
	}
	return b.String()
}

// Where returns the condition on an item.
func (s *Selection) Where(a *Args) string { return s.filter(a, s.query.Filter) }

func (s *Selection) filter(a *Args, f *state.Filter) string {
	if f == nil {
		return "1 = 1"
	}
	switch f.Operator {
	case state.And, state.Or:
		parts := make([]string, len(f.Filters))
		for i, inner := range f.Filters {
			parts[i] = s.filter(a, inner)
		}
		return "(" + strings.Join(parts, " "+string(f.Operator)+" ") + ")"
	case state.NotEqual:
		return "NOT " + s.equal(a, f)
	case state.Greater:
		return s.compare(a, f, " > ", f.Operands[0])
	case state.GreaterOrEqual:
		return s.compare(a, f, " >= ", f.Operands[0])
	case state.Less:
		return s.compare(a, f, " < ", f.Operands[0])
	case state.LessOrEqual:
		return s.compare(a, f, " <= ", f.Operands[0])
	}
	return s.equal(a, f)
}

func (s *Selection) equal(a *Args, f *state.Filter) string {
	parts := make([]string, len(f.Operands))
	for i, o := range f.Operands {
		if o == nil {
			parts[i] = s.d.Missing(s.value(f.Path))
		} else {
			parts[i] = s.compare(a, f, " = ", o)
		}
	}
	return "(" + strings.Join(parts, " OR ") + ")"
}

// compare returns a condition that is never NULL.
func (s *Selection) compare(a *Args, f *state.Filter, sign string, operand any) string {
	v := s.value(f.Path)
	var left, right string
	switch o := operand.(type) {
	case string:
		left, right = s.d.Text(v), s.d.TextArg(a, o)
	case bool:
		left, right = s.d.Bool(v), s.d.BoolArg(a, o)
	default:
		left, right = s.d.Number(v), s.d.NumberArg(a, o)
	}
	return "COALESCE(" + left + sign + right + ", 1 = 0)"
}

// Each sort key becomes three columns: the rank of the kind of its value, the
// number and the text.
func (s *Selection) rank(i int) string   { return fmt.Sprintf("by%d_rank", i) }
func (s *Selection) number(i int) string { return fmt.Sprintf("by%d_number", i) }
func (s *Selection) text(i int) string   { return fmt.Sprintf("by%d_text", i) }

// Order returns the columns that OrderBy and After refer to, each after a
// comma.
func (s *Selection) Order() string {
	var b strings.Builder
	noNumber, noText := s.d.None()
	for i, k := range s.query.Sort {
		v := s.value(k.Path)
		number, text := s.d.Number(v), s.d.Text(v)
		fmt.Fprintf(&b, ", CASE WHEN %s THEN 0 WHEN %s IS NOT NULL THEN 1 WHEN %s IS NOT NULL THEN 2 ELSE 3 END AS %s",
			s.d.Missing(v), number, text, s.rank(i))
		fmt.Fprintf(&b, ", COALESCE(%s, %s) AS %s, COALESCE(%s, %s) AS %s", number, noNumber, s.number(i), text, noText, s.text(i))
	}
	return b.String()
}

// Outputs returns the columns to be read after those of an item into
// Row.Targets, each after a comma.
func (s *Selection) Outputs() string {
	var b strings.Builder
	for i := range s.query.Sort {
		fmt.Fprintf(&b, ", %s, %s AS out%d_number, %s", s.rank(i), s.d.NumberText(s.number(i)), i, s.text(i))
	}
	return b.String()
}

// OrderBy returns what follows ORDER BY.
func (s *Selection) OrderBy() string {
	var parts []string
	for i, k := range s.query.Sort {
		direction := ""
		if k.Descending {
			direction = " DESC"
		}
		parts = append(parts, s.rank(i)+direction, s.number(i)+direction, s.text(i)+direction)
	}
	return strings.Join(append(parts, s.d.Key()), ", ")
}

// After returns the condition on an item that it comes after the page that the
// token ended.
func (s *Selection) After(a *Args) string {
	if s.token == nil {
		return "1 = 1"
	}
	// Of two rows the one comes later whose first difference says so.
	type column struct {
		name, sign string
		arg        func() string
	}
	var columns []column
	for i, k := range s.query.Sort {
		sign, at := " > ", &s.token.Sort[i]
		if k.Descending {
			sign = " < "
		}
		columns = append(columns,
			column{s.rank(i), sign, func() string { return fmt.Sprint(at.Rank) }},
			column{s.number(i), sign, func() string { return s.d.NumberArg(a, at.Number) }},
			column{s.text(i), sign, func() string { return s.d.TextArg(a, string(at.Text)) }})
	}
	columns = append(columns, column{s.d.Key(), " > ", func() string { return s.d.KeyArg(a, string(s.token.Key)) }})
	var b strings.Builder
	for i, c := range columns {
		fmt.Fprintf(&b, "(%s%s%s", c.name, c.sign, c.arg())
		if i < len(columns)-1 {
			fmt.Fprintf(&b, " OR %s = %s AND ", c.name, c.arg())
		}
	}
	return b.String() + strings.Repeat(")", len(columns))
}
