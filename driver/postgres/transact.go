package postgres

import (
	"context"
	"maps"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/proa-io/proa/block/state"
	"github.com/proa-io/proa/internal/textkey"
)

// MaxTransaction implements state.Transactor: there is no limit.
func (s *State) MaxTransaction() int { return 0 }

// Transact implements state.Transactor.
func (s *State) Transact(ctx context.Context, ops []state.Op, _ state.TransactOptions) error {
	p, err := s.plan(ops)
	if err != nil {
		return err
	}
	if len(p.keys) == 0 {
		return ctx.Err()
	}
	if !p.conditions {
		_, errs, err := s.send(ctx, p.writes, sortedOrder(p.writes))
		return firstOf(append(errs, err))
	}
	return s.client.call(ctx, func(ctx context.Context) error {
		conn, err := s.client.pool.Acquire(ctx)
		if err != nil {
			return err
		}
		defer conn.Release() // one with a transaction under way is not used again
		if err := s.transact(ctx, conn, p); err != nil {
			_, _ = conn.Exec(ctx, "ROLLBACK") // the first error counts
			return err
		}
		_, err = conn.Exec(ctx, "COMMIT")
		return err
	})
}

func firstOf(errs []error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// plan is a transaction as it goes to the database: conditions that hold
// against what is there before, and one write per key, the last.
type plan struct {
	ops        []state.Op
	etags      []string // of each operation, as the table has it
	keys       []string // all that occur, as text, sorted
	conditions bool
	writes     []write
	// last is the place of the operation that says what becomes of a key.
	last map[string]int
}

func (s *State) plan(ops []state.Op) (*plan, error) {
	p := &plan{ops: ops, etags: make([]string, len(ops)), last: map[string]int{}}
	seen := make(map[string]struct{}, len(ops))
	for i := range ops {
		op := &ops[i]
		key := textkey.Encode(op.Key)
		if _, err := (write{}).check(op.Key); err != nil {
			return nil, &state.OpError{Index: i, Err: err}
		}
		if op.ETag != "" && (op.Check == state.NoCheck || op.Check == state.CheckETag) {
			etag, err := s.format.checkETag(op.ETag)
			if err != nil {
				return nil, &state.OpError{Index: i, Err: err}
			}
			p.etags[i] = etag
		}
		p.conditions = p.conditions || conditional(op)
		seen[key] = struct{}{}
		if op.Check == state.NoCheck {
			p.last[key] = i
		}
	}
	p.keys = slices.Sorted(maps.Keys(seen))
	for _, key := range p.keys {
		i, ok := p.last[key]
		if !ok {
			continue
		}
		w, err := s.unconditional(&ops[i])
		if err != nil {
			return nil, &state.OpError{Index: i, Err: err}
		}
		p.writes = append(p.writes, w)
	}
	return p, nil
}

// conditional reports whether an operation demands something of what is there.
func conditional(op *state.Op) bool {
	return op.Check != state.NoCheck || op.ETag != "" || op.FirstWrite && !op.Delete
}

// unconditional is what an operation writes.
func (s *State) unconditional(op *state.Op) (write, error) {
	if op.Delete {
		return s.deleteOf(op.Key, "")
	}
	return s.putOf(&state.PutOp{Key: op.Key, Value: op.Value, PutOptions: state.PutOptions{TTL: op.TTL}})
}

// transact begins a transaction and does all but commit it.
func (s *State) transact(ctx context.Context, conn *pgxpool.Conn, p *plan) error {
	found, err := s.lock(ctx, conn, p.keys)
	if err != nil {
		return err
	}
	claims := map[string]int{} // keys that must be free, and the operation that says so
	for i := range p.ops {
		op := &p.ops[i]
		key := textkey.Encode(op.Key)
		etag, exists := found[key]
		if !holds(op, p.etags[i], etag, exists) {
			return &state.OpError{Index: i, Err: op.Lost()}
		}
		if _, dup := claims[key]; !exists && !dup && conditional(op) {
			claims[key] = i
		}
	}
	if err := s.claim(ctx, conn, p, claims); err != nil {
		return err
	}
	b := &pgx.Batch{}
	for _, w := range p.writes {
		b.Queue(w.sql, w.args...)
	}
	for _, key := range slices.Sorted(maps.Keys(claims)) {
		if _, written := p.last[key]; !written { // it was only to stay free
			b.Queue(`DELETE FROM `+s.format.table+` WHERE key = $1::text`, key)
		}
	}
	return readBatch(conn.SendBatch(ctx, b), b.Len(), func(_ int, rows pgx.Rows) error {
		return forEach(rows, func(pgx.CollectableRow) error { return nil })
	})
}

// holds reports whether the condition of an operation does, given what there
// is.
func holds(op *state.Op, want, etag string, exists bool) bool {
	switch op.Check {
	case state.CheckExists:
		return exists
	case state.CheckAbsent:
		return !exists
	}
	switch {
	case op.ETag != "":
		return exists && etag == want
	case op.FirstWrite && !op.Delete:
		return !exists
	}
	return true
}

// lock begins a transaction, locks the items at keys, in their order, and
// returns their etags.
func (s *State) lock(ctx context.Context, conn *pgxpool.Conn, keys []string) (etags map[string]string, err error) {
	f := &s.format
	etags = make(map[string]string, len(keys))
	b := &pgx.Batch{}
	b.Queue("BEGIN")
	b.Queue(`SELECT key, `+f.etag+` FROM `+f.table+` WHERE key = ANY($1::text[]) AND `+f.live+` ORDER BY key`+f.bytewise+` FOR UPDATE`, keys)
	err = readBatch(conn.SendBatch(ctx, b), 2, func(_ int, rows pgx.Rows) error {
		return forEach(rows, func(cr pgx.CollectableRow) error {
			var key, etag string
			err := cr.Scan(&key, &etag)
			etags[key] = etag
			return err
		})
	})
	return etags, err
}

// claim puts something at keys where nothing must be, so that nobody else does
// before the transaction ends.
func (s *State) claim(ctx context.Context, conn *pgxpool.Conn, p *plan, claims map[string]int) error {
	if len(claims) == 0 {
		return nil
	}
	keys := slices.Sorted(maps.Keys(claims))
	b := &pgx.Batch{}
	for _, key := range keys {
		b.Queue(s.format.create, s.format.args(key, nil, 0)...)
	}
	return readBatch(conn.SendBatch(ctx, b), len(keys), func(i int, rows pgx.Rows) error {
		free := false
		err := forEach(rows, func(pgx.CollectableRow) error {
			free = true
			return nil
		})
		if err == nil && !free {
			err = &state.OpError{Index: claims[keys[i]], Err: p.ops[claims[keys[i]]].Lost()}
		}
		return err
	})
}
