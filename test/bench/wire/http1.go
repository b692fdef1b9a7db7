package wire

import (
	"bufio"
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/proa-io/proa/test/bench/load"
)

// Request is what an HTTP/1.1 client asks, again and again.
type Request struct {
	Method, Path string
	Fields       map[string]string
	Body         []byte
	Want         int // the status
	ReadSize     int // of the buffer that answers are read with; 8 KiB by default
}

// bytes is the request as it is sent.
func (r Request) bytes(host string) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: bench\r\nAccept: */*\r\n", r.Method, r.Path, host)
	for name, value := range r.Fields {
		fmt.Fprintf(&b, "%s: %s\r\n", name, value)
	}
	if r.Body != nil {
		fmt.Fprintf(&b, "Content-Type: application/json\r\nContent-Length: %d\r\n", len(r.Body))
	}
	b.WriteString("\r\n")
	b.Write(r.Body)
	return b.Bytes()
}

// HTTP1 is a client on one connection that is kept.
type HTTP1 struct {
	conn    net.Conn
	in      *bufio.Reader
	request []byte
	want    int
}

var _ load.Worker = (*HTTP1)(nil)

// DialHTTP1 connects to addr.
func DialHTTP1(addr string, r Request) (*HTTP1, error) {
	conn, err := dial(addr)
	if err != nil {
		return nil, err
	}
	return &HTTP1{conn: conn, in: bufio.NewReaderSize(conn, cmp.Or(r.ReadSize, 8<<10)), request: r.bytes(addr), want: r.Want}, nil
}

// Run implements load.Worker.
func (c *HTTP1) Run(until time.Time, h *load.Histogram) error {
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

// Call makes one call.
func (c *HTTP1) Call() error {
	if _, err := c.conn.Write(c.request); err != nil {
		return err
	}
	return readResponse(c.in, c.want)
}

// Close implements load.Worker.
func (c *HTTP1) Close() error { return c.conn.Close() }

// readResponse reads a response.
func readResponse(in *bufio.Reader, want int) error {
	line, err := in.ReadSlice('\n')
	if err != nil {
		return err
	}
	if len(line) < len("HTTP/1.1 200\r\n") {
		return fmt.Errorf("status line %q", line)
	}
	status, err := strconv.Atoi(string(line[9:12]))
	if err != nil {
		return fmt.Errorf("status line %q", line)
	}
	length, err := readFields(in)
	if err != nil {
		return err
	}
	if length < 0 {
		if status != 204 {
			return fmt.Errorf("answer %d without Content-Length", status)
		}
		length = 0
	}
	if status != want {
		text := make([]byte, min(length, 4<<10))
		_, _ = io.ReadFull(in, text)
		return fmt.Errorf("answer %d %s, want %d", status, text, want)
	}
	_, err = in.Discard(length)
	return err
}

// errChunked says what is not understood here.
var errChunked = errors.New("a message has Transfer-Encoding, which the bench does not read")

// readFields reads the fields of a message and returns its Content-Length, or
// -1.
func readFields(in *bufio.Reader) (length int, err error) {
	const lengthField, codingField = "content-length:", "transfer-encoding:"
	length = -1
	for {
		line, err := in.ReadSlice('\n')
		if err != nil {
			return 0, err
		}
		if len(line) <= 2 {
			return length, nil
		}
		if len(line) > len(lengthField) && strings.EqualFold(string(line[:len(lengthField)]), lengthField) {
			if length, err = strconv.Atoi(strings.TrimSpace(string(line[len(lengthField):]))); err != nil {
				return 0, err
			}
		}
		if len(line) > len(codingField) && strings.EqualFold(string(line[:len(codingField)]), codingField) {
			return 0, errChunked
		}
	}
}

// EchoHTTP1 is an application that answers what was posted to /echo, and 404 to
// everything else. It returns when the listener is closed.
func EchoHTTP1(l net.Listener) { serve(l, echoHTTP1) }

func echoHTTP1(conn net.Conn) {
	in := bufio.NewReaderSize(conn, 8<<10)
	var out []byte
	for {
		line, err := in.ReadSlice('\n')
		if err != nil {
			return
		}
		echo := bytes.HasPrefix(line, []byte("POST /echo"))
		length, err := readFields(in)
		if err != nil {
			_, _ = fmt.Fprintf(conn, "HTTP/1.1 501 Not Implemented\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%v", len(err.Error()), err)
			return
		}
		length = max(length, 0)
		if !echo {
			if _, err := in.Discard(length); err != nil {
				return
			}
			if _, err := io.WriteString(conn, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"); err != nil {
				return
			}
			continue
		}
		out = append(out[:0], "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: "...)
		out = strconv.AppendInt(out, int64(length), 10)
		out = append(out, "\r\n\r\n"...)
		head := len(out)
		out = append(out, make([]byte, length)...)
		if _, err := io.ReadFull(in, out[head:]); err != nil {
			return
		}
		if _, err := conn.Write(out); err != nil {
			return
		}
	}
}

// Begin sends the first half of a request and returns. Only Close is to follow.
func (c *HTTP1) Begin() error {
	_, err := c.conn.Write(c.request[:len(c.request)-len(c.request)/2])
	return err
}

// Send sends a request and does not wait for the answer. Only Close is to follow.
func (c *HTTP1) Send() error {
	_, err := c.conn.Write(c.request)
	return err
}
