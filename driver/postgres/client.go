package postgres

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/proa-io/proa/fault"
)

// client is a pool of connections whose errors are named.
type client struct {
	pool    *pgxpool.Pool
	sockets *sockets
	timeout time.Duration
	closed  atomic.Bool
}

// connect opens a pool and makes sure that the database answers.
func connect(ctx context.Context, cfg Config) (*client, error) {
	poolConfig, err := cfg.pool()
	if err != nil {
		return nil, err
	}
	sockets := newSockets()
	poolConfig.ConnConfig.DialFunc = sockets.dial
	// A pool outlives the context it is opened with.
	pool, err := pgxpool.NewWithConfig(context.WithoutCancel(ctx), poolConfig)
	if err != nil {
		return nil, classify(ctx, err)
	}
	c := &client{pool: pool, sockets: sockets, timeout: cfg.Timeout.Std()}
	err = c.call(ctx, pool.Ping)
	if err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

// attempts is how often something is carried out that the server has undone for
// others who stood in its way: it alone knows who that was.
const attempts = 10

// call runs f within the timeout, again when the server has undone it for
// others, and names its error. f carries out one transaction.
func (c *client) call(ctx context.Context, f func(context.Context) error) error {
	return c.once(ctx, func(limited context.Context) error {
		err := f(limited)
		for n := 1; n < attempts && hasState(err, "40001", "40P01") && limited.Err() == nil; n++ {
			err = f(limited)
		}
		return err
	})
}

// once runs f within the timeout and names its error.
func (c *client) once(ctx context.Context, f func(context.Context) error) error {
	limited, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	return c.classify(ctx, f(limited))
}

func (c *client) classify(ctx context.Context, err error) error {
	if err != nil && c.closed.Load() {
		return errClosed()
	}
	return classify(ctx, err)
}

func errClosed() error { return fault.New(fault.Unavailable, "the component is closed") }

// exec runs a statement without result.
func (c *client) exec(ctx context.Context, sql string, args ...any) (tag pgconn.CommandTag, err error) {
	err = c.call(ctx, func(ctx context.Context) error {
		tag, err = c.pool.Exec(ctx, sql, args...)
		return err
	})
	return tag, err
}

// first runs a statement and calls scan with its first row. found is false,
// and err nil, when it has none.
func (c *client) first(ctx context.Context, sql string, args []any, scan func(pgx.CollectableRow) error) (found bool, err error) {
	err = c.each(ctx, sql, args, func(row pgx.CollectableRow) error {
		if found {
			return nil
		}
		found = true
		return scan(row)
	})
	return found && err == nil, err
}

// each runs a statement and calls scan with each of its rows.
func (c *client) each(ctx context.Context, sql string, args []any, scan func(pgx.CollectableRow) error) error {
	return c.once(ctx, func(ctx context.Context) error {
		rows, err := c.pool.Query(ctx, sql, args...)
		if err != nil {
			return err
		}
		return forEach(rows, scan)
	})
}

// forEach calls scan with each of rows, and closes them.
func forEach(rows pgx.Rows, scan func(pgx.CollectableRow) error) error {
	defer rows.Close()
	for rows.Next() {
		if err := scan(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}

// close ends the connections. Calls under way have closingTimeout left.
func (c *client) close() {
	c.closed.Store(true)
	cut := time.AfterFunc(closingTimeout, c.sockets.end)
	defer cut.Stop()
	c.pool.Close()
	c.sockets.end() // those that are not of the pool
}

// closeSoon ends a connection that is not of the pool. It does not wait longer
// than closingTimeout, whatever ctx says, for a connection must not stay.
func closeSoon(ctx context.Context, conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closingTimeout)
	defer cancel()
	_ = conn.Close(ctx) // the connection is gone either way
}

// closingTimeout bounds the orderly end of a connection.
const closingTimeout = time.Second
