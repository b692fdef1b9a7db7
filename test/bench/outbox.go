package main

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	runtimev1 "github.com/proa-io/proa/api/gen/dapr/proto/runtime/v1"
	"github.com/proa-io/proa/test/bench/load"
	"github.com/proa-io/proa/test/bench/wire"
)

// outboxFlows are transactions whose events are published.
func (r *rig) outboxFlows() []flow {
	var out []flow
	for _, c := range []struct {
		store, broker, conditions string
		conns                     int // that commit transactions
	}{
		{"outbox-memory", "pubsub-memory", "store and broker in memory", 64},
		{"outbox-mixed", "pubsub", "store in memory, broker on the engine, durability relaxed", 64},
		{"outbox-engine", "pubsub", "store and broker on the engine, durability relaxed", 64},
		// The engine's transactions take tens of milliseconds each, however many
		// are made together.
		{"outbox-engine", "pubsub", "store and broker on the engine, durability relaxed", 512},
	} {
		out = append(out, flow{
			name: "outbox, transactions of 1 KiB", sidecar: "outbox",
			conditions: fmt.Sprintf("%s; %d connections over HTTP, one stream over gRPC", c.conditions, c.conns),
			run: func(ctx context.Context, d time.Duration) (int, time.Duration, error) {
				return r.outbox(ctx, c.store, c.broker, c.conns, d)
			},
		})
	}
	return out
}

// outboxResources are the components of the sidecar that has outboxes.
const outboxResources = `apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: outbox-memory}
spec:
  type: state.in-memory
  metadata:
    - {name: outboxPublishPubsub, value: pubsub-memory}
    - {name: outboxPublishTopic, value: outbox-memory}
---
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: outbox-mixed}
spec:
  type: state.in-memory
  metadata:
    - {name: outboxPublishPubsub, value: pubsub}
    - {name: outboxPublishTopic, value: outbox-mixed}
---
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: outbox-engine}
spec:
  type: state.nats
  metadata:
    - {name: outboxPublishPubsub, value: pubsub}
    - {name: outboxPublishTopic, value: outbox-engine}
---
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: pubsub-memory}
spec:
  type: pubsub.in-memory
`

// startOutbox starts the sidecar that has outboxes.
func (r *rig) startOutbox(ctx context.Context) error {
	if r.sidecars["outbox"] != nil {
		return nil
	}
	if _, err := r.start(ctx, "client", false); err != nil { // which runs the engine
		return err
	}
	args, err := r.writeResources("outbox", outboxResources)
	if err != nil {
		return err
	}
	r.sidecars["outbox"], err = r.launch(ctx, "plain", "outbox", args, nil)
	return err
}

// outbox commits transactions for d and waits until the event of each has
// arrived.
func (r *rig) outbox(ctx context.Context, store, broker string, conns int, d time.Duration) (int, time.Duration, error) {
	s := r.sidecars["outbox"]
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	arrived, err := subscribe(ctx, s.GRPC, broker, store)
	if err != nil {
		return 0, 0, err
	}
	n := 0
	pool, err := load.NewPool(conns, func() (load.Worker, error) {
		n++
		body := fmt.Appendf(nil, `{"operations":[{"operation":"upsert","request":{"key":"k%d","value":%s}}]}`, n, jsonText(1024))
		return wire.DialHTTP1(s.HTTPAddr(), wire.Request{Method: "POST", Path: "/v1.0/state/" + store + "/transaction", Body: body, Want: 204})
	})
	if err != nil {
		return 0, 0, err
	}
	defer pool.Close()
	start := time.Now()
	res, err := pool.Run(d)
	if err != nil {
		return 0, 0, err
	}
	calls := res.Latency.Count()
	for deadline := time.After(time.Minute); arrived.Load() < int64(calls); {
		select {
		case <-deadline:
			return 0, 0, fmt.Errorf("%d of %d events have arrived", arrived.Load(), calls)
		case <-time.After(time.Millisecond):
		}
	}
	return calls, time.Since(start), nil
}

// subscribe counts the events of a topic over a stream until ctx ends.
func subscribe(ctx context.Context, port int, broker, topic string) (*atomic.Int64, error) {
	cc, err := dialGRPC(fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		return nil, err
	}
	context.AfterFunc(ctx, func() { _ = cc.Close() })
	stream, err := runtimev1.NewDaprClient(cc).SubscribeTopicEventsAlpha1(ctx)
	if err != nil {
		return nil, err
	}
	first := &runtimev1.SubscribeTopicEventsRequestInitialAlpha1{PubsubName: broker, Topic: topic}
	if err := stream.Send(&runtimev1.SubscribeTopicEventsRequestAlpha1{
		SubscribeTopicEventsRequestType: &runtimev1.SubscribeTopicEventsRequestAlpha1_InitialRequest{InitialRequest: first},
	}); err != nil {
		return nil, err
	}
	m, err := stream.Recv()
	if err != nil || m.GetInitialResponse() == nil {
		return nil, errors.Join(err, errors.New("the stream did not begin with its initial response"))
	}
	var count atomic.Int64
	go func() { // it ends with the connection
		for {
			m, err := stream.Recv()
			if err != nil {
				return
			}
			done := &runtimev1.SubscribeTopicEventsRequestProcessedAlpha1{
				Id: m.GetEventMessage().GetId(), Status: &runtimev1.TopicEventResponse{Status: runtimev1.TopicEventResponse_SUCCESS},
			}
			if stream.Send(&runtimev1.SubscribeTopicEventsRequestAlpha1{
				SubscribeTopicEventsRequestType: &runtimev1.SubscribeTopicEventsRequestAlpha1_EventProcessed{EventProcessed: done},
			}) != nil {
				return
			}
			count.Add(1)
		}
	}()
	return &count, nil
}
