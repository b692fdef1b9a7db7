package postgres

import (
	"math/rand/v2"
	"strconv"
	"time"

	"github.com/google/uuid"

	"github.com/proa-io/proa/block/state"
	"github.com/proa-io/proa/internal/jsoncolumn"
)

// format is how items are in a table. The statements take the arguments of
// format.args; those with a condition take the etag after them.
type format struct {
	table string
	// etag is an expression of the etag, as text.
	etag string
	// item lists what scanItem reads: the value, whether it is base64, the
	// etag, the expiry.
	item string
	// live holds for items that have not expired.
	live string
	// expires is the column of the expiry.
	expires string
	// document is the value as jsonb, NULL where it is not JSON; empty for a
	// table that is not queried.
	document string
	// bytewise orders texts by their bytes; empty where that is so anyway.
	bytewise string

	// put writes whatever there is; create only where there is nothing;
	// update only the item with the etag. All return the new etag, or no row.
	put, create, update string

	// checkETag returns an etag as the table has it.
	checkETag func(etag string) (string, error)
	// encode returns the arguments that hold a value.
	encode func(value []byte) []any
}

// byBytes orders texts by their bytes, whatever the language of the database.
const byBytes = ` COLLATE "C"`

// exactText is a column that we add to tables of the first version: the text
// of a JSON value where jsonb would not give back the same bytes. Dapr does not
// know it; so it counts only as long as it means what the value does.
const exactText = "proa_text"

// jsonFormat is the format of version 1, where etag is an expression and
// columns of its own keep it, if any.
func jsonFormat(table, etag string) format {
	return format{
		table: table, etag: etag,
		item: `CASE WHEN isbinary THEN value #>> '{}' WHEN ` + exactText + ` IS NOT NULL AND ` + exactText + `::jsonb = value THEN ` + exactText +
			` ELSE value::text END AS item_value, isbinary AS item_base64, ` + etag + ` AS item_etag, expiredate AS item_expires`,
		live:      `(expiredate IS NULL OR expiredate >= now())`,
		expires:   "expiredate",
		document:  `CASE WHEN isbinary THEN ` + parseFunction + `(value #>> '{}') ELSE value END`,
		bytewise:  byBytes,
		checkETag: numberETag,
		encode: func(value []byte) []any {
			if jsoncolumn.Fits(value) {
				return []any{string(value), false}
			}
			return []any{string(jsoncolumn.Quote(value)), true}
		},
	}
}

// The parts of the statements of version 1: $1 is the key, $2 how long the item
// lives, $3 the value as JSON, $4 whether that is base64.
const (
	lifetime  = `now() + $2::bigint * interval '1 second'`
	exactArg  = `CASE WHEN $4::boolean OR $3::text::jsonb::text = $3::text THEN NULL ELSE $3::text END`
	jsonNames = `key, expiredate, value, isbinary, ` + exactText
	jsonArgs  = `$1::text, ` + lifetime + `, $3::text::jsonb, $4::boolean, ` + exactArg
	jsonSet   = `expiredate = EXCLUDED.expiredate, value = EXCLUDED.value, isbinary = EXCLUDED.isbinary, ` +
		exactText + ` = EXCLUDED.` + exactText + `, updatedate = now()`
	jsonUpdate = `expiredate = ` + lifetime + `, value = $3::text::jsonb, isbinary = $4::boolean, ` + exactText + ` = ` + exactArg + `, updatedate = now()`
)

// formatV1 has the etag in xmin, the number of the transaction that wrote the
// row.
func formatV1(table string) format {
	f := jsonFormat(table, "xmin::text")
	upsert := `INSERT INTO ` + table + ` AS t (` + jsonNames + `) VALUES (` + jsonArgs + `) ON CONFLICT (key) DO UPDATE SET ` + jsonSet
	f.put = upsert + ` RETURNING xmin::text`
	f.create = upsert + ` WHERE t.expiredate < now() RETURNING xmin::text`
	f.update = `UPDATE ` + table + ` SET ` + jsonUpdate + ` WHERE key = $1::text AND xmin::text = $5::text AND ` + f.live + ` RETURNING xmin::text`
	return f
}

// formatCockroach is version 1 with the etag in a column, a number that grows.
// A new item begins with any number, so that the etag of one deleted before
// is not its own.
func formatCockroach(table string) format {
	f := jsonFormat(table, "etag::text")
	f.bytewise, f.document = "", "" // texts always order so
	upsert := `INSERT INTO ` + table + ` AS t (` + jsonNames + `, etag) VALUES (` + jsonArgs + `, $5::int8) ON CONFLICT (key) DO UPDATE SET ` +
		jsonSet + `, etag = COALESCE(t.etag, 0) + 1`
	f.put = upsert + ` RETURNING etag::text`
	f.create = upsert + ` WHERE t.expiredate < now() RETURNING etag::text`
	f.update = `UPDATE ` + table + ` SET ` + jsonUpdate + `, etag = etag + 1 WHERE key = $1::text AND etag::text = $6::text AND $5::int8 > 0 AND ` +
		f.live + ` RETURNING etag::text`
	// Every argument has to be used: update has no use for a first etag.
	encode := f.encode
	f.encode = func(value []byte) []any { return append(encode(value), int64(1+rand.Uint32N(1<<30))) } //nolint:gosec // needs no secrecy
	return f
}

// formatV2 has the value as bytes and the etag in a column, a UUID.
func formatV2(table string) format {
	f := format{
		table:     table,
		etag:      "etag::text",
		item:      `value AS item_value, false AS item_base64, etag::text AS item_etag, expires_at AS item_expires`,
		live:      `(expires_at IS NULL OR expires_at >= now())`,
		expires:   "expires_at",
		document:  parseFunction + `(value)`,
		bytewise:  byBytes,
		checkETag: uuidETag,
		encode:    func(value []byte) []any { return []any{nonNil(value)} },
	}
	upsert := `INSERT INTO ` + table + ` AS t (key, expires_at, value, etag) VALUES ($1::text, ` + lifetime + `, $3::bytea, gen_random_uuid())
ON CONFLICT (key) DO UPDATE SET expires_at = EXCLUDED.expires_at, value = EXCLUDED.value, etag = EXCLUDED.etag, updated_at = now()`
	f.put = upsert + ` RETURNING etag::text`
	f.create = upsert + ` WHERE t.expires_at < now() RETURNING etag::text`
	f.update = `UPDATE ` + table + ` SET expires_at = ` + lifetime + `, value = $3::bytea, etag = gen_random_uuid(), updated_at = now()
WHERE key = $1::text AND etag::text = $4::text AND ` + f.live + ` RETURNING etag::text`
	return f
}

// nonNil keeps an empty value from becoming NULL.
func nonNil(value []byte) []byte {
	if value == nil {
		return []byte{}
	}
	return value
}

// args returns the arguments of the statement that writes an item; key is text.
func (f *format) args(key string, value []byte, ttl time.Duration) []any {
	var seconds *int64
	if ttl > 0 {
		seconds = new(int64(ttl / time.Second))
	}
	return append([]any{key, seconds}, f.encode(value)...)
}

func numberETag(etag string) (string, error) {
	n, err := strconv.ParseUint(etag, 10, 32)
	if err != nil {
		return "", state.ErrETagInvalid("a whole number")
	}
	return strconv.FormatUint(n, 10), nil
}

// uuidETag makes of what is no UUID an etag that no item has, as Dapr does.
func uuidETag(etag string) (string, error) {
	id, err := uuid.Parse(etag)
	if err != nil || len(etag) != len(id.String()) {
		return "none", nil
	}
	return id.String(), nil
}
