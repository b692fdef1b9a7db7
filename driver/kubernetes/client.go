package kubernetes

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/proa-io/proa/fault"
)

// maxBody bounds an answer, in bytes: a secret has at most a mebibyte, and
// pageSize of them are listed at once.
const maxBody = 256 << 20

// client sends requests to the API server. It is safe for concurrent use.
type client struct {
	access
	http *http.Client
}

func newClient(a access) *client {
	return &client{a, &http.Client{
		Transport: &http.Transport{
			Proxy: http.ProxyFromEnvironment, TLSClientConfig: a.tls, ForceAttemptHTTP2: true,
			MaxIdleConnsPerHost: 4, IdleConnTimeout: 90 * time.Second,
			// A watch must notice that the server has gone silently.
			HTTP2: &http.HTTP2Config{SendPingTimeout: 15 * time.Second, PingTimeout: 5 * time.Second},
		},
		// The API server sends nobody elsewhere; a token must not follow.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// get asks for what is at a path ("/api/v1/...") and decodes the answer.
func (c *client) get(ctx context.Context, path string, into any) error {
	res, err := c.open(ctx, path)
	if err != nil {
		return err
	}
	defer res.Body.Close() //nolint:errcheck // nothing was written
	body, err := io.ReadAll(io.LimitReader(res.Body, maxBody+1))
	switch {
	case err != nil:
		return unreachable(ctx, err)
	case len(body) > maxBody:
		return fault.New(fault.ResourceExhausted, "the API server's answer is larger than %d MiB", maxBody>>20)
	case json.Unmarshal(body, into) != nil: // its error could quote a secret
		return fault.New(fault.Internal, "what answers does not speak the protocol of Kubernetes")
	}
	return nil
}

// open asks for what is at a path, and returns the answer if it is one of
// success. The caller closes its body.
func (c *client) open(ctx context.Context, path string) (*http.Response, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.server+path, nil)
	if err != nil {
		return nil, fault.Wrap(err, fault.Internal, "request to the API server")
	}
	req.Header.Set("Accept", "application/json")
	if err := c.authorize(req); err != nil {
		return nil, err
	}
	res, err := c.http.Do(req)
	if err != nil {
		return nil, unreachable(ctx, err)
	}
	if res.StatusCode == http.StatusOK {
		return res, nil
	}
	_ = res.Body.Close()
	return nil, refused(res)
}

// refused names the failure that an answer tells. The texts of the API server
// name the objects, which the caller adds.
func refused(res *http.Response) error {
	code, text := fault.Internal, "the API server answered with an error"
	switch {
	case res.StatusCode == http.StatusBadRequest:
		code, text = fault.InvalidArgument, "the API server refused the request"
	case res.StatusCode == http.StatusUnauthorized:
		code, text = fault.Unauthenticated, "the API server refused the credentials"
	case res.StatusCode == http.StatusForbidden:
		code, text = fault.PermissionDenied, "the role of the account does not allow that: it wants the verb get on secrets, list for a bulk read, and watch to notice changes"
	case res.StatusCode == http.StatusNotFound:
		code, text = fault.NotFound, "the cluster has no such secret"
	case res.StatusCode == http.StatusGone:
		code, text = fault.Unavailable, "the list has changed too much meanwhile"
	case res.StatusCode == http.StatusTooManyRequests:
		code, text = fault.ResourceExhausted, "the API server takes no more requests at present"
	case res.StatusCode >= http.StatusInternalServerError:
		code, text = fault.Unavailable, "the API server does not serve this at present"
	}
	err := fault.New(code, "%s (status %d)", text, res.StatusCode)
	if seconds, perr := strconv.Atoi(res.Header.Get("Retry-After")); perr == nil && seconds > 0 {
		err = err.WithRetryAfter(time.Duration(seconds) * time.Second)
	}
	return err
}

// unreachable names what went wrong with a connection.
func unreachable(ctx context.Context, err error) error {
	switch ctx.Err() {
	case context.Canceled:
		return context.Canceled
	case context.DeadlineExceeded:
		return fault.Wrap(err, fault.DeadlineExceeded, "the API server did not answer in time")
	}
	return fault.Wrap(err, fault.Unavailable, "the API server cannot be reached")
}
