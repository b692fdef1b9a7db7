package rest

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/internal/leak"
)

func request(t *testing.T, ctx context.Context, url string) *http.Request {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	return req
}

func TestAnAnswerIsGivenWhateverItsStatus(t *testing.T) {
	leak.Check(t)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Location", "http://elsewhere.test/")
		w.WriteHeader(http.StatusFound)
		_, _ = w.Write([]byte("there"))
	}))
	defer srv.Close()
	c := New(t.Context(), Options{MaxBody: 5, MaxIdle: 1})
	defer c.Close()
	a, err := c.Send(request(t, t.Context(), srv.URL))
	if err != nil || a.Status != http.StatusFound || string(a.Body) != "there" || a.Header.Get("Location") == "" {
		t.Errorf("Send = %+v, %v", a, err)
	}
}

func TestALargeAnswerIsRefused(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(make([]byte, 6)) }))
	defer srv.Close()
	c := New(t.Context(), Options{MaxBody: 5, MaxIdle: 1})
	defer c.Close()
	if _, err := c.Send(request(t, t.Context(), srv.URL)); !fault.Is(err, fault.ResourceExhausted) {
		t.Errorf("Send: %v", err)
	}
}

func TestARequestEndsWithItsContextOrItsClient(t *testing.T) {
	leak.Check(t)
	asked, release := make(chan struct{}), make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked <- struct{}{}; <-release }))
	defer srv.Close()
	defer close(release)
	c := New(t.Context(), Options{MaxBody: 5, MaxIdle: 1})
	send := func(ctx context.Context, act func()) error {
		t.Helper()
		done := make(chan error, 1)
		go func() {
			_, err := c.Send(request(t, ctx, srv.URL))
			done <- err
		}()
		<-asked
		act()
		return <-done
	}
	ctx, cancel := context.WithCancel(t.Context())
	if err := send(ctx, cancel); !errors.Is(err, context.Canceled) {
		t.Errorf("after its context has ended: %v", err)
	}
	if _, err := c.Send(request(t, ctx, srv.URL)); !errors.Is(err, context.Canceled) {
		t.Errorf("with a context that has ended: %v", err)
	}
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := send(short, func() {}); !fault.Is(err, fault.DeadlineExceeded) {
		t.Errorf("after its deadline: %v", err)
	}
	if err := send(t.Context(), c.Close); !fault.Is(err, fault.Unavailable) {
		t.Errorf("after Close: %v", err)
	}
	if _, err := c.Send(request(t, t.Context(), srv.URL)); !fault.Is(err, fault.Unavailable) {
		t.Errorf("of a closed client: %v", err)
	}
}

func TestAnswersThatAreErrorsAreNamed(t *testing.T) {
	for status, want := range map[int]fault.Code{
		400: fault.InvalidArgument, 401: fault.Unauthenticated, 403: fault.PermissionDenied, 404: fault.FailedPrecondition,
		409: fault.Unavailable, 413: fault.InvalidArgument, 429: fault.ResourceExhausted, 500: fault.Unavailable, 503: fault.Unavailable,
		302: fault.Internal,
	} {
		err := Answer{Status: status, Body: []byte("secret")}.Err("vault")
		if !fault.Is(err, want) || strings.Contains(err.Error(), "secret") || strings.Contains(err.Error(), "vault") != (status == 404) {
			t.Errorf("status %d: %v, want %v", status, err, want)
		}
	}
}

func TestAServiceThatIsNotThere(t *testing.T) {
	c := New(t.Context(), Options{MaxBody: 5, MaxIdle: 1})
	defer c.Close()
	if _, err := c.Send(request(t, t.Context(), "http://127.0.0.1:1")); !fault.Is(err, fault.Unavailable) {
		t.Errorf("Send: %v", err)
	}
}
