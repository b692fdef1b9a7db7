package runtime

import (
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/proa-io/proa/block/job"
	"github.com/proa-io/proa/block/pubsub"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/driver/memory"
	"github.com/proa-io/proa/engine"
	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/policy"
)

// orders returns the data of the events that the application has got, sorted.
func (a *jobApp) orders(t *testing.T) []string {
	t.Helper()
	var out []string
	for _, body := range a.all()["/on/orders"] {
		var e struct{ Data any }
		if err := json.Unmarshal([]byte(body), &e); err != nil {
			t.Fatal(err)
		}
		out = append(out, fmt.Sprint(e.Data))
	}
	slices.Sort(out)
	return out
}

// awaitOrders waits until the application has got as many events.
func (a *jobApp) awaitOrders(t *testing.T, n int) {
	t.Helper()
	a.await(t, func(got map[string][]string) bool { return len(got["/on/orders"]) >= n })
}

func TestADelayedMessageArrivesWhenItIsDue(t *testing.T) {
	app := newJobApp(t)
	app.Start()
	r := newRig(t, nil, func(c *Config) { c.AppPort = app.port() })
	began := time.Now()
	r.must("POST", "/v1.0/publish/pubsub/orders?metadata.delayInSeconds=300ms", `"late"`, 204)
	r.must("POST", "/v1.0/publish/pubsub/orders", `"early"`, 204)
	r.must("POST", "/v1.0/publish/bulk/pubsub/orders?metadata.deliverAt="+began.Add(200*time.Millisecond).UTC().Format("2006-01-02T15:04:05.000Z"),
		`[{"entryId":"1","event":"bulk","contentType":"text/plain"},{"entryId":"2","event":"own","contentType":"text/plain","metadata":{"delayInSeconds":"250ms"}}]`, 204)
	if jobs := r.must("POST", "/proa.v1.Jobs/List", "{}", 200); jobs != "{}" {
		t.Errorf("messages are among the jobs: %s", jobs)
	}
	app.awaitOrders(t, 4)
	if got := app.orders(t); !slices.Equal(got, []string{"bulk", "early", "late", "own"}) {
		t.Errorf("the application got %v", got)
	}
	if took := time.Since(began); took < 300*time.Millisecond {
		t.Errorf("all were there after %v", took)
	}
}

func TestADelayedMessageCanBeTakenBack(t *testing.T) {
	r := newRig(t, nil, nil)
	var kept, answer struct {
		ID       string
		Canceled bool
	}
	text := r.must("POST", "/proa.v1.PubSub/Publish", `{"pubsubName":"pubsub","topic":"orders","delay":"3600s"}`, 200)
	if err := json.Unmarshal([]byte(text), &kept); err != nil || kept.ID == "" {
		t.Fatalf("%s, %v", text, err)
	}
	for _, want := range []bool{true, false} {
		answer.Canceled = false
		text = r.must("POST", "/proa.v1.PubSub/CancelDelayed", `{"id":"`+kept.ID+`"}`, 200)
		if err := json.Unmarshal([]byte(text), &answer); err != nil || answer.Canceled != want {
			t.Errorf("%s, %v", text, err)
		}
	}
	if text := r.must("POST", "/proa.v1.PubSub/CancelDelayed", `{"id":"a/b"}`, 200); text != "{}" {
		t.Errorf("an id that is none: %s", text)
	}
}

func TestADelayedMessageOutlivesItsSidecarAndItsComponent(t *testing.T) {
	app, dir := newJobApp(t), t.TempDir()
	app.Start()
	durable := func(c *Config) {
		c.AppPort, c.Engine = app.port(), engine.Options{Dir: dir, Durability: engine.Relaxed}
	}
	first := newRig(t, nil, durable)
	first.must("POST", "/v1.0/publish/pubsub/orders?metadata.delayInSeconds=100ms", `"one"`, 204)
	first.must("POST", "/v1.0/publish/pubsub/orders?metadata.delayInSeconds=3600", `"later"`, 204)
	first.stop()
	second := newRig(t, nil, durable)
	app.awaitOrders(t, 1)

	// When it is due there is no component of that name for a while.
	bus := componentYAML("bus", "pubsub.nats") + "---\napiVersion: dapr.io/v2alpha1\nkind: Subscription\nmetadata:\n  name: bus\n" +
		"spec:\n  pubsubname: bus\n  topic: orders\n  routes:\n    default: /on/orders\n"
	second.write("bus.yaml", bus)
	second.applied()
	second.must("POST", "/v1.0/publish/bus/orders?metadata.delayInSeconds=200ms", `"two"`, 204)
	second.remove("bus.yaml")
	second.applied()
	time.Sleep(300 * time.Millisecond) // until it is due
	second.write("bus.yaml", bus)
	second.applied()
	app.awaitOrders(t, 2)
	if got := app.orders(t); !slices.Equal(got, []string{"one", "two"}) {
		t.Errorf("the application got %v", got)
	}
}

func TestNothingCanBeDelayedWithoutAJobsComponent(t *testing.T) {
	r := newRig(t, map[string]string{"bus.yaml": componentYAML("bus", "pubsub.in-memory")}, func(c *Config) { c.NoDefaultComponents = true })
	r.must("POST", "/v1.0/publish/bus/orders", `"now"`, 204)
	if text := r.must("POST", "/v1.0/publish/bus/orders?metadata.delayInSeconds=1", `"later"`, 500); !strings.Contains(text,
		"there is no jobs component to keep messages in until they are due") {
		t.Errorf("the answer is %s", text)
	}
	r.must("POST", "/proa.v1.PubSub/CancelDelayed", `{"id":"x"}`, 400)
}

func TestAKeptMessageIsReadAsItWasWritten(t *testing.T) {
	for _, m := range []pubsub.Message{
		{Topic: "t"},
		{Topic: "tö", Data: []byte("\xff\n{}\n"), ContentType: "a/\xfe", Key: "\x00\xff", TTL: time.Minute, Metadata: map[string]string{"\xff": "\xfe", "b": ""}},
	} {
		value, err := encodeKept(pubsub.Kept{Component: "bus", Message: &m})
		if err != nil {
			t.Fatal(err)
		}
		name, got, err := decodeKept(value)
		if len(got.Data) == 0 {
			got.Data = nil
		}
		if err != nil || name != "bus" || !reflect.DeepEqual(*got, m) {
			t.Errorf("%q: %s %+v, %v; want %+v", value, name, got, err, m)
		}
	}
}

func FuzzKeptMessage(f *testing.F) {
	f.Add([]byte("{\"component\":\"bus\",\"topic\":\"t\",\"metadata\":[[\"YQ==\",\"Yg==\"]]}\ndata"))
	f.Add([]byte("\n"))
	f.Fuzz(func(t *testing.T, value []byte) {
		name, m, err := decodeKept(value)
		if err != nil {
			return
		}
		again, err := encodeKept(pubsub.Kept{Component: name, Message: m})
		if err != nil {
			t.Fatal(err)
		}
		if _, got, err := decodeKept(again); err != nil || len(got.Metadata) != len(m.Metadata) || string(got.Data) != string(m.Data) {
			t.Errorf("%q became %q, %v", value, again, err)
		}
	})
}

// fragile is a broker that takes nothing while it is down.
type fragile struct {
	pubsub.Driver
	down  atomic.Bool
	tries atomic.Int64

	mu   sync.Mutex
	took map[string]int
}

func (d *fragile) Publish(_ context.Context, m *pubsub.Message) error {
	if d.down.Load() {
		d.tries.Add(1)
		return fault.New(fault.Unavailable, "the broker is away")
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.took[string(m.Data)]++
	return nil
}

func TestABrokerThatIsAwayIsLeftAloneAndGetsEverythingLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &fragile{took: map[string]int{}}
		d.down.Store(true)
		table := newComponents(nil)
		table.brokers["bus"] = pubsub.New(component.Opened[pubsub.Driver]("bus", d), pubsub.Options{})
		pinned := func() *components { table.pin(); return table }
		jobs, err := memory.OpenJobs(t.Context(), memory.JobsConfig{MaxEntries: 10_000}, component.Env{})
		if err != nil {
			t.Fatal(err)
		}
		table.delayed = job.New(component.Opened[job.Driver]("jobs", jobs), job.Options{AppID: "shop", Kind: delayedKind, Chains: policy.None{}})
		const n = 2000
		for i := range n {
			if _, err := (delayed{pinned}).Keep(t.Context(), pubsub.Kept{Component: "bus", Due: time.Now().Add(time.Second),
				Message: &pubsub.Message{Topic: "t", Data: fmt.Append(nil, i)}}); err != nil {
				t.Fatal(err)
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { _ = table.delayed.Run(ctx, newDeliverer(pinned)) })
		time.Sleep(10 * time.Minute)
		if tries := d.tries.Load(); tries > 2*n {
			t.Errorf("a broker that was away was asked %d times in ten minutes", tries)
		}
		d.down.Store(false)
		time.Sleep(3 * time.Minute)
		d.mu.Lock()
		if len(d.took) != n {
			t.Errorf("%d messages of %d were published", len(d.took), n)
		}
		for data, times := range d.took {
			if times != 1 {
				t.Errorf("message %s was published %d times", data, times)
			}
		}
		d.mu.Unlock()
		cancel()
		running.Wait()
	})
}
