package wire

import (
	"bufio"
	"bytes"
	"fmt"
	"net"
	"strconv"
	"time"

	"github.com/proa-io/proa/test/bench/load"
)

// RESP is a client of redis on one connection that sends one command, again and
// again.
type RESP struct {
	conn    net.Conn
	in      *bufio.Reader
	command []byte
}

var _ load.Worker = (*RESP)(nil)

// DialRESP connects to addr.
func DialRESP(addr string, command ...string) (*RESP, error) {
	conn, err := dial(addr)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "*%d\r\n", len(command))
	for _, arg := range command {
		fmt.Fprintf(&b, "$%d\r\n%s\r\n", len(arg), arg)
	}
	return &RESP{conn: conn, in: bufio.NewReaderSize(conn, 8<<10), command: b.Bytes()}, nil
}

// Run implements load.Worker.
func (c *RESP) Run(until time.Time, h *load.Histogram) error {
	if err := c.conn.SetDeadline(until.Add(Timeout)); err != nil {
		return err
	}
	for start := time.Now(); start.Before(until); {
		if err := c.Call(); err != nil {
			return err
		}
		now := time.Now()
		h.Record(now.Sub(start))
		start = now
	}
	return nil
}

// Call sends the command once. A value that is not there is an error.
func (c *RESP) Call() error {
	if _, err := c.conn.Write(c.command); err != nil {
		return err
	}
	line, err := c.in.ReadSlice('\n')
	if err != nil {
		return err
	}
	switch line = bytes.TrimSpace(line); {
	case len(line) > 0 && line[0] == '+':
		return nil
	case len(line) > 1 && line[0] == '$' && line[1] != '-':
		n, err := strconv.Atoi(string(line[1:]))
		if err != nil {
			return err
		}
		_, err = c.in.Discard(n + 2)
		return err
	}
	return fmt.Errorf("redis answers %q", line)
}

// Close implements load.Worker.
func (c *RESP) Close() error { return c.conn.Close() }
