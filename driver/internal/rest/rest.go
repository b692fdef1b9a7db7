// Package rest sends requests to services in a cloud over HTTP, reads their
// answers whole, and names what goes wrong.
package rest

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/proa-io/proa/fault"
)

// Options configure a Client.
type Options struct {
	// MaxBody bounds an answer, in bytes.
	MaxBody int
	// MaxIdle is how many idle connections are kept for each host.
	MaxIdle int
}

// Client sends requests. It is safe for concurrent use.
type Client struct {
	http    *http.Client
	maxBody int
	life    context.Context //nolint:containedctx // of the client itself; ends with Close
	end     context.CancelFunc
}

// New returns a client, which is to be closed. It follows no redirections: what
// a request carries is for the service alone.
func New(ctx context.Context, o Options) *Client {
	c := &Client{maxBody: o.MaxBody, http: &http.Client{
		Transport: &http.Transport{
			Proxy: http.ProxyFromEnvironment, ForceAttemptHTTP2: true, MaxIdleConnsPerHost: o.MaxIdle, IdleConnTimeout: time.Minute,
			TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12},
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
	c.life, c.end = context.WithCancel(context.WithoutCancel(ctx))
	return c
}

// Close ends the requests under way, with fault.Unavailable.
func (c *Client) Close() {
	c.end()
	c.http.CloseIdleConnections()
}

// Answer is what a service has answered.
type Answer struct {
	Status int
	Header http.Header
	Body   []byte
}

// Send sends a request and returns the answer, whatever its status. Without an
// answer the error is fault.Unavailable or what [Classify] makes of it; one whose
// body is too large is fault.ResourceExhausted.
func (c *Client) Send(req *http.Request) (Answer, error) {
	ctx := req.Context()
	if err := ctx.Err(); err != nil {
		return Answer{}, Classify(ctx, err)
	}
	if c.life.Err() != nil {
		return Answer{}, errClosed()
	}
	limited, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(c.life, cancel)()
	a, err := c.exchange(req.WithContext(limited))
	switch {
	case err == nil:
		return a, nil
	case c.life.Err() != nil:
		return Answer{}, errClosed()
	}
	return Answer{}, err
}

func (c *Client) exchange(req *http.Request) (Answer, error) {
	res, err := c.http.Do(req)
	if err != nil {
		return Answer{}, Classify(req.Context(), err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, int64(c.maxBody)+1))
	if err != nil {
		return Answer{}, Classify(req.Context(), err)
	}
	if len(body) > c.maxBody {
		return Answer{}, fault.New(fault.ResourceExhausted, "the answer of the service is larger than %d bytes", c.maxBody)
	}
	return Answer{res.StatusCode, res.Header, body}, nil
}

// Classify names an error of a request that got no answer.
func Classify(ctx context.Context, err error) error {
	switch {
	case errors.Is(ctx.Err(), context.Canceled), errors.Is(err, context.Canceled):
		return context.Canceled
	case errors.Is(ctx.Err(), context.DeadlineExceeded), errors.Is(err, context.DeadlineExceeded):
		return fault.New(fault.DeadlineExceeded, "the service did not answer in time")
	}
	return fault.Wrap(err, fault.Unavailable, "the service cannot be reached, or the connection is lost")
}

func errClosed() error { return fault.New(fault.Unavailable, "the component is closed") }

// Err names an answer that is an error. place is what a service lacks that
// answers 404: "project". The error does not quote the service, which may quote
// what it was sent.
func (a Answer) Err(place string) error {
	code, text := fault.Internal, "the service answered with an error"
	switch s := a.Status; {
	case s == http.StatusUnauthorized:
		code, text = fault.Unauthenticated, "the service refused the credentials"
	case s == http.StatusForbidden:
		code, text = fault.PermissionDenied, "the service does not permit this, or refused the credentials"
	case s == http.StatusNotFound:
		code, text = fault.FailedPrecondition, "the service has no such "+place
	case s == http.StatusTooManyRequests:
		code, text = fault.ResourceExhausted, "the service takes no more requests for now"
	case s == http.StatusRequestEntityTooLarge:
		code, text = fault.InvalidArgument, "this is larger than the service takes"
	case s == http.StatusConflict:
		code, text = fault.Unavailable, "the service is busy with the same"
	case s >= 500:
		code, text = fault.Unavailable, "the service cannot answer for now"
	case s >= 400:
		code, text = fault.InvalidArgument, "the service does not take this"
	}
	return fault.Wrap(fmt.Errorf("status %d", a.Status), code, "%s", text)
}
