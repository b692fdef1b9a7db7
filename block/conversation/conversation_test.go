package conversation_test

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/proa-io/proa/block/conversation"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/policy"
)

// recorder answers with the number of the call, and keeps what it was asked.
type recorder struct {
	asked []*conversation.Request
	fail  error
}

func (r *recorder) Converse(_ context.Context, req *conversation.Request) (*conversation.Reply, error) {
	r.asked = append(r.asked, req)
	if r.fail != nil {
		return nil, r.fail
	}
	text := strings.Repeat("I", len(r.asked)) + " call bob@example.com"
	return &conversation.Reply{Outputs: []conversation.Output{{Choices: []conversation.Choice{{FinishReason: "stop", Content: text}}}}}, nil
}

func (*recorder) Close() error { return nil }

// breaking is a recorder that streams one piece and breaks.
type breaking struct{ recorder }

func (b *breaking) Stream(_ context.Context, r *conversation.Request, emit func(conversation.Delta) error) (*conversation.Reply, error) {
	b.asked = append(b.asked, r)
	if err := emit(conversation.Delta{Content: "once"}); err != nil {
		return nil, err
	}
	return nil, fault.New(fault.Unavailable, "connection reset")
}

func model(d conversation.Driver, cfg conversation.Config) *conversation.Model {
	return conversation.New(component.Opened("llm", d), conversation.Options{Chains: policy.None{}, Config: cfg})
}

func ask(text string) *conversation.Request {
	return &conversation.Request{Messages: []conversation.Message{{Role: conversation.User, Content: []string{text}}}}
}

func TestRequestsThatSayTooLittleOrTooMuchAreRefused(t *testing.T) {
	tools := []conversation.Tool{{Name: "add"}}
	for _, c := range []struct {
		name   string
		r      conversation.Request
		reason fault.Reason
	}{
		{"no message", conversation.Request{}, conversation.ReasonNoInput},
		{"no such tool", conversation.Request{Messages: ask("x").Messages, Tools: tools, ToolChoice: "subtract"}, conversation.ReasonParameters},
		{"a tool required of none", conversation.Request{Messages: ask("x").Messages, ToolChoice: "required"}, conversation.ReasonParameters},
		{"a tool without a name", conversation.Request{Messages: ask("x").Messages, Tools: []conversation.Tool{{}}}, conversation.ReasonParameters},
		{"parameters that are no JSON", conversation.Request{Messages: ask("x").Messages,
			Tools: []conversation.Tool{{Name: "add", Parameters: json.RawMessage("{")}}}, conversation.ReasonParameters},
	} {
		d := &recorder{}
		_, err := model(d, conversation.Config{}).Converse(t.Context(), &c.r, conversation.Scrub{})
		if !fault.Is(err, fault.InvalidArgument) || fault.ReasonOf(err) != c.reason || len(d.asked) != 0 {
			t.Errorf("%s: %v; the model was asked %d times", c.name, err, len(d.asked))
		}
	}
}

func TestToolChoiceHasADefault(t *testing.T) {
	for _, c := range []struct {
		tools        int
		choice, want string
	}{{0, "", ""}, {0, "auto", ""}, {0, "none", ""}, {1, "", "auto"}, {1, "none", "none"}, {1, "required", "required"}, {1, "add", "add"}} {
		d, r := &recorder{}, ask("x")
		r.ToolChoice = c.choice
		for range c.tools {
			r.Tools = append(r.Tools, conversation.Tool{Name: "add"})
		}
		if _, err := model(d, conversation.Config{}).Converse(t.Context(), r, conversation.Scrub{}); err != nil {
			t.Fatal(err)
		}
		if got := d.asked[0].ToolChoice; got != c.want {
			t.Errorf("the choice %q of %d tools becomes %q, want %q", c.choice, c.tools, got, c.want)
		}
	}
}

func TestAnswersAreRememberedForAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &recorder{}
		m := model(d, conversation.Config{CacheTTL: component.Duration(time.Minute)})
		say := func(text string) string {
			t.Helper()
			r, err := m.Converse(t.Context(), ask(text), conversation.Scrub{})
			if err != nil {
				t.Fatal(err)
			}
			answer, _, _ := strings.Cut(r.Outputs[0].Choices[0].Content, " ")
			return answer
		}
		if a, b, c := say("x"), say("x"), say("y"); a != "I" || b != "I" || c != "II" {
			t.Errorf("the answers are %s, %s, %s", a, b, c)
		}
		time.Sleep(time.Minute)
		if a := say("x"); a != "III" {
			t.Errorf("the answer is %s after the time is over", a)
		}
		d.fail = fault.New(fault.Unavailable, "down")
		if a := say("x"); a != "III" {
			t.Errorf("the answer is %s while the model is down", a)
		}
		if _, err := m.Converse(t.Context(), ask("z"), conversation.Scrub{}); !fault.Is(err, fault.Unavailable) {
			t.Errorf("a failure: %v", err)
		}
		d.fail = nil
		if a := say("z"); a != "IIIII" {
			t.Errorf("the answer is %s: a failure was remembered", a)
		}
	})
}

func TestPersonalDataAreMaskedWhereAsked(t *testing.T) {
	d := &recorder{}
	m := model(d, conversation.Config{CacheTTL: component.Duration(time.Hour)})
	r := &conversation.Request{Messages: []conversation.Message{
		{Role: conversation.User, Content: []string{"mail ann@example.com"}},
		{Role: conversation.User, Content: []string{"mail ann@example.com"}},
	}}
	for _, c := range []struct {
		reply bool
		want  string
	}{{true, "I call <EMAIL_ADDRESS>"}, {false, "I call bob@example.com"}} {
		got, err := m.Converse(t.Context(), r, conversation.Scrub{Messages: []int{1}, Reply: c.reply})
		if err != nil || got.Outputs[0].Choices[0].Content != c.want {
			t.Errorf("the answer is %+v, %v; want %q", got, err, c.want)
		}
	}
	var texts []string
	for _, msg := range d.asked[0].Messages {
		texts = append(texts, msg.Content...)
	}
	if want := []string{"mail ann@example.com", "mail <EMAIL_ADDRESS>"}; !slices.Equal(texts, want) {
		t.Errorf("the model was told %q, want %q", texts, want)
	}
	if r.Messages[1].Content[0] != "mail ann@example.com" {
		t.Error("the request of the caller was changed")
	}
}

func TestMaskingKnowsWhatItSees(t *testing.T) {
	for text, want := range map[string]string{
		"well hello there, my phone number is +2222222222":         "well hello there, my phone number is <PHONE_NUMBER>",
		"call 555-123-4567 or (030) 1234-5678":                     "call <PHONE_NUMBER> or <PHONE_NUMBER>",
		"Ann.Lee+x@mail.example.co.uk wrote":                       "<EMAIL_ADDRESS> wrote",
		"card 4111 1111 1111 1111, order 4111 1111 1111 1112":      "card <CREDIT_CARD>, order 4111 1111 1111 1112",
		"iban GB82 WEST 1234 5698 7654 32 it is":                   "iban <IBAN_CODE> it is",
		"ssn 078-05-1120":                                          "ssn <US_SSN>",
		"from 192.168.10.1 and 2001:db8::ff00:42:8329":             "from <IP_ADDRESS> and <IP_ADDRESS>",
		"on 2026-11-22, 22.11.2026, version 1.2.3, 300000 people":  "on 2026-11-22, 22.11.2026, version 1.2.3, 300000 people",
		"pi is 3.14159265, the year 2026, order 1234567, at 12:30": "pi is 3.14159265, the year 2026, order 1234567, at 12:30",
		"": "",
	} {
		d := &recorder{}
		if _, err := model(d, conversation.Config{}).Converse(t.Context(), ask(text), conversation.Scrub{Messages: []int{0}}); err != nil {
			t.Fatal(err)
		}
		if got := d.asked[0].Messages[0].Content[0]; got != want {
			t.Errorf("%q becomes %q, want %q", text, got, want)
		}
	}
}

// retrying tries everything again.
type retrying struct{ policy.None }

func (retrying) Component(string, string, bool) policy.Chain {
	return policy.Chain{policy.Retry{Max: 5, Delay: time.Nanosecond}.Policy}
}

func TestAStreamThatBrokeOffIsNotBegunAgain(t *testing.T) {
	d := &breaking{}
	m := conversation.New(component.Opened[conversation.Driver]("llm", d), conversation.Options{Chains: retrying{}})
	pieces := 0
	_, err := m.Stream(t.Context(), ask("x"), conversation.Scrub{}, func(conversation.Delta) error { pieces++; return nil })
	if err == nil || pieces != 1 || len(d.asked) != 1 {
		t.Errorf("%d pieces of %d calls, %v", pieces, len(d.asked), err)
	}
}

func TestModelsThatCannotStreamAnswerInOnePiece(t *testing.T) {
	for _, scrub := range []bool{false, true} {
		var got []string
		_, err := model(&recorder{}, conversation.Config{}).Stream(t.Context(), ask("x"), conversation.Scrub{Reply: scrub}, func(d conversation.Delta) error {
			got = append(got, d.Content)
			return nil
		})
		want := "I call bob@example.com"
		if scrub {
			want = "I call <EMAIL_ADDRESS>"
		}
		if err != nil || !slices.Equal(got, []string{want}) {
			t.Errorf("the pieces are %q, %v", got, err)
		}
	}
	gone := errors.New("gone")
	_, err := model(&recorder{}, conversation.Config{}).Stream(t.Context(), ask("x"), conversation.Scrub{}, func(conversation.Delta) error { return gone })
	if !errors.Is(err, gone) {
		t.Errorf("a receiver that is gone: %v", err)
	}
}
