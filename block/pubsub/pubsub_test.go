package pubsub_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/proa-io/proa/block/pubsub"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/policy"
)

func TestPublishRefusesWhatCannotBe(t *testing.T) {
	b := newBroker(t, openMemory(t), pubsub.Options{})
	for _, tc := range []struct {
		name    string
		request pubsub.PublishRequest
		reason  fault.Reason
	}{
		{"no topic", pubsub.PublishRequest{}, pubsub.ReasonTopicEmpty},
		{"long topic", pubsub.PublishRequest{Topic: strings.Repeat("x", 2000)}, pubsub.ReasonTopicInvalid},
		{"bad topic", pubsub.PublishRequest{Topic: "\xff"}, pubsub.ReasonTopicInvalid},
		{"bad metadata", pubsub.PublishRequest{Topic: "t", Metadata: map[string]string{"rawPayload": "x"}}, pubsub.ReasonMetadata},
		{"bad event", pubsub.PublishRequest{Topic: "t", Data: []byte("x"), ContentType: pubsub.ContentTypeCloudEvents}, pubsub.ReasonEnvelope},
	} {
		err := b.Publish(t.Context(), &tc.request)
		wantReason(t, err, fault.InvalidArgument, tc.reason)
		if !strings.Contains(fault.Message(err), `pubsub "bus"`) {
			t.Errorf("%s: message %q does not name the component", tc.name, fault.Message(err))
		}
	}
}

func TestScopesSayWhoMayUseWhichTopic(t *testing.T) {
	for _, tc := range []struct {
		name   string
		config pubsub.Config
		topic  string
		may    bool
	}{
		{"nothing is said", pubsub.Config{}, "t", true},
		{"listed", pubsub.Config{PublishingScopes: "shop=t,u;other=v"}, "u", true},
		{"not listed", pubsub.Config{PublishingScopes: "shop=t,u;other=v"}, "v", false},
		{"another application is listed", pubsub.Config{PublishingScopes: "other=v"}, "t", true},
		{"listed without topics", pubsub.Config{PublishingScopes: "shop="}, "t", false},
		{"blanks", pubsub.Config{PublishingScopes: " shop = t , u ; other=v"}, "u", true},
		{"the other direction", pubsub.Config{SubscriptionScopes: "shop="}, "t", true},
		{"allowed", pubsub.Config{AllowedTopics: []string{"t"}}, "t", true},
		{"not allowed", pubsub.Config{AllowedTopics: []string{"t"}}, "u", false},
		{"scoped and not allowed", pubsub.Config{AllowedTopics: []string{"t"}, PublishingScopes: "shop=u"}, "u", false},
		{"protected", pubsub.Config{ProtectedTopics: []string{"t"}}, "t", false},
		{"protected and scoped", pubsub.Config{ProtectedTopics: []string{"t"}, PublishingScopes: "shop=t"}, "t", true},
		{"protected for another", pubsub.Config{ProtectedTopics: []string{"t"}, PublishingScopes: "other=t"}, "t", false},
		{"unprotected", pubsub.Config{ProtectedTopics: []string{"t"}}, "u", true},
	} {
		b := newBroker(t, openMemory(t), pubsub.Options{Config: tc.config})
		err := b.Publish(t.Context(), &pubsub.PublishRequest{Topic: tc.topic})
		_, bulkErr := b.BulkPublish(t.Context(), &pubsub.BulkPublishRequest{Topic: tc.topic})
		if tc.may {
			if err != nil || bulkErr != nil {
				t.Errorf("%s: %v, %v", tc.name, err, bulkErr)
			}
			continue
		}
		wantReason(t, err, fault.PermissionDenied, pubsub.ReasonForbidden)
		wantReason(t, bulkErr, fault.PermissionDenied, pubsub.ReasonForbidden)
	}
}

func TestScopesOfTheWrongFormAreSettingsThatCannotWork(t *testing.T) {
	for scopes, want := range map[string]string{"shop": `has no "="`, "=t": "names no application", "a=b=c": `two "="`} {
		for _, c := range []pubsub.Config{{PublishingScopes: scopes}, {SubscriptionScopes: scopes}} {
			if err := c.Validate(); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("scopes %q: error %v, want %q", scopes, err, want)
			}
		}
	}
	if err := (pubsub.Config{PublishingScopes: "a=b,c; d= ;", SubscriptionScopes: "a="}).Validate(); err != nil {
		t.Error(err)
	}
}

func TestSubscriptionsHaveAConsumerGroup(t *testing.T) {
	for _, tc := range []struct {
		options pubsub.Options
		want    string
	}{
		{pubsub.Options{AppID: "shop"}, "shop"},
		{pubsub.Options{AppID: "shop", Config: pubsub.Config{ConsumerID: "mine"}}, "mine"},
	} {
		got := make(chan string, 1)
		ctx, cancel := context.WithCancel(t.Context())
		d := &wrapped{Driver: openMemory(t), subscribe: func(ctx context.Context, s pubsub.Subscription, _ pubsub.Handler) error {
			got <- s.Group
			cancel()
			return nil
		}}
		if err := newBroker(t, d, tc.options).Subscribe(ctx, &pubsub.SubscriptionSpec{Topic: "t"}, &app{}); err != nil {
			t.Error(err)
		}
		if g := <-got; g != tc.want {
			t.Errorf("group %q, want %q", g, tc.want)
		}
	}
}

func TestAComponentThatIsNotReadySaysSo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := component.NewHandle(component.HandleOptions{Name: "bus", Type: "pubsub.redis"}, func(context.Context) (pubsub.Driver, error) {
			return nil, errors.New("connection refused")
		})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- h.Run(ctx) }()
		b := pubsub.New(h, pubsub.Options{AppID: "shop"})
		synctest.Wait()
		err := b.Publish(t.Context(), &pubsub.PublishRequest{Topic: "t", Metadata: map[string]string{"ttlInSeconds": "5"}})
		wantReason(t, err, fault.Unavailable, component.ReasonNotReady)
		err = b.Publish(t.Context(), &pubsub.PublishRequest{Topic: "t"})
		wantReason(t, err, fault.Unavailable, component.ReasonNotReady)
		if !strings.Contains(fault.Message(err), "connection refused") {
			t.Errorf("message %q", fault.Message(err))
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestAPublishThatTheBrokerRefusesKeepsItsCode(t *testing.T) {
	d := &wrapped{Driver: openMemory(t), publish: func(context.Context, *pubsub.Message) error {
		return fault.New(fault.ResourceExhausted, "the stream is full")
	}}
	err := newBroker(t, d, pubsub.Options{}).Publish(t.Context(), &pubsub.PublishRequest{Topic: "t"})
	wantReason(t, err, fault.ResourceExhausted, pubsub.ReasonPublish)
	if got := fault.Message(err); got != `pubsub "bus": publish to topic "t": the stream is full` {
		t.Errorf("message %q", got)
	}
}

func TestARawPublishKeepsNothingOfTheCallersData(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := openMemory(t)
		data := []byte("before")
		publishAs(t, newBroker(t, d, pubsub.Options{}), &pubsub.PublishRequest{
			Topic: "t", Data: data, ContentType: "text/plain", Metadata: map[string]string{"rawPayload": "true", "partitionKey": "k"},
		})
		copy(data, "after!")
		got := letters(t, d, "t", 0)
		if len(got) != 1 || string(got[0].Data) != "before" || got[0].ContentType != "text/plain" || got[0].Key != "k" {
			t.Errorf("messages %v", got)
		}
	})
}

// outbound is a Chains with policies around publishes only.
type outbound struct {
	policy.None
	chain policy.Chain
}

func (c outbound) Component(_, _ string, inbound bool) policy.Chain {
	if inbound {
		return nil
	}
	return c.chain
}

func TestBulkPublishTellsWhichEntriesFailed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inner := openMemory(t)
		var calls atomic.Int32
		d := &wrapped{Driver: inner, publish: func(ctx context.Context, m *pubsub.Message) error {
			calls.Add(1)
			switch m.Metadata["entry"] {
			case "refused":
				return fault.New(fault.PermissionDenied, "no")
			case "flaky":
				if calls.Load() <= 4 {
					return fault.New(fault.Unavailable, "not now")
				}
			}
			return inner.Publish(ctx, m)
		}}
		b := newBroker(t, d, pubsub.Options{Chains: outbound{chain: policy.Chain{policy.Retry{Max: 2, Delay: time.Second}.Policy}}})
		entry := func(id, contentType, data string) pubsub.PublishEntry {
			return pubsub.PublishEntry{ID: id, Data: []byte(data), ContentType: contentType, Metadata: map[string]string{"entry": id}}
		}
		failed, err := b.BulkPublish(t.Context(), &pubsub.BulkPublishRequest{
			Topic: "t", Metadata: map[string]string{"all": "yes", "entry": "overridden"}, TraceParent: "00-a-b-01",
			Entries: []pubsub.PublishEntry{
				entry("good", "application/json", "1"), entry("refused", "", "2"), entry("flaky", "", "3"),
				entry("malformed", pubsub.ContentTypeCloudEvents, "x"), {ID: "plain", Data: []byte("5"), Metadata: map[string]string{"ttlInSeconds": "x"}},
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		var ids []string
		for _, f := range failed {
			ids = append(ids, f.ID+" "+fault.CodeOf(f.Err).String())
		}
		if want := []string{"refused permission_denied", "malformed invalid_argument", "plain invalid_argument"}; !slices.Equal(ids, want) {
			t.Errorf("failed %q, want %q", ids, want)
		}
		got := letters(t, inner, "t", 0)
		if len(got) != 2 {
			t.Fatalf("%d messages, want 2", len(got))
		}
		for _, m := range got {
			if m.Metadata["all"] != "yes" || members(t, m.Data)["traceparent"] != "00-a-b-01" {
				t.Errorf("message %s with metadata %v", m.Data, m.Metadata)
			}
		}
		if n := calls.Load(); n != 5 && n != 4 {
			t.Errorf("%d publishes: a retry must not repeat what has succeeded", n)
		}
	})
}

func TestBulkPublishKeepsTheOrderOfAKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := openMemory(t)
		var entries []pubsub.PublishEntry
		for i := range 300 {
			entries = append(entries, pubsub.PublishEntry{
				ID: string(rune('a' + i)), Data: []byte{byte('0' + i%10)},
				Metadata: map[string]string{"partitionKey": string(rune('a' + i%3)), "rawPayload": "true"},
			})
		}
		failed, err := newBroker(t, d, pubsub.Options{}).BulkPublish(t.Context(), &pubsub.BulkPublishRequest{Topic: "t", Entries: entries})
		if err != nil || len(failed) > 0 {
			t.Fatal(err, failed)
		}
		byKey := map[string][]byte{}
		for _, m := range letters(t, d, "t", 0) {
			byKey[m.Key] = append(byKey[m.Key], m.Data...)
		}
		for k, got := range byKey {
			var want []byte
			for i := range 300 {
				if string(rune('a'+i%3)) == k {
					want = append(want, byte('0'+i%10))
				}
			}
			if string(got) != string(want) {
				t.Errorf("key %s has %s, want %s", k, got, want)
			}
		}
	})
}

func TestEntriesOfABulkPublishNeedIDsThatDiffer(t *testing.T) {
	b := newBroker(t, openMemory(t), pubsub.Options{})
	for _, entries := range [][]pubsub.PublishEntry{{{ID: ""}}, {{ID: "a"}, {ID: "b"}, {ID: "a"}}} {
		_, err := b.BulkPublish(t.Context(), &pubsub.BulkPublishRequest{Topic: "t", Entries: entries})
		wantReason(t, err, fault.InvalidArgument, pubsub.ReasonMarshalEvents)
	}
	if failed, err := b.BulkPublish(t.Context(), &pubsub.BulkPublishRequest{Topic: "t"}); err != nil || failed != nil {
		t.Errorf("no entries: %v, %v", failed, err)
	}
}

func TestStatusesAreParsedAsTheApplicationWritesThem(t *testing.T) {
	for text, want := range map[string]pubsub.Status{
		"": pubsub.Success, "SUCCESS": pubsub.Success, "success": pubsub.Success, "RETRY": pubsub.Retry, "DROP": pubsub.Drop, "drop": pubsub.Drop, "OK": pubsub.Retry,
	} {
		if got := pubsub.ParseStatus(text); got != want {
			t.Errorf("ParseStatus(%q) = %s, want %s", text, got, want)
		}
	}
}
