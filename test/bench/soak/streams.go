package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/proa-io/proa/test/bench/wire"
)

// dial connects; the connection ends after d and the patience of all clients.
func dial(addr string, d time.Duration) (net.Conn, error) {
	conn, err := net.Dial("tcp", addr) //nolint:noctx // bounded below
	if err != nil {
		return nil, err
	}
	return conn, conn.SetDeadline(time.Now().Add(d + wire.Timeout))
}

// bounce sends a frame again and again for d, and expects it back each time.
func bounce(conn net.Conn, in io.Reader, frame []byte, d time.Duration) (n int, err error) {
	back := make([]byte, len(frame))
	for until := time.Now().Add(d); time.Now().Before(until); n++ {
		if _, err := conn.Write(frame); err != nil {
			return n, err
		}
		if _, err := io.ReadFull(in, back); err != nil {
			return n, err
		}
		if !bytes.Equal(frame, back) {
			return n, errors.New("other bytes come back than were sent")
		}
	}
	return n, nil
}

// webSocket upgrades a connection and sends frames over it, which come back.
func webSocket(addr, path string) func(context.Context, time.Duration) (int, error) {
	return func(_ context.Context, d time.Duration) (n int, err error) {
		conn, err := dial(addr, d)
		if err != nil {
			return 0, err
		}
		defer conn.Close()
		if _, err := fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: soak\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
			"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n", path); err != nil {
			return 0, err
		}
		in := bufio.NewReader(conn)
		resp, err := http.ReadResponse(in, nil)
		if err != nil {
			return 0, err
		}
		const accept = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" // RFC 6455, section 1.3
		if resp.StatusCode != http.StatusSwitchingProtocols || resp.Header.Get("Sec-WebSocket-Accept") != accept {
			return 0, fmt.Errorf("the upgrade is answered %s, accept %q", resp.Status, resp.Header.Get("Sec-WebSocket-Accept"))
		}
		// A binary frame of 125 bytes, with the mask 0: its echo is the same.
		frame := append([]byte{0x82, 0x80 | 125, 0, 0, 0, 0}, bytes.Repeat([]byte("x"), 125)...)
		return bounce(conn, in, frame, d)
	}
}

// connect opens a tunnel with CONNECT and sends bytes through it, which come back.
func connect(addr, to string) func(context.Context, time.Duration) (int, error) {
	return func(_ context.Context, d time.Duration) (int, error) {
		conn, err := dial(addr, d)
		if err != nil {
			return 0, err
		}
		defer conn.Close()
		if _, err := fmt.Fprintf(conn, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n", to, to); err != nil {
			return 0, err
		}
		in := bufio.NewReader(conn)
		resp, err := http.ReadResponse(in, &http.Request{Method: http.MethodConnect})
		if err != nil {
			return 0, err
		}
		if resp.StatusCode != http.StatusOK {
			text, _ := io.ReadAll(io.LimitReader(resp.Body, 500))
			return 0, fmt.Errorf("CONNECT is answered %s: %s", resp.Status, text)
		}
		return bounce(conn, in, bytes.Repeat([]byte("c"), 1<<10), d)
	}
}

// rawConnection sends bytes over a connection, which come back.
func rawConnection(addr string) func(context.Context, time.Duration) (int, error) {
	return func(_ context.Context, d time.Duration) (int, error) {
		conn, err := dial(addr, d)
		if err != nil {
			return 0, err
		}
		defer conn.Close()
		return bounce(conn, conn, bytes.Repeat([]byte("t"), 1<<10), d)
	}
}

// streamed is how many events a stream has.
const streamed = 50

// eventStream reads streams of events to their ends.
func eventStream(addr, path string) func(context.Context, time.Duration) (int, error) {
	return func(ctx context.Context, d time.Duration) (n int, err error) {
		client := &http.Client{Transport: &http.Transport{}, Timeout: d + wire.Timeout}
		defer client.CloseIdleConnections()
		for until := time.Now().Add(d); time.Now().Before(until) && ctx.Err() == nil; n++ {
			resp, err := client.Get("http://" + addr + path) //nolint:noctx // the client has a timeout
			if err != nil {
				return n, err
			}
			text, err := io.ReadAll(resp.Body)
			_ = resp.Body.Close()
			if err != nil {
				return n, err
			}
			if got := strings.Count(string(text), "\n\n"); got != streamed || resp.StatusCode != http.StatusOK {
				return n, fmt.Errorf("a stream of %d events has %d, status %d", streamed, got, resp.StatusCode)
			}
		}
		return n, nil
	}
}

// overHTTP2 makes calls over a connection that speaks HTTP/2 from the start.
func (s *stand) overHTTP2(addr, path string, body []byte) func(context.Context, time.Duration) (int, error) {
	return func(ctx context.Context, d time.Duration) (n int, err error) {
		var protocols http.Protocols
		protocols.SetUnencryptedHTTP2(true)
		client := &http.Client{Transport: &http.Transport{Protocols: &protocols}, Timeout: d + wire.Timeout}
		defer client.CloseIdleConnections()
		for until := time.Now().Add(d); time.Now().Before(until) && ctx.Err() == nil; n++ {
			resp, err := client.Post("http://"+addr+path, "application/octet-stream", bytes.NewReader(body)) //nolint:noctx // the client has a timeout
			if err != nil {
				return n, err
			}
			back, err := io.ReadAll(resp.Body)
			_ = resp.Body.Close()
			if err != nil {
				return n, err
			}
			if resp.StatusCode != http.StatusOK || resp.ProtoMajor != 2 || !bytes.Equal(back, body) {
				return n, fmt.Errorf("%s answers %s with %d bytes", resp.Proto, resp.Status, len(back))
			}
		}
		return n, nil
	}
}

// abortStreams begins what lasts and breaks it off: streams of events, tunnels,
// WebSockets; by an end and by a reset.
func (s *stand) abortStreams(ctx context.Context, d time.Duration) (n int, err error) {
	front := s.sidecars["front"].HTTPAddr()
	to := fmt.Sprintf("http:%d", s.rawPort())
	for until := time.Now().Add(d); time.Now().Before(until) && ctx.Err() == nil; n++ {
		conn, err := dial(front, d)
		if err != nil {
			return n, err
		}
		switch n % 3 {
		case 0:
			_, err = io.WriteString(conn, "GET /v1.0/invoke/http/method/endless HTTP/1.1\r\nHost: soak\r\n\r\n")
		case 1:
			_, err = fmt.Fprintf(conn, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n", to, to)
		case 2:
			_, err = io.WriteString(conn, "GET /v1.0/invoke/http/method/ws HTTP/1.1\r\nHost: soak\r\nConnection: Upgrade\r\n"+
				"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
		}
		if err == nil {
			_, err = conn.Read(make([]byte, 512)) // the head
		}
		if tc := conn.(*net.TCPConn); n%2 == 0 {
			_ = tc.SetLinger(0)
		}
		_ = conn.Close()
		if err != nil {
			return n, err
		}
		time.Sleep(2 * time.Millisecond)
	}
	return n, nil
}

// reload changes a component of all sidecars, and waits a little.
func (s *stand) reload(ctx context.Context, d time.Duration) (int, error) {
	if err := s.writeChanging(); err != nil {
		return 0, err
	}
	s.reloads.Add(1)
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
	return 1, nil
}
