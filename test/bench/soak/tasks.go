package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"

	commonv1 "github.com/proa-io/proa/api/gen/dapr/proto/common/v1"
	runtimev1 "github.com/proa-io/proa/api/gen/dapr/proto/runtime/v1"
	"github.com/proa-io/proa/test/bench/load"
	"github.com/proa-io/proa/test/bench/wire"
)

// A task is one kind of load.
type task struct {
	name    string
	workers int
	// work makes calls for about a slice of time, over a connection of its own,
	// and returns how many there were. An error is of a call that failed.
	work func(ctx context.Context, slice time.Duration) (calls int, err error)
	// aborts says that the calls are given up on purpose: they cannot fail.
	aborts bool
}

// tally counts what has become of calls. The zero value is ready.
type tally struct {
	calls, aborted atomic.Int64

	mu       sync.Mutex
	kinds    map[string]int // calls, by task
	failures int
	texts    []string // of the first failures
}

// maxTexts bounds the failures that are shown.
const maxTexts = 20

// count notes calls of a task, of which the last may have failed.
func (t *tally) count(k task, calls int, err error) {
	if k.aborts {
		t.aborted.Add(int64(calls))
	} else {
		t.calls.Add(int64(calls))
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.kinds == nil {
		t.kinds = map[string]int{}
	}
	t.kinds[k.name] += calls
	if err == nil {
		return
	}
	t.failures++
	if len(t.texts) < maxTexts {
		t.texts = append(t.texts, fmt.Sprintf("%s %s: %v", time.Now().Format(time.TimeOnly), k.name, err))
	}
}

// failed says what has failed; nil for nothing.
func (t *tally) failed() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.failures == 0 {
		return nil
	}
	return append([]string{fmt.Sprintf("%d calls failed that nobody gave up; the first:", t.failures)}, t.texts...)
}

// print shows how many calls each task has made.
func (t *tally) print(w io.Writer) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(t.kinds)) {
		fmt.Fprintf(w, "%10d %s\n", t.kinds[name], name)
	}
}

// slice is how long a worker uses a connection until it takes another.
const slice = 2 * time.Second

// run lets all tasks work until ctx ends, and returns when none is under way.
func run(ctx context.Context, tasks []task, t *tally) {
	var wg sync.WaitGroup
	for _, k := range tasks {
		for range k.workers {
			wg.Go(func() {
				for ctx.Err() == nil {
					n, err := k.work(ctx, slice)
					t.count(k, n, err)
					if err != nil {
						time.Sleep(100 * time.Millisecond) // not a log full of the same
					}
				}
			})
		}
	}
	wg.Wait()
}

// tasks is everything at once.
func (s *stand) tasks() []task {
	body := bytes.Repeat([]byte("x"), 1<<10)
	large := bytes.Repeat([]byte("x"), 64<<10)
	echo := func(body []byte, app string) wire.Request {
		r := wire.Request{Method: "POST", Path: "/echo", Body: body, Want: 200}
		if app != "" {
			r.Fields = map[string]string{"dapr-app-id": app}
		}
		return r
	}
	invoke := echo(body, "")
	invoke.Path = "/v1.0/invoke/http/method/echo"
	unary := wire.GRPC{Method: "/bench.Echo/Echo", Message: body, MinAnswer: len(body), Streams: 4, Metadata: map[string]string{"dapr-app-id": "grpc"}}
	streams := unary
	streams.InFlight = 4
	front, httpSide, grpcSide := s.sidecars["front"], s.sidecars["http"], s.sidecars["grpc"]
	return append([]task{
		{name: "HTTP, two sidecars", workers: 8, work: steadyHTTP(front.HTTPAddr(), invoke)},
		{name: "HTTP, two sidecars, 64 KiB", workers: 2, work: steadyHTTP(front.HTTPAddr(), echo(large, "http"))},
		{name: "gRPC, two sidecars", workers: 4, work: steadyGRPC(front.GRPCAddr(), unary)},
		{name: "gRPC streams, two sidecars", workers: 2, work: steadyGRPC(front.GRPCAddr(), streams)},
		{name: "HTTP, one hop", workers: 4, work: steadyHTTP(httpSide.HTTPAddr(), echo(body, "http"))},
		{name: "gRPC, one hop", workers: 2, work: steadyGRPC(grpcSide.GRPCAddr(), unary)},
		{name: "gRPC streams, one hop", workers: 2, work: steadyGRPC(grpcSide.GRPCAddr(), streams)},
		{name: "publish and subscribe", workers: 2, work: s.publish},
		{name: "WebSocket", workers: 2, work: webSocket(front.HTTPAddr(), "/v1.0/invoke/http/method/ws")},
		{name: "connections opened and closed", workers: 2, work: churn(func() (caller, error) { return wire.DialHTTP1(front.HTTPAddr(), invoke) })},
		{name: "gRPC connections opened and closed", workers: 2, work: churn(func() (caller, error) { return wire.DialH2(front.GRPCAddr(), unary) })},
		{name: "HTTP/2, two sidecars", workers: 2, work: s.overHTTP2(front.HTTPAddr(), "/v1.0/invoke/http/method/echo", body)},
		{name: "events sent by the server", workers: 2, work: eventStream(front.HTTPAddr(), "/v1.0/invoke/http/method/events")},
		{name: "CONNECT", workers: 2, work: connect(front.HTTPAddr(), fmt.Sprintf("http:%d", s.rawPort()))},
		{name: "TCP, a local port", workers: 2, work: rawConnection(s.forward)},
		{name: "aborted", workers: 4, work: s.abort, aborts: true},
		{name: "streams aborted", workers: 2, work: s.abortStreams, aborts: true},
		{name: "reloads", workers: 1, work: s.reload},
	}, s.stateTasks(body)...)
}

// stateTasks set and get over both APIs.
func (s *stand) stateTasks(body []byte) []task {
	item := &commonv1.StateItem{Key: "g", Value: body}
	save, err := proto.Marshal(&runtimev1.SaveStateRequest{StoreName: "memory", States: []*commonv1.StateItem{item}})
	if err != nil {
		panic(err) // a message of ours
	}
	get, err := proto.Marshal(&runtimev1.GetStateRequest{StoreName: "memory", Key: "g"})
	if err != nil {
		panic(err)
	}
	front := s.sidecars["front"]
	const path = "/v1.0/state/memory"
	text := append(append([]byte(`[{"key":"h","value":"`), body...), `"}]`...)
	return []task{
		{name: "state set, HTTP", workers: 2, work: steadyHTTP(front.HTTPAddr(), wire.Request{Method: "POST", Path: path, Body: text, Want: 204})},
		{name: "state get, HTTP", workers: 2, work: steadyHTTP(front.HTTPAddr(), wire.Request{Method: "GET", Path: path + "/h", Want: 200})},
		{name: "state set, gRPC", workers: 1, work: steadyGRPC(front.GRPCAddr(), wire.GRPC{Method: runtimev1.Dapr_SaveState_FullMethodName, Message: save, Streams: 4})},
		{name: "state of a store that is replaced", workers: 1, work: steadyHTTP(front.HTTPAddr(), wire.Request{Method: "POST", Path: "/v1.0/state/changing", Body: text, Want: 204})},
		{name: "state get, gRPC", workers: 1, work: steadyGRPC(front.GRPCAddr(), wire.GRPC{Method: runtimev1.Dapr_GetState_FullMethodName, Message: get, Streams: 4})},
	}
}

// caller is a client that can make one call.
type caller interface {
	load.Worker
	Call() error
}

func steadyHTTP(addr string, r wire.Request) func(context.Context, time.Duration) (int, error) {
	return steady(func() (load.Worker, error) { return wire.DialHTTP1(addr, r) })
}

func steadyGRPC(addr string, g wire.GRPC) func(context.Context, time.Duration) (int, error) {
	return steady(func() (load.Worker, error) { return wire.DialH2(addr, g) })
}

// steady makes calls over one connection, as fast as it can.
func steady(dial func() (load.Worker, error)) func(context.Context, time.Duration) (int, error) {
	return func(_ context.Context, d time.Duration) (int, error) {
		w, err := dial()
		if err != nil {
			return 0, err
		}
		defer w.Close()
		var h load.Histogram
		err = w.Run(time.Now().Add(d), &h)
		return h.Count(), err
	}
}

// churn makes each call over a connection of its own.
func churn(dial func() (caller, error)) func(context.Context, time.Duration) (int, error) {
	return func(ctx context.Context, d time.Duration) (n int, err error) {
		for until := time.Now().Add(d); time.Now().Before(until) && ctx.Err() == nil; n++ {
			c, err := dial()
			if err != nil {
				return n, err
			}
			err = c.Call()
			_ = c.Close()
			if err != nil {
				return n, err
			}
			time.Sleep(time.Millisecond) // 1,000 a second use up no ports
		}
		return n, nil
	}
}

// Bounds of what is published and not delivered yet, and of the wait for it.
const (
	maxBehind   = 500
	maxDelivery = 30 * time.Second
)

// publish publishes, and waits while the subscriber is behind.
func (s *stand) publish(ctx context.Context, d time.Duration) (n int, err error) {
	c, err := wire.DialHTTP1(s.sidecars["front"].HTTPAddr(), wire.Request{
		Method: "POST", Path: "/v1.0/publish/broker/events", Body: []byte(`{"soak":"` + string(bytes.Repeat([]byte("x"), 512)) + `"}`), Want: 204,
	})
	if err != nil {
		return 0, err
	}
	defer c.Close()
	for until := time.Now().Add(d); time.Now().Before(until) && ctx.Err() == nil; n++ {
		if err := c.Call(); err != nil {
			return n, err
		}
		s.published.Add(1)
		if err := s.awaitDeliveries(maxBehind); err != nil {
			return n, err
		}
	}
	return n, nil
}

// awaitDeliveries waits until at most behind messages are still to be delivered.
func (s *stand) awaitDeliveries(behind int64) error {
	for deadline := time.Now().Add(maxDelivery); ; time.Sleep(time.Millisecond) {
		missing := s.published.Load() - s.delivered.Load()
		if missing <= behind {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%d published messages were not delivered within %v", missing, maxDelivery)
		}
	}
}

// abort begins calls and gives them up: in the middle of the request, while the
// answer is awaited, by a reset, and by closing a connection with calls on it.
func (s *stand) abort(ctx context.Context, d time.Duration) (n int, err error) {
	front := s.sidecars["front"]
	slow := wire.Request{Method: "POST", Path: "/v1.0/invoke/http/method/slow", Body: bytes.Repeat([]byte("x"), 32<<10), Want: 200}
	call := wire.GRPC{Method: "/bench.Echo/Echo", Message: bytes.Repeat([]byte("x"), 4<<10), Metadata: map[string]string{"dapr-app-id": "grpc"}}
	for until := time.Now().Add(d); time.Now().Before(until) && ctx.Err() == nil; n++ {
		switch n % 4 {
		case 0, 1:
			c, err := wire.DialHTTP1(front.HTTPAddr(), slow)
			if err != nil {
				return n, err
			}
			if n%4 == 0 {
				_ = c.Begin() // what becomes of it is the sidecar's business
			} else {
				_ = c.Send()
			}
			time.Sleep(5 * time.Millisecond)
			_ = c.Close()
		default:
			c, err := wire.DialH2(front.GRPCAddr(), call)
			if err != nil {
				return n, err
			}
			for range 8 {
				_ = c.Begin(n%4 == 2)
			}
			time.Sleep(5 * time.Millisecond)
			_ = c.Close()
		}
	}
	return n, nil
}
