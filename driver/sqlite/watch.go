package sqlite

import (
	"context"
	"database/sql"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/proa-io/proa/block/state"
)

const (
	// history is how many changes the table of changes remembers.
	history = 100_000
	// lookEvery is how often a watch looks for changes that other processes
	// have made.
	lookEvery = 100 * time.Millisecond
)

// news tells watches of this process that something has been written.
type news struct {
	mu  sync.Mutex
	out chan struct{}
}

// next returns a channel that is closed at the next announcement.
func (n *news) next() <-chan struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.out == nil {
		n.out = make(chan struct{})
	}
	return n.out
}

func (n *news) announce() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.out != nil {
		close(n.out)
		n.out = nil
	}
}

// Watch implements state.Watcher. Triggers on the table note every change in a
// table of changes, whoever makes it; what the keys hold is then read. The
// history reaches back some way, and outlives the process.
func (s *State) Watch(ctx context.Context, prefix string, opt state.WatchOptions, report func(state.Change) error) error {
	id, err := s.ensureLog(ctx)
	if err != nil {
		return err
	}
	w := &watch{State: s, id: id, prefix: prefix, report: report}
	if err := w.begin(ctx, opt); err != nil {
		return err
	}
	for {
		// The order matters: what comes after the look is announced.
		announced := s.news.next()
		if err := w.tell(ctx); err != nil {
			return err
		}
		timer := time.NewTimer(lookEvery)
		select {
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case <-announced:
			timer.Stop()
		case <-timer.C:
		}
	}
}

// ensureLog makes sure of the table of changes, and returns its id.
func (s *State) ensureLog(ctx context.Context) (id string, err error) {
	account, name := quoted(s.cfg.MetadataTableName), "proa-changes-"+s.cfg.TableName
	if s.logging.Load() {
		err := s.call(ctx, func(ctx context.Context) error {
			return s.read.QueryRowContext(ctx, `SELECT value FROM `+account+` WHERE key = ?`, name).Scan(&id)
		})
		return id, err
	}
	trigger := func(suffix, event, key string) string {
		return `CREATE TRIGGER IF NOT EXISTS ` + quoted(s.cfg.TableName+"_proa_"+suffix) + ` AFTER ` + event + ` ON ` + s.table + ` BEGIN
	INSERT INTO ` + s.log + ` (key) VALUES (` + key + `);
	DELETE FROM ` + s.log + ` WHERE seq <= last_insert_rowid() - ` + strconv.Itoa(history) + `;
END`
	}
	err = s.call(ctx, func(ctx context.Context) error {
		return s.transaction(ctx, func(tx *sql.Tx) error {
			for _, stmt := range []string{
				`CREATE TABLE IF NOT EXISTS ` + s.log + ` (seq INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL)`,
				trigger("insert", "INSERT", "NEW.key"),
				trigger("update", "UPDATE", "NEW.key"),
				trigger("rename", "UPDATE OF key", "OLD.key"),
				trigger("delete", "DELETE", "OLD.key"),
				`INSERT INTO ` + account + ` (key, value) VALUES ('` + name + `', '` + strings.ReplaceAll(uuid.NewString(), "-", "") + `') ON CONFLICT (key) DO NOTHING`,
			} {
				if _, err := tx.ExecContext(ctx, stmt); err != nil {
					return err
				}
			}
			return tx.QueryRowContext(ctx, `SELECT value FROM `+account+` WHERE key = ?`, name).Scan(&id)
		})
	})
	s.logging.Store(err == nil)
	return id, err
}

// watch is one Watch under way.
type watch struct {
	*State
	id     string
	prefix string
	report func(state.Change) error
	seq    int64 // of the last change that has been seen to
}

func (w *watch) revision() string { return w.id + "-" + strconv.FormatInt(w.seq, 10) }

// begin reports what comes before the changes.
func (w *watch) begin(ctx context.Context, opt state.WatchOptions) error {
	first, last, err := w.bounds(ctx)
	if err != nil {
		return err
	}
	w.seq = last
	if opt.After != "" {
		if w.seq, err = w.readRevision(opt.After, first, last); err != nil {
			return err
		}
	}
	if opt.Initial {
		if err := w.tellAll(ctx); err != nil {
			return err
		}
	}
	return w.report(state.Change{Kind: state.Synced, Revision: w.revision()})
}

// bounds returns the numbers of the first change that is remembered and of the
// last; the first is beyond the last when none is.
func (w *watch) bounds(ctx context.Context) (first, last int64, err error) {
	err = w.call(ctx, func(ctx context.Context) error {
		return w.read.QueryRowContext(ctx, `SELECT COALESCE((SELECT MIN(seq) FROM `+w.log+`), seq + 1), seq
FROM (SELECT COALESCE((SELECT seq FROM sqlite_sequence WHERE name = ?), 0) AS seq)`, w.cfg.TableName+"_proa_changes").Scan(&first, &last)
	})
	return first, last, err
}

func (w *watch) readRevision(text string, first, last int64) (int64, error) {
	id, digits, ok := strings.Cut(text, "-")
	seq, err := strconv.ParseInt(digits, 10, 64)
	switch {
	case !ok || err != nil || seq < 0 || id == "":
		return 0, state.ErrRevisionInvalid("revisions are the name of a history and a number")
	case id != w.id || seq < first-1:
		return 0, state.ErrRevisionGone()
	case seq > last:
		return 0, state.ErrRevisionInvalid("its number is still to come")
	}
	return seq, nil
}

func (w *watch) tellAll(ctx context.Context) error {
	const some = 500
	for after := ""; ; {
		keys, err := w.List(ctx, w.prefix, after, some)
		if err != nil || len(keys) == 0 {
			return err
		}
		for i, r := range w.BulkGet(ctx, keys, state.GetOptions{}) {
			if r.Err != nil {
				return r.Err
			}
			if !r.Found {
				continue // gone meanwhile
			}
			if err := w.report(state.Change{Kind: state.ItemPut, Key: keys[i], Item: r.Item}); err != nil {
				return err
			}
		}
		after = keys[len(keys)-1]
	}
}

// tell reports the changes since the last that has been seen to.
func (w *watch) tell(ctx context.Context) error {
	const some = 500
	for {
		changes, err := w.some(ctx, some)
		if err != nil || len(changes) == 0 {
			return err
		}
		keys := make([]string, len(changes))
		for i, c := range changes {
			keys[i] = c.key
		}
		for i, r := range w.BulkGet(ctx, keys, state.GetOptions{}) {
			if r.Err != nil {
				return r.Err
			}
			w.seq = changes[i].seq
			c := state.Change{Kind: state.ItemGone, Key: keys[i], Revision: w.revision()}
			if r.Found {
				c.Kind, c.Item = state.ItemPut, r.Item
			}
			if err := w.report(c); err != nil {
				return err
			}
		}
	}
}

type change struct {
	seq int64
	key string
}

// some returns the next changes of keys with the prefix, each key once, with
// the place of its last change among them.
func (w *watch) some(ctx context.Context, limit int) ([]change, error) {
	for {
		first, last, err := w.bounds(ctx)
		if err != nil || w.seq == last {
			return nil, err
		}
		if w.seq < first-1 {
			return nil, state.ErrRevisionGone()
		}
		var changes []change
		seq := w.seq
		err = w.each(ctx, `SELECT seq, key FROM `+w.log+` WHERE seq > ? ORDER BY seq LIMIT ?`, []any{w.seq, limit}, func(rows *sql.Rows) error {
			var c change
			err := rows.Scan(&c.seq, &c.key)
			seq = c.seq
			if strings.HasPrefix(c.key, w.prefix) {
				changes = append(changes, c)
			}
			return err
		})
		if err != nil || len(changes) > 0 || seq == w.seq {
			return lastOfEach(changes), err
		}
		w.seq = seq // none of them is for us
	}
}

// lastOfEach leaves the last change of each key.
func lastOfEach(changes []change) []change {
	last := make(map[string]int64, len(changes))
	for _, c := range changes {
		last[c.key] = c.seq
	}
	kept := changes[:0]
	for _, c := range changes {
		if last[c.key] == c.seq {
			kept = append(kept, c)
		}
	}
	return kept
}
