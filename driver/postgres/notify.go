package postgres

import (
	"context"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/proa-io/proa/fault"
)

// changeChannel begins the name of the channel on which the triggers of a table
// tell its changes; the number of the table follows.
const changeChannel = "proa_changed_"

// pingEvery is how often a silent connection is asked whether it is alive.
const pingEvery = 15 * time.Second

// maxNotice is how long a key may be to be in a notification, in bytes: the
// server limits those to 8,000. Of what changes beside that nothing is said but
// that it does.
const maxNotice = 7900

// listen opens a connection of its own that is told on a channel, or, without
// one, of the changes of a table that has our triggers.
func (c *client) listen(ctx context.Context, table, channel string) (conn *pgx.Conn, err error) {
	err = c.once(ctx, func(ctx context.Context) error {
		if conn, err = pgx.ConnectConfig(ctx, c.pool.Config().ConnConfig); err != nil {
			return err
		}
		if channel == "" {
			var number uint32
			if err = conn.QueryRow(ctx, `SELECT to_regclass($1::text)::oid`, table).Scan(&number); err == nil {
				channel = changeChannel + strconv.FormatUint(uint64(number), 10)
			}
		}
		if err == nil {
			_, err = conn.Exec(ctx, `LISTEN `+channel)
		}
		if err != nil {
			closeSoon(ctx, conn)
		}
		return err
	})
	return conn, err
}

// receive calls take with the payload of each notification, until ctx ends, the
// connection is lost, or take fails.
func (c *client) receive(ctx context.Context, conn *pgx.Conn, take func(payload string) error) error {
	for {
		waiting, cancel := context.WithTimeout(ctx, pingEvery)
		n, err := conn.WaitForNotification(waiting)
		cancel()
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err == nil:
			err = take(n.Payload)
			if err != nil {
				return err
			}
			continue
		case pgconn.Timeout(err): // nothing was said: is anybody there?
			asking, cancel := context.WithTimeout(ctx, c.timeout)
			err = conn.Ping(asking)
			cancel()
		}
		if err != nil {
			return fault.Wrap(err, fault.Unavailable, "the connection that tells of changes is lost")
		}
	}
}
