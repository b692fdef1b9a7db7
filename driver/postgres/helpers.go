package postgres

import (
	"context"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/jackc/pgx/v5"

	"github.com/proa-io/proa/fault"
)

// helpers remembers which functions and triggers are known to be there.
type helpers struct{ query, watch atomic.Bool }

// The names of functions and triggers. One that changes gets a new number, for
// an older version of this program may be using it.
const (
	parseFunction  = "proa_jsonb_1"
	changeFunction = "proa_changed_1"
)

// inSchemaOf puts the schema of a table, if any, before a name.
func inSchemaOf(table, name string) string {
	return table[:len(table)-len(unqualified(table))] + name
}

// unqualified returns the name of a table without its schema.
func unqualified(table string) string {
	if strings.HasSuffix(table, `"`) {
		// `"a.b"."c""d"`: the name begins at the quote that is not one of two.
		i := len(table) - 2
		for ; i > 0; i-- {
			if table[i] != '"' {
				continue
			}
			if table[i-1] != '"' {
				break
			}
			i--
		}
		return table[i:]
	}
	return table[strings.LastIndexByte(table, '.')+1:]
}

// ensureParser makes sure of the functions that read values as jsonb and return
// NULL for those that are none. A NUL in a text, which jsonb has not, becomes
// U+FFFF, which is no character.
func (s *State) ensureParser(ctx context.Context) error {
	if s.helpers.query.Load() {
		return nil
	}
	function := inSchemaOf(s.format.table, parseFunction)
	body := ` RETURNS jsonb LANGUAGE plpgsql IMMUTABLE STRICT AS $body$ BEGIN
	RETURN regexp_replace(convert_from(%s, 'UTF8'), '(?<!\\)((?:\\\\)*)\\u0000', '\1\\uffff', 'g')::jsonb;
EXCEPTION WHEN OTHERS THEN
	RETURN NULL;
END $body$`
	err := s.client.ensure(ctx, `SELECT to_regprocedure($1::text) IS NOT NULL AND to_regprocedure($2::text) IS NOT NULL`,
		[]any{function + "(bytea)", function + "(text)"},
		`CREATE OR REPLACE FUNCTION `+function+`(value bytea)`+strings.Replace(body, "%s", "value", 1),
		`CREATE OR REPLACE FUNCTION `+function+`(base64 text)`+strings.Replace(body, "%s", "decode(base64, 'base64')", 1))
	s.helpers.query.Store(err == nil)
	return explainHelpers(err, "queries")
}

// ensureTriggers makes sure of the triggers that tell which key has changed.
func (s *State) ensureTriggers(ctx context.Context) error {
	if s.helpers.watch.Load() {
		return nil
	}
	err := s.client.ensureTriggers(ctx, s.format.table)
	s.helpers.watch.Store(err == nil)
	return explainHelpers(err, "watches")
}

// ensureTriggers makes sure of the triggers on a table that tell which key has
// changed; "" stands for one that cannot be said, or for all.
func (c *client) ensureTriggers(ctx context.Context, table string) error {
	function := inSchemaOf(table, changeFunction)
	notify := func(key string) string {
		return `PERFORM pg_notify('` + changeChannel + `' || TG_RELID, CASE WHEN octet_length(` + key + `) > ` + strconv.Itoa(maxNotice) + ` THEN '' ELSE ` + key + ` END);`
	}
	return c.ensure(ctx, `SELECT count(*) = 2 FROM pg_trigger WHERE tgrelid = to_regclass($1::text) AND tgname LIKE '`+changeFunction+`%'`,
		[]any{table},
		`CREATE OR REPLACE FUNCTION `+function+`() RETURNS trigger LANGUAGE plpgsql AS $body$ BEGIN
	IF TG_OP = 'TRUNCATE' THEN
		PERFORM pg_notify('`+changeChannel+`' || TG_RELID, '');
	ELSE
		IF TG_OP <> 'INSERT' THEN
			`+notify("OLD.key")+`
		END IF;
		IF TG_OP = 'INSERT' OR TG_OP = 'UPDATE' AND NEW.key <> OLD.key THEN
			`+notify("NEW.key")+`
		END IF;
	END IF;
	RETURN NULL;
END $body$`,
		`CREATE TRIGGER `+changeFunction+`_row AFTER INSERT OR UPDATE OR DELETE ON `+table+` FOR EACH ROW EXECUTE PROCEDURE `+function+`()`,
		`CREATE TRIGGER `+changeFunction+`_all AFTER TRUNCATE ON `+table+` FOR EACH STATEMENT EXECUTE PROCEDURE `+function+`()`)
}

// ensure carries out statements unless a question is answered with true, and
// takes it well when others have carried them out meanwhile.
func (c *client) ensure(ctx context.Context, question string, args []any, statements ...string) error {
	there := func() (yes bool, err error) {
		_, err = c.first(ctx, question, args, func(row pgx.CollectableRow) error { return row.Scan(&yes) })
		return yes, err
	}
	if yes, err := there(); yes || err != nil {
		return err
	}
	for _, sql := range statements {
		if err := (schema{}).apply(ctx, c, sql); err != nil {
			if yes, again := there(); again == nil && yes {
				return nil
			}
			if !hasState(err, "42710") { // one of the triggers is there
				return err
			}
		}
	}
	return nil
}

func explainHelpers(err error, what string) error {
	if fault.Is(err, fault.PermissionDenied) {
		return fault.Wrap(err, fault.PermissionDenied,
			"%s need functions and triggers beside the table, which the user may not create: let the owner of the table ask for one once", what)
	}
	return err
}
