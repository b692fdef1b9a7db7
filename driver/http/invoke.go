package http

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	nethttp "net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/http/httpguts"

	"github.com/proa-io/proa/block/binding"
	"github.com/proa-io/proa/fault"
)

var errTooManyRedirects = errors.New("more than 10 redirects")

// Operations implements binding.Output.
func (b *Binding) Operations() []string {
	return []string{"create", "get", "head", "post", "put", "patch", "delete", "options", "trace"}
}

// Repeatable implements binding.Repeatable: it is what RFC 9110, section 9.2.2
// calls idempotent.
func (b *Binding) Repeatable(operation string) bool {
	switch operation {
	case "get", "head", "put", "delete", "options", "trace":
		return true
	}
	return false
}

// Invoke implements binding.Output.
func (b *Binding) Invoke(ctx context.Context, r binding.Request) (binding.Response, error) {
	if b.cfg.ResponseTimeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, b.cfg.ResponseTimeout.Std())
		defer cancel()
	}
	request, err := b.request(ctx, r)
	if err != nil {
		return binding.Response{}, err
	}
	resp, err := b.client.Do(request)
	if err != nil {
		return binding.Response{}, classify(ctx, request, err)
	}
	defer resp.Body.Close() //nolint:errcheck // nothing is written to it
	out := binding.Response{Metadata: metadataOf(resp)}
	if out.Data, err = b.read(resp.Body); err != nil {
		if _, classified := errors.AsType[*fault.Error](err); classified {
			return out, err
		}
		return out, classify(ctx, request, err)
	}
	if resp.StatusCode/100 != 2 && b.wants2XX(r.Metadata) {
		return out, statusError(resp)
	}
	return out, nil
}

func (b *Binding) wants2XX(metadata map[string]string) bool {
	switch strings.ToLower(metadata["errorIfNot2XX"]) {
	case "":
		return b.cfg.ErrorIfNot2XX
	case "1", "t", "true", "y", "yes", "on":
		return true
	}
	return false
}

func (b *Binding) request(ctx context.Context, r binding.Request) (*nethttp.Request, error) {
	if !slices.Contains(b.Operations(), r.Operation) {
		return nil, fault.New(fault.InvalidArgument, "there is no operation %q", r.Operation)
	}
	method := strings.ToUpper(r.Operation)
	if method == "CREATE" {
		method = nethttp.MethodPost
	}
	target, err := b.target(r.Metadata["path"])
	if err != nil {
		return nil, err
	}
	var body io.Reader
	if method == nethttp.MethodPost || method == nethttp.MethodPut || method == nethttp.MethodPatch {
		body = bytes.NewReader(r.Data)
	}
	request, err := nethttp.NewRequestWithContext(ctx, method, target, body)
	if err != nil {
		return nil, fault.New(fault.InvalidArgument, "the path makes no valid URL")
	}
	request.Header, err = b.headers(r.Metadata, body != nil)
	return request, err
}

// target appends path to the base URL.
func (b *Binding) target(path string) (string, error) {
	if path == "" {
		return b.cfg.URL, nil
	}
	beforeQuery, _, _ := strings.Cut(path, "?")
	plain, err := url.PathUnescape(beforeQuery)
	if err != nil {
		return "", fault.New(fault.InvalidArgument, "the path has a broken percent escape")
	}
	if slices.Contains(strings.FieldsFunc(plain, func(c rune) bool { return c == '/' || c == '\\' }), "..") {
		return "", fault.New(fault.InvalidArgument, `the path must not climb out of the URL with ".."`)
	}
	return strings.TrimRight(b.cfg.URL, "/") + "/" + strings.TrimLeft(path, "/"), nil
}

const anyJSON = "application/json; charset=utf-8"

func (b *Binding) headers(metadata map[string]string, hasBody bool) (nethttp.Header, error) {
	h := nethttp.Header{}
	if hasBody {
		h.Set("Content-Type", anyJSON)
	}
	h.Set("Accept", anyJSON)
	if b.cfg.SecurityToken.IsSet() {
		h.Set(b.cfg.SecurityTokenHeader, b.cfg.SecurityToken.Reveal())
	}
	for name, value := range metadata {
		if name == "" || name[0] < 'A' || name[0] > 'Z' {
			continue
		}
		if !validHeader(name, value) {
			return nil, fault.New(fault.InvalidArgument, "metadata %q is no valid HTTP header", name)
		}
		h.Set(name, value)
	}
	// The trace of this call wins over a header that the caller made.
	for _, name := range []string{"traceparent", "tracestate", "baggage"} {
		if value := metadata[name]; value != "" && validHeader(name, value) {
			h.Set(name, value)
		}
	}
	return h, nil
}

func validHeader(name, value string) bool {
	return name == "" && value == "" || httpguts.ValidHeaderFieldName(name) && httpguts.ValidHeaderFieldValue(value)
}

func (b *Binding) read(body io.Reader) ([]byte, error) {
	limit := int64(b.cfg.MaxResponseBodySize)
	if limit <= 0 {
		return io.ReadAll(body)
	}
	data, err := io.ReadAll(io.LimitReader(body, limit+1))
	if err == nil && int64(len(data)) > limit {
		return nil, fault.New(fault.ResourceExhausted, "the response is larger than maxResponseBodySize, %d bytes", limit)
	}
	return data, err
}

func metadataOf(resp *nethttp.Response) map[string]string {
	out := make(map[string]string, len(resp.Header)+2)
	for name, values := range resp.Header {
		out[name] = strings.Join(values, ", ")
	}
	out["statusCode"] = strconv.Itoa(resp.StatusCode)
	out["status"] = resp.Status
	return out
}

// statusError returns the error that a status stands for.
func statusError(resp *nethttp.Response) error {
	code := fault.Internal
	switch s := resp.StatusCode; s {
	case nethttp.StatusUnauthorized, nethttp.StatusProxyAuthRequired:
		code = fault.Unauthenticated
	case nethttp.StatusForbidden:
		code = fault.PermissionDenied
	case nethttp.StatusNotFound, nethttp.StatusGone:
		code = fault.NotFound
	case nethttp.StatusConflict:
		code = fault.Aborted
	case nethttp.StatusPreconditionFailed, nethttp.StatusPreconditionRequired, nethttp.StatusLocked:
		code = fault.FailedPrecondition
	case nethttp.StatusTooManyRequests:
		code = fault.ResourceExhausted
	case nethttp.StatusRequestTimeout, nethttp.StatusGatewayTimeout:
		code = fault.DeadlineExceeded
	case nethttp.StatusBadGateway, nethttp.StatusServiceUnavailable:
		code = fault.Unavailable
	case nethttp.StatusNotImplemented, nethttp.StatusMethodNotAllowed:
		code = fault.Unimplemented
	default:
		if s < 500 { // a redirect that cannot be followed counts as the caller's mistake
			code = fault.InvalidArgument
		}
	}
	return fault.New(code, "received status code %d", resp.StatusCode).WithRetryAfter(retryAfter(resp.Header))
}

// retryAfter reads the header of that name (RFC 9110, section 10.2.3).
func retryAfter(h nethttp.Header) time.Duration {
	v := h.Get("Retry-After")
	if n, err := strconv.Atoi(v); err == nil && n > 0 && n < 1<<20 {
		return time.Duration(n) * time.Second
	}
	if t, err := nethttp.ParseTime(v); err == nil {
		return max(0, time.Until(t))
	}
	return 0
}

// classify names the failure of a call that has no response. The text has
// neither query nor user of the URL, which may hold secrets.
func classify(ctx context.Context, r *nethttp.Request, err error) error {
	if wrapped, ok := errors.AsType[*url.Error](err); ok {
		err = wrapped.Err
	}
	code := fault.Unavailable
	switch {
	case ctx.Err() != nil:
		err = context.Cause(ctx)
		code = fault.CodeOf(ctx.Err())
	case errors.Is(err, errTooManyRedirects):
		code = fault.FailedPrecondition
	default:
		if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() {
			code = fault.DeadlineExceeded
		}
		if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
			code = fault.FailedPrecondition
		}
	}
	return fault.Wrap(err, code, "%s %s://%s%s", r.Method, r.URL.Scheme, r.URL.Host, r.URL.EscapedPath())
}
