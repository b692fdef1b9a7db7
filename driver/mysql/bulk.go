package mysql

import (
	"context"
	"database/sql"
	"errors"
	"slices"
	"strings"

	"github.com/proa-io/proa/block/state"
	"github.com/proa-io/proa/driver/internal/sqlstate"
	"github.com/proa-io/proa/fault"
)

// batch is how many items are written with one statement: enough to pay for the
// trip, and few enough that nobody waits long for their locks.
const batch = 200

// transaction carries out f, all or nothing. Others are seen as soon as they
// have committed, which needs fewer locks than what the server would do.
func (s *State) transaction(ctx context.Context, f func(*sql.Tx) error) error {
	tx, err := s.db.BeginTx(ctx, &sql.TxOptions{Isolation: sql.LevelReadCommitted})
	if err != nil {
		return err
	}
	if err := f(tx); err != nil {
		_ = tx.Rollback() // the first error counts
		return err
	}
	return tx.Commit()
}

// BulkPut implements state.BulkPutter.
func (s *State) BulkPut(ctx context.Context, puts []state.PutOp) []state.PutResult {
	out := make([]state.PutResult, len(puts))
	var together []int
	repeated := repeats(puts)
	for i := range puts {
		p := &puts[i]
		if s.keys.characters || repeated || p.ETag != "" || p.FirstWrite {
			out[i].ETag, out[i].Err = s.Put(ctx, p.Key, p.Value, p.PutOptions)
		} else {
			together = append(together, i)
		}
	}
	// Everybody takes locks in the same order, lest two wait for each other.
	slices.SortFunc(together, func(a, b int) int { return strings.Compare(puts[a].Key, puts[b].Key) })
	for part := range slices.Chunk(together, batch) {
		etags := make([]string, len(part))
		errs := make([]error, len(part))
		err := s.call(ctx, func(ctx context.Context) error {
			return s.transaction(ctx, func(tx *sql.Tx) error {
				return s.putTogether(ctx, tx, func(j int) *state.PutOp { return &puts[part[j]] }, etags, errs)
			})
		})
		for j, i := range part {
			if out[i] = (state.PutResult{ETag: etags[j], Err: errors.Join(errs[j], err)}); err != nil {
				out[i] = state.PutResult{Err: err}
			}
		}
	}
	return out
}

// repeats reports whether a key comes twice, so that order matters.
func repeats(puts []state.PutOp) bool {
	seen := make(map[string]struct{}, len(puts))
	for _, p := range puts {
		if _, dup := seen[p.Key]; dup {
			return true
		}
		seen[p.Key] = struct{}{}
	}
	return false
}

// putTogether writes items with one statement, but for those that cannot be
// written, whose errors it sets.
func (s *State) putTogether(ctx context.Context, tx *sql.Tx, item func(j int) *state.PutOp, etags []string, errs []error) error {
	var all []any
	n := 0
	for j := range etags {
		p := item(j)
		var args []any
		args, etags[j], errs[j] = s.values(p.Key, p.Value, p.TTL)
		if errs[j] == nil {
			all, n = append(all, args...), n+1
		}
	}
	if n == 0 {
		return nil
	}
	_, err := tx.ExecContext(ctx, s.upsert(n, ""), all...)
	return err
}

// BulkDelete implements state.BulkDeleter.
func (s *State) BulkDelete(ctx context.Context, deletes []state.DeleteOp) []error {
	out := make([]error, len(deletes))
	var together []int
	for i, d := range deletes {
		if s.keys.characters || d.ETag != "" {
			out[i] = s.Delete(ctx, d.Key, d.DeleteOptions)
		} else {
			together = append(together, i)
		}
	}
	slices.SortFunc(together, func(a, b int) int { return strings.Compare(deletes[a].Key, deletes[b].Key) })
	for part := range slices.Chunk(together, batch) {
		keys := make([]string, len(part))
		for j, i := range part {
			keys[j] = deletes[i].Key
		}
		err := s.call(ctx, func(ctx context.Context) error {
			return s.transaction(ctx, func(tx *sql.Tx) error { return s.removeTogether(ctx, tx, keys) })
		})
		for _, i := range part {
			out[i] = err
		}
	}
	return out
}

func (s *State) removeTogether(ctx context.Context, tx *sql.Tx, keys []string) error {
	in, args := s.keys.in(keys)
	_, err := tx.ExecContext(ctx, "DELETE FROM "+s.table+" WHERE "+in, args...)
	return err
}

// MaxTransaction implements state.Transactor: there is no limit.
func (s *State) MaxTransaction() int { return 0 }

// Transact implements state.Transactor.
func (s *State) Transact(ctx context.Context, ops []state.Op, _ state.TransactOptions) error {
	if len(ops) == 0 {
		return ctx.Err()
	}
	check := func(key string) (string, error) {
		_, err := s.keys.stored(key)
		return key, err
	}
	p, err := sqlstate.NewPlan(ops, check, func(etag string) (string, error) { return etag, nil })
	if err != nil {
		return err
	}
	return s.call(ctx, func(ctx context.Context) error {
		return s.transaction(ctx, func(tx *sql.Tx) error {
			if !p.Conditional {
				return s.writeAll(ctx, tx, ops, p.Writes)
			}
			etags, err := s.lock(ctx, tx, p.Keys)
			if err != nil {
				return err
			}
			claims, err := p.Check(etags)
			if err != nil {
				return err
			}
			if err := s.claim(ctx, tx, claims); err != nil {
				return err
			}
			if err := s.writeAll(ctx, tx, ops, p.Writes); err != nil {
				return err
			}
			for _, c := range claims {
				if c.Written {
					continue
				}
				if err := s.remove(ctx, tx, c.Key, ""); err != nil { // it was only to stay free
					return err
				}
			}
			return nil
		})
	})
}

// lock locks the items at keys, in their order, and returns their etags.
func (s *State) lock(ctx context.Context, tx *sql.Tx, keys []string) (map[string]string, error) {
	etags, read := map[string]string{}, map[string]string{}
	for part := range slices.Chunk(keys, batch) {
		in, args := s.keys.in(part)
		rows, err := tx.QueryContext(ctx, "SELECT id, eTag FROM "+s.table+" WHERE "+in+" AND "+live+" ORDER BY id FOR UPDATE", args...)
		if err != nil {
			return nil, err
		}
		err = forEach(rows, func(rows *sql.Rows) error {
			var id, etag string
			err := rows.Scan(&id, &etag)
			read[id] = etag
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	for _, key := range keys {
		if etag, ok := read[s.keys.asText(key)]; ok {
			etags[key] = etag
		}
	}
	return etags, nil
}

// claim puts something at keys where nothing must be, so that nobody else does
// before the transaction ends.
func (s *State) claim(ctx context.Context, tx *sql.Tx, claims []sqlstate.Claim) error {
	for _, c := range claims {
		_, err := s.put(ctx, tx, &state.PutOp{Key: c.Key, PutOptions: state.PutOptions{FirstWrite: true}})
		if fault.Is(err, fault.Aborted) {
			return c.Lost()
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// writeAll carries out the operations at the given places, each of a key of its
// own, whatever there is.
func (s *State) writeAll(ctx context.Context, tx *sql.Tx, ops []state.Op, places []int) error {
	var puts, removes []int
	for _, i := range places {
		switch op := &ops[i]; {
		case op.Delete && s.keys.characters:
			if err := s.remove(ctx, tx, op.Key, ""); err != nil {
				return err
			}
		case op.Delete:
			removes = append(removes, i)
		case s.keys.characters:
			if _, err := s.put(ctx, tx, &state.PutOp{Key: op.Key, Value: op.Value, PutOptions: state.PutOptions{TTL: op.TTL}}); err != nil {
				return &state.OpError{Index: i, Err: err}
			}
		default:
			puts = append(puts, i)
		}
	}
	for part := range slices.Chunk(puts, batch) {
		etags, errs := make([]string, len(part)), make([]error, len(part))
		err := s.putTogether(ctx, tx, func(j int) *state.PutOp {
			op := &ops[part[j]]
			return &state.PutOp{Key: op.Key, Value: op.Value, PutOptions: state.PutOptions{TTL: op.TTL}}
		}, etags, errs)
		for j, i := range part {
			if errs[j] != nil {
				return &state.OpError{Index: i, Err: errs[j]}
			}
		}
		if err != nil {
			return err
		}
	}
	for part := range slices.Chunk(removes, batch) {
		keys := make([]string, len(part))
		for j, i := range part {
			keys[j] = ops[i].Key
		}
		if err := s.removeTogether(ctx, tx, keys); err != nil {
			return err
		}
	}
	return nil
}
