package azure

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/proa-io/proa/block/binding"
	"github.com/proa-io/proa/block/binding/bindingtest"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/internal/faultnet"
	"github.com/proa-io/proa/internal/testserver"
)

var queues = testserver.Share(func(tb testserver.TB) *testserver.AzuriteServer { return testserver.AzuriteQueues(tb) })

// queueAt returns the settings of a new queue.
func queueAt(addr string) QueueConfig {
	cfg := queueDefaults()
	cfg.AccountName, cfg.AccountKey = testserver.AzuriteAccount, component.NewSecret(testserver.AzuriteKey)
	cfg.QueueEndpoint, cfg.QueueName = "http://"+addr, at("").ContainerName
	cfg.PollingInterval, cfg.VisibilityTimeout = component.Duration(20*time.Millisecond), component.Duration(time.Second)
	return cfg
}

func openQueue(t testing.TB, cfg QueueConfig) *Queue {
	t.Helper()
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	q, err := OpenQueue(t.Context(), cfg, component.Env{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = q.Close() })
	return q
}

func send(t testing.TB, q *Queue, data string, metadata map[string]string) error {
	t.Helper()
	_, err := q.Invoke(t.Context(), binding.Request{Operation: "create", Data: []byte(data), Metadata: metadata})
	return err
}

func TestQueue(t *testing.T) {
	t.Parallel()
	addr := queues.Get(t).Addr()
	request := binding.Request{Operation: "create", Data: []byte("x")}
	bindingtest.RunOutput(t, bindingtest.Output{Open: func(t testing.TB) binding.Output { return openQueue(t, queueAt(addr)) }, Request: request})
	var q *Queue
	bindingtest.RunInput(t, bindingtest.Input{
		Open: func(t testing.TB) binding.Input { q = openQueue(t, queueAt(addr)); return q },
		Trigger: func(t testing.TB) {
			if err := send(t, q, "event", nil); err != nil {
				t.Fatal(err)
			}
		},
	})
	t.Run("OnABadNetwork", func(t *testing.T) {
		t.Parallel()
		bindingtest.RunNetwork(t, bindingtest.Network{
			Open: func(t testing.TB) (binding.Output, *faultnet.Proxy) {
				proxy := faultnet.New(t, addr)
				return openQueue(t, queueAt(proxy.Addr())), proxy
			},
			Request: request,
		})
	})
}

// events listens until the test has seen as many events as there are answers.
func events(t *testing.T, q *Queue, answers ...error) (got []string) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	err := q.Listen(ctx, func(_ context.Context, e binding.Event) error {
		got = append(got, string(e.Data))
		if e.Metadata["messageID"] == "" {
			t.Errorf("an event has the metadata %v", e.Metadata)
		}
		if len(got) == len(answers) {
			cancel()
		}
		return answers[len(got)-1]
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("Listen: %v", err)
	}
	return got
}

func TestMessagesComeAgainUntilTheyAreProcessed(t *testing.T) {
	t.Parallel()
	q := openQueue(t, queueAt(queues.Get(t).Addr()))
	if err := send(t, q, `"<a> & ü"`, map[string]string{"ttlInSeconds": "60"}); err != nil {
		t.Fatal(err)
	}
	if got := events(t, q, errors.New("not now"), nil); strings.Join(got, "|") != "<a> & ü|<a> & ü" {
		t.Errorf("the events are %q", got)
	}
	a, err := q.storage.do(t.Context(), request{method: http.MethodGet, query: "comp=metadata"})
	if err != nil || a.Header.Get("x-ms-approximate-messages-count") != "0" {
		t.Errorf("what is left: %v, %v", a.Header, err)
	}
}

func TestMessagesInBase64(t *testing.T) {
	t.Parallel()
	cfg := queueAt(queues.Get(t).Addr())
	plain := openQueue(t, cfg)
	if err := send(t, plain, "\x00\xff", nil); !fault.Is(err, fault.InvalidArgument) || !strings.Contains(err.Error(), "encodeBase64") {
		t.Errorf("bytes that are no text: %v", err)
	}
	if err := send(t, plain, "x", map[string]string{"ttlInSeconds": "soon"}); !fault.Is(err, fault.InvalidArgument) {
		t.Errorf("a life that is none: %v", err)
	}
	if err := send(t, plain, strings.Repeat("x", 1<<20), nil); !fault.Is(err, fault.InvalidArgument) {
		t.Errorf("a message that is too large: %v", err)
	}
	cfg.EncodeBase64, cfg.DecodeBase64 = true, true
	q := openQueue(t, cfg)
	if err := send(t, q, "\x00\xff", nil); err != nil {
		t.Fatal(err)
	}
	if got := events(t, q, nil); got[0] != "\x00\xff" {
		t.Errorf("the event is %q", got)
	}
	if err := send(t, plain, "no base64!", nil); err != nil {
		t.Fatal(err)
	}
	err := q.Listen(t.Context(), func(context.Context, binding.Event) error { t.Error("it was handed over"); return nil })
	if !fault.Is(err, fault.FailedPrecondition) {
		t.Errorf("Listen: %v", err)
	}
}

func TestSettingsOfAQueueThatCanNeverWork(t *testing.T) {
	for _, tc := range []struct{ name, value, want string }{
		{"queueName", "My Queue", "queueName"},
		{"accountKey", "no base64", "accountKey"},
		{"endpoint", "localhost", "queueEndpoint"},
		{"pollingInterval", "0s", "pollingInterval"},
		{"ttlInSeconds", "0", "ttl"},
		{"visibilityTimeout", "200h", "visibilityTimeout"},
		{"storageAccount", "", "accountName"},
		{"ttl", "30s", ""},
	} {
		settings := component.Settings{{Name: "storageAccount", Value: "a"}, {Name: "queue", Value: "q"}}
		kept := settings[:0]
		for _, s := range settings {
			if s.Name != tc.name && !(s.Name == "queue" && tc.name == "queueName") {
				kept = append(kept, s)
			}
		}
		cfg := queueDefaults()
		err := append(kept, component.Setting{Name: tc.name, Value: tc.value}).Decode(&cfg)
		if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
			t.Errorf("%s %q: %v, want %q", tc.name, tc.value, err, tc.want)
		}
	}
}
