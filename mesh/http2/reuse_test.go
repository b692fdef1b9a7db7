package http2_test

import (
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/internal/coroutine"
	"github.com/proa-io/proa/internal/leak"
	"github.com/proa-io/proa/mesh/http2"
	"github.com/proa-io/proa/mesh/proxy"
)

// echoFields answers with the fields, the content and the trailers of a request.
func echoFields(x proxy.Exchange) {
	r := x.Request()
	var body []byte
	if r.Body != nil {
		body, _ = io.ReadAll(r.Body)
	}
	h := append(proxy.Header(nil), r.Header...)
	_ = x.Respond(200, h, proxy.UnknownLength)
	_, _ = x.Write(body)
	_ = x.Trailer(append(h, proxy.Field{Name: "x-end", Value: r.Target}))
}

// Exchanges, responses and their fields are used again by the coroutines that pass
// requests on. Nothing of one request may show in another.
func TestForwardedRequestsDoNotSeeEachOther(t *testing.T) {
	leak.Check(t)
	inner := dial(t, serve(t, &http2.Server{Handler: echoFields}))
	cl := dial(t, serve(t, &http2.Server{Handler: forward(inner), Inline: always}))
	var all sync.WaitGroup
	for i := range 16 {
		all.Go(func() {
			for j := range 100 {
				own := fmt.Sprintf("%d-%d", i, j)
				h := proxy.Header{{Name: "x-own", Value: own}}
				for k := range j % 7 {
					h.Add(fmt.Sprint("x-extra-", k), own)
				}
				body := strings.Repeat(own, i*j%50)
				r := proxy.Request{Method: "POST", Scheme: "http", Authority: "test", Target: "/" + own, Header: h,
					ContentLength: proxy.UnknownLength, Body: strings.NewReader(body)}
				res, err := cl.RoundTrip(t.Context(), &r, proxy.RoundTripOptions{})
				if err != nil {
					t.Error(err)
					return
				}
				got, err := io.ReadAll(res.Body)
				sent, ended := fmt.Sprint(h), ""
				if n := len(res.Header); n > 0 && res.Header[n-1].Name == "date" {
					res.Header = res.Header[:n-1]
				}
				if n := len(*res.Trailer); n > 0 {
					ended = (*res.Trailer)[n-1].Value
				}
				if err != nil || string(got) != body || fmt.Sprint(res.Header) != sent || ended != r.Target {
					t.Errorf("request %s: got %v, %q, trailers %v, %v", own, res.Header, got, *res.Trailer, err)
				}
				_ = res.Body.Close()
			}
		})
	}
	all.Wait()
}

// A context that somebody has waited for, and an exchange whose handler was given
// a goroutine of its own, may still be held when the handler has returned: they
// stay ended while others are served.
func TestWhatMayStillBeHeldIsNotUsedAgain(t *testing.T) {
	leak.Check(t)
	type held struct {
		x   proxy.Exchange
		ctx context.Context
	}
	kept := make(chan held, 2)
	cl := dial(t, serve(t, &http2.Server{Inline: always, Handler: func(x proxy.Exchange) {
		switch x.Request().Target {
		case "/waited":
			_ = x.Context().Done()
			kept <- held{x, x.Context()}
		case "/detached":
			coroutine.Detach(x.Context())
			kept <- held{x, x.Context()}
		}
		_ = x.Respond(204, nil, 0)
	}}))
	get := func(target string) {
		t.Helper()
		r := getRequest()
		r.Target = target
		do(t, cl, r)
	}
	get("/waited")
	get("/detached")
	for range 200 {
		get("/other")
	}
	for range 2 {
		k := <-kept
		if k.ctx.Err() == nil || k.x.Respond(200, nil, 0) == nil || k.x.Request().Target != "" {
			t.Error("an exchange goes on after its end")
		}
		select {
		case <-k.ctx.Done():
		case <-time.After(5 * time.Second):
			t.Error("a context does not end with its exchange")
		}
	}
}

// All that wait on a connection share one timer, and each ends at its own time.
func TestEachForwardedRequestEndsAtItsOwnTime(t *testing.T) {
	leak.Check(t)
	release := make(chan struct{})
	inner := dial(t, serve(t, &http2.Server{Handler: func(x proxy.Exchange) {
		if strings.HasPrefix(x.Request().Target, "/late") {
			select {
			case <-release:
			case <-x.Context().Done():
			}
		}
		_ = x.Respond(204, nil, 0)
	}}))
	var relayer proxy.Relayer
	ends := map[string]time.Duration{"/late1": 30 * time.Millisecond, "/late2": 90 * time.Millisecond, "/late3": time.Hour}
	cl := dial(t, serve(t, &http2.Server{Inline: always, Handler: func(x proxy.Exchange) {
		left := ends[x.Request().Target]
		if left == 0 {
			left = 2 * time.Hour
		}
		ctx, cancel := context.WithTimeout(x.Context(), left)
		defer cancel()
		res, err := inner.RoundTrip(ctx, x.Request(), proxy.RoundTripOptions{})
		switch {
		case fault.Is(err, fault.DeadlineExceeded):
			_ = x.Respond(504, nil, 0)
		case err != nil:
			_ = x.Respond(502, nil, 0)
		default:
			_, _ = relayer.Relay(x, res)
		}
	}}))
	statuses := make(chan string, 3)
	for target := range ends {
		go func() {
			r := getRequest()
			r.Target = target
			res, err := cl.RoundTrip(t.Context(), r, proxy.RoundTripOptions{})
			if err != nil {
				t.Error(err)
				statuses <- ""
				return
			}
			_ = res.Body.Close()
			statuses <- fmt.Sprint(target, " ", res.Status)
		}()
	}
	for range 20 { // those that are quick set no alarm off
		r := getRequest()
		if res, err := cl.RoundTrip(t.Context(), r, proxy.RoundTripOptions{}); err != nil || res.Status != 204 {
			t.Fatal(res, err)
		} else {
			_ = res.Body.Close()
		}
	}
	for _, want := range []string{"/late1 504", "/late2 504", "/late3 204"} {
		if want == "/late3 204" {
			close(release)
		}
		if got := <-statuses; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
