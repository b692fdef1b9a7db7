package interop_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/proa-io/proa/block/config"
	"github.com/proa-io/proa/block/config/configtest"
)

// control serves what applications ask of the world outside: an endpoint to
// call, a language model, and an operator who changes the configuration once
// store is set.
type control struct {
	url   string
	store config.Writer
}

func newControl(t *testing.T) *control {
	c := &control{}
	mux := http.NewServeMux()
	mux.HandleFunc("/echo", echo)
	mux.HandleFunc("PUT /configuration/{key}", func(w http.ResponseWriter, r *http.Request) {
		value, err := io.ReadAll(r.Body)
		if err == nil {
			_, err = configtest.Set(r.Context(), c.store, r.PathValue("key"), string(value))
		}
		answer(w, err)
	})
	mux.HandleFunc("DELETE /configuration/{key}", func(w http.ResponseWriter, r *http.Request) {
		answer(w, configtest.Delete(r.Context(), c.store, r.PathValue("key")))
	})
	mux.HandleFunc("POST /v1/chat/completions", complete)
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	c.url = server.URL
	return c
}

// echo answers with what it was asked.
func echo(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		answer(w, err)
		return
	}
	header := map[string]string{}
	for name := range r.Header {
		header[strings.ToLower(name)] = r.Header.Get(name)
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{"method": r.Method, "query": r.URL.RawQuery, "body": string(body), "header": header})
}

// complete is a language model with the API of OpenAI. It asks for its first tool
// to be called with the message of the user, as often as that is the last one;
// what a tool has said, and messages when there are no tools, it repeats.
func complete(w http.ResponseWriter, r *http.Request) {
	var in struct {
		Model    string
		Messages []struct {
			Role, Content string
			ToolCallID    string `json:"tool_call_id"`
		}
		Tools []struct{ Function struct{ Name string } }
	}
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil || len(in.Messages) == 0 {
		http.Error(w, `{"error":{"message":"no messages"}}`, http.StatusBadRequest)
		return
	}
	last := in.Messages[len(in.Messages)-1]
	message, finish := map[string]any{"role": "assistant", "content": last.Content}, "stop"
	switch {
	case last.Role == "tool":
		message["content"] = last.ToolCallID + " says " + last.Content
	case len(in.Tools) > 0:
		arguments, _ := json.Marshal(map[string]string{"text": last.Content})
		message["content"], finish = nil, "tool_calls"
		message["tool_calls"] = []any{map[string]any{
			"id": "call-1", "type": "function", "function": map[string]string{"name": in.Tools[0].Function.Name, "arguments": string(arguments)},
		}}
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{
		"model":   in.Model,
		"choices": []any{map[string]any{"index": 0, "finish_reason": finish, "message": message}},
		"usage":   map[string]int{"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7},
	})
}

func answer(w http.ResponseWriter, err error) {
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}
