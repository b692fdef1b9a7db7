package e2e_test

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// request is what the command http of a script asks for.
type request struct {
	method, url string
	header      http.Header
	body        []byte
	unix        string // socket to use instead of the host in the URL
	timeout     time.Duration

	status int // wanted; 0 for any of 200 to 299
	match  *regexp.Regexp
}

// do makes the request and returns the content of the answer. An answer that is
// not as wanted is an error that shows it.
func (r *request) do() (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), r.timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, r.method, r.url, bytes.NewReader(r.body))
	if err != nil {
		return "", err
	}
	req.Header = r.header
	transport := &http.Transport{DisableKeepAlives: true}
	if r.unix != "" {
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", r.unix)
		}
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return "", fmt.Errorf("%w: %w", errNoAnswer, err)
	}
	defer resp.Body.Close()
	content, err := io.ReadAll(resp.Body)
	if err != nil {
		return "", fmt.Errorf("%w: %w", errNoAnswer, err)
	}
	text := string(content)
	switch {
	case r.status == 0 && resp.StatusCode/100 != 2, r.status != 0 && resp.StatusCode != r.status:
		return text, fmt.Errorf("%s %s: %s %s", r.method, r.url, resp.Status, text)
	case r.match != nil && !r.match.MatchString(text):
		return text, fmt.Errorf("%s %s: the answer does not match %s: %s", r.method, r.url, r.match, text)
	}
	return text, nil
}

var errNoAnswer = errors.New("there is no answer")

// parseRequest reads the arguments of the command http.
func parseRequest(ts *testscript.TestScript, args []string) *request {
	r := &request{header: http.Header{}}
	fs := flag.NewFlagSet("http", flag.ContinueOnError)
	fs.IntVar(&r.status, "status", 0, "wanted status; any of 200 to 299 when 0")
	fs.StringVar(&r.unix, "unix", "", "socket to use instead of host and port")
	fs.DurationVar(&r.timeout, "timeout", within, "bound of the request")
	fs.Func("body", "content", func(text string) error { r.body = []byte(text); return nil })
	fs.Func("bodyof", "content of so many bytes, a JSON text", func(text string) error {
		n, err := strconv.Atoi(text)
		r.body = []byte(strconv.Quote(strings.Repeat("x", max(0, n-2))))
		return err
	})
	fs.Func("headerof", "field of the header with so many bytes", func(text string) error {
		n, err := strconv.Atoi(text)
		r.header.Set("X-Long", strings.Repeat("x", n))
		return err
	})
	fs.Func("match", "pattern that the answer must match", func(text string) (err error) { r.match, err = regexp.Compile(text); return err })
	fs.Func("header", "field of the header", func(text string) error {
		name, value, ok := strings.Cut(text, ": ")
		if !ok {
			return errors.New("it wants NAME: VALUE")
		}
		r.header.Add(name, value)
		return nil
	})
	ts.Check(fs.Parse(args))
	if fs.NArg() != 2 {
		ts.Fatalf("usage: http [flags] METHOD URL")
	}
	r.method, r.url = fs.Arg(0), fs.Arg(1)
	if r.body != nil && r.header.Get("Content-Type") == "" {
		r.header.Set("Content-Type", "application/json")
	}
	return r
}

// cmdHTTP makes a request; with a "!" before it there must be no answer.
func cmdHTTP(ts *testscript.TestScript, neg bool, args []string) {
	text, err := parseRequest(ts, args).try(neg)
	fmt.Fprint(ts.Stdout(), text)
	ts.Check(err)
}

// cmdPoll makes a request again and again.
func cmdPoll(ts *testscript.TestScript, neg bool, args []string) {
	silent := len(args) > 0 && args[0] == "!"
	if silent {
		args = args[1:]
	}
	usage(ts, neg, len(args) > 0 && args[0] == "http", "poll [!] http [flags] METHOD URL")
	r := parseRequest(ts, args[1:])
	var text string
	ts.Check(eventually(func() (err error) { text, err = r.try(silent); return err }))
	fmt.Fprint(ts.Stdout(), text)
}

// try makes the request and wants an answer, or none when it is to be silent.
func (r *request) try(silent bool) (string, error) {
	text, err := r.do()
	switch {
	case !silent:
		return text, err
	case errors.Is(err, errNoAnswer):
		return "", nil
	}
	return text, fmt.Errorf("there is an answer: %s (%v)", text, err)
}
