package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	runtimev1 "github.com/proa-io/proa/api/gen/dapr/proto/runtime/v1"
)

// What deliveries are measured with.
const (
	// deliveryConcurrency is how many deliveries of a subscription are under
	// way at a time.
	deliveryConcurrency = 100
	// deliveryRate is how many messages wait for each second of a run.
	deliveryRate = 20_000
	// deliveryBulk is how many messages are published together.
	deliveryBulk = 500
)

// delivery is what the flows of deliveries need: a sidecar with three brokers,
// and its application.
type delivery struct {
	app     *gatedApp
	brokers []string
}

// deliveryFlows are messages that wait in a broker and are delivered to an
// application.
func (r *rig) deliveryFlows() []flow {
	kept := map[string]string{
		"delivery-memory": "in memory", "pubsub": "on the engine, durability relaxed", "delivery-redis": "in redis, nothing on disk",
	}
	var out []flow
	for _, broker := range r.delivery.brokers {
		for _, to := range []string{"HTTP", "gRPC stream"} {
			out = append(out, flow{
				name: "delivery, 1 KiB, to " + to, sidecar: "delivery",
				conditions: fmt.Sprintf("%d a second wait %s; %d at a time", deliveryRate, kept[broker], deliveryConcurrency),
				run: func(ctx context.Context, d time.Duration) (int, time.Duration, error) {
					return r.deliver(ctx, broker, to == "HTTP", max(1, int(d.Seconds()*deliveryRate/deliveryBulk))*deliveryBulk)
				},
			})
		}
	}
	return out
}

// startDelivery starts the sidecar that delivers, its application and, if it is
// installed, redis.
func (r *rig) startDelivery(ctx context.Context) error {
	if r.delivery != nil {
		return nil
	}
	if _, err := r.start(ctx, "client", false); err != nil { // which runs the engine
		return err
	}
	app, err := newGatedApp()
	if err != nil {
		return err
	}
	r.delivery = &delivery{app: app, brokers: []string{"delivery-memory", "pubsub"}}
	resources := fmt.Sprintf("apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata: {name: delivery-memory}\nspec:\n  type: pubsub.in-memory\n"+
		"  metadata:\n    - {name: maxMessages, value: \"1000000\"}\n    - {name: maxBytes, value: 4Gi}\n    - {name: concurrency, value: \"%d\"}\n", deliveryConcurrency)
	if addr, err := r.startRedis(ctx); err != nil {
		return err
	} else if addr != "" {
		r.delivery.brokers = append(r.delivery.brokers, "delivery-redis")
		resources += fmt.Sprintf("---\napiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata: {name: delivery-redis}\nspec:\n  type: pubsub.redis\n"+
			"  metadata:\n    - {name: redisHost, value: %q}\n    - {name: concurrency, value: \"%d\"}\n", addr, deliveryConcurrency)
	}
	for _, broker := range r.delivery.brokers {
		resources += fmt.Sprintf("---\napiVersion: dapr.io/v2alpha1\nkind: Subscription\nmetadata: {name: %s}\nspec:\n  pubsubname: %s\n  topic: http\n  routes: {default: /event}\n", broker, broker)
	}
	args, err := r.writeResources("delivery", resources)
	if err != nil {
		return err
	}
	r.sidecars["delivery"], err = r.launch(ctx, "plain", "delivery", append(args, "--app-port", portOf(app.listener)), nil)
	return err
}

// deliver publishes n messages while nobody takes them, lets them be delivered
// and returns how long that took.
func (r *rig) deliver(ctx context.Context, broker string, toHTTP bool, n int) (int, time.Duration, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s := r.sidecars["delivery"]
	topic := "stream"
	if toHTTP {
		topic = "http"
		r.delivery.app.shut()
		defer r.delivery.app.open() // for what an error leaves behind
	}
	if err := fill(ctx, s.GRPC, broker, topic, n); err != nil {
		return 0, 0, err
	}
	start := time.Now()
	var arrived *atomic.Int64
	if toHTTP {
		arrived = r.delivery.app.open()
	} else {
		var err error
		if arrived, err = subscribe(ctx, s.GRPC, broker, topic); err != nil {
			return 0, 0, err
		}
	}
	for deadline := time.After(2 * time.Minute); arrived.Load() < int64(n); {
		select {
		case <-deadline:
			return 0, 0, fmt.Errorf("%d of %d messages have arrived", arrived.Load(), n)
		case <-time.After(time.Millisecond):
		}
	}
	return n, time.Since(start), nil
}

// fill publishes n messages.
func fill(ctx context.Context, port int, broker, topic string, n int) error {
	cc, err := dialGRPC(fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		return err
	}
	defer cc.Close()
	api := runtimev1.NewDaprClient(cc)
	req := &runtimev1.BulkPublishRequest{PubsubName: broker, Topic: topic}
	for i := range deliveryBulk {
		req.Entries = append(req.Entries, &runtimev1.BulkPublishRequestEntry{EntryId: strconv.Itoa(i), Event: jsonText(1024), ContentType: "application/json"})
	}
	for range n / deliveryBulk {
		resp, err := api.BulkPublishEvent(ctx, req)
		if err != nil {
			return err
		}
		if failed := resp.GetFailedEntries(); len(failed) > 0 {
			return errors.New(failed[0].GetError())
		}
	}
	return nil
}

// gatedApp is an HTTP application that can keep its answers back. It is without
// a library: what is to be measured is the other side.
type gatedApp struct {
	listener net.Listener

	mu    sync.Mutex
	gate  chan struct{} // closed when events are answered
	count *atomic.Int64 // of events answered since the gate was last shut
}

func newGatedApp() (*gatedApp, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	a := &gatedApp{listener: l, gate: make(chan struct{}), count: &atomic.Int64{}}
	go a.accept() // it ends with the listener
	return a, nil
}

// shut keeps answers back from now on.
func (a *gatedApp) shut() {
	a.mu.Lock()
	defer a.mu.Unlock()
	select {
	case <-a.gate:
		a.gate = make(chan struct{})
	default:
	}
	a.count = &atomic.Int64{}
}

// open answers what waits and what comes, and returns the count of it.
func (a *gatedApp) open() *atomic.Int64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	select {
	case <-a.gate:
	default:
		close(a.gate)
	}
	return a.count
}

func (a *gatedApp) accept() {
	for {
		conn, err := a.listener.Accept()
		if err != nil {
			return
		}
		go a.serve(conn) // it ends with the connection
	}
}

func (a *gatedApp) serve(conn net.Conn) {
	defer conn.Close()
	ok, missing := []byte("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"), []byte("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
	in := bufio.NewReaderSize(conn, 8<<10)
	for {
		event, err := readRequest(in)
		if err != nil {
			return
		}
		answer := missing
		if event {
			a.mu.Lock()
			gate := a.gate
			a.mu.Unlock()
			<-gate
			a.mu.Lock()
			a.count.Add(1)
			a.mu.Unlock()
			answer = ok
		}
		if _, err := conn.Write(answer); err != nil {
			return
		}
	}
}

// readRequest reads a request with a known length and reports whether it brings
// an event.
func readRequest(in *bufio.Reader) (event bool, err error) {
	line, err := in.ReadSlice('\n')
	if err != nil {
		return false, err
	}
	event = strings.HasPrefix(string(line), "POST /event")
	length := 0
	for {
		line, err := in.ReadSlice('\n')
		if err != nil {
			return false, err
		}
		if len(line) <= 2 {
			break
		}
		if len(line) > 16 && strings.EqualFold(string(line[:15]), "content-length:") {
			if length, err = strconv.Atoi(strings.TrimSpace(string(line[15:]))); err != nil {
				return false, err
			}
		}
	}
	_, err = in.Discard(length)
	return event, err
}
