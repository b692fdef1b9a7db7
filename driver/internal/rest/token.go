package rest

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/proa-io/proa/fault"
)

// Tokens signs requests with a token (RFC 6750), which it keeps until that is
// about to expire. It is safe for concurrent use.
type Tokens struct {
	client  *Client
	request func(context.Context) (*http.Request, error)
	refused string

	turn  chan struct{} // holds one token: whoever takes it may use what follows
	token string
	until time.Time // when to get another one
}

// NewTokens returns Tokens that sends a request of request to get one. refused
// says what an answer means that holds none: "the machine gives no token".
func NewTokens(c *Client, request func(context.Context) (*http.Request, error), refused string) *Tokens {
	t := &Tokens{client: c, request: request, refused: refused, turn: make(chan struct{}, 1)}
	t.turn <- struct{}{}
	return t
}

// Sign adds a token to a request.
func (t *Tokens) Sign(req *http.Request) error {
	ctx := req.Context()
	select {
	case <-t.turn:
	case <-ctx.Done():
		return Classify(ctx, ctx.Err())
	}
	defer func() { t.turn <- struct{}{} }()
	if time.Now().After(t.until) {
		if err := t.renew(ctx); err != nil {
			return err
		}
	}
	req.Header.Set("Authorization", "Bearer "+t.token)
	return nil
}

// Forget throws a token away that the service has refused.
func (t *Tokens) Forget(ctx context.Context) {
	select {
	case <-t.turn:
		t.until = time.Time{}
		t.turn <- struct{}{}
	case <-ctx.Done():
	}
}

// early is how long before its end a token is given up.
const early = 5 * time.Minute

func (t *Tokens) renew(ctx context.Context) error {
	req, err := t.request(ctx)
	if err != nil {
		return err
	}
	a, err := t.client.Send(req)
	if err != nil {
		return err
	}
	if a.Status != http.StatusOK {
		code := fault.Unauthenticated
		if a.Status == http.StatusTooManyRequests || a.Status >= 500 {
			code = fault.Unavailable
		}
		return fault.Wrap(fmt.Errorf("status %d", a.Status), code, "%s", t.refused)
	}
	var out struct {
		Token   string      `json:"access_token"`
		Expires json.Number `json:"expires_in"` // seconds; in quotes from some
	}
	if err := json.Unmarshal(a.Body, &out); err != nil || out.Token == "" {
		return fault.New(fault.Unavailable, "the answer to a request for a token is not what it should be")
	}
	seconds, _ := out.Expires.Int64()
	life := time.Duration(seconds) * time.Second
	t.token, t.until = out.Token, time.Now().Add(life-min(early, life/2))
	return nil
}
