package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/proa-io/proa/test/bench/load"
	"github.com/proa-io/proa/test/bench/proc"
	"github.com/proa-io/proa/test/bench/sidecar"
	"github.com/proa-io/proa/test/bench/wire"
)

const (
	// idleConnections is how many connections a proxy holds of which nobody makes
	// use.
	idleConnections = 10_000
	// restTime is how long a process is left alone after its start, and
	// idleTime how long with connections, until it counts as idle: Proa looks
	// every five seconds whether there is memory to give back.
	restTime = 3 * time.Second
	idleTime = 12 * time.Second
	// memoryLimit is the GOMEMLIMIT that is tried.
	memoryLimit = "100MiB"
)

// memoryRow is what a fresh process takes.
type memoryRow struct {
	name        string
	idle, full  int64 // resident bytes
	connections string
}

// String is the row for the screen.
func (m memoryRow) String() string {
	text := fmt.Sprintf("resident, %-30s idle %s", m.name, megabytes(m.idle))
	if m.connections != "" {
		text += fmt.Sprintf(", with %d %s connections %s: %.0f bytes each", idleConnections, m.connections, megabytes(m.full), m.each())
	}
	return text
}

func (m memoryRow) each() float64 { return float64(m.full-m.idle) / idleConnections }

// subject is a process whose memory is measured, and a way to call it.
type subject struct {
	way
	close func() error
}

// measureMemory measures what processes take that have nothing to do: right after
// the start, and with many connections over each of which one call went.
func (r *rig) measureMemory(ctx context.Context) ([]memoryRow, error) {
	engine, err := r.launch(ctx, "idle", "engine", nil, nil) // the others have theirs elsewhere
	if err != nil {
		return nil, err
	}
	defer engine.Stop()
	limit := []string{"GOMEMLIMIT=" + memoryLimit}
	var out []memoryRow
	for _, c := range []struct {
		name, connections string
		start             func() (subject, error)
	}{
		{"Proa with the embedded engine", "", func() (subject, error) { return r.alone(ctx) }},
		{"Proa", "HTTP/1.1", func() (subject, error) { return r.besideApp(ctx, "http", "idle-http", nil) }},
		{"Proa", "gRPC", func() (subject, error) { return r.besideApp(ctx, "grpc", "idle-grpc", nil) }},
		{"Proa, GOMEMLIMIT=" + memoryLimit, "HTTP/1.1", func() (subject, error) { return r.besideApp(ctx, "http", "limited-http", limit) }},
		{"Proa, GOMEMLIMIT=" + memoryLimit, "gRPC", func() (subject, error) { return r.besideApp(ctx, "grpc", "limited-grpc", limit) }},
		{"nginx", "HTTP/1.1", func() (subject, error) { return r.idlePeer(ctx, "nginx", false) }},
		{"nginx", "gRPC", func() (subject, error) { return r.idlePeer(ctx, "nginx", true) }},
		{"haproxy", "HTTP/1.1", func() (subject, error) { return r.idlePeer(ctx, "haproxy", false) }},
		{"haproxy", "gRPC", func() (subject, error) { return r.idlePeer(ctx, "haproxy", true) }},
	} {
		s, err := c.start()
		if err == nil {
			m := memoryRow{name: c.name, connections: c.connections}
			err = errors.Join(m.measure(ctx, s), s.close())
			fmt.Fprintln(os.Stderr, m)
			out = append(out, m)
		}
		if err != nil {
			return nil, fmt.Errorf("memory of %s, %s: %w", c.name, c.connections, err)
		}
	}
	return out, nil
}

func (m *memoryRow) measure(ctx context.Context, s subject) error {
	rest := func(d time.Duration) (rss int64, err error) {
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-time.After(d):
		}
		pids, err := s.processes()
		if err != nil {
			return 0, err
		}
		return proc.RSS(pids...)
	}
	var err error
	if m.idle, err = rest(restTime); err != nil || m.connections == "" {
		return err
	}
	pool, err := load.NewPool(idleConnections, func() (load.Worker, error) {
		c, err := s.dial(one())
		if err != nil {
			return nil, err
		}
		if err := c.Call(); err != nil {
			return nil, errors.Join(err, c.Close())
		}
		return c, nil
	})
	if err != nil {
		return err
	}
	m.full, err = rest(idleTime)
	return errors.Join(err, pool.Close())
}

// besideApp starts a sidecar in a home where another one runs the engine.
func (r *rig) besideApp(ctx context.Context, app, id string, env []string) (subject, error) {
	port, protocol := portOf(r.httpApp), "http"
	if app == "grpc" {
		port, protocol = portOf(r.grpcApp), "grpc"
	}
	s, err := r.launch(ctx, "idle", id, []string{"--app-port", port, "--app-protocol", protocol}, env)
	if err != nil {
		return subject{}, err
	}
	out := subject{way: way{sidecars: []*sidecar.Process{s}}, close: s.Stop}
	if app == "grpc" {
		out.dial = idleGRPC(s.GRPCAddr(), id)
	} else {
		out.dial = idleHTTP(s.HTTPAddr(), id)
	}
	return out, nil
}

// alone starts a sidecar that runs the engine.
func (r *rig) alone(ctx context.Context) (subject, error) {
	s, err := r.launch(ctx, "alone", "alone", nil, nil)
	if err != nil {
		return subject{}, err
	}
	return subject{way: way{sidecars: []*sidecar.Process{s}}, close: s.Stop}, nil
}

// idlePeer starts a proxy of its own: that of the cases is warm, and takes fewer
// connections.
func (r *rig) idlePeer(ctx context.Context, name string, grpc bool) (subject, error) {
	dir, err := os.MkdirTemp(r.home, name)
	if err != nil {
		return subject{}, err
	}
	p, err := r.newPeer(ctx, name, dir, manyConnections)
	if err != nil {
		return subject{}, err
	}
	out := subject{way: way{pids: p.PIDs}, close: p.Close}
	if grpc {
		out.dial = idleGRPC(p.GRPC, "")
	} else {
		out.dial = idleHTTP(p.HTTP, "")
	}
	return out, nil
}

// Of the clients there are ten thousand: their buffers are small.

func idleHTTP(addr, app string) func(shape) (caller, error) {
	req := wire.Request{Method: "POST", Path: "/echo", Body: []byte("x"), Want: 200, ReadSize: 1 << 10}
	if app != "" {
		req.Fields = map[string]string{"dapr-app-id": app}
	}
	return httpCalls(addr, req)
}

func idleGRPC(addr, app string) func(shape) (caller, error) {
	g := wire.GRPC{Method: echoMethod, Message: []byte("x"), ReadSize: 1 << 10}
	if app != "" {
		g.Metadata = map[string]string{"dapr-app-id": app}
	}
	return grpcCalls(addr, g)
}

// renderMemory is the part of the page that is about memory.
func renderMemory(rows []memoryRow) string {
	var b strings.Builder
	fmt.Fprintf(&b, "\n## Memory\n\nResident memory %v after the start, and %v after each of %d connections has had one call, echoed by the application, and\n"+
		"stays open. Of nginx and haproxy it is all processes, which share pages that count for each; both reserve memory for %d\nconnections at the start.\n\n"+
		"| what | idle MB | connections | with them MB | bytes for each |\n|---|---|---|---|---|\n", restTime, idleTime, idleConnections, manyConnections)
	for _, m := range rows {
		if m.connections == "" {
			fmt.Fprintf(&b, "| %s | %.1f |  |  |  |\n", m.name, float64(m.idle)/1e6)
			continue
		}
		fmt.Fprintf(&b, "| %s | %.1f | %s | %.1f | %.0f |\n", m.name, float64(m.idle)/1e6, m.connections, float64(m.full)/1e6, m.each())
	}
	return b.String()
}
