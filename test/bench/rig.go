package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"

	"github.com/proa-io/proa/test/bench/peer"
	"github.com/proa-io/proa/test/bench/sidecar"
	"github.com/proa-io/proa/test/bench/wire"
)

// rig is everything that takes part: the applications, which are in this
// process, and the programs that are measured, which are started when a case
// first wants them.
type rig struct {
	options
	home     string
	httpApp  net.Listener
	grpcApp  net.Listener
	sidecars map[string]*sidecar.Process
	peers    map[string]*peer.Peer
	redis    string // address, when it runs
	delivery *delivery
}

func newRig(o options, home string) (*rig, error) {
	r := &rig{options: o, home: home, sidecars: map[string]*sidecar.Process{}, peers: map[string]*peer.Peer{}}
	for _, app := range []struct {
		listener *net.Listener
		serve    func(net.Listener)
	}{{&r.httpApp, wire.EchoHTTP1}, {&r.grpcApp, wire.EchoH2}} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		*app.listener = l
		go app.serve(l) // it ends with the listener
	}
	return r, nil
}

func (r *rig) close() error {
	var errs []error
	for _, s := range r.sidecars {
		errs = append(errs, s.Stop())
	}
	for _, p := range r.peers {
		errs = append(errs, p.Close())
	}
	if r.delivery != nil {
		errs = append(errs, r.delivery.app.listener.Close())
	}
	return errors.Join(append(errs, r.httpApp.Close(), r.grpcApp.Close())...)
}

// folder makes a folder in the home of this run.
func (r *rig) folder(names ...string) (string, error) {
	dir := filepath.Join(append([]string{r.home}, names...)...)
	return dir, os.MkdirAll(dir, 0o755)
}

func portOf(l net.Listener) string {
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}

// launch starts a sidecar in a home that all with the same name share.
func (r *rig) launch(ctx context.Context, home, id string, args, env []string) (*sidecar.Process, error) {
	dir, err := r.folder(home)
	if err != nil {
		return nil, err
	}
	env = append([]string{"GOMAXPROCS=" + strconv.Itoa(r.cores)}, env...)
	return sidecar.Start(ctx, sidecar.Options{Proa: r.proa, Home: dir, ID: id, Args: args, Env: env, Profile: r.profiles != ""})
}

// maxConcurrency bounds the calls that an application gets at once, so that what
// counts them is part of what is measured.
const maxConcurrency = "1000"

// start returns a sidecar of the ones that most cases share, and starts it when
// it does not run yet: "client", which has no application, "http" and "grpc".
// With mTLS they are others, which speak nothing else with each other.
func (r *rig) start(ctx context.Context, id string, mtls bool) (*sidecar.Process, error) {
	name, home := id, "plain"
	if mtls {
		name, home = id+" mtls", "mtls"
	}
	if s := r.sidecars[name]; s != nil {
		return s, nil
	}
	if id != "client" { // which runs the engine of its home, being the first
		if _, err := r.start(ctx, "client", mtls); err != nil {
			return nil, err
		}
	}
	args, err := r.resources(ctx, id)
	if err != nil {
		return nil, err
	}
	switch id {
	case "http":
		args = append(args, "--app-port", portOf(r.httpApp), "--app-max-concurrency", maxConcurrency)
	case "grpc":
		args = append(args, "--app-port", portOf(r.grpcApp), "--app-protocol", "grpc", "--app-max-concurrency", maxConcurrency)
	}
	if mtls {
		files, err := r.identity(ctx, home, id)
		if err != nil {
			return nil, err
		}
		args = append(args, files...)
	}
	s, err := r.launch(ctx, home, id, args, nil)
	if err == nil {
		r.sidecars[name] = s
	}
	return s, err
}

// resiliency is loaded by the sidecars beside applications: policies there are.
const resiliency = `apiVersion: dapr.io/v1alpha1
kind: Resiliency
metadata: {name: bench}
spec:
  policies:
    timeouts: {call: 30s}
    circuitBreakers:
      app: {maxRequests: 1, timeout: 5s, trip: consecutiveFailures >= 100}
  targets:
    apps:
      http: {timeout: call, circuitBreaker: app}
      grpc: {timeout: call, circuitBreaker: app}
`

// resources writes the resources of a sidecar and returns the flags for them.
func (r *rig) resources(ctx context.Context, id string) ([]string, error) {
	text := resiliency
	if id == "client" {
		text = "apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata: {name: memory}\nspec: {type: state.in-memory, version: v1}\n"
		addr, err := r.startRedis(ctx)
		if err != nil {
			return nil, err
		}
		if addr != "" {
			text += fmt.Sprintf("---\napiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata: {name: redis}\nspec:\n  type: state.redis\n  version: v1\n"+
				"  metadata:\n    - {name: redisHost, value: %q}\n", addr)
		}
	}
	return r.writeResources(id, text)
}

func (r *rig) writeResources(name, text string) ([]string, error) {
	dir, err := r.folder("resources", name)
	if err != nil {
		return nil, err
	}
	return []string{"--resources-path", dir}, os.WriteFile(filepath.Join(dir, "bench.yaml"), []byte(text), 0o600)
}

// identity lets the authority of a home issue the identity of an application.
func (r *rig) identity(ctx context.Context, home, id string) ([]string, error) {
	dir, err := r.folder(home)
	if err != nil {
		return nil, err
	}
	ca := func(args ...string) error {
		out, err := exec.CommandContext(ctx, r.proa, append([]string{"ca", "--home", dir}, args...)...).CombinedOutput() //nolint:gosec // the program to measure
		if err != nil {
			return fmt.Errorf("proa ca %s: %w\n%s", args[0], err, out)
		}
		return nil
	}
	if _, err := os.Stat(filepath.Join(dir, "identity")); errors.Is(err, os.ErrNotExist) {
		if err := ca("init", "--trust-domain", "public"); err != nil {
			return nil, err
		}
	}
	to := filepath.Join(dir, "of-"+id)
	if err := ca("issue", id, "--out", to); err != nil {
		return nil, err
	}
	return []string{
		"--mtls", "strict", "--identity-cert", filepath.Join(to, "cert.pem"),
		"--identity-key", filepath.Join(to, "key.pem"), "--identity-roots", filepath.Join(to, "roots.pem"),
	}, nil
}

// startPeer starts nginx or haproxy when it does not run yet.
func (r *rig) startPeer(ctx context.Context, name string) (*peer.Peer, error) {
	if p := r.peers[name]; p != nil {
		return p, nil
	}
	dir, err := r.folder(name)
	if err != nil {
		return nil, err
	}
	p, err := r.newPeer(ctx, name, dir, fewConnections)
	if err == nil {
		r.peers[name] = p
	}
	return p, err
}

// newPeer starts nginx or haproxy, with its files in dir.
func (r *rig) newPeer(ctx context.Context, name, dir string, connections int) (*peer.Peer, error) {
	start := peer.StartNginx
	if name == "haproxy" {
		start = peer.StartHaproxy
	}
	return start(ctx, peer.Options{
		Dir: dir, Cores: r.cores, HTTPApp: r.httpApp.Addr().String(), GRPCApp: r.grpcApp.Addr().String(), MaxConnection: connections,
	})
}

// startRedis returns the address of redis; "" when it is not installed.
func (r *rig) startRedis(ctx context.Context) (string, error) {
	if r.redis != "" {
		return r.redis, nil
	}
	dir, err := r.folder("redis")
	if err != nil {
		return "", err
	}
	p, addr, err := peer.StartRedis(ctx, dir)
	if errors.Is(err, peer.ErrMissing) {
		fmt.Fprintln(os.Stderr, "bench: redis-server is not installed: what needs it is left out")
		return "", nil
	}
	if err == nil {
		r.peers["redis"], r.redis = p, addr
	}
	return addr, err
}
