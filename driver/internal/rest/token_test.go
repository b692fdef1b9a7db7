package rest

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/proa-io/proa/fault"
)

func TestATokenIsUsedUntilItIsAboutToExpireOrForgotten(t *testing.T) {
	asked, answer, status := 0, "", 200
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked++
		w.WriteHeader(status)
		fmt.Fprintf(w, answer, asked)
	}))
	defer srv.Close()
	c := New(t.Context(), Options{MaxBody: 1000, MaxIdle: 1})
	defer c.Close()
	tokens := NewTokens(c, func(ctx context.Context) (*http.Request, error) {
		return http.NewRequestWithContext(ctx, http.MethodGet, srv.URL, nil)
	}, "no token")
	sign := func() (string, error) {
		req := request(t, t.Context(), "http://service.test")
		err := tokens.Sign(req)
		return req.Header.Get("Authorization"), err
	}
	want := func(text string) {
		t.Helper()
		if got, err := sign(); err != nil || got != text {
			t.Errorf("signed with %q, %v; want %q", got, err, text)
		}
	}
	answer = `{"access_token":"t%d","expires_in":"3600"}`
	want("Bearer t1")
	want("Bearer t1")
	if left := time.Until(tokens.until); left > 55*time.Minute || left < 50*time.Minute {
		t.Errorf("a token for an hour is used for %v", left)
	}
	tokens.Forget(t.Context())
	answer = `{"access_token":"t%d"}` // it is good for nothing more than this
	want("Bearer t2")
	want("Bearer t3")
	for code, s := range map[fault.Code]int{fault.Unauthenticated: 401, fault.Unavailable: 503} {
		status = s
		if _, err := sign(); !fault.Is(err, code) || fault.Message(err) != "no token" {
			t.Errorf("status %d: %v", s, err)
		}
	}
	status, answer = 200, "{}%[2]d"
	if _, err := sign(); !fault.Is(err, fault.Unavailable) {
		t.Errorf("an answer without a token: %v", err)
	}
}

func TestWhoWaitsForATokenEndsWithTheContext(t *testing.T) {
	c := New(t.Context(), Options{MaxBody: 1000, MaxIdle: 1})
	defer c.Close()
	tokens := NewTokens(c, nil, "")
	<-tokens.turn // somebody gets one
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := tokens.Sign(request(t, ctx, "http://service.test")); !fault.Is(err, fault.Canceled) {
		t.Errorf("Sign: %v", err)
	}
	tokens.Forget(ctx)
}
