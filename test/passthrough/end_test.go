package passthrough_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"testing"

	wire "golang.org/x/net/http2"

	"github.com/proa-io/proa/mesh/http2"
	"github.com/proa-io/proa/mesh/proxy"
)

// TestAClientThatGoesAwayEndsTheRequest cancels before the head of the answer,
// within its content and within that of the request.
func TestAClientThatGoesAwayEndsTheRequest(t *testing.T) {
	eachWay(t, func(t *testing.T, w way) {
		for _, where := range []string{"before the head", "within the answer", "within the request"} {
			t.Run(where, func(t *testing.T) {
				begun, over := make(chan struct{}), make(chan error, 1)
				url := w.on(t, func(rw http.ResponseWriter, r *http.Request) {
					switch where {
					case "within the answer":
						_, _ = io.WriteString(rw, "part\n")
						_ = http.NewResponseController(rw).Flush()
					case "within the request":
						_, _ = bufio.NewReader(r.Body).ReadString('\n')
						close(begun)
						_, err := io.Copy(io.Discard, r.Body)
						over <- err
						return
					}
					close(begun)
					<-r.Context().Done()
					over <- r.Context().Err()
				})
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				req, pipe := newRequest(t, "GET", url, nil), newBodyPipe(t)
				if where == "within the request" {
					req = newRequest(t, "POST", url, pipe)
					go func() { _, _ = io.WriteString(pipe, "part\n") }()
				}
				answered := make(chan struct{})
				go func() {
					defer close(answered)
					if resp, err := w.client.Do(req.WithContext(ctx)); err == nil {
						_, _ = io.Copy(io.Discard, resp.Body)
						_ = resp.Body.Close()
					}
				}()
				wait(t, begun, "request at the application")
				cancel()
				_ = pipe.PipeWriter.CloseWithError(context.Canceled) // which the client of HTTP/1.1 waits for
				wait(t, answered, "end at the client")
				if err := wait(t, over, "end at the application"); err == nil {
					t.Error("the application takes the request for complete")
				}
			})
		}
	})
}

func TestAnAnswerThatBreaksOffIsNotCompleteForTheClient(t *testing.T) {
	eachWay(t, func(t *testing.T, w way) {
		for _, length := range []string{"", "1000"} {
			read := make(chan struct{})
			url := w.on(t, func(rw http.ResponseWriter, r *http.Request) {
				if length != "" {
					rw.Header().Set("Content-Length", length)
				}
				_, _ = io.WriteString(rw, "part\n")
				_ = http.NewResponseController(rw).Flush()
				select {
				case <-read:
				case <-r.Context().Done():
				}
				panic(http.ErrAbortHandler)
			})
			resp := w.do(t, newRequest(t, "GET", url, nil))
			// What has been sent is not held back until there is more.
			in := bufio.NewReader(resp.Body)
			if part, err := in.ReadString('\n'); part != "part\n" {
				t.Fatalf("with length %q the client reads %q, %v", length, part, err)
			}
			close(read)
			if rest, err := io.ReadAll(in); err == nil || len(rest) > 0 {
				t.Errorf("with length %q the client reads %q, %v", length, rest, err)
			}
		}
	})
}

// TestTheCodeOfAResetReachesTheClient has an application reset the stream within
// its answer.
func TestTheCodeOfAResetReachesTheClient(t *testing.T) {
	t.Parallel()
	eachMesh(t, func(t *testing.T, m *mesh) {
		for _, code := range []wire.ErrCode{wire.ErrCodeCancel, wire.ErrCodeEnhanceYourCalm, wire.ErrCodeInternal, wire.ErrCodeRefusedStream} {
			path := m.framed.add(t, func(ex proxy.Exchange) {
				_ = ex.Respond(200, nil, proxy.UnknownLength)
				_, _ = io.WriteString(ex, "part")
				_ = ex.Flush()
				proxy.Abort(ex, &http2.ResetError{Code: code, ByPeer: true})
			})
			resp, err := newClient(t, true).Do(newRequest(t, "GET", m.url("framed", path), nil))
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(resp.Body)
			_ = resp.Body.Close()
			if got := fmt.Sprint(err); string(body) != "part" || !errorHas(err, code) {
				t.Errorf("%v: the client reads %q and then %s", code, body, got)
			}
		}
	})
}

// errorHas reports whether an error of net/http tells of a reset with the code.
func errorHas(err error, code wire.ErrCode) bool {
	var reset wire.StreamError // net/http's own copy answers to errors.As with this one
	return errors.As(err, &reset) && reset.Code == code
}

// TestBothDirectionsAreOpenIndependently talks in both directions of one
// exchange, then ends one direction while the other goes on.
func TestBothDirectionsAreOpenIndependently(t *testing.T) {
	eachWay(t, func(t *testing.T, w way) {
		if !w.two {
			t.Skip("net/http has no client of HTTP/1.1 that reads an answer while it sends")
		}
		url := w.on(t, func(rw http.ResponseWriter, r *http.Request) {
			rc := http.NewResponseController(rw)
			_ = rc.EnableFullDuplex()
			_ = rc.Flush()
			in := bufio.NewReader(r.Body)
			for {
				line, err := in.ReadString('\n')
				if err != nil {
					break
				}
				_, _ = io.WriteString(rw, "echo "+line)
				_ = rc.Flush()
			}
			_, _ = io.WriteString(rw, "over\n")
		})
		pipe := newBodyPipe(t)
		resp := w.do(t, newRequest(t, "POST", url, pipe))
		out := bufio.NewReader(resp.Body)
		for i := range 20 {
			line := fmt.Sprintf("line %d\n", i)
			if _, err := io.WriteString(pipe, line); err != nil {
				t.Fatal(err)
			}
			if got, err := out.ReadString('\n'); got != "echo "+line {
				t.Fatalf("the echo is %q (%v)", got, err)
			}
		}
		_ = pipe.PipeWriter.Close()
		if rest := string(readAll(t, out)); rest != "over\n" {
			t.Errorf("after the end of the request came %q", rest)
		}
	})
}

// TestContentIsNotHeldBack sends parts of contents of a length that is known, and
// sends the next one once the last has been read at the other end.
func TestContentIsNotHeldBack(t *testing.T) {
	eachWay(t, func(t *testing.T, w way) {
		const parts, part = 4, "part of the content\n"
		read := make(chan string)
		url := w.on(t, func(rw http.ResponseWriter, r *http.Request) {
			in := bufio.NewReader(r.Body)
			for range parts {
				line, _ := in.ReadString('\n')
				read <- line
			}
			rw.Header().Set("Content-Length", strconv.Itoa(parts*len(part)))
			for range parts {
				_, _ = io.WriteString(rw, part)
				_ = http.NewResponseController(rw).Flush()
				<-read
			}
		})
		pipe := newBodyPipe(t)
		req := newRequest(t, "POST", url, pipe)
		req.ContentLength = int64(parts * len(part))
		var resp *http.Response
		done := make(chan error, 1)
		go func() {
			var err error
			resp, err = w.client.Do(req)
			done <- err
		}()
		for i := range parts {
			_, _ = io.WriteString(pipe, part)
			if i == parts-1 {
				_ = pipe.PipeWriter.Close() // net/http holds the last part back until the end
			}
			if got := wait(t, read, "part at the application"); got != part {
				t.Errorf("the application reads %q", got)
			}
		}
		if err := wait(t, done, "answer"); err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		in := bufio.NewReader(resp.Body)
		for range parts {
			if got, err := in.ReadString('\n'); got != part {
				t.Errorf("the client reads %q (%v)", got, err)
			}
			read <- ""
		}
		if rest := readAll(t, in); len(rest) > 0 {
			t.Errorf("after the content came %q", rest)
		}
	})
}
