package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"

	"google.golang.org/protobuf/proto"

	commonv1 "github.com/proa-io/proa/api/gen/dapr/proto/common/v1"
	runtimev1 "github.com/proa-io/proa/api/gen/dapr/proto/runtime/v1"
	"github.com/proa-io/proa/test/bench/load"
	"github.com/proa-io/proa/test/bench/proc"
	"github.com/proa-io/proa/test/bench/sidecar"
	"github.com/proa-io/proa/test/bench/wire"
)

// A shape is how calls are spread: over so many connections, with so many
// streams on each.
type shape struct{ conns, streams int }

func (s shape) String() string {
	if s.streams == 1 {
		return fmt.Sprint(s.conns)
	}
	return fmt.Sprintf("%dx%d", s.conns, s.streams)
}

// contender is one way to make a call.
type contender struct {
	name string
	// open starts what the way needs.
	open func(ctx context.Context, r *rig) (way, error)
}

// way is a contender that is ready to be called.
type way struct {
	dial     func(shape) (caller, error)
	sidecars []*sidecar.Process             // whose cost counts
	pids     func() (pids []int, err error) // the same of others; nil for nobody
}

// caller is a worker that can also make a single call.
type caller interface {
	load.Worker
	Call() error
}

// benchCase is one kind of call, made in several ways.
type benchCase struct {
	table, name string
	shapes      []shape
	// base is the contender that others are compared with by latency.
	base       string
	contenders []contender
}

// The tables of the page.
const (
	tableProxy  = "proxy"
	tableInvoke = "invocation"
	tableState  = "state"
)

func connections() []shape { return []shape{{1, 1}, {16, 1}, {64, 1}} }

func multiplexed() []shape { return append(connections(), shape{4, 32}) }

// one is the shape of a single call.
func one() shape { return shape{1, 1} }

// size is what a call carries.
type size struct {
	name  string
	bytes int
}

// cases are all that is measured.
func cases() []benchCase {
	small, kib, large := size{"100 B", 100}, size{"1 KiB", 1 << 10}, size{"64 KiB", 64 << 10}
	var out []benchCase
	for _, s := range []size{kib, large} {
		out = append(out, benchCase{tableProxy, "HTTP/1.1 one hop, " + s.name, connections(), "direct", httpProxies(s)})
	}
	for _, s := range []size{small, kib} {
		out = append(out, benchCase{tableProxy, "gRPC unary one hop, " + s.name, multiplexed(), "direct", grpcProxies(s, 0)})
	}
	for _, s := range []size{small, kib} {
		out = append(out, benchCase{tableProxy, "gRPC stream one hop, " + s.name, multiplexed(), "direct", grpcProxies(s, inFlight)})
	}
	for _, s := range []size{kib, large} {
		out = append(out,
			benchCase{tableInvoke, "HTTP invocation, " + s.name, connections(), "direct", httpInvocations(s)},
			benchCase{tableInvoke, "gRPC invocation, " + s.name, connections(), "direct", grpcInvocations(s)})
	}
	return append(out, stateCases(kib)...)
}

// inFlight is how many messages of a long stream are under way.
const inFlight = 8

func httpEcho(addr, app, path string, s size) func(shape) (caller, error) {
	req := wire.Request{Method: "POST", Path: path, Body: bytes.Repeat([]byte("x"), s.bytes), Want: 200}
	if app != "" {
		req.Fields = map[string]string{"dapr-app-id": app}
	}
	return httpCalls(addr, req)
}

func httpCalls(addr string, req wire.Request) func(shape) (caller, error) {
	return func(shape) (caller, error) { return wire.DialHTTP1(addr, req) }
}

// echoMethod is the method of the gRPC application.
const echoMethod = "/bench.Echo/Echo"

func grpcEcho(addr, app string, s size, inFlight int) func(shape) (caller, error) {
	g := wire.GRPC{Method: echoMethod, Message: bytes.Repeat([]byte("x"), s.bytes), MinAnswer: s.bytes, InFlight: inFlight}
	if app != "" {
		g.Metadata = map[string]string{"dapr-app-id": app}
	}
	return grpcCalls(addr, g)
}

func grpcCalls(addr string, g wire.GRPC) func(shape) (caller, error) {
	return func(s shape) (caller, error) {
		g := g
		g.Streams = s.streams
		return wire.DialH2(addr, g)
	}
}

// through returns the contender that is nginx or haproxy.
func through(name string, dial func(httpAddr, grpcAddr string) func(shape) (caller, error)) contender {
	return contender{name, func(ctx context.Context, r *rig) (way, error) {
		p, err := r.startPeer(ctx, name)
		if err != nil {
			return way{}, err
		}
		return way{dial: dial(p.HTTP, p.GRPC), pids: p.PIDs}, nil
	}}
}

// direct returns the contender that calls the application itself.
func direct(dial func(r *rig) func(shape) (caller, error)) contender {
	return contender{"direct", func(_ context.Context, r *rig) (way, error) { return way{dial: dial(r)}, nil }}
}

// beside returns the contender that calls an application through its own
// sidecar.
func beside(app string, dial func(s *sidecar.Process) func(shape) (caller, error)) contender {
	return contender{"Proa", func(ctx context.Context, r *rig) (way, error) {
		s, err := r.start(ctx, app, false)
		if err != nil {
			return way{}, err
		}
		return way{dial: dial(s), sidecars: []*sidecar.Process{s}}, nil
	}}
}

func httpProxies(s size) []contender {
	peer := func(httpAddr, _ string) func(shape) (caller, error) { return httpEcho(httpAddr, "", "/echo", s) }
	return []contender{
		direct(func(r *rig) func(shape) (caller, error) { return httpEcho(r.httpApp.Addr().String(), "", "/echo", s) }),
		through("nginx", peer), through("haproxy", peer),
		beside("http", func(p *sidecar.Process) func(shape) (caller, error) {
			return httpEcho(p.HTTPAddr(), "http", "/echo", s)
		}),
	}
}

func grpcProxies(s size, inFlight int) []contender {
	peer := func(_, grpcAddr string) func(shape) (caller, error) { return grpcEcho(grpcAddr, "", s, inFlight) }
	return []contender{
		direct(func(r *rig) func(shape) (caller, error) { return grpcEcho(r.grpcApp.Addr().String(), "", s, inFlight) }),
		through("nginx", peer), through("haproxy", peer),
		beside("grpc", func(p *sidecar.Process) func(shape) (caller, error) {
			return grpcEcho(p.GRPCAddr(), "grpc", s, inFlight)
		}),
	}
}

// invocation returns the contender that goes through two sidecars.
func invocation(app string, mtls bool, dial func(client *sidecar.Process) func(shape) (caller, error)) contender {
	name := "two sidecars"
	if mtls {
		name = "two sidecars, mTLS"
	}
	return contender{name, func(ctx context.Context, r *rig) (way, error) {
		var both []*sidecar.Process
		for _, id := range []string{"client", app} {
			s, err := r.start(ctx, id, mtls)
			if err != nil {
				return way{}, err
			}
			both = append(both, s)
		}
		return way{dial: dial(both[0]), sidecars: both}, nil
	}}
}

func httpInvocations(s size) []contender {
	sidecars := func(p *sidecar.Process) func(shape) (caller, error) {
		return httpEcho(p.HTTPAddr(), "", "/v1.0/invoke/http/method/echo", s)
	}
	return []contender{
		direct(func(r *rig) func(shape) (caller, error) { return httpEcho(r.httpApp.Addr().String(), "", "/echo", s) }),
		invocation("http", false, sidecars), invocation("http", true, sidecars),
	}
}

func grpcInvocations(s size) []contender {
	sidecars := func(p *sidecar.Process) func(shape) (caller, error) { return grpcEcho(p.GRPCAddr(), "grpc", s, 0) }
	return []contender{
		direct(func(r *rig) func(shape) (caller, error) { return grpcEcho(r.grpcApp.Addr().String(), "", s, 0) }),
		invocation("grpc", false, sidecars), invocation("grpc", true, sidecars),
	}
}

// stateCases set and get one key, and publish.
func stateCases(s size) []benchCase {
	var out []benchCase
	for _, store := range []struct{ name, component string }{{"in memory", "memory"}, {"redis", "redis"}, {"engine", "statestore"}} {
		base := ""
		for _, get := range []bool{false, true} {
			verb := "state set"
			if get {
				verb = "state get"
			}
			var ways []contender
			if store.component == "redis" {
				base, ways = "redis itself", append(ways, rawRedis(s, get))
			}
			ways = append(ways, stateHTTP(store.component, s, get), stateGRPC(store.component, s, get))
			out = append(out, benchCase{tableState, fmt.Sprintf("%s, %s, %s", verb, store.name, s.name), connections(), base, ways})
		}
	}
	publish := contender{"HTTP", func(ctx context.Context, r *rig) (way, error) {
		return r.client(ctx, func(p *sidecar.Process) func(shape) (caller, error) {
			return httpCalls(p.HTTPAddr(), wire.Request{Method: "POST", Path: "/v1.0/publish/pubsub/bench", Body: jsonText(s.bytes), Want: 204})
		})
	}}
	return append(out, benchCase{tableState, "publish, engine, " + s.name, connections()[:2], "", []contender{publish}})
}

// client is the way to the API of the sidecar without an application.
func (r *rig) client(ctx context.Context, dial func(p *sidecar.Process) func(shape) (caller, error)) (way, error) {
	p, err := r.start(ctx, "client", false)
	if err != nil {
		return way{}, err
	}
	return way{dial: dial(p), sidecars: []*sidecar.Process{p}}, nil
}

// jsonText is a JSON text of n bytes.
func jsonText(n int) []byte {
	return append(append([]byte{'"'}, bytes.Repeat([]byte("x"), n-2)...), '"')
}

func rawRedis(s size, get bool) contender {
	return contender{"redis itself", func(ctx context.Context, r *rig) (way, error) {
		addr, err := r.startRedis(ctx)
		if err != nil || addr == "" {
			return way{}, err
		}
		set := []string{"SET", "raw", string(bytes.Repeat([]byte("x"), s.bytes))}
		if get {
			if err := callOnce(wire.DialRESP(addr, set...)); err != nil {
				return way{}, err
			}
			set = []string{"GET", "raw"}
		}
		return way{dial: func(shape) (caller, error) { return wire.DialRESP(addr, set...) }}, nil
	}}
}

// callOnce makes one call and closes the connection.
func callOnce[C caller](c C, err error) error {
	if err != nil {
		return err
	}
	defer c.Close()
	return c.Call()
}

func stateHTTP(store string, s size, get bool) contender {
	return contender{"HTTP", func(ctx context.Context, r *rig) (way, error) {
		if store == "redis" && r.redis == "" {
			return way{}, nil
		}
		body, err := json.Marshal([]map[string]any{{"key": "h", "value": json.RawMessage(jsonText(s.bytes))}})
		if err != nil {
			return way{}, err
		}
		set := wire.Request{Method: "POST", Path: "/v1.0/state/" + store, Body: body, Want: 204}
		w, err := r.client(ctx, func(p *sidecar.Process) func(shape) (caller, error) { return httpCalls(p.HTTPAddr(), set) })
		if err != nil || !get {
			return w, err
		}
		if err := callOnce(w.dial(one())); err != nil {
			return way{}, err
		}
		return r.client(ctx, func(p *sidecar.Process) func(shape) (caller, error) {
			return httpCalls(p.HTTPAddr(), wire.Request{Method: "GET", Path: "/v1.0/state/" + store + "/h", Want: 200})
		})
	}}
}

func stateGRPC(store string, s size, get bool) contender {
	return contender{"gRPC", func(ctx context.Context, r *rig) (way, error) {
		if store == "redis" && r.redis == "" {
			return way{}, nil
		}
		item := &commonv1.StateItem{Key: "g", Value: jsonText(s.bytes)}
		save, err := proto.Marshal(&runtimev1.SaveStateRequest{StoreName: store, States: []*commonv1.StateItem{item}})
		if err != nil {
			return way{}, err
		}
		read, err := proto.Marshal(&runtimev1.GetStateRequest{StoreName: store, Key: "g"})
		if err != nil {
			return way{}, err
		}
		set := wire.GRPC{Method: runtimev1.Dapr_SaveState_FullMethodName, Message: save}
		w, err := r.client(ctx, func(p *sidecar.Process) func(shape) (caller, error) { return grpcCalls(p.GRPCAddr(), set) })
		if err != nil || !get {
			return w, err
		}
		if err := callOnce(w.dial(one())); err != nil {
			return way{}, err
		}
		return r.client(ctx, func(p *sidecar.Process) func(shape) (caller, error) {
			return grpcCalls(p.GRPCAddr(), wire.GRPC{Method: runtimev1.Dapr_GetState_FullMethodName, Message: read, MinAnswer: s.bytes})
		})
	}}
}

// processes returns the processes whose cost counts.
func (w *way) processes() ([]int, error) {
	var out []int
	for _, s := range w.sidecars {
		below, err := proc.Tree(s.PID())
		if err != nil {
			return nil, err
		}
		out = append(out, below...)
	}
	if w.pids != nil {
		more, err := w.pids()
		return append(out, more...), err
	}
	return out, nil
}
