package consul

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
)

// maxBody bounds an answer, in bytes.
const maxBody = 64 << 20

// requestTime bounds a request that does not wait for news.
const requestTime = 10 * time.Second

// client sends requests to an agent. It is safe for concurrent use.
type client struct {
	cfg  Config
	env  component.Env
	base string // a URL without a slash at the end
	http *http.Client
}

func newClient(cfg Config, env component.Env) (*client, error) {
	encrypted, err := cfg.tls(env)
	if err != nil {
		return nil, err
	}
	addr := cfg.Address
	if addr == "" {
		addr = os.Getenv("CONSUL_HTTP_ADDR")
	}
	if addr == "" {
		addr = "127.0.0.1:8500"
	}
	scheme := cfg.Scheme
	for _, s := range []string{"http", "https"} {
		if rest, ok := strings.CutPrefix(addr, s+"://"); ok {
			scheme, addr = s, rest
		}
	}
	transport := &http.Transport{
		Proxy: http.ProxyFromEnvironment, TLSClientConfig: encrypted, MaxIdleConnsPerHost: 16, IdleConnTimeout: time.Minute,
	}
	if path, ok := strings.CutPrefix(addr, "unix://"); ok {
		var d net.Dialer
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) { return d.DialContext(ctx, "unix", path) }
		addr = "consul"
	}
	return &client{cfg, env, scheme + "://" + strings.TrimRight(addr, "/"), &http.Client{
		Transport: transport,
		// An agent sends nobody elsewhere; a token must not follow.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

// errGone tells that the agent does not know what a request is about.
var errGone = errors.New("the agent does not know that")

// send sends a request with a body, if it is not nil, and decodes the answer into
// out, if that is not nil. It returns the header of the answer.
func (c *client) send(ctx context.Context, method, path string, query url.Values, body, out any) (http.Header, error) {
	var text io.Reader
	if body != nil {
		encoded, err := json.Marshal(body)
		if err != nil {
			return nil, fault.Wrap(err, fault.Internal, "encode a request to Consul")
		}
		text = bytes.NewReader(encoded)
	}
	target := c.base + path
	if len(query) > 0 {
		target += "?" + query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, method, target, text)
	if err != nil {
		return nil, fault.Wrap(err, fault.InvalidArgument, "request to Consul")
	}
	if err := c.authorize(req, method == http.MethodGet); err != nil {
		return nil, err
	}
	res, err := c.http.Do(req)
	if err != nil {
		return nil, unreachable(ctx, err)
	}
	defer res.Body.Close() //nolint:errcheck // nothing was written
	answer, err := io.ReadAll(io.LimitReader(res.Body, maxBody+1))
	switch {
	case err != nil:
		return nil, unreachable(ctx, err)
	case len(answer) > maxBody:
		return nil, fault.New(fault.ResourceExhausted, "Consul's answer is larger than %d MiB", maxBody>>20)
	case res.StatusCode != http.StatusOK:
		return nil, refused(res, answer)
	case out != nil && json.Unmarshal(answer, out) != nil:
		return nil, fault.New(fault.Internal, "what answers does not speak the protocol of Consul")
	}
	return res.Header, nil
}

func (c *client) authorize(req *http.Request, question bool) error {
	token := c.cfg.Token.Reveal()
	switch {
	case question && c.cfg.QueryToken.IsSet():
		token = c.cfg.QueryToken.Reveal()
	case c.cfg.TokenFile != "":
		text, err := os.ReadFile(c.env.Locate(c.cfg.TokenFile))
		if err != nil {
			return fault.Wrap(err, fault.FailedPrecondition, "read the token for Consul")
		}
		token = strings.TrimSpace(string(text))
	case token == "":
		token = os.Getenv("CONSUL_HTTP_TOKEN")
	}
	if token != "" {
		req.Header.Set("X-Consul-Token", token)
	}
	if c.cfg.Username != "" {
		req.SetBasicAuth(c.cfg.Username, c.cfg.Password.Reveal())
	}
	if question && c.cfg.UseCache {
		var directives []string
		for name, age := range map[string]Nanos{"max-age": c.cfg.MaxAge, "stale-if-error": c.cfg.StaleIfError} {
			if age > 0 {
				directives = append(directives, fmt.Sprintf("%s=%d", name, time.Duration(age)/time.Second))
			}
		}
		if directives != nil {
			req.Header.Set("Cache-Control", strings.Join(directives, ", "))
		}
	}
	return nil
}

// refused names the failure that an answer tells. What an agent says quotes at
// most names.
func refused(res *http.Response, body []byte) error {
	said := strings.TrimSpace(string(body[:min(len(body), 200)]))
	switch s := res.StatusCode; {
	case s == http.StatusNotFound,
		s == http.StatusInternalServerError && strings.Contains(said, "nknown check"), // up to 1.13
		s == http.StatusInternalServerError && strings.Contains(said, "nknown service"):
		return errGone
	case s == http.StatusForbidden:
		return fault.New(fault.PermissionDenied, "Consul's ACL does not allow that with this token")
	case s == http.StatusUnauthorized:
		return fault.New(fault.Unauthenticated, "Consul refused the credentials")
	case s == http.StatusTooManyRequests:
		return fault.New(fault.ResourceExhausted, "Consul takes no more requests at present")
	case s >= http.StatusInternalServerError:
		return fault.New(fault.Unavailable, "Consul cannot answer at present (status %d: %s)", s, said)
	}
	return fault.New(fault.InvalidArgument, "Consul refused the request (status %d: %s)", res.StatusCode, said)
}

// unreachable names what went wrong with a connection.
func unreachable(ctx context.Context, err error) error {
	if ctx.Err() == context.Canceled {
		return context.Canceled
	}
	return fault.Wrap(err, fault.Unavailable, "Consul cannot be reached")
}

// question returns the parameters of every question.
func (c *client) question() url.Values {
	q := url.Values{}
	set := func(name, value string) {
		if value != "" {
			q.Set(name, value)
		}
	}
	set("dc", c.cfg.QueryDatacenter)
	if c.cfg.QueryDatacenter == "" {
		set("dc", c.cfg.Datacenter)
	}
	set("ns", c.cfg.QueryNamespace)
	set("partition", c.cfg.QueryPartition)
	set("near", c.cfg.Near)
	set("filter", c.cfg.Filter)
	for name, on := range map[string]bool{"stale": c.cfg.AllowStale, "consistent": c.cfg.RequireConsistent, "cached": c.cfg.UseCache} {
		if on {
			q.Set(name, "")
		}
	}
	for name, value := range c.cfg.NodeMeta {
		q.Add("node-meta", name+":"+value)
	}
	return q
}

// blocking asks for what is at a path as soon as it is newer than index, and
// returns the index of the answer. An index of 0 waits for nothing.
func (c *client) blocking(ctx context.Context, path string, index uint64, out any) (uint64, error) {
	q := c.question()
	limit := requestTime
	if index > 0 {
		wait := c.cfg.wait()
		q.Set("index", strconv.FormatUint(index, 10))
		q.Set("wait", fmt.Sprintf("%dms", wait.Milliseconds()))
		limit += wait + wait/16 // by which servers lengthen it
	}
	asking, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	header, err := c.send(asking, http.MethodGet, path, q, nil, out)
	if err != nil {
		if ctx.Err() == nil && errors.Is(err, context.Canceled) {
			err = fault.New(fault.Unavailable, "Consul did not answer in time")
		}
		return 0, err
	}
	next, err := strconv.ParseUint(header.Get("X-Consul-Index"), 10, 64)
	switch {
	case err != nil:
		return 0, fault.New(fault.Internal, "what answers does not speak the protocol of Consul: there is no X-Consul-Index")
	case next < index: // the servers have begun anew
		return 0, nil
	}
	return max(next, 1), nil
}
