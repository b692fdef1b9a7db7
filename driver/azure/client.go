package azure

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

// client sends requests. It is safe for concurrent use.
type client struct {
	http *http.Client
	life context.Context //nolint:containedctx // of the client itself; ends with close
	end  context.CancelFunc
}

func newClient(ctx context.Context) *client {
	c := &client{http: &http.Client{
		Transport: &http.Transport{
			Proxy: http.ProxyFromEnvironment, ForceAttemptHTTP2: true, MaxIdleConnsPerHost: 32, IdleConnTimeout: time.Minute,
			TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12},
		},
		// What is sent along is for the service alone.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
	c.life, c.end = context.WithCancel(context.WithoutCancel(ctx))
	return c
}

func (c *client) close() {
	c.end()
	c.http.CloseIdleConnections()
}

// maxBody bounds an answer, in bytes: as large as a blob that is written at once
// may be in the emulator and the oldest versions of the service.
const maxBody = 256 << 20

// answer is what a service has answered.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// send sends a request and returns the answer, whatever its status.
func (c *client) send(req *http.Request) (answer, error) {
	ctx := req.Context()
	if err := ctx.Err(); err != nil {
		return answer{}, classify(ctx, err)
	}
	if c.life.Err() != nil {
		return answer{}, errClosed()
	}
	limited, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(c.life, cancel)()
	a, err := c.exchange(req.WithContext(limited))
	switch {
	case err == nil:
		return a, nil
	case c.life.Err() != nil:
		return answer{}, errClosed()
	}
	return answer{}, err
}

func (c *client) exchange(req *http.Request) (answer, error) {
	res, err := c.http.Do(req)
	if err != nil {
		return answer{}, classify(req.Context(), err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, maxBody+1))
	if err != nil {
		return answer{}, classify(req.Context(), err)
	}
	if len(body) > maxBody {
		return answer{}, fault.New(fault.ResourceExhausted, "the answer of the service is larger than %d bytes", maxBody)
	}
	return answer{res.StatusCode, res.Header, body}, nil
}

// classify names an error of a request that got no answer.
func classify(ctx context.Context, err error) error {
	switch {
	case errors.Is(ctx.Err(), context.Canceled), errors.Is(err, context.Canceled):
		return context.Canceled
	case errors.Is(ctx.Err(), context.DeadlineExceeded), errors.Is(err, context.DeadlineExceeded):
		return fault.New(fault.DeadlineExceeded, "the service did not answer in time")
	}
	return fault.Wrap(err, fault.Unavailable, "the service cannot be reached, or the connection is lost")
}

func errClosed() error { return fault.New(fault.Unavailable, "the component is closed") }

// errStatus names an answer that is an error. It does not quote the service,
// which may quote what it was sent.
func errStatus(a answer) error {
	code, text := fault.Internal, "the service answered with an error"
	switch s := a.status; {
	case s == http.StatusUnauthorized:
		code, text = fault.Unauthenticated, "the service refused the credentials"
	case s == http.StatusForbidden:
		code, text = fault.PermissionDenied, "the service does not permit this, or refused the credentials"
	case s == http.StatusNotFound:
		code, text = fault.FailedPrecondition, "the service has no such container or vault"
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
	return fault.Wrap(fmt.Errorf("status %d", a.status), code, "%s", text)
}
