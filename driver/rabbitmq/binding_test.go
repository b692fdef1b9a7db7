package rabbitmq

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/proa-io/proa/block/binding"
	"github.com/proa-io/proa/block/binding/bindingtest"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/internal/faultnet"
)

func mustOpenBinding(t testing.TB, addr string, change func(*BindingConfig)) *Binding {
	t.Helper()
	cfg := bindingDefaults()
	cfg.Host, cfg.QueueName = component.NewSecret("amqp://guest:guest@"+addr), rand.Text()
	if change != nil {
		change(&cfg)
	}
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

func mustCreate(t testing.TB, b *Binding, data string, metadata map[string]string) {
	t.Helper()
	if _, err := b.Invoke(t.Context(), create(data, metadata)); err != nil {
		t.Fatalf("Invoke: %v", err)
	}
}

func TestBinding(t *testing.T) {
	t.Parallel()
	addr := server.Get(t).Addr()
	bindingtest.RunOutput(t, bindingtest.Output{
		Open:    func(t testing.TB) binding.Output { return mustOpenBinding(t, addr, nil) },
		Request: create("x", map[string]string{"m": "v"}),
	})
	bindingtest.RunNetwork(t, bindingtest.Network{
		Open: func(t testing.TB) (binding.Output, *faultnet.Proxy) {
			net := faultnet.New(t, addr)
			return mustOpenBinding(t, net.Addr(), nil), net
		},
		Request: create("x", nil),
	})
	for name, change := range map[string]func(*BindingConfig){
		"Shared": nil, "Exclusive": func(c *BindingConfig) { c.Exclusive = true },
		"DeletedWhenUnused": func(c *BindingConfig) { c.DeleteWhenUnused = true },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var opened sync.Map // the binding of each test
			bindingtest.RunInput(t, bindingtest.Input{
				Open: func(t testing.TB) binding.Input {
					b := mustOpenBinding(t, addr, change)
					opened.Store(t, b)
					return b
				},
				Trigger: func(t testing.TB) {
					b, _ := opened.Load(t)
					mustCreate(t, b.(*Binding), "x", nil)
				},
			})
		})
	}
}

// listen listens until the test ends.
func listen(t *testing.T, b *Binding, handle binding.Handler) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- b.Listen(ctx, handle) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Listen: %v", err)
		}
	})
}

func TestQueuesAndMessagesOfBindingsAreAsDaprMakesThem(t *testing.T) {
	t.Parallel()
	addr := server.Get(t).Addr()
	b := mustOpenBinding(t, addr, func(c *BindingConfig) {
		c.Durable, c.TTL, c.MaxPriority, c.ContentType = true, component.Duration(time.Minute), 9, "x/y"
	})
	ch := raw(t, addr)
	// The server refuses a declaration that differs from what there is.
	if _, err := ch.QueueDeclare(b.cfg.QueueName, true, false, false, false, amqp.Table{"x-message-ttl": 60000, "x-max-priority": uint8(9)}); err != nil {
		t.Fatal(err)
	}
	mustCreate(t, b, "1", map[string]string{"ttlInSeconds": "30", "priority": "4", "m": "v"})
	if d := take(t, ch, b.cfg.QueueName); string(d.Body) != "1" || d.Expiration != "30000" || d.Priority != 4 || d.Headers["m"] != "v" ||
		d.ContentType != "x/y" || d.DeliveryMode != amqp.Persistent {
		t.Errorf("message %+v", d)
	}
	events := make(chan binding.Event, 10)
	listen(t, b, func(_ context.Context, e binding.Event) error {
		events <- e
		return nil
	})
	mustCreate(t, b, "2", map[string]string{"contentType": "a/b", "odd name": "a b"})
	if e := <-events; string(e.Data) != "2" || e.Metadata["odd+name"] != "a+b" || e.Metadata["contentType"] != "a%2Fb" {
		t.Errorf("event %s %v", e.Data, e.Metadata)
	}
	for _, metadata := range []map[string]string{{"ttlInSeconds": "soon"}, {"ttlInSeconds": "0"}, {"priority": "high"}} {
		if _, err := b.Invoke(t.Context(), create("x", metadata)); !fault.Is(err, fault.InvalidArgument) {
			t.Errorf("Invoke with %v: %v", metadata, err)
		}
	}
}

func TestAMessageForAQueueThatIsGoneMakesItAgain(t *testing.T) {
	t.Parallel()
	addr := server.Get(t).Addr()
	b, ch := mustOpenBinding(t, addr, nil), raw(t, addr)
	for i := range 3 {
		mustCreate(t, b, "old", nil)
		if _, err := ch.QueueDelete(b.cfg.QueueName, false, false, false); err != nil {
			t.Fatal(err)
		}
		text := fmt.Sprint(i)
		mustCreate(t, b, text, nil)
		if d := take(t, ch, b.cfg.QueueName); string(d.Body) != text {
			t.Errorf("message %q, want %q", d.Body, text)
		}
	}
}

func TestAnEventThatFailsComesAgainAndHoldsNobodyBack(t *testing.T) {
	t.Parallel()
	b := mustOpenBinding(t, server.Get(t).Addr(), nil)
	mustCreate(t, b, "bad", nil)
	mustCreate(t, b, "good", nil)
	events := make(chan string, 100)
	failed := 0
	listen(t, b, func(_ context.Context, e binding.Event) error { // one at a time
		events <- string(e.Data)
		if string(e.Data) == "bad" && failed < 2 {
			failed++
			return errors.New("no")
		}
		return nil
	})
	for _, want := range []string{"bad", "good", "bad", "bad"} {
		select {
		case got := <-events:
			if got != want {
				t.Errorf("event %q, want %q", got, want)
			}
		case <-time.After(within):
			t.Fatalf("no event %q", want)
		}
	}
}

func TestBindingsRefuseSettingsThatCannotWork(t *testing.T) {
	for settings, want := range map[string]string{
		"queueName=q":                                  "required",
		"host=amqp://h":                                "required",
		"host=http://u:hunter2@h,queueName=q":          "wants amqp://",
		"host=amqp://h,queueName=":                     "1 to 255",
		"host=amqp://h,queueName=q,ttlInSeconds=-1":    "negative",
		"host=amqp://h,queueName=q,maxPriority=256":    "1 to 255",
		"host=amqp://h,queueName=q,prefetchCount=-1":   "65535",
		"host=amqps://h,queueName=q,clientCert=x":      "go together",
		"host=amqps://h,queueName=q,externalSasl=true": "clientCert",
		"host=amqps://h,queueName=q,caCert=hunter2":    "no certificate",
		"host=amqp://h,queueName=q,reconnectWaitInSeconds=5,durable=true,deleteWhenUnused=false,exclusive=false,contentType=x,direction=input": "",
	} {
		cfg := bindingDefaults()
		var all component.Settings
		for s := range strings.SplitSeq(settings, ",") {
			name, v, _ := strings.Cut(s, "=")
			all = append(all, component.Setting{Name: name, Value: v})
		}
		err := all.Decode(&cfg, &binding.Config{})
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: error %v, want one with %q", settings, err, want)
		}
		if err != nil && strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: the error holds a secret: %v", settings, err)
		}
	}
}
