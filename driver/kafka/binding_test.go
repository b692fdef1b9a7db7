package kafka

import (
	"context"
	"crypto/rand"
	"testing"
	"time"

	"github.com/proa-io/proa/block/binding"
	"github.com/proa-io/proa/block/binding/bindingtest"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/internal/faultnet"
)

func bindingConfig(t testing.TB, topics ...string) BindingConfig {
	cfg := BindingConfig{Config: testConfig(server.Get(t).Addr()), Topics: topics, PublishTopic: topics[0]}
	cfg.ConsumerGroup = rand.Text()
	return cfg
}

func mustBind(t testing.TB, cfg BindingConfig, n network) *Binding {
	t.Helper()
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	b, err := openBinding(t.Context(), cfg, n, component.Env{AppID: "app"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return b
}

func mustCreate(t testing.TB, b *Binding, r binding.Request) binding.Response {
	t.Helper()
	r.Operation = opCreate
	resp, err := b.Invoke(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

func TestBinding(t *testing.T) {
	t.Parallel()
	request := binding.Request{Operation: opCreate, Data: []byte("x"), Metadata: map[string]string{"partitionKey": "k"}}
	t.Run("Output", func(t *testing.T) {
		topic := rand.Text()
		bindingtest.RunOutput(t, bindingtest.Output{
			Open:    func(t testing.TB) binding.Output { return mustBind(t, bindingConfig(t, topic), nearby()) },
			Request: request,
		})
	})
	t.Run("Input", func(t *testing.T) {
		topic := rand.Text()
		out := mustBind(t, bindingConfig(t, topic), nearby())
		bindingtest.RunInput(t, bindingtest.Input{
			Open:    func(t testing.TB) binding.Input { return mustBind(t, bindingConfig(t, topic), nearby()) },
			Trigger: func(t testing.TB) { mustCreate(t, out, request) },
		})
	})
	t.Run("Network", func(t *testing.T) {
		topic := rand.Text()
		bindingtest.RunNetwork(t, bindingtest.Network{
			Open: func(t testing.TB) (binding.Output, *faultnet.Proxy) {
				net := faultnet.New(t, server.Get(t).Addr())
				return mustBind(t, bindingConfig(t, topic), through(net.Addr())), net
			},
			Request: request,
		})
	})
}

func TestABindingBringsTheEventsOfItsTopicsUntilTheyAreTaken(t *testing.T) {
	one, two := rand.Text(), rand.Text()
	cfg := bindingConfig(t, one, two)
	b := mustBind(t, cfg, nearby())
	cfg.PublishTopic = two
	other := mustBind(t, cfg, nearby())
	resp := mustCreate(t, b, binding.Request{Data: []byte("1"), Metadata: map[string]string{"partitionKey": "k", "h": "v"}})
	if resp.Metadata["__topic"] != one || resp.Metadata["__partition"] != "0" || resp.Metadata["__offset"] != "0" {
		t.Errorf("response %v", resp.Metadata)
	}
	mustCreate(t, other, binding.Request{Data: []byte("2")})
	ctx, cancel := context.WithCancel(t.Context())
	events, ended, failed := make(chan binding.Event, 10), make(chan error, 1), make(chan string, 10)
	go func() {
		seen := map[string]bool{}
		handled := make(chan struct{}, 1)
		ended <- b.Listen(ctx, func(_ context.Context, e binding.Event) error {
			handled <- struct{}{}
			defer func() { <-handled }()
			if text := string(e.Data); !seen[text] {
				seen[text] = true
				failed <- text
				return fault.New(fault.Unavailable, "the application is down")
			}
			events <- e
			return nil
		})
	}()
	got := map[string]binding.Event{}
	for range 2 {
		select {
		case e := <-events:
			got[string(e.Data)] = e
		case err := <-ended:
			t.Fatalf("Listen: %v", err)
		case <-time.After(inTime):
			t.Fatal("no event")
		}
	}
	if len(failed) != 2 {
		t.Errorf("%d events failed first, want 2", len(failed))
	}
	if m := got["1"].Metadata; m["h"] != "v" || m["__key"] != "k" || m["__topic"] != one || m["__offset"] != "0" {
		t.Errorf("metadata %v", m)
	}
	if m := got["2"].Metadata; m["__topic"] != two {
		t.Errorf("metadata %v", m)
	}
	cancel()
	<-ended
}

func TestABindingWantsATopic(t *testing.T) {
	cfg := bindingDefaults()
	if err := settings("brokers", "b", "authType", "none").Decode(&cfg); err == nil {
		t.Error("a binding without topics is accepted")
	}
	in := bindingConfig(t, rand.Text())
	in.PublishTopic = ""
	if _, err := mustBind(t, in, nearby()).Invoke(t.Context(), binding.Request{Operation: opCreate}); !fault.Is(err, fault.FailedPrecondition) {
		t.Errorf("create without publishTopic: %v", err)
	}
}
