package mysql

import (
	"context"
	"database/sql"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/internal/textkey"
)

// keyColumn is how keys are in a table: as they are, in a column of bytes, or,
// in tables that Dapr has created, in one of characters. That has a language,
// to which different keys may be alike.
type keyColumn struct{ characters bool }

// maxBytes and maxCharacters are how long keys may be.
const (
	maxBytes      = 2048
	maxCharacters = 255
)

// asText returns a key as it is read from the column.
func (c keyColumn) asText(key string) string {
	if c.characters {
		return textkey.Encode(key)
	}
	return key
}

// arg returns a key as an argument.
func (c keyColumn) arg(key string) any {
	if c.characters {
		return textkey.Encode(key)
	}
	return []byte(key)
}

// stored returns a key as an argument, if it can be written.
func (c keyColumn) stored(key string) (any, error) {
	text := c.asText(key)
	switch {
	case !c.characters && len(text) > maxBytes:
		return nil, fault.New(fault.InvalidArgument, "the key is too long: the table holds keys of %d bytes", maxBytes)
	case c.characters && utf8.RuneCountInString(text) > maxCharacters:
		return nil, fault.New(fault.InvalidArgument, "the key is too long: the table holds keys of %d characters", maxCharacters)
	}
	return c.arg(key), nil
}

// bytesOf returns the bytes of a text, whatever the characters of its column.
func bytesOf(expr string) string { return "CAST(CONVERT(" + expr + " USING utf8mb4) AS BINARY)" }

// is returns the condition that a row has a key.
func (c keyColumn) is(key string) (cond string, args []any) {
	if !c.characters {
		return "id = ?", []any{c.arg(key)}
	}
	return "id = ? AND " + bytesOf("id") + " = CAST(? AS BINARY)", []any{c.arg(key), c.arg(key)}
}

// in returns the condition that a row has one of the keys, or one alike.
func (c keyColumn) in(keys []string) (cond string, args []any) {
	for _, k := range keys {
		args = append(args, c.arg(k))
	}
	return "id IN (?" + strings.Repeat(", ?", len(keys)-1) + ")", args
}

// same returns the condition, of an upsert, that the key that is there is the
// very one to be written, and the other condition holds; "" for always.
func (c keyColumn) same(other string) string {
	if !c.characters {
		return other
	}
	cond := bytesOf("id") + " = " + bytesOf("VALUES(id)")
	if other != "" {
		cond += " AND " + other
	}
	return cond
}

// list returns keys in byte order.
func (c keyColumn) list(ctx context.Context, s *State, prefix, after string, limit int) (keys []string, err error) {
	if !c.characters {
		where, args := "id >= ? AND id > ?", []any{[]byte(prefix), []byte(after)}
		if end, bounded := textkey.Successor(prefix); bounded {
			where, args = where+" AND id < ?", append(args, []byte(end))
		}
		return c.listRange(ctx, s, "id", where, args, limit)
	}
	plain, marked := textkey.Ranges(prefix, after)
	all := textkey.Marked()
	for _, r := range []textkey.Range{plain, marked} {
		if r.Empty {
			continue
		}
		id := bytesOf("id")
		where, args := id+" >= CAST(? AS BINARY)", []any{r.First}
		if r.End != "" {
			where, args = where+" AND "+id+" < CAST(? AS BINARY)", append(args, r.End)
		}
		if r == plain {
			where, args = where+" AND NOT ("+id+" >= CAST(? AS BINARY) AND "+id+" < CAST(? AS BINARY))", append(args, all.First, all.End)
		}
		some, err := c.listRange(ctx, s, id, where, args, limit)
		if err != nil {
			return nil, err
		}
		keys = append(keys, some...)
	}
	slices.Sort(keys)
	return keys[:min(limit, len(keys))], ctx.Err()
}

func (c keyColumn) listRange(ctx context.Context, s *State, by, where string, args []any, limit int) (keys []string, err error) {
	err = s.each(ctx, "SELECT id FROM "+s.table+" WHERE "+where+" AND "+live+" ORDER BY "+by+" LIMIT ?", append(args, limit), func(rows *sql.Rows) error {
		var id string
		if err := rows.Scan(&id); err != nil {
			return err
		}
		if !c.characters {
			keys = append(keys, id)
		} else if key, err := textkey.Decode(id); err == nil { // others may write what we do not
			keys = append(keys, key)
		}
		return nil
	})
	return keys, err
}
