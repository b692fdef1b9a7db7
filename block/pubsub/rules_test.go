package pubsub_test

import (
	"strings"
	"testing"
	"testing/synctest"

	"github.com/proa-io/proa/block/pubsub"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
)

func TestRulesChooseTheRoute(t *testing.T) {
	rule := func(match string) []pubsub.Rule { return []pubsub.Rule{{Match: match, Path: "/match"}} }
	for _, tc := range []struct {
		name  string
		rules []pubsub.Rule
		to    string // "" when the event is dropped
	}{
		{"the type", rule(`event.type == "order.created"`), "/match"},
		{"another type", rule(`event.type == "order.deleted"`), "/default"},
		{"a number", rule(`event.data.amount > 100`), "/match"},
		{"a number with a fraction", rule(`event.data.price < 1.2 && event.data.price > 1`), "/match"},
		{"a number that no float holds", rule(`event.data.big == 9007199254740993`), "/match"},
		{"a number beyond int64", rule(`event.data.huge == 18446744073709551615u`), "/match"},
		{"the neighbour of a number that no float holds", rule(`event.data.big == 9007199254740992`), "/default"},
		{"a nested list", rule(`event.data.tags.exists(t, t == "urgent")`), "/match"},
		{"a member by index", rule(`event["type"] == "order.created"`), "/match"},
		{"has", rule(`has(event.data.amount) && !has(event.data.nothing)`), "/match"},
		{"an extension", rule(`event.region == "eu"`), "/match"},
		{"a missing attribute", rule(`event.nothing == 1`), "/default"},
		{"a missing part of the payload", rule(`event.data.nothing.deeper == 1`), "/default"},
		{"the wrong type", rule(`event.type > 5`), "/default"},
		{"a result that is not a truth value", rule(`event.type`), "/default"},
		{"a string function", rule(`event.source.startsWith("sh")`), "/match"},
		{"the whole event", rule(`"priority" in event`), "/match"},
		{"no condition", rule("  "), "/match"},
		{"the first of two", []pubsub.Rule{{Match: "true", Path: "/first"}, {Match: "true", Path: "/second"}}, "/first"},
		{"the second of two", []pubsub.Rule{{Match: "event.nothing", Path: "/first"}, {Match: "true", Path: "/second"}}, "/second"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b, a := newBroker(t, openMemory(t), pubsub.Options{}), &app{}
				start(t, b, pubsub.SubscriptionSpec{Topic: "t", Rules: tc.rules, DefaultRoute: "/default"}, a)
				publish(t, b, "t", `{"amount":150,"price":1.10,"big":9007199254740993,"huge":18446744073709551615,"tags":["urgent"]}`,
					map[string]string{"cloudevent.type": "order.created", "cloudevent.region": "eu", "cloudevent.priority": "1"})
				synctest.Wait()
				if len(a.got().routes) != 1 || a.got().routes[0] != tc.to {
					t.Errorf("delivered to %q, want %q", a.got().routes, tc.to)
				}
			})
		})
	}
}

func TestWithoutADefaultRouteEventsThatNoRuleMatchesAreDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, a := newBroker(t, openMemory(t), pubsub.Options{}), &app{}
		start(t, b, pubsub.SubscriptionSpec{Topic: "t", Rules: []pubsub.Rule{{Match: `event.type == "wanted"`, Path: "/w"}}}, a)
		publish(t, b, "t", "1", nil)
		publish(t, b, "t", "2", map[string]string{"cloudevent.type": "wanted"})
		synctest.Wait()
		if got := a.payloads(); len(got) != 1 || got[0] != "2" {
			t.Errorf("delivered %q, want 2 only", got)
		}
	})
}

func TestASubscriptionThatCannotWorkSaysWhatIsWrongAndWhere(t *testing.T) {
	rule := func(match string) []pubsub.Rule {
		return []pubsub.Rule{{Match: "true", Path: "/ok"}, {Match: match, Path: "/x", Pos: component.Position{File: "sub.yaml", Line: 12}}}
	}
	b := newBroker(t, openMemory(t), pubsub.Options{Config: pubsub.Config{SubscriptionScopes: "shop=t,other"}})
	for _, tc := range []struct {
		name string
		spec pubsub.SubscriptionSpec
		code fault.Code
		want []string
	}{
		{"syntax", pubsub.SubscriptionSpec{Topic: "t", Rules: rule(`event.type ==`)}, fault.InvalidArgument,
			[]string{`subscription "orders" (topic "t" of "bus")`, "sub.yaml:12: routing rule 2", "Syntax error"}},
		{"undeclared", pubsub.SubscriptionSpec{Topic: "t", Rules: rule(`type == "a"`)}, fault.InvalidArgument,
			[]string{"sub.yaml:12: routing rule 2", "a rule is about event"}},
		{"not a truth value", pubsub.SubscriptionSpec{Topic: "t", Rules: rule(`"a" + "b"`)}, fault.InvalidArgument,
			[]string{"routing rule 2", "gives a value of type string where true or false is wanted"}},
		{"raw payload", pubsub.SubscriptionSpec{Topic: "t", Metadata: map[string]string{"rawPayload": "maybe"}}, fault.InvalidArgument,
			[]string{"metadata rawPayload wants true or false"}},
		{"no topic", pubsub.SubscriptionSpec{}, fault.InvalidArgument, []string{"the name of the topic is empty"}},
		{"long topic", pubsub.SubscriptionSpec{Topic: strings.Repeat("t", 1025)}, fault.InvalidArgument, []string{"1025 bytes"}},
		{"dead letter topic", pubsub.SubscriptionSpec{Topic: "t", DeadLetterTopic: "\xff"}, fault.InvalidArgument, []string{"dead letter topic", "not UTF-8"}},
		{"forbidden", pubsub.SubscriptionSpec{Topic: "secret"}, fault.PermissionDenied, []string{`not allowed to subscribe to topic "secret"`}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tc.spec.Name, tc.spec.PubSub, tc.spec.Pos = "orders", "bus", component.Position{File: "sub.yaml", Line: 3}
			for _, err := range []error{b.Check(&tc.spec), b.Subscribe(t.Context(), &tc.spec, &app{})} {
				if !fault.Is(err, tc.code) {
					t.Fatalf("error %v, want %v", err, tc.code)
				}
				for _, want := range append(tc.want, "sub.yaml:3") {
					if !strings.Contains(fault.Message(err), want) {
						t.Errorf("error lacks %q:\n%s", want, fault.Message(err))
					}
				}
			}
		})
	}
}
