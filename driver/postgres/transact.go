package postgres

import (
	"context"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/proa-io/proa/block/state"
	"github.com/proa-io/proa/driver/internal/sqlstate"
)

// MaxTransaction implements state.Transactor: there is no limit.
func (s *Table) MaxTransaction() int { return 0 }

// Transact implements state.Transactor.
func (s *Table) Transact(ctx context.Context, ops []state.Op, _ state.TransactOptions) error {
	p, err := sqlstate.NewPlan(ops, keyText, s.format.checkETag)
	if err != nil {
		return err
	}
	if len(p.Keys) == 0 {
		return ctx.Err()
	}
	writes := make([]write, len(p.Writes))
	for j, i := range p.Writes {
		if writes[j], err = s.unconditional(&ops[i]); err != nil {
			return &state.OpError{Index: i, Err: err}
		}
	}
	if !p.Conditional {
		_, _, err := s.send(ctx, writes, sortedOrder(writes))
		return err
	}
	return s.client.call(ctx, func(ctx context.Context) error {
		conn, err := s.client.pool.Acquire(ctx)
		if err != nil {
			return err
		}
		defer conn.Release() // one with a transaction under way is not used again
		if err := s.transact(ctx, conn, p, writes); err != nil {
			_, _ = conn.Exec(ctx, "ROLLBACK") // the first error counts
			return err
		}
		_, err = conn.Exec(ctx, "COMMIT")
		return err
	})
}

// unconditional is what an operation writes.
func (s *Table) unconditional(op *state.Op) (write, error) {
	if op.Delete {
		return s.deleteOf(op.Key, "")
	}
	return s.putOf(&state.PutOp{Key: op.Key, Value: op.Value, PutOptions: state.PutOptions{TTL: op.TTL}})
}

// transact begins a transaction and does all but commit it.
func (s *Table) transact(ctx context.Context, conn *pgxpool.Conn, p *sqlstate.Plan, writes []write) error {
	etags, err := s.lock(ctx, conn, p.Keys)
	if err != nil {
		return err
	}
	claims, err := p.Check(etags)
	if err != nil {
		return err
	}
	if err := s.claim(ctx, conn, claims); err != nil {
		return err
	}
	b := &pgx.Batch{}
	for _, w := range writes {
		b.Queue(w.sql, w.args...)
	}
	for _, c := range claims {
		if !c.Written { // it was only to stay free
			b.Queue(`DELETE FROM `+s.format.table+` WHERE key = $1::text`, c.Key)
		}
	}
	return readBatch(conn.SendBatch(ctx, b), b.Len(), func(_ int, rows pgx.Rows) error {
		return forEach(rows, func(pgx.CollectableRow) error { return nil })
	})
}

// lock begins a transaction, locks the items at keys, in their order, and
// returns their etags.
func (s *Table) lock(ctx context.Context, conn *pgxpool.Conn, keys []string) (etags map[string]string, err error) {
	f := &s.format
	etags = make(map[string]string, len(keys))
	b := &pgx.Batch{}
	b.Queue("BEGIN")
	b.Queue(`SELECT key, `+f.etag+` FROM `+f.table+` WHERE key = ANY($1::text[]) AND `+f.live+` ORDER BY key`+f.bytewise+` FOR UPDATE`, keys)
	err = readBatch(conn.SendBatch(ctx, b), b.Len(), func(_ int, rows pgx.Rows) error {
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
func (s *Table) claim(ctx context.Context, conn *pgxpool.Conn, claims []sqlstate.Claim) error {
	if len(claims) == 0 {
		return nil
	}
	b := &pgx.Batch{}
	for _, c := range claims {
		b.Queue(s.format.create, s.format.args(c.Key, nil, 0)...)
	}
	return readBatch(conn.SendBatch(ctx, b), b.Len(), func(i int, rows pgx.Rows) error {
		free := false
		err := forEach(rows, func(pgx.CollectableRow) error {
			free = true
			return nil
		})
		if err == nil && !free {
			return claims[i].Lost()
		}
		return err
	})
}
