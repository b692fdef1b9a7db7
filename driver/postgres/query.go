package postgres

import (
	"context"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/proa-io/proa/block/state"
	"github.com/proa-io/proa/driver/internal/sqlstate"
	"github.com/proa-io/proa/internal/textkey"
)

// Query implements state.Querier. It reads all values of the scope.
func (s *State) Query(ctx context.Context, scope state.Scope, q *state.Query, _ state.QueryOptions) (state.QueryPage, error) {
	sel, err := sqlstate.Select(q, scope.Prefix, dialect{})
	if err != nil {
		return state.QueryPage{}, err
	}
	if err := s.ensureParser(ctx); err != nil {
		return state.QueryPage{}, err
	}
	f := &s.format
	a := &sqlstate.Args{Placeholder: func(n int) string { return "$" + strconv.Itoa(n) }}
	// OFFSET 0 keeps the database from reading a value once per path.
	sql := `SELECT key, item_value, item_base64, item_etag, item_expires` + sel.Outputs() +
		` FROM (SELECT *` + sel.Order() + ` FROM (SELECT *` + sel.Paths(a) +
		` FROM (SELECT key, ` + f.item + `, ` + f.parsed(s) + ` AS document FROM ` + f.table + ` WHERE ` + f.live + ` AND ` + inScope(a, scope) +
		` OFFSET 0) AS items) AS values WHERE ` + sel.Where(a) + `) AS selected WHERE ` + sel.After(a) +
		` ORDER BY ` + sel.OrderBy() + ` LIMIT ` + strconv.Itoa(q.Limit+1)
	var page state.QueryPage
	last, more := sel.Row(), false
	err = s.client.each(ctx, sql, a.Values, func(cr pgx.CollectableRow) error {
		if len(page.Items) == q.Limit {
			more = true
			return nil
		}
		var key string
		var r row
		last = sel.Row()
		if err := cr.Scan(append(append([]any{&key}, r.targets()...), last.Targets()...)...); err != nil {
			return err
		}
		item, err := r.item()
		if err != nil {
			return err
		}
		if key, err = textkey.Decode(key); err != nil {
			return err
		}
		page.Items = append(page.Items, state.QueryItem{Key: key, Item: item})
		return nil
	})
	if err != nil {
		return state.QueryPage{}, err
	}
	if more {
		page.Token, err = sel.Token(last, strings.TrimPrefix(page.Items[q.Limit-1].Key, scope.Prefix))
	}
	return page, err
}

// inScope returns the condition that a key is one of a scope.
func inScope(a *sqlstate.Args, scope state.Scope) string {
	plain, marked := textkey.Ranges(scope.Prefix, "")
	all := textkey.Marked()
	isMarked := inRange(a, all)
	text := "NOT " + isMarked + " AND " + inRange(a, plain)
	other := isMarked + " AND " + inRange(a, marked)
	if scope.Without != "" {
		// Of a key in hexadecimal, its bytes are looked at, if it is one.
		bytes := "decode(substr(key, " + strconv.Itoa(len(textkey.Marker)+1) + "), 'hex')"
		without := a.Add([]byte(scope.Without)) + "::bytea"
		text += " AND position(" + without + " IN substr(convert_to(key, 'UTF8'), " + strconv.Itoa(len(scope.Prefix)+1) + ")) = 0"
		other += " AND CASE WHEN key ~ '^" + textkey.Marker + "([0-9a-f][0-9a-f])*$' THEN position(" + without + " IN substr(" + bytes + ", " +
			strconv.Itoa(len(scope.Prefix)+1) + ")) = 0 ELSE false END"
	} else {
		other += " AND key ~ '^" + textkey.Marker + "([0-9a-f][0-9a-f])*$'"
	}
	return "(" + text + " OR " + other + ")"
}

func inRange(a *sqlstate.Args, r textkey.Range) string {
	if r.Empty {
		return "false"
	}
	cond := "(key" + byBytes + " >= " + a.Add(r.First) + "::text"
	if r.End != "" {
		cond += " AND key" + byBytes + " < " + a.Add(r.End) + "::text"
	}
	return cond + ")"
}

// parsed returns the value as jsonb, NULL where it is not JSON.
func (f *format) parsed(s *State) string {
	return strings.ReplaceAll(f.document, parseFunction, inSchemaOf(s.format.table, parseFunction))
}

// dialect is how queries are written: a value is jsonb.
type dialect struct{}

// noNUL replaces what a text of the database cannot hold, as the functions do
// that read values.
func noNUL(s string) string { return strings.ReplaceAll(s, "\x00", "\uffff") }

// Path implements sqlstate.Dialect, as do the other methods.
func (dialect) Path(a *sqlstate.Args, path []string, value string) string {
	expr := "document"
	for _, name := range path {
		expr += " -> " + a.Add(noNUL(name)) + "::text"
	}
	return expr + " AS " + value
}

// Missing tells a value that is not there, or null.
func (dialect) Missing(v string) string { return "(" + v + " IS NULL OR " + v + " = 'null'::jsonb)" }

// Number returns a numeric.
func (dialect) Number(v string) string {
	return "CASE WHEN jsonb_typeof(" + v + ") = 'number' THEN (" + v + ")::numeric END"
}

// Text returns a text that compares by its bytes.
func (dialect) Text(v string) string {
	return "(CASE WHEN jsonb_typeof(" + v + ") = 'string' THEN " + v + " #>> '{}' END)" + byBytes
}

// Bool returns a boolean.
func (dialect) Bool(v string) string {
	return "CASE WHEN jsonb_typeof(" + v + ") = 'boolean' THEN (" + v + ")::boolean END"
}

// NumberArg adds a number.
func (dialect) NumberArg(a *sqlstate.Args, n any) string {
	switch n := n.(type) {
	case int64:
		return a.Add(strconv.FormatInt(n, 10)) + "::text::numeric"
	case float64:
		return a.Add(strconv.FormatFloat(n, 'g', -1, 64)) + "::text::numeric"
	}
	return a.Add(n) + "::text::numeric"
}

// TextArg adds a text.
func (dialect) TextArg(a *sqlstate.Args, s string) string {
	return a.Add(strings.ToValidUTF8(noNUL(s), "\uffff")) + "::text"
}

// BoolArg adds a boolean.
func (dialect) BoolArg(a *sqlstate.Args, b bool) string { return a.Add(b) + "::boolean" }

// NumberText returns a numeric as text.
func (dialect) NumberText(n string) string { return n + "::text" }

// None returns zero and the empty text.
func (dialect) None() (number, text string) { return "0::numeric", "''" }

// Key returns the key, by its bytes.
func (dialect) Key() string { return "key" + byBytes }

// KeyArg adds a key.
func (dialect) KeyArg(a *sqlstate.Args, key string) string {
	return a.Add(textkey.Encode(key)) + "::text"
}
