// Package graphql is an output binding to an endpoint of GraphQL over HTTP.
package graphql

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"golang.org/x/net/http/httpguts"

	"github.com/proa-io/proa/block/binding"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
)

// Specs lists what this package offers to the building blocks.
func Specs() []component.Spec {
	return []component.Spec{
		binding.OutputSpec(component.Description{
			Name:    "graphql",
			Summary: "Carries out queries and mutations of GraphQL at an endpoint.",
		}, Config{}, Open),
	}
}

// Config configures an output binding to an endpoint of GraphQL.
type Config struct {
	// Endpoint is the URL of the endpoint, "https://api.example/graphql".
	Endpoint string `setting:"endpoint,required"`
	// Headers are sent with every request: "header:Authorization" has the value
	// of Authorization.
	Headers map[string]component.Secret `setting:"header:*"`
}

// Validate reports settings that can never work.
func (c Config) Validate() error {
	u, err := url.Parse(c.Endpoint)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return component.Invalid("endpoint", `wants a URL such as "https://api.example/graphql"`)
	}
	for name, value := range c.Headers {
		if !httpguts.ValidHeaderFieldName(name) || !httpguts.ValidHeaderFieldValue(value.Reveal()) {
			return component.Invalid(headerPrefix+name, "is no valid HTTP header")
		}
	}
	return nil
}

// The operations of a Binding, each with its statement in the metadata of the
// same name.
const (
	operationQuery    = "query"
	operationMutation = "mutation"
)

// Prefixes of further metadata of requests.
const (
	headerPrefix   = "header:"
	variablePrefix = "variable:"
)

// maxAnswer bounds the answers.
const maxAnswer = 64 << 20

// Binding is a binding.Output that carries out statements of GraphQL.
//
// The statement is in the metadata "query" or "mutation" of a request, as the
// operation is called. Metadata that begin with "variable:" give its variables,
// which are texts, and those that begin with "header:" set headers over those of
// the settings. The answer is the data that the endpoint answers with.
type Binding struct {
	cfg       Config
	client    *http.Client
	transport *http.Transport
}

// Open makes a client. It does not call the endpoint.
func Open(_ context.Context, cfg Config, _ component.Env) (*Binding, error) {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	return &Binding{cfg: cfg, transport: transport, client: &http.Client{Transport: transport}}, nil
}

// Operations implements binding.Output.
func (b *Binding) Operations() []string { return []string{operationQuery, operationMutation} }

// Repeatable implements binding.Repeatable: queries change nothing.
func (b *Binding) Repeatable(operation string) bool { return operation == operationQuery }

// Close implements io.Closer.
func (b *Binding) Close() error {
	b.transport.CloseIdleConnections()
	return nil
}

// Invoke implements binding.Output. When the endpoint answers with both data and
// errors, so does Invoke.
func (b *Binding) Invoke(ctx context.Context, r binding.Request) (binding.Response, error) {
	if err := ctx.Err(); err != nil {
		return binding.Response{}, err
	}
	req, err := b.request(ctx, r)
	if err != nil {
		return binding.Response{}, err
	}
	began := time.Now()
	out := binding.Response{Metadata: map[string]string{"operation": r.Operation, "start-time": began.UTC().Format(time.RFC3339Nano)}}
	out.Data, err = b.do(ctx, req)
	end := time.Now()
	out.Metadata["end-time"], out.Metadata["duration"] = end.UTC().Format(time.RFC3339Nano), end.Sub(began).String()
	return out, err
}

// request makes the request that carries out a statement.
func (b *Binding) request(ctx context.Context, r binding.Request) (*http.Request, error) {
	if r.Operation != operationQuery && r.Operation != operationMutation {
		return nil, fault.New(fault.InvalidArgument, "there is no operation %q: there are query and mutation", r.Operation)
	}
	statement := r.Metadata[r.Operation]
	switch kind := kindOf(statement); {
	case kind == "":
		return nil, fault.New(fault.InvalidArgument, "the metadata %q is missing: it holds the statement", r.Operation)
	case kind != r.Operation:
		return nil, fault.New(fault.InvalidArgument, "the statement in the metadata %q is no %[1]s", r.Operation)
	}
	content := struct {
		Query     string            `json:"query"`
		Variables map[string]string `json:"variables,omitempty"`
	}{Query: statement}
	header := http.Header{"Content-Type": {"application/json"}, "Accept": {"application/graphql-response+json, application/json;q=0.9"}}
	for name, value := range b.cfg.Headers {
		header.Set(name, value.Reveal())
	}
	for name, value := range r.Metadata {
		if variable, ok := strings.CutPrefix(name, variablePrefix); ok {
			if content.Variables == nil {
				content.Variables = map[string]string{}
			}
			content.Variables[variable] = value
		}
		if field, ok := strings.CutPrefix(name, headerPrefix); ok {
			if !httpguts.ValidHeaderFieldName(field) || !httpguts.ValidHeaderFieldValue(value) {
				return nil, fault.New(fault.InvalidArgument, "the metadata %q is no valid HTTP header", name)
			}
			header.Set(field, value)
		}
	}
	body, err := json.Marshal(content)
	if err != nil {
		return nil, fault.Wrap(err, fault.Internal, "the statement cannot be written as JSON")
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, b.cfg.Endpoint, bytes.NewReader(body))
	if err != nil {
		return nil, fault.Wrap(err, fault.InvalidArgument, "the endpoint cannot be called")
	}
	req.Header = header
	return req, nil
}

// kindOf returns the word that a statement begins with, "query" for one that is
// only a selection, and "" for none.
func kindOf(statement string) string {
	for {
		statement = strings.TrimLeft(statement, " \t\r\n,\ufeff")
		if !strings.HasPrefix(statement, "#") {
			break
		}
		_, statement, _ = strings.Cut(statement, "\n")
	}
	if strings.HasPrefix(statement, "{") {
		return operationQuery
	}
	end := strings.IndexFunc(statement, func(r rune) bool {
		return r != '_' && (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z')
	})
	if end < 0 {
		end = len(statement)
	}
	if end == 0 && statement != "" {
		return statement[:1]
	}
	return statement[:end]
}

// do sends a request and returns the data of the answer.
func (b *Binding) do(ctx context.Context, req *http.Request) ([]byte, error) {
	resp, err := b.client.Do(req)
	if err != nil {
		return nil, broken(ctx, err)
	}
	defer resp.Body.Close() //nolint:errcheck // nothing was written
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	switch {
	case err != nil:
		return nil, broken(ctx, err)
	case len(text) > maxAnswer:
		return nil, fault.New(fault.ResourceExhausted, "the answer is larger than %d MiB", maxAnswer>>20)
	}
	var answer struct {
		Data   json.RawMessage `json:"data"`
		Errors []failure       `json:"errors"`
	}
	wellFormed := json.Unmarshal(text, &answer) == nil
	switch {
	case wellFormed && len(answer.Errors) > 0:
		return answer.Data, explain(answer.Errors, resp.StatusCode)
	case resp.StatusCode < 200 || resp.StatusCode > 299:
		return nil, fault.New(codeOf(resp.StatusCode), "the endpoint answers %s", resp.Status)
	case !wellFormed || answer.Data == nil:
		return nil, fault.New(fault.Internal, "the endpoint answers with something that is no response of GraphQL")
	}
	return answer.Data, nil
}

// broken names what a request failed with.
func broken(ctx context.Context, err error) error {
	switch {
	case errors.Is(ctx.Err(), context.Canceled):
		return context.Canceled
	case ctx.Err() != nil:
		return fault.New(fault.DeadlineExceeded, "the endpoint did not answer in time")
	}
	if ue, ok := errors.AsType[*url.Error](err); ok {
		err = ue.Err // without the URL, which may hold secrets
	}
	return fault.Wrap(err, fault.Unavailable, "the endpoint cannot be reached, or the connection is lost")
}

// A failure is one error of an answer.
type failure struct {
	Message    string `json:"message"`
	Extensions struct {
		Code string `json:"code"`
	} `json:"extensions"`
}

// explain names the errors of an answer by the first.
func explain(failures []failure, status int) error {
	code := fault.FailedPrecondition
	if status >= 300 {
		code = codeOf(status)
	}
	// The codes are not standardized; these are what most servers use.
	switch failures[0].Extensions.Code {
	case "UNAUTHENTICATED":
		code = fault.Unauthenticated
	case "FORBIDDEN", "access-denied":
		code = fault.PermissionDenied
	case "BAD_USER_INPUT", "GRAPHQL_PARSE_FAILED", "GRAPHQL_VALIDATION_FAILED", "validation-failed":
		code = fault.InvalidArgument
	case "INTERNAL_SERVER_ERROR":
		code = fault.Internal
	case "NOT_FOUND":
		code = fault.NotFound
	}
	if n := len(failures) - 1; n > 0 {
		return fault.New(code, "the endpoint answers: %s (and %d errors more)", failures[0].Message, n)
	}
	return fault.New(code, "the endpoint answers: %s", failures[0].Message)
}

// codeOf returns what an HTTP status stands for.
func codeOf(status int) fault.Code {
	switch status {
	case http.StatusUnauthorized, http.StatusProxyAuthRequired:
		return fault.Unauthenticated
	case http.StatusForbidden:
		return fault.PermissionDenied
	case http.StatusTooManyRequests:
		return fault.ResourceExhausted
	case http.StatusRequestTimeout, http.StatusGatewayTimeout:
		return fault.DeadlineExceeded
	case http.StatusBadGateway, http.StatusServiceUnavailable:
		return fault.Unavailable
	case http.StatusBadRequest, http.StatusUnprocessableEntity:
		return fault.InvalidArgument
	}
	if status < 500 { // there is no endpoint of GraphQL at the URL
		return fault.FailedPrecondition
	}
	return fault.Internal
}
