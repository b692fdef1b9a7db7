package appchannel

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/proa-io/proa/block/pubsub"
	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/mesh/proxy"
	"github.com/proa-io/proa/policy"
)

// askTimeout bounds one try at asking an application something.
const askTimeout = 10 * time.Second

// defaultAsk is how often an application is asked at its start.
func defaultAsk() policy.Policy {
	return policy.Retry{
		Max: 3, Delay: 500 * time.Millisecond, MaxDelay: 10 * time.Second, Exponential: true, Jitter: .5,
		When: func(error) bool { return true },
	}.Policy
}

// asking is the operation of asking an application what it wants.
func asking(p policy.Policy) *policy.Operation {
	return policy.Chain{p}.Bind(policy.Op{Block: "application", Name: "ask"})
}

// ask calls do until it succeeds, says that another try is of no use, or has
// been called often enough.
func ask(ctx context.Context, op *policy.Operation, do func(ctx context.Context) (final bool, err error)) error {
	var last error // that is final
	err := op.Run(ctx, &policy.Call{Idempotent: true}, func(ctx context.Context) error {
		attempt, cancel := context.WithTimeout(ctx, askTimeout)
		defer cancel()
		final, err := do(attempt)
		if final {
			last, err = err, nil
		}
		return err
	})
	if last != nil {
		return last
	}
	return err
}

// sleep waits and reports whether ctx still lasts.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// question sends a GET that tells the application which one it is.
func (a *httpApp) question(ctx context.Context, path string) (*exchange, error) {
	e := a.begin("GET", path)
	e.header = append(e.header, proxy.Field{Name: fieldAppID, Value: oneLine(a.opt.AppID)})
	if err := e.roundTrip(ctx); err != nil {
		e.end()
		return nil, err
	}
	return e, nil
}

const subscribePath = "/dapr/subscribe"

func (a *httpApp) subscriptions(ctx context.Context) (specs []pubsub.SubscriptionSpec, err error) {
	err = ask(ctx, a.ask, func(attempt context.Context) (bool, error) {
		e, err := a.question(attempt, subscribePath)
		if err != nil {
			return false, err
		}
		defer e.end()
		switch {
		case e.status == 404:
			return true, nil
		case !e.ok():
			return false, e.refused()
		case e.cut:
			return true, fault.New(fault.ResourceExhausted, "the application's answer to GET %s is longer than %d bytes",
				subscribePath, a.opt.MaxAnswer)
		}
		var problems []string
		if specs, problems, err = parseSubscriptions(e.answer.Bytes()); err != nil {
			return true, fault.Wrap(err, fault.InvalidArgument,
				"the application's answer to GET %s is not a list of subscriptions in JSON", subscribePath)
		}
		for _, p := range problems {
			a.opt.Log.WarnContext(ctx, "a subscription of the application cannot be used", "problem", p)
		}
		return true, nil
	})
	return specs, err
}

type subscriptionJSON struct {
	PubSub          string     `json:"pubsubname"`
	Topic           string     `json:"topic"`
	DeadLetterTopic string     `json:"deadLetterTopic"`
	Metadata        textMap    `json:"metadata"`
	Route           string     `json:"route"`
	Routes          routesJSON `json:"routes"`
	Bulk            struct {
		Enabled       bool `json:"enabled"`
		MaxMessages   int  `json:"maxMessagesCount"`
		MaxAwaitMilli int  `json:"maxAwaitDurationMs"`
	} `json:"bulkSubscribe"`
}

// routesJSON is an object with rules and a default. The rules alone, and a
// single path, are accepted too.
type routesJSON struct {
	Rules   []ruleJSON `json:"rules"`
	Default string     `json:"default"`
}

type ruleJSON struct {
	Match string `json:"match"`
	Path  string `json:"path"`
}

// UnmarshalJSON implements json.Unmarshaler.
func (r *routesJSON) UnmarshalJSON(text []byte) error {
	switch text[0] { // never empty
	case '"':
		return json.Unmarshal(text, &r.Default)
	case '[':
		return json.Unmarshal(text, &r.Rules)
	}
	type plain routesJSON
	return json.Unmarshal(text, (*plain)(r))
}

// textMap is an object whose members are texts, numbers or booleans; it keeps
// their text.
type textMap map[string]string

// UnmarshalJSON implements json.Unmarshaler.
func (m *textMap) UnmarshalJSON(text []byte) error {
	var raw map[string]json.RawMessage
	if err := json.Unmarshal(text, &raw); err != nil {
		return err
	}
	if len(raw) == 0 {
		return nil
	}
	*m = make(textMap, len(raw))
	for k, v := range raw {
		switch v[0] {
		case '{', '[':
			return fmt.Errorf("metadata %q is neither a text nor a number nor a boolean", k)
		case 'n': // null
		case '"':
			var s string
			if err := json.Unmarshal(v, &s); err != nil {
				return err
			}
			(*m)[k] = s
		default:
			(*m)[k] = string(v)
		}
	}
	return nil
}

// maxMillis bounds a number of milliseconds so that it fits a Duration.
const maxMillis = int(24 * time.Hour / time.Millisecond)

// parseSubscriptions reads the answer to GET /dapr/subscribe. problems tells of
// the subscriptions that were left out.
func parseSubscriptions(content []byte) (specs []pubsub.SubscriptionSpec, problems []string, err error) {
	var list []subscriptionJSON
	err = json.NewDecoder(bytes.NewReader(content)).Decode(&list)
	if errors.Is(err, io.EOF) { // no content
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	for i := range list {
		s := &list[i]
		spec := pubsub.SubscriptionSpec{
			Type: pubsub.Programmatic, PubSub: s.PubSub, Topic: s.Topic, DeadLetterTopic: s.DeadLetterTopic,
			DefaultRoute: cmp.Or(s.Routes.Default, s.Route), Metadata: s.Metadata,
			Bulk: pubsub.BulkSpec{
				Enabled: s.Bulk.Enabled, MaxMessages: s.Bulk.MaxMessages,
				MaxAwait: time.Duration(min(s.Bulk.MaxAwaitMilli, maxMillis)) * time.Millisecond,
			},
		}
		for _, r := range s.Routes.Rules {
			spec.Rules = append(spec.Rules, pubsub.Rule{Match: strings.TrimSpace(r.Match), Path: r.Path})
		}
		if spec.DefaultRoute == "" && len(spec.Rules) == 0 {
			problems = append(problems, fmt.Sprintf("entry %d (topic %q of %q) has no route; give \"route\" or \"routes\"", i+1, s.Topic, s.PubSub))
			continue
		}
		if p := missing(&spec); p != "" {
			problems = append(problems, fmt.Sprintf("entry %d %s", i+1, p))
			continue
		}
		specs = append(specs, spec)
	}
	return specs, problems, nil
}

// missing says what a subscription lacks; "" when it is complete.
func missing(s *pubsub.SubscriptionSpec) string {
	switch {
	case s.PubSub == "":
		return fmt.Sprintf("(topic %q) does not name a pub/sub component; give \"pubsubname\"", s.Topic)
	case s.Topic == "":
		return fmt.Sprintf("(of component %q) has no topic; give \"topic\"", s.PubSub)
	}
	return ""
}
