package mqtt

import (
	"context"
	"crypto/rand"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/proa-io/proa/block/binding"
	"github.com/proa-io/proa/block/binding/bindingtest"
	"github.com/proa-io/proa/block/pubsub"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/internal/faultnet"
)

func mustOpenBinding(t testing.TB, addr string) *Binding {
	t.Helper()
	id := rand.Text()
	cfg := BindingConfig{Server: Server{URL: component.NewSecret("tcp://" + addr)}, Topic: "topic/" + id, ConsumerID: id}
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	b, err := OpenBinding(t.Context(), cfg, component.Env{AppID: "app"})
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

func create(data string, metadata map[string]string) binding.Request {
	return binding.Request{Operation: "create", Data: []byte(data), Metadata: metadata}
}

func TestBinding(t *testing.T) {
	t.Parallel()
	addr := server.Get(t).Addr()
	bindingtest.RunOutput(t, bindingtest.Output{
		Open:    func(t testing.TB) binding.Output { return mustOpenBinding(t, addr) },
		Request: create("x", map[string]string{"m": "v"}),
	})
	bindingtest.RunNetwork(t, bindingtest.Network{
		Open: func(t testing.TB) (binding.Output, *faultnet.Proxy) {
			net := faultnet.New(t, addr)
			return mustOpenBinding(t, net.Addr()), net
		},
		Request:  create("x", nil),
		CutAfter: 2, // PUBACK has 4
	})
	var opened sync.Map // the binding of each test
	bindingtest.RunInput(t, bindingtest.Input{
		Open: func(t testing.TB) binding.Input {
			b := mustOpenBinding(t, addr)
			// The broker keeps messages from then on.
			gather(t.(*testing.T), b.broker, pubsub.Subscription{Topic: b.cfg.Topic, Group: b.cfg.ConsumerID + "-consumer"}, nil)()
			opened.Store(t, b)
			return b
		},
		Trigger: func(t testing.TB) {
			b, _ := opened.Load(t)
			if _, err := b.(*Binding).Invoke(t.Context(), create("x", nil)); err != nil {
				t.Errorf("Invoke: %v", err)
			}
		},
	})
}

func TestABindingPublishesToTopicsAndSaysWhereEventsComeFrom(t *testing.T) {
	t.Parallel()
	b := mustOpenBinding(t, server.Get(t).Addr())
	root := b.cfg.Topic
	b.cfg.Topic = root + "/#"
	gather(t, b.broker, pubsub.Subscription{Topic: b.cfg.Topic, Group: b.cfg.ConsumerID + "-consumer"}, nil)()
	events := make(chan binding.Event, 10)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	failed := false
	go func() {
		done <- b.Listen(ctx, func(_ context.Context, e binding.Event) error { // one at a time
			events <- e
			if !failed {
				failed = true
				return errors.New("no")
			}
			return nil
		})
	}()
	if _, err := b.Invoke(t.Context(), create("x", nil)); !fault.Is(err, fault.InvalidArgument) {
		t.Errorf("Invoke with a wildcard for a topic: %v", err)
	}
	if _, err := b.Invoke(t.Context(), create("x", map[string]string{"topic": root + "/a"})); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		select {
		case e := <-events:
			if string(e.Data) != "x" || e.Metadata["topic"] != root+"/a" {
				t.Errorf("event %s %v", e.Data, e.Metadata)
			}
		case <-time.After(within):
			t.Fatal("no event")
		}
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("Listen: %v", err)
	}
}

func TestBindingsRefuseSettingsThatCannotWork(t *testing.T) {
	for settings, want := range map[string]string{
		"topic=t,consumerID=c":                        "required",
		"url=tcp://h,consumerID=c":                    "required",
		"url=tcp://h,topic=t":                         "required",
		"url=tcp://h,topic=a/#/b,consumerID=c":        "comes last",
		"url=tcp://h,topic=t,consumerID=a\nb":         "client id",
		"url=http://u:hunter2@h,topic=t,consumerID=c": "tcp:// or ssl://",
		"url=tcp://h,topic=t,consumerID=c,qos=1,retain=false,cleanSession=true,backOffMaxRetries=0,direction=input": "",
	} {
		var cfg BindingConfig
		var all component.Settings
		for s := range strings.SplitSeq(settings, ",") {
			name, v, _ := strings.Cut(s, "=")
			all = append(all, component.Setting{Name: name, Value: v})
		}
		err := all.Decode(&cfg, &binding.Config{})
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%q: error %v, want one with %q", settings, err, want)
		}
		if err != nil && strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: the error holds a secret: %v", settings, err)
		}
	}
}
