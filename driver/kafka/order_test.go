package kafka

import (
	"context"
	"crypto/rand"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/proa-io/proa/block/pubsub"
	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/internal/leak"
)

// inTime bounds the wait for what must happen.
const inTime = 40 * time.Second

// gathering is a Subscribe that runs beside a test.
type gathering struct {
	t      *testing.T
	cancel context.CancelFunc
	done   chan struct{}
	err    error
	got    chan *pubsub.Delivery
}

// gather subscribes until the test ends and acknowledges everything.
func gather(t *testing.T, p *PubSub, topic, group string) *gathering {
	t.Helper()
	got := make(chan *pubsub.Delivery, 100_000)
	g := subscribe(t, p, pubsub.Subscription{Topic: topic, Group: group}, func(_ context.Context, d *pubsub.Delivery) error {
		got <- d
		return nil
	})
	g.got = got
	return g
}

// subscribe subscribes until the test ends, and returns when the group has its
// place in the topic.
func subscribe(t *testing.T, p *PubSub, s pubsub.Subscription, handle pubsub.Handler) *gathering {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	g := &gathering{t: t, cancel: cancel, done: make(chan struct{})}
	established := make(chan struct{})
	s.Established = func() { close(established) }
	go func() {
		defer close(g.done)
		g.err = p.Subscribe(ctx, s, handle)
	}()
	t.Cleanup(g.stop)
	await(t, established, g)
	return g
}

func (g *gathering) stop() {
	g.cancel()
	<-g.done
	if g.err != nil {
		g.t.Errorf("Subscribe: %v", g.err)
	}
}

func (g *gathering) next() *pubsub.Delivery {
	g.t.Helper()
	return await(g.t, g.got, g)
}

// await takes a value from a channel.
func await[T any](t *testing.T, from <-chan T, g *gathering) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-g.done:
		t.Fatalf("the subscription ended: %v", g.err)
	case <-time.After(inTime):
		t.Fatalf("nothing after %v", inTime)
	}
	panic("unreachable")
}

// again is what handlers return for a message that is to come again soon.
func again() error {
	return fault.New(fault.Unavailable, "again").WithRetryAfter(20 * time.Millisecond)
}

func TestAPartitionKeepsItsOrderThroughFailures(t *testing.T) {
	const n = 200
	cfg := testConfig(server.Get(t).Addr())
	cfg.ConsumeRetryInterval = 0
	p, topic := mustOpen(t, cfg, nearby()), rand.Text() // of one partition
	var mu sync.Mutex
	var done, attempts []string
	inside := 0
	finished := make(chan struct{})
	g := subscribe(t, p, pubsub.Subscription{Topic: topic, Group: "g"}, func(_ context.Context, d *pubsub.Delivery) error {
		mu.Lock()
		defer mu.Unlock()
		if inside++; inside > 1 {
			t.Error("two messages of a partition are handled at a time")
		}
		defer func() { inside-- }()
		text := string(d.Data)
		attempts = append(attempts, text)
		if i, _ := strconv.Atoi(text); i%10 == 3 && d.Attempt < 3 {
			return again()
		}
		if done = append(done, text); len(done) == n {
			close(finished)
		}
		return nil
	})
	var want []string
	var messages []*pubsub.Message
	for i := range n {
		want = append(want, strconv.Itoa(i))
		messages = append(messages, &pubsub.Message{Topic: topic, Data: []byte(want[i])})
	}
	for _, err := range p.BulkPublish(t.Context(), messages) {
		if err != nil {
			t.Fatal(err)
		}
	}
	await(t, finished, g)
	if !slices.Equal(done, want) || len(attempts) != n+2*n/10 {
		t.Errorf("%d attempts; done in the order %v", len(attempts), done)
	}
}

// committed returns what a group has committed of partition 0 of a topic; -1
// for nothing.
func committed(t *testing.T, topic, group string) int64 {
	t.Helper()
	offsets, err := admin(t, server.Get(t).Addr()).FetchOffsets(t.Context(), group)
	if err != nil {
		t.Fatal(err)
	}
	if o, ok := offsets.Lookup(topic, 0); ok {
		return o.At
	}
	return -1
}

func awaitCommit(t *testing.T, topic, group string, want int64) {
	t.Helper()
	for deadline := time.Now().Add(inTime); committed(t, topic, group) != want; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d is committed, want %d", committed(t, topic, group), want)
		}
	}
}

func TestNothingIsCommittedPastAMessageThatIsNotProcessed(t *testing.T) {
	cfg := testConfig(server.Get(t).Addr())
	cfg.Ordering = orderByKey
	p, topic := mustOpen(t, cfg, nearby()), rand.Text()
	group := rand.Text()
	release := make(chan struct{})
	others := make(chan string, 100)
	handle := func(_ context.Context, d *pubsub.Delivery) error {
		switch text := string(d.Data); text {
		case "held":
			<-release
		case "fails":
			select {
			case <-release:
			default:
				return again()
			}
		default:
			others <- text
		}
		return nil
	}
	g := subscribe(t, p, pubsub.Subscription{Topic: topic, Group: group}, handle)
	for _, text := range []string{"0", "1", "held", "2", "fails", "3", "4"} {
		mustPublish(t, p, &pubsub.Message{Topic: topic, Data: []byte(text)})
	}
	for range 5 {
		await(t, others, g)
	}
	awaitCommit(t, topic, group, 2)
	mustPublish(t, p, &pubsub.Message{Topic: topic, Data: []byte("5")})
	await(t, others, g)
	time.Sleep(2 * commitPause) // in which it would commit too much, if it did
	if at := committed(t, topic, group); at != 2 {
		t.Errorf("%d is committed while message 2 is not processed", at)
	}
	close(release)
	awaitCommit(t, topic, group, 8)
}

func TestABatchIsHandedOverTogetherAndTheNextAfterIt(t *testing.T) {
	const size = 5
	p, topic := mustOpen(t, testConfig(server.Get(t).Addr()), nearby()), rand.Text()
	var messages []*pubsub.Message
	for i := range 3 * size {
		messages = append(messages, &pubsub.Message{Topic: topic, Data: []byte(strconv.Itoa(i))})
	}
	for _, err := range p.BulkPublish(t.Context(), messages) {
		if err != nil {
			t.Fatal(err)
		}
	}
	var mu sync.Mutex
	done := map[int]bool{}
	arrived, release := make(chan int, 100), make(chan struct{})
	g := subscribe(t, p, pubsub.Subscription{Topic: topic, Group: rand.Text(), MaxInFlight: 2 * size, Batch: size},
		func(_ context.Context, d *pubsub.Delivery) error {
			i, _ := strconv.Atoi(string(d.Data))
			mu.Lock()
			for j := range i / size * size {
				if !done[j] {
					t.Errorf("message %d is handed over while %d, of an earlier batch, is not processed", i, j)
				}
			}
			mu.Unlock()
			arrived <- i
			select {
			case <-release:
			case <-t.Context().Done():
			}
			if i == 2 && d.Attempt == 1 {
				return again()
			}
			mu.Lock()
			done[i] = true
			mu.Unlock()
			return nil
		})
	var first []int
	for range size {
		first = append(first, await(t, arrived, g))
	}
	slices.Sort(first)
	if !slices.Equal(first, []int{0, 1, 2, 3, 4}) {
		t.Errorf("the first batch is %v", first)
	}
	close(release)
	for range 2*size + 1 {
		await(t, arrived, g)
	}
}

func TestOneFailingKeyDoesNotStopAPartition(t *testing.T) {
	const n = 2 * maxAhead / 10 // many more than wait in the process
	cfg := testConfig(server.Get(t).Addr())
	cfg.Ordering, cfg.ChannelBufferSize, cfg.Concurrency = orderByKey, 10, 4
	p, topic := mustOpen(t, cfg, nearby()), rand.Text()
	var mu sync.Mutex
	stuck := true
	finished := make(chan string, 3*n)
	g := subscribe(t, p, pubsub.Subscription{Topic: topic, Group: "g"}, func(_ context.Context, d *pubsub.Delivery) error {
		mu.Lock()
		defer mu.Unlock()
		if d.Key == "bad" && stuck {
			return again()
		}
		finished <- d.Key
		return nil
	})
	var messages []*pubsub.Message
	for i := range n {
		messages = append(messages, &pubsub.Message{Topic: topic, Key: "bad"}, &pubsub.Message{Topic: topic, Key: fmt.Sprint("good", i%7)})
	}
	for _, err := range p.BulkPublish(t.Context(), messages) {
		if err != nil {
			t.Fatal(err)
		}
	}
	for range n {
		if key := await(t, finished, g); key == "bad" {
			t.Fatal("a message with the bad key is processed")
		}
	}
	mu.Lock()
	stuck = false
	mu.Unlock()
	for range n {
		await(t, finished, g)
	}
	awaitCommit(t, topic, "g", 2*n)
}

func TestAFailingPartitionDoesNotStopTheOthers(t *testing.T) {
	const n = 1000
	cfg := testConfig(server.Get(t).Addr())
	cfg.NumPartitions, cfg.ChannelBufferSize = 2, 10
	p, topic := mustOpen(t, cfg, nearby()), rand.Text()
	release := make(chan struct{})
	finished := make(chan string, 3*n)
	g := subscribe(t, p, pubsub.Subscription{Topic: topic, Group: "g"}, func(_ context.Context, d *pubsub.Delivery) error {
		if d.Metadata["__partition"] == "0" {
			select {
			case <-release:
			default:
				return again()
			}
		}
		finished <- d.Metadata["__partition"]
		return nil
	})
	var messages []*pubsub.Message
	for i := range 2 * n {
		messages = append(messages, &pubsub.Message{Topic: topic, Metadata: map[string]string{"partitionNumber": strconv.Itoa(i % 2)}})
	}
	for _, err := range p.BulkPublish(t.Context(), messages) {
		if err != nil {
			t.Fatal(err)
		}
	}
	for range n {
		if at := await(t, finished, g); at != "1" {
			t.Fatalf("a message of partition %s is processed", at)
		}
	}
	close(release)
	for range n {
		await(t, finished, g)
	}
}

func TestWithoutRetryAFailedMessageIsPassedOver(t *testing.T) {
	cfg := testConfig(server.Get(t).Addr())
	cfg.ConsumeRetryEnabled = false
	p, topic := mustOpen(t, cfg, nearby()), rand.Text()
	arrived := make(chan string, 10)
	g := subscribe(t, p, pubsub.Subscription{Topic: topic, Group: "g"}, func(_ context.Context, d *pubsub.Delivery) error {
		arrived <- string(d.Data)
		return again()
	})
	for _, want := range []string{"0", "1"} {
		mustPublish(t, p, &pubsub.Message{Topic: topic, Data: []byte(want)})
		if got := await(t, arrived, g); got != want {
			t.Errorf("%q has arrived, want %q", got, want)
		}
	}
	awaitCommit(t, topic, "g", 2)
	if p.OrdersByKey() {
		t.Error("a driver that passes over messages says that it keeps their order")
	}
}

func TestTheConsumerGroupOfTheComponentComesFirst(t *testing.T) {
	cfg := testConfig(server.Get(t).Addr())
	topic, group := rand.Text(), rand.Text()
	cfg.ConsumerGroup = group
	p := mustOpen(t, cfg, nearby())
	mustPublish(t, p, &pubsub.Message{Topic: topic, Data: []byte("x")})
	gather(t, p, topic, "the application").next()
	awaitCommit(t, topic, group, 1)
	if at := committed(t, topic, "the application"); at != -1 {
		t.Errorf("the group of the application has committed %d", at)
	}
}

// A group that begins with the newest message and has got none yet must not
// pass over what comes while it is away.
func TestANewGroupRemembersWhereItBegan(t *testing.T) {
	cfg := testConfig(server.Get(t).Addr())
	cfg.InitialOffset = offsetNewest
	p, topic, group := mustOpen(t, cfg, nearby()), rand.Text(), rand.Text()
	mustPublish(t, p, &pubsub.Message{Topic: topic, Data: []byte("early")})
	g := gather(t, p, topic, group)
	awaitCommit(t, topic, group, 1)
	g.stop()
	mustPublish(t, p, &pubsub.Message{Topic: topic, Data: []byte("meanwhile")})
	if d := gather(t, p, topic, group).next(); string(d.Data) != "meanwhile" {
		t.Errorf("the group goes on with %q", d.Data)
	}
}

func TestATopicThatWasDeletedIsMadeAgain(t *testing.T) {
	addr := server.Get(t).Addr()
	p, topic := mustOpen(t, testConfig(addr), nearby()), rand.Text()
	for range 2 {
		mustPublish(t, p, &pubsub.Message{Topic: topic, Data: []byte("x")})
		if _, err := admin(t, addr).DeleteTopic(t.Context(), topic); err != nil {
			t.Fatal(err)
		}
	}
}

func TestADriverWaitsForItsGoroutines(t *testing.T) {
	addr := server.Get(t).Addr()
	topic := rand.Text()
	leak.Check(t)
	p := mustOpen(t, testConfig(addr), nearby())
	mustPublish(t, p, &pubsub.Message{Topic: topic, Data: []byte("x")})
	g := gather(t, p, topic, "g")
	g.next()
	g.stop()
}
