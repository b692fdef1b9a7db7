package openai

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/proa-io/proa/block/conversation"
	"github.com/proa-io/proa/block/conversation/conversationtest"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
)

// service speaks the protocol: it answers the last message with itself, in
// pieces when asked to stream.
type service struct {
	*httptest.Server
	mu    sync.Mutex
	asked []map[string]any
	head  []http.Header
	paths []string
	// answer, when not nil, answers in place of the echo.
	answer http.HandlerFunc
}

func newService(t testing.TB) *service {
	t.Helper()
	s := &service{}
	s.Server = httptest.NewServer(s)
	t.Cleanup(s.Close)
	return s
}

func (s *service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	text, _ := io.ReadAll(r.Body)
	var asked map[string]any
	if err := json.Unmarshal(text, &asked); err != nil {
		http.Error(w, `{"error":{"message":"no JSON"}}`, http.StatusBadRequest)
		return
	}
	s.mu.Lock()
	s.asked, s.head, s.paths = append(s.asked, asked), append(s.head, r.Header), append(s.paths, r.URL.String())
	s.mu.Unlock()
	if s.answer != nil {
		s.answer(w, r)
		return
	}
	messages := asked["messages"].([]any)
	echo, _ := messages[len(messages)-1].(map[string]any)["content"].(string)
	if asked["stream"] != true {
		_ = json.NewEncoder(w).Encode(map[string]any{
			"model":   asked["model"],
			"choices": []any{map[string]any{"index": 0, "finish_reason": "stop", "message": map[string]any{"role": "assistant", "content": echo}}},
			"usage":   map[string]any{"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7, "prompt_tokens_details": map[string]any{"cached_tokens": 2}},
		})
		return
	}
	event := func(v any) {
		text, _ := json.Marshal(v)
		fmt.Fprintf(w, "data: %s\n\n", text)
		w.(http.Flusher).Flush()
	}
	fmt.Fprint(w, ": keep-alive\n\n")
	for word := range strings.SplitAfterSeq(echo, " ") {
		event(map[string]any{"model": asked["model"], "choices": []any{map[string]any{"index": 0, "delta": map[string]any{"content": word}}}})
	}
	event(map[string]any{"choices": []any{map[string]any{"index": 0, "delta": map[string]any{}, "finish_reason": "stop"}}})
	event(map[string]any{"choices": []any{}, "usage": map[string]any{"total_tokens": 9}})
	fmt.Fprint(w, "data: [DONE]\n\n")
}

func byName(t testing.TB, name string) provider {
	t.Helper()
	for _, p := range providers() {
		if p.name == name {
			return p
		}
	}
	t.Fatalf("there is no provider %q", name)
	return provider{}
}

func openModel(t testing.TB, name string, s settings) *Model {
	t.Helper()
	if s.model == "" {
		s.model = "m1"
	}
	m, err := open(byName(t, name), s)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.Close() })
	return m
}

func TestConversation(t *testing.T) {
	for _, p := range providers() {
		t.Run(p.name, func(t *testing.T) {
			conversationtest.Run(t, conversationtest.Harness{Open: func(t testing.TB) conversation.Driver {
				return openModel(t, p.name, settings{endpoint: newService(t).URL + "/v1/"})
			}})
		})
	}
}

func say(text string) *conversation.Request {
	return &conversation.Request{Messages: []conversation.Message{{Role: conversation.User, Content: []string{text}}}}
}

func TestRequestsAreThoseOfTheProtocol(t *testing.T) {
	s := newService(t)
	m := openModel(t, "openai", settings{endpoint: s.URL + "/v1", key: component.NewSecret("sk-1"), maxTokens: 50})
	temperature := 0.5
	reply, err := m.Converse(t.Context(), &conversation.Request{
		Messages: []conversation.Message{
			{Role: conversation.Developer, Name: "dev", Content: []string{"be brief", "be kind"}},
			{Role: conversation.Assistant, ToolCalls: []conversation.ToolCall{{ID: "c1", Name: "add", Arguments: `{"a":1}`}}},
			{Role: conversation.ToolRole, Name: "add", ToolCallID: "c1", Content: []string{"2"}},
		},
		Tools:          []conversation.Tool{{Name: "add", Description: "adds", Parameters: json.RawMessage(`{"type":"object"}`)}},
		ToolChoice:     "add",
		ResponseFormat: json.RawMessage(`{"type":"string"}`),
		Temperature:    &temperature, Parameters: map[string]any{"seed": 7, "model": "m2"}, PromptCacheRetention: 24 * time.Hour,
	})
	if err != nil {
		t.Fatal(err)
	}
	got, _ := json.Marshal(s.asked[0])
	const want = `{"max_completion_tokens":50,"messages":[{"content":"be brief\nbe kind","name":"dev","role":"developer"},` +
		`{"content":null,"role":"assistant","tool_calls":[{"function":{"arguments":"{\"a\":1}","name":"add"},"id":"c1","index":0,"type":"function"}]},` +
		`{"content":"2","role":"tool","tool_call_id":"c1"}],"model":"m2","prompt_cache_retention":"24h",` +
		`"response_format":{"json_schema":{"name":"response","schema":{"type":"string"}},"type":"json_schema"},"seed":7,"temperature":0.5,` +
		`"tool_choice":{"function":{"name":"add"},"type":"function"},` +
		`"tools":[{"function":{"description":"adds","name":"add","parameters":{"type":"object"}},"type":"function"}]}`
	if string(got) != want {
		t.Errorf("the request is\n%s\nwant\n%s", got, want)
	}
	if s.paths[0] != "/v1/chat/completions" || s.head[0].Get("Authorization") != "Bearer sk-1" {
		t.Errorf("asked %s with %q", s.paths[0], s.head[0])
	}
	if u := reply.Usage; reply.Model != "m2" || u.TotalTokens != 7 || u.Cached != 2 || u.CompletionTokens != 4 {
		t.Errorf("the reply is of %q and took %+v", reply.Model, u)
	}
	if _, err := m.Converse(t.Context(), &conversation.Request{Messages: say("x").Messages, Parameters: map[string]any{"messages": 1}}); !fault.Is(err, fault.InvalidArgument) {
		t.Errorf("a parameter that replaces the messages: %v", err)
	}
}

func TestAzureIsAskedForADeployment(t *testing.T) {
	s := newService(t)
	m := openModel(t, "openai", settings{endpoint: s.URL, key: component.NewSecret("k"), model: "my gpt", azure: true, version: "2025-01-01"})
	if _, err := m.Converse(t.Context(), say("x")); err != nil {
		t.Fatal(err)
	}
	if got := s.paths[0]; got != "/openai/deployments/my%20gpt/chat/completions?api-version=2025-01-01" || s.head[0].Get("Api-Key") != "k" {
		t.Errorf("asked %s with %q", got, s.head[0])
	}
}

func TestToolCallsAreReadWholeAndInPieces(t *testing.T) {
	s := newService(t)
	m := openModel(t, "ollama", settings{endpoint: s.URL})
	want := []conversation.ToolCall{{ID: "c1", Name: "add", Arguments: `{"a":1}`}, {ID: "c2", Name: "sub", Arguments: `{}`}}
	check := func(r *conversation.Reply, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		c := r.Outputs[0].Choices[0]
		if c.FinishReason != conversation.FinishToolCalls || len(c.ToolCalls) != 2 || c.ToolCalls[0] != want[0] || c.ToolCalls[1] != want[1] {
			t.Errorf("the choice is %+v", c)
		}
	}
	s.answer = func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, `{"choices":[{"finish_reason":"tool_calls","message":{"content":null,"tool_calls":[
			{"id":"c1","type":"function","function":{"name":"add","arguments":"{\"a\":1}"}},
			{"id":"c2","type":"function","function":{"name":"sub","arguments":"{}"}}]}}]}`)
	}
	check(m.Converse(t.Context(), say("x")))
	s.answer = func(w http.ResponseWriter, _ *http.Request) {
		for _, piece := range []string{
			`{"index":0,"id":"c1","type":"function","function":{"name":"add","arguments":""}}`,
			`{"index":0,"function":{"arguments":"{\"a\""}}`, `{"index":0,"function":{"arguments":":1}"}}`,
			`{"index":1,"id":"c2","function":{"name":"sub","arguments":"{}"}}`,
		} {
			fmt.Fprintf(w, "data: {\"choices\":[{\"index\":0,\"delta\":{\"tool_calls\":[%s]}}]}\r\n\r\n", piece)
		}
		fmt.Fprint(w, "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"tool_calls\"}]}\n\ndata: [DONE]\n\n")
	}
	check(m.Stream(t.Context(), say("x"), func(d conversation.Delta) error { t.Errorf("a piece of text: %+v", d); return nil }))
}

func TestRefusalsAreTold(t *testing.T) {
	s := newService(t)
	m := openModel(t, "openai", settings{endpoint: s.URL, key: component.NewSecret("sk-secret")})
	for _, c := range []struct {
		status int
		body   string
		code   fault.Code
		want   string
	}{
		{401, `{"error":{"message":"Incorrect API key provided: sk-secret"}}`, fault.PermissionDenied, "does not accept the key (401"},
		{403, ``, fault.PermissionDenied, "403"},
		{404, `{"error":{"message":"The model does not exist"}}`, fault.InvalidArgument, `no model "m1"`},
		{400, `{"error":{"message":"max_tokens is too large"}}`, fault.InvalidArgument, "max_tokens is too large"},
		{429, `{"error":{"message":"slow down"}}`, fault.ResourceExhausted, "slow down"},
		{500, `oops`, fault.Unavailable, "500"},
		{503, ``, fault.Unavailable, "503"},
		{302, ``, fault.Unavailable, ""},
		{200, `<html>`, fault.Unavailable, "not that of a language model"},
		{200, `{"error":{"message":"overloaded"}}`, fault.Unavailable, "overloaded"},
	} {
		s.answer = func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "3")
			w.WriteHeader(c.status)
			fmt.Fprint(w, c.body)
		}
		_, err := m.Converse(t.Context(), say("x"))
		if !fault.Is(err, c.code) || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "sk-secret") {
			t.Errorf("%d: %v (%v); want %v with %q", c.status, err, fault.CodeOf(err), c.code, c.want)
		}
		if c.status == 429 && fault.RetryAfterOf(err) != 3*time.Second {
			t.Errorf("retry after %v", fault.RetryAfterOf(err))
		}
	}
}

func TestBrokenStreamsAreErrors(t *testing.T) {
	s := newService(t)
	m := openModel(t, "openai", settings{endpoint: s.URL})
	piece := `data: {"choices":[{"index":0,"delta":{"content":"x"}}]}` + "\n\n"
	for name, answer := range map[string]http.HandlerFunc{
		"an end before the end": func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, piece) },
		"no JSON":               func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, piece+"data: {\n\n") },
		"an error": func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprint(w, piece+"data: {\"error\":{\"message\":\"no\"}}\n\n")
		},
		"a connection that is cut": func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprint(w, piece)
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		},
	} {
		s.answer = answer
		if _, err := m.Stream(t.Context(), say("x"), func(conversation.Delta) error { return nil }); !fault.Is(err, fault.Unavailable) {
			t.Errorf("%s: %v; want unavailable", name, err)
		}
	}
	s.answer = func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, "data: "+strings.Repeat("x", maxEvent+1)+"\n\n")
	}
	if _, err := m.Stream(t.Context(), say("x"), func(conversation.Delta) error { return nil }); !fault.Is(err, fault.ResourceExhausted) {
		t.Errorf("an endless event: %v", err)
	}
	s.Server.Close()
	if _, err := m.Converse(t.Context(), say("x")); !fault.Is(err, fault.Unavailable) {
		t.Errorf("a server that is gone: %v", err)
	}
}

func TestSettingsThatCannotWorkAreRefused(t *testing.T) {
	for want, cfg := range map[string]Config{
		"endpoint":   {Endpoint: "localhost:1", Model: "m"},
		"model":      {Endpoint: "http://h"},
		"maxTokens":  {Endpoint: "http://h", Model: "m", MaxTokens: -1},
		"apiType":    {Endpoint: "http://h", Model: "m", APIType: "gopher"},
		"apiVersion": {Endpoint: "http://h", Model: "m", APIType: "azure"},
	} {
		if err := cfg.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v; want %q", cfg, err, want)
		}
	}
	if err := (Config{Endpoint: providers()[0].endpoint, Model: "m", APIType: "azure", APIVersion: "1"}).Validate(); err == nil {
		t.Error("Azure at the endpoint of OpenAI is accepted")
	}
}
