package sqlite

import (
	"context"
	"database/sql"
	"math"
	"strconv"
	"strings"

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
	a := &sqlstate.Args{Placeholder: func(n int) string { return "?" + strconv.Itoa(n) }}
	query := `SELECT key, item_value, item_base64, item_etag, item_expires` + sel.Outputs() +
		` FROM (SELECT *` + sel.Order() + ` FROM (SELECT *` + sel.Paths(a) +
		` FROM (SELECT key, value AS item_value, is_binary AS item_base64, etag AS item_etag, CAST(expiration_time AS TEXT) AS item_expires,
	CASE WHEN NOT is_binary AND json_valid(value) THEN value END AS document FROM ` + s.table +
		` WHERE (expiration_time IS NULL OR expiration_time > ` + a.Add(now()) + `) AND ` + inScope(a, scope) +
		`)) WHERE ` + sel.Where(a) + `) WHERE ` + sel.After(a) + ` ORDER BY ` + sel.OrderBy() + ` LIMIT ` + strconv.Itoa(q.Limit+1)
	var page state.QueryPage
	last, more := sel.Row(), false
	err = s.each(ctx, query, a.Values, func(rows *sql.Rows) error {
		if len(page.Items) == q.Limit {
			more = true
			return nil
		}
		var key string
		var r row
		last = sel.Row()
		if err := rows.Scan(append(append([]any{&key}, r.targets()...), last.Targets()...)...); err != nil {
			return err
		}
		item, err := r.item()
		page.Items = append(page.Items, state.QueryItem{Key: key, Item: item})
		return err
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
	cond := "key >= " + a.Add(scope.Prefix)
	if end, bounded := textkey.Successor(scope.Prefix); bounded {
		cond += " AND key < " + a.Add(end)
	}
	if scope.Without != "" {
		cond += " AND instr(substr(CAST(key AS BLOB), " + strconv.Itoa(len(scope.Prefix)+1) + "), CAST(" + a.Add(scope.Without) + " AS BLOB)) = 0"
	}
	return cond
}

// dialect is how queries are written: a value is two columns, its type beside
// itself.
type dialect struct{}

// Path implements sqlstate.Dialect, as do the other methods. The members of an
// object are looked through for their names, for the paths of SQLite cannot
// name all. Of several of one name, the last counts.
func (dialect) Path(a *sqlstate.Args, path []string, value string) string {
	last := "e" + strconv.Itoa(len(path)-1)
	column := func(what string) string {
		from, where, order := []string{}, []string{}, []string{}
		within := "CASE json_type(document) WHEN 'object' THEN document END"
		for i, name := range path {
			e := "e" + strconv.Itoa(i)
			from = append(from, "json_each("+within+") AS "+e)
			where = append(where, e+".key = "+a.Add(name))
			order = append(order, e+".id DESC")
			within = "CASE " + e + ".type WHEN 'object' THEN " + e + ".value END"
		}
		return "(SELECT " + last + "." + what + " FROM " + strings.Join(from, ", ") + " WHERE " + strings.Join(where, " AND ") +
			" ORDER BY " + strings.Join(order, ", ") + " LIMIT 1)"
	}
	return column("type") + " AS " + value + "_type, " + column("value") + " AS " + value
}

// Missing tells a value that is not there, or null.
func (dialect) Missing(v string) string { return "(" + v + "_type IS NULL OR " + v + "_type = 'null')" }

// Number returns an integer or a real.
func (dialect) Number(v string) string {
	return "CASE WHEN " + v + "_type IN ('integer', 'real') THEN " + v + " END"
}

// Text returns a text, which compares by its bytes.
func (dialect) Text(v string) string { return "CASE WHEN " + v + "_type = 'text' THEN " + v + " END" }

// Bool returns 1 or 0.
func (dialect) Bool(v string) string {
	return "CASE " + v + "_type WHEN 'true' THEN 1 WHEN 'false' THEN 0 END"
}

// NumberArg adds a number.
func (dialect) NumberArg(a *sqlstate.Args, n any) string {
	text, ok := n.(string)
	if !ok {
		return a.Add(n)
	}
	if i, err := strconv.ParseInt(text, 10, 64); err == nil {
		return a.Add(i)
	}
	f, err := strconv.ParseFloat(text, 64)
	if err != nil {
		f = math.Copysign(math.Inf(1), f) // what is too large is infinite to SQLite
	}
	return a.Add(f)
}

// TextArg adds a text.
func (dialect) TextArg(a *sqlstate.Args, s string) string { return a.Add(s) }

// BoolArg adds 1 or 0.
func (dialect) BoolArg(a *sqlstate.Args, b bool) string { return a.Add(b) }

// NumberText returns a number as text, a real with all its digits.
func (dialect) NumberText(n string) string {
	return "CASE typeof(" + n + ") WHEN 'integer' THEN CAST(" + n + " AS TEXT) ELSE printf('%!.17g', " + n + ") END"
}

// None returns zero and the empty text.
func (dialect) None() (number, text string) { return "0", "''" }

// Key returns the key, which compares by its bytes.
func (dialect) Key() string { return "key" }

// KeyArg adds a key.
func (dialect) KeyArg(a *sqlstate.Args, key string) string { return a.Add(key) }
