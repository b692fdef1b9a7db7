// Package conversationtest is the contract of conversation.Driver as tests.
package conversationtest

import (
	"context"
	"strings"
	"sync"
	"testing"

	"github.com/proa-io/proa/block/conversation"
	"github.com/proa-io/proa/fault"
)

// Harness makes the drivers under test.
type Harness struct {
	// Open returns a driver whose model answers the last message of a request
	// with the very same text, in its last output. Use t.Cleanup for what must
	// be undone.
	Open func(t testing.TB) conversation.Driver
}

// Run proves that a driver keeps the contract.
func Run(t *testing.T, h Harness) {
	for _, p := range []struct {
		name string
		test func(*testing.T, conversation.Driver)
	}{
		{"TextComesBack", text},
		{"TextsAreKeptAsTheyAre", odd},
		{"StreamedPiecesAreTheAnswer", stream},
		{"AnErrorOfTheReceiverEndsAStream", streamEnds},
		{"CanceledContextReturnsCanceled", canceled},
		{"ConcurrentCallsAreApart", concurrent},
	} {
		t.Run(p.name, func(t *testing.T) { p.test(t, h.Open(t)) })
	}
}

func ask(texts ...string) *conversation.Request {
	r := &conversation.Request{}
	for _, text := range texts {
		r.Messages = append(r.Messages, conversation.Message{Role: conversation.User, Content: []string{text}})
	}
	return r
}

// last returns the last choice of an answer.
func last(t *testing.T, r *conversation.Reply) conversation.Choice {
	t.Helper()
	if len(r.Outputs) == 0 || len(r.Outputs[len(r.Outputs)-1].Choices) == 0 {
		t.Fatalf("there is no choice in %+v", r)
	}
	return r.Outputs[len(r.Outputs)-1].Choices[0]
}

func text(t *testing.T, d conversation.Driver) {
	got, err := d.Converse(t.Context(), ask("first", "hello there"))
	if err != nil {
		t.Fatal(err)
	}
	if c := last(t, got); c.Content != "hello there" || c.FinishReason != conversation.FinishStop {
		t.Errorf("the answer is %+v", c)
	}
}

func odd(t *testing.T, d conversation.Driver) {
	for _, text := range []string{"grüße 世界 🔑", "a\nb\n\tc", `{"json": "\"quoted\""}`, "data: [DONE]\n\n", strings.Repeat("long ", 20_000)} {
		got, err := d.Converse(t.Context(), ask(text))
		if err != nil {
			t.Fatal(err)
		}
		if c := last(t, got); c.Content != text {
			t.Errorf("%.40q comes back as %.40q", text, c.Content)
		}
	}
}

func streamer(t *testing.T, d conversation.Driver) conversation.Streamer {
	t.Helper()
	s, ok := d.(conversation.Streamer)
	if !ok {
		t.Skip("the driver is no conversation.Streamer")
	}
	return s
}

func stream(t *testing.T, d conversation.Driver) {
	var got strings.Builder
	pieces := 0
	reply, err := streamer(t, d).Stream(t.Context(), ask("one two three\nfour"), func(d conversation.Delta) error {
		pieces++
		got.WriteString(d.Content)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if c := last(t, reply); c.Content != "one two three\nfour" || got.String() != c.Content || pieces < 2 {
		t.Errorf("%d pieces make %q, the answer is %q", pieces, got.String(), c.Content)
	}
}

func streamEnds(t *testing.T, d conversation.Driver) {
	gone := fault.New(fault.Aborted, "the receiver is gone")
	_, err := streamer(t, d).Stream(t.Context(), ask("one two three"), func(conversation.Delta) error { return gone })
	if !fault.Is(err, fault.Aborted) {
		t.Errorf("Stream to a receiver that is gone: %v", err)
	}
}

func canceled(t *testing.T, d conversation.Driver) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := d.Converse(ctx, ask("x")); !fault.Is(err, fault.Canceled) {
		t.Errorf("Converse: %v, want canceled", err)
	}
	if s, ok := d.(conversation.Streamer); ok {
		if _, err := s.Stream(ctx, ask("x y"), func(conversation.Delta) error { return nil }); !fault.Is(err, fault.Canceled) {
			t.Errorf("Stream: %v, want canceled", err)
		}
	}
}

func concurrent(t *testing.T, d conversation.Driver) {
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			text := strings.Repeat("x", i+1)
			for range 10 {
				got, err := d.Converse(t.Context(), ask(text))
				if err != nil {
					t.Error(err)
					return
				}
				if c := got.Outputs[len(got.Outputs)-1].Choices[0]; c.Content != text {
					t.Errorf("%q comes back as %q", text, c.Content)
					return
				}
			}
		})
	}
	wg.Wait()
}
