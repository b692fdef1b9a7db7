package openai

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/proa-io/proa/block/conversation"
	"github.com/proa-io/proa/fault"
)

// Bounds of what is read of an answer.
const (
	maxReply  = 32 << 20
	maxEvent  = 4 << 20 // of a stream
	maxReason = 64 << 10
)

// Converse implements conversation.Driver.
func (m *Model) Converse(ctx context.Context, r *conversation.Request) (*conversation.Reply, error) {
	resp, err := m.send(ctx, r, false)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close() //nolint:errcheck // it was read
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxReply+1))
	if err != nil {
		return nil, transportError(ctx, err)
	}
	if len(text) > maxReply {
		return nil, fault.New(fault.ResourceExhausted, "the answer is larger than %d MiB", maxReply>>20)
	}
	var w wireReply
	if err := json.Unmarshal(text, &w); err != nil {
		return nil, fault.New(fault.Unavailable, "the answer is not that of a language model: no JSON of the chat completions protocol")
	}
	if w.Error != nil {
		return nil, fault.New(fault.Unavailable, "the model says: %s", w.Error.Message)
	}
	return w.reply(), nil
}

// Stream implements conversation.Streamer.
func (m *Model) Stream(ctx context.Context, r *conversation.Request, emit func(conversation.Delta) error) (*conversation.Reply, error) {
	resp, err := m.send(ctx, r, true)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close() //nolint:errcheck // it was read, or is given up
	var whole wireReply
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, maxEvent)
	for lines.Scan() {
		data, ok := bytes.CutPrefix(lines.Bytes(), []byte("data:"))
		if !ok {
			continue // a comment, or another field of an event
		}
		data = bytes.TrimSpace(data)
		if string(data) == "[DONE]" {
			return whole.reply(), nil
		}
		var w wireReply
		if err := json.Unmarshal(data, &w); err != nil {
			return nil, fault.New(fault.Unavailable, "the stream is not that of a language model: no JSON of the chat completions protocol")
		}
		if w.Error != nil {
			return nil, fault.New(fault.Unavailable, "the model says: %s", w.Error.Message)
		}
		if err := whole.add(&w, emit); err != nil {
			return nil, err
		}
	}
	switch err := lines.Err(); {
	case errors.Is(err, bufio.ErrTooLong):
		return nil, fault.New(fault.ResourceExhausted, "an event of the stream is larger than %d MiB", maxEvent>>20)
	case err != nil:
		return nil, transportError(ctx, err)
	}
	return nil, fault.New(fault.Unavailable, "the stream ended before the answer did")
}

// add adds a piece of a stream to the whole, and emits its text.
func (w *wireReply) add(piece *wireReply, emit func(conversation.Delta) error) error {
	if piece.Model != "" {
		w.Model = piece.Model
	}
	if piece.Usage != nil {
		w.Usage = piece.Usage
	}
	for _, c := range piece.Choices {
		i := slices.IndexFunc(w.Choices, func(known wireChoice) bool { return known.Index == c.Index })
		if i < 0 {
			i = len(w.Choices)
			w.Choices = append(w.Choices, wireChoice{Index: c.Index})
		}
		known := &w.Choices[i]
		if c.FinishReason != "" {
			known.FinishReason = c.FinishReason
		}
		known.Message.addCalls(c.Delta.ToolCalls)
		if c.Delta.Content == nil || *c.Delta.Content == "" {
			continue
		}
		text := *c.Delta.Content
		if known.Message.Content != nil {
			text = *known.Message.Content + text
		}
		if len(text) > maxReply {
			return fault.New(fault.ResourceExhausted, "the answer is larger than %d MiB", maxReply>>20)
		}
		known.Message.Content = &text
		if err := emit(conversation.Delta{Index: c.Index, Content: *c.Delta.Content}); err != nil {
			return err
		}
	}
	return nil
}

// addCalls adds pieces of tool calls, which are told apart by their index.
func (m *wireMessage) addCalls(pieces []wireToolCall) {
	for _, p := range pieces {
		i := slices.IndexFunc(m.ToolCalls, func(known wireToolCall) bool { return known.Index == p.Index })
		if i < 0 {
			m.ToolCalls = append(m.ToolCalls, p)
			continue
		}
		m.ToolCalls[i].Function.Name += p.Function.Name
		m.ToolCalls[i].Function.Arguments += p.Function.Arguments
	}
}

// send sends a request and returns the response if it is one to read.
func (m *Model) send(ctx context.Context, r *conversation.Request, stream bool) (*http.Response, error) {
	body, err := m.body(r, stream)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, m.url, bytes.NewReader(body))
	if err != nil {
		return nil, fault.Wrap(err, fault.InvalidArgument, "make a request")
	}
	req.Header.Set("Content-Type", "application/json")
	if key := m.settings.key; key.IsSet() {
		if m.settings.azure {
			req.Header.Set("Api-Key", key.Reveal())
		} else {
			req.Header.Set("Authorization", "Bearer "+key.Reveal())
		}
	}
	if stream {
		req.Header.Set("Accept", "text/event-stream")
	}
	resp, err := m.client.Do(req)
	if err != nil {
		return nil, transportError(ctx, err)
	}
	if resp.StatusCode == http.StatusOK {
		return resp, nil
	}
	defer resp.Body.Close() //nolint:errcheck // it was read
	return nil, m.refusal(resp)
}

// refusal says why a request was not answered.
func (m *Model) refusal(resp *http.Response) error {
	text, _ := io.ReadAll(io.LimitReader(resp.Body, maxReason))
	var w wireReply
	why := resp.Status
	if json.Unmarshal(text, &w) == nil && w.Error != nil && w.Error.Message != "" {
		why += ": " + w.Error.Message
	}
	switch code := resp.StatusCode; {
	case code == http.StatusUnauthorized, code == http.StatusForbidden:
		// What it says may quote the key.
		return fault.New(fault.PermissionDenied, "the provider of the model does not accept the key (%s)", resp.Status)
	case code == http.StatusNotFound:
		return fault.New(fault.InvalidArgument, "the provider has no model %q at this endpoint: %s", m.settings.model, why)
	case code == http.StatusTooManyRequests:
		return fault.New(fault.ResourceExhausted, "the provider of the model answers %s", why).WithRetryAfter(retryAfter(resp.Header))
	case code == http.StatusRequestTimeout, code == http.StatusConflict, code >= 500:
		return fault.New(fault.Unavailable, "the provider of the model answers %s", why).WithRetryAfter(retryAfter(resp.Header))
	case code >= 400:
		return fault.New(fault.InvalidArgument, "the model refuses the request: %s", why)
	}
	return fault.New(fault.Unavailable, "the provider of the model answers %s, which is not of the chat completions protocol", resp.Status)
}

// retryAfter reads the field Retry-After (RFC 9110, section 10.2.3).
func retryAfter(h http.Header) time.Duration {
	value := h.Get("Retry-After")
	if n, err := strconv.Atoi(value); err == nil && n > 0 && n < 1<<20 {
		return time.Duration(n) * time.Second
	}
	if t, err := http.ParseTime(value); err == nil {
		return max(0, time.Until(t))
	}
	return 0
}

func transportError(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if inner, ok := errors.AsType[*url.Error](err); ok {
		err = inner.Err
	}
	return fault.Wrap(err, fault.Unavailable, "reach the provider of the model")
}
