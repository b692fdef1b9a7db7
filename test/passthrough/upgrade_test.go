package passthrough_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha1" //nolint:gosec // what RFC 6455 has
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/coder/websocket"

	"github.com/proa-io/proa/mesh/http2"
	"github.com/proa-io/proa/mesh/proxy"
)

// extended sends the handshakes of a WebSocket client as extended CONNECT (RFC
// 8441), and gives them back as it expects them.
type extended struct{ *http2.Client }

// RoundTrip implements http.RoundTripper.
func (e extended) RoundTrip(r *http.Request) (*http.Response, error) {
	out := &proxy.Request{Method: "GET", Scheme: "http", Authority: r.URL.Host, Target: r.URL.RequestURI(), Upgrade: "websocket"}
	for name, values := range r.Header {
		switch name {
		case "Connection", "Upgrade", "Sec-Websocket-Key":
			continue
		}
		for _, v := range values {
			out.Header.Add(name, v)
		}
	}
	resp, err := e.Client.RoundTrip(r.Context(), out, proxy.RoundTripOptions{})
	if err != nil {
		return nil, err
	}
	back := &http.Response{StatusCode: resp.Status, Header: http.Header{}, Body: resp.Body}
	for _, f := range resp.Header {
		back.Header.Add(f.Name, f.Value)
	}
	if resp.Upgraded != nil {
		back.StatusCode, back.Body = http.StatusSwitchingProtocols, resp.Upgraded
		h := sha1.Sum([]byte(r.Header.Get("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
		back.Header.Set("Sec-WebSocket-Accept", base64.StdEncoding.EncodeToString(h[:]))
		back.Header.Set("Connection", "Upgrade")
		back.Header.Set("Upgrade", "websocket")
	}
	return back, nil
}

// dialWebSocket opens a WebSocket over one of the versions of HTTP.
func (m *mesh) dialWebSocket(t *testing.T, two bool, url string) *websocket.Conn {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{}}
	if two {
		cl := &http2.Client{Addr: m.front.api()}
		t.Cleanup(cl.Close)
		client.Transport = extended{cl}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	t.Cleanup(cancel)
	ws, _, err := websocket.Dial(ctx, url, &websocket.DialOptions{HTTPClient: client, Subprotocols: []string{"chat"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ws.CloseNow() })
	ws.SetReadLimit(4 << 20)
	return ws
}

func TestWebSockets(t *testing.T) {
	t.Parallel()
	eachMesh(t, func(t *testing.T, m *mesh) {
		for _, two := range []bool{false, true} {
			t.Run(version(two), func(t *testing.T) {
				t.Parallel()
				closed := make(chan error, 2)
				url := m.url("one", m.one.add(t, func(w http.ResponseWriter, r *http.Request) {
					ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{"chat"}})
					if err != nil {
						closed <- err
						return
					}
					ws.SetReadLimit(4 << 20)
					for {
						kind, b, err := ws.Read(r.Context())
						if err != nil {
							closed <- err
							return
						}
						if string(b) == "close" {
							closed <- ws.Close(4001, "as you wish")
							return
						}
						if err := ws.Write(r.Context(), kind, b); err != nil {
							closed <- err
							return
						}
					}
				}))
				ws := m.dialWebSocket(t, two, url)
				if ws.Subprotocol() != "chat" {
					t.Errorf("the protocol is %q", ws.Subprotocol())
				}
				for _, size := range []int{0, 1, 125, 126, 65536, 1 << 20} {
					if err := ws.Write(t.Context(), websocket.MessageBinary, text(size)); err != nil {
						t.Fatal(err)
					}
					if kind, got, err := ws.Read(t.Context()); err != nil || kind != websocket.MessageBinary || !bytes.Equal(got, text(size)) {
						t.Fatalf("%d bytes come back as %s, %v", size, sum(got), err)
					}
				}
				reading := ws.CloseRead(t.Context()) // or nobody reads the pong
				if err := ws.Ping(t.Context()); err != nil {
					t.Errorf("ping: %v", err)
				}
				_ = reading
				if err := ws.Close(websocket.StatusGoingAway, "bye"); err != nil {
					t.Errorf("close: %v", err)
				}
				if err := wait(t, closed, "end at the application"); websocket.CloseStatus(err) != websocket.StatusGoingAway || !strings.Contains(err.Error(), "bye") {
					t.Errorf("the application sees %v", err)
				}
				ws = m.dialWebSocket(t, two, url)
				if err := ws.Write(t.Context(), websocket.MessageText, []byte("close")); err != nil {
					t.Fatal(err)
				}
				_, _, err := ws.Read(t.Context())
				if ce, ok := errors.AsType[websocket.CloseError](err); !ok || ce.Code != 4001 || ce.Reason != "as you wish" {
					t.Errorf("the client sees %v", err)
				}
			})
		}
	})
}

// TestUpgradesToAnApplicationOfHTTP2 looks at the bytes alone.
func TestUpgradesToAnApplicationOfHTTP2(t *testing.T) {
	t.Parallel()
	eachMesh(t, func(t *testing.T, m *mesh) {
		path := m.framed.add(t, func(ex proxy.Exchange) {
			if got := ex.Request().Upgrade; got != "websocket" {
				t.Errorf("the application is asked for %q", got)
			}
			stream, err := ex.Upgrade(nil)
			if err != nil {
				t.Error(err)
				return
			}
			defer stream.Close()
			_, _ = io.Copy(stream, stream)
			_ = stream.(proxy.Stream).CloseWrite()
		})
		talk := func(t *testing.T, s io.ReadWriter, end func() error) {
			content := text(1 << 20)
			go func() { _, _ = s.Write(content) }()
			got := make([]byte, len(content))
			if _, err := io.ReadFull(s, got); err != nil || !bytes.Equal(got, content) {
				t.Errorf("%s came back, %v", sum(got), err)
			}
			if err := end(); err != nil {
				t.Error(err)
			}
			if rest, err := io.ReadAll(s); err != nil || len(rest) > 0 {
				t.Errorf("after the end comes %q, %v", rest, err)
			}
		}
		t.Run("h2", func(t *testing.T) {
			cl := &http2.Client{Addr: m.front.api()}
			defer cl.Close()
			resp, err := cl.RoundTrip(t.Context(), &proxy.Request{
				Method: "GET", Scheme: "http", Authority: "a", Target: "/v1.0/invoke/framed/method" + path, Upgrade: "websocket",
			}, proxy.RoundTripOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if resp.Upgraded == nil {
				t.Fatalf("status %d", resp.Status)
			}
			defer resp.Upgraded.Close()
			talk(t, resp.Upgraded, resp.Upgraded.(proxy.Stream).CloseWrite)
		})
		t.Run("h1", func(t *testing.T) {
			c := m.dialRaw(t)
			_, _ = fmt.Fprintf(c, "GET /v1.0/invoke/framed/method%s HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
				"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n", path)
			br := bufio.NewReader(c)
			resp, err := http.ReadResponse(br, nil)
			if err != nil {
				t.Fatal(err)
			}
			if resp.StatusCode != 101 || resp.Header.Get("Sec-WebSocket-Accept") != "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" {
				t.Fatalf("the answer is %s %v", resp.Status, resp.Header)
			}
			talk(t, struct {
				io.Reader
				io.Writer
			}{br, c}, c.CloseWrite)
		})
	})
}
