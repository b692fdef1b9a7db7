package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"google.golang.org/grpc"
)

// rig is everything that takes part: an HTTP and a gRPC application in this
// process, and the sidecars as processes of their own.
type rig struct {
	options
	home     string
	httpApp  net.Listener
	grpcApp  net.Listener
	grpcStop func()
	sidecars map[string]*sidecar
	delivery *delivery // nil before startDelivery
}

// sidecar is a running sidecar process.
type sidecar struct {
	cmd                          *exec.Cmd
	http, grpc, metrics, profile int
	log                          *os.File
}

func (r *rig) start(ctx context.Context) (err error) {
	if r.httpApp, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		return err
	}
	if r.grpcApp, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		return err
	}
	go serveEcho(r.httpApp)
	srv := grpc.NewServer(grpc.NumStreamWorkers(4))
	registerEcho(srv)
	go func() { _ = srv.Serve(r.grpcApp) }()
	r.grpcStop = srv.Stop
	r.sidecars = map[string]*sidecar{}
	if err := os.MkdirAll(filepath.Join(r.home, "resources"), 0o755); err != nil {
		return err
	}
	const memory = "apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata:\n  name: memory\nspec:\n  type: state.in-memory\n  version: v1\n"
	if err := os.WriteFile(filepath.Join(r.home, "resources", "memory.yaml"), []byte(memory), 0o600); err != nil {
		return err
	}
	for _, s := range []struct {
		id   string
		args []string
	}{
		{"client", nil},
		{"http", []string{"--app-port", portOf(r.httpApp)}},
		{"grpc", []string{"--app-port", portOf(r.grpcApp), "--app-protocol", "grpc"}},
	} {
		started, err := r.launch(ctx, s.id, s.args)
		if err != nil {
			return err
		}
		r.sidecars[s.id] = started
	}
	return nil
}

func portOf(l net.Listener) string {
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}

// launch starts a sidecar and waits until it is ready.
func (r *rig) launch(ctx context.Context, id string, args []string) (*sidecar, error) {
	ports, err := freePorts(4)
	if err != nil {
		return nil, err
	}
	s := &sidecar{http: ports[0], grpc: ports[1], metrics: ports[2], profile: ports[3]}
	if s.log, err = os.Create(filepath.Join(r.home, id+".log")); err != nil {
		return nil, err
	}
	args = append([]string{
		"sidecar", "--app-id", id, "--home", r.home, "--resources-path", filepath.Join(r.home, "resources"),
		"--dapr-http-port", strconv.Itoa(s.http), "--dapr-grpc-port", strconv.Itoa(s.grpc), "--metrics-port", strconv.Itoa(s.metrics),
		"--durability", "relaxed",
	}, args...)
	if r.profiles != "" {
		args = append(args, "--enable-profiling", "--profile-port", strconv.Itoa(s.profile))
	}
	s.cmd = exec.CommandContext(ctx, r.proa, args...) //nolint:gosec // what the user asks for
	s.cmd.Stdout, s.cmd.Stderr = s.log, s.log
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	if err := waitFor(ctx, s.http, "/v1.0/healthz"); err != nil {
		text, _ := os.ReadFile(s.log.Name())
		return nil, fmt.Errorf("the sidecar of %s: %w\n%s", id, err, text)
	}
	return s, nil
}

func freePorts(n int) ([]int, error) {
	var out []int
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close()
		port, err := strconv.Atoi(portOf(l))
		if err != nil {
			return nil, err
		}
		out = append(out, port)
	}
	return out, nil
}

// waitFor asks a path until it answers with success.
func waitFor(ctx context.Context, port int, path string) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	url := fmt.Sprintf("http://127.0.0.1:%d%s", port, path)
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		resp, err := http.DefaultClient.Do(req)
		if err == nil {
			_ = resp.Body.Close()
			if resp.StatusCode < 300 {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		case <-time.After(time.Millisecond):
		}
	}
}

func (r *rig) close() {
	for _, s := range r.sidecars {
		s.stop()
	}
	if r.delivery != nil {
		r.delivery.close()
	}
	if r.grpcStop != nil {
		r.grpcStop()
	}
}

func (s *sidecar) stop() {
	_ = s.cmd.Process.Signal(syscall.SIGTERM)
	_ = s.cmd.Wait()
	_ = s.log.Close()
}

// cpu returns the user and system time that a process has used.
func cpu(pid int) (time.Duration, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	if len(fields) < 13 {
		return 0, errors.New("unexpected /proc/pid/stat")
	}
	var ticks int
	for _, f := range fields[11:13] {
		n, err := strconv.Atoi(f)
		if err != nil {
			return 0, err
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond, nil
}

// rss returns the resident memory of a process in MB.
func rss(pid int) (float64, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	defer f.Close()
	for sc := bufio.NewScanner(f); sc.Scan(); {
		if rest, ok := strings.CutPrefix(sc.Text(), "VmRSS:"); ok {
			kb, err := strconv.Atoi(strings.Fields(rest)[0])
			return float64(kb) * 1024 / 1e6, err
		}
	}
	return 0, errors.New("no VmRSS")
}

// mallocs returns how many objects a sidecar has allocated, from its metrics.
func (s *sidecar) mallocs(ctx context.Context) (float64, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d/metrics", s.metrics), nil)
	if err != nil {
		return 0, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(body)) {
		if rest, ok := strings.CutPrefix(line, "go_memstats_mallocs_total "); ok {
			return strconv.ParseFloat(strings.TrimSpace(rest), 64)
		}
	}
	return 0, errors.New("no go_memstats_mallocs_total")
}

// benchCase is one way to make one kind of call.
type benchCase struct {
	name, path string
	sidecars   []string // whose cost counts
	// dial returns a function that makes one call, for one connection.
	dial func(ctx context.Context) (call func() error, closeConn func(), err error)
}

// row is one line of the result.
type row struct {
	name, path string
	conns      int
	rps        float64
	p50, p99   time.Duration
	cpu        time.Duration // per 1,000 requests
	allocs     float64       // per request
	sidecars   int
}

func (r row) cpuText() string {
	if r.sidecars == 0 {
		return ""
	}
	return fmt.Sprintf("%.1f", float64(r.cpu)/float64(time.Millisecond))
}

func (r row) allocText() string {
	if r.sidecars == 0 {
		return ""
	}
	return fmt.Sprintf("%.1f", r.allocs)
}

// String is the row for the screen.
func (r row) String() string {
	return fmt.Sprintf("%-28s %-14s c=%-3d %8.0f/s  p50 %6.0fµs  p99 %6.0fµs  cpu %6s ms/1k  allocs %s",
		r.name, r.path, r.conns, r.rps, us(r.p50), us(r.p99), r.cpuText(), r.allocText())
}

func (r *rig) measure(ctx context.Context, c benchCase, conns int) (row, error) {
	out := row{name: c.name, path: c.path, conns: conns, sidecars: len(c.sidecars)}
	if _, err := r.load(ctx, c, conns, r.duration/4); err != nil { // warm up
		return out, err
	}
	before, allocsBefore, err := r.costs(ctx, c.sidecars)
	if err != nil {
		return out, err
	}
	wait := r.profile(ctx, c, conns)
	start := time.Now()
	latencies, err := r.load(ctx, c, conns, r.duration)
	if err != nil {
		return out, err
	}
	took := time.Since(start)
	if err := wait(); err != nil {
		return out, err
	}
	after, allocsAfter, err := r.costs(ctx, c.sidecars)
	if err != nil {
		return out, err
	}
	slices.Sort(latencies)
	n := len(latencies)
	out.rps = float64(n) / took.Seconds()
	out.p50, out.p99 = latencies[n/2], latencies[n*99/100]
	out.cpu = (after - before) * 1000 / time.Duration(n)
	out.allocs = (allocsAfter - allocsBefore) / float64(n)
	return out, nil
}

// profile takes CPU profiles of the case's sidecars while it is measured, when
// they are wanted. The function it returns waits until they are written.
func (r *rig) profile(ctx context.Context, c benchCase, conns int) (wait func() error) {
	if r.profiles == "" {
		return func() error { return nil }
	}
	var wg sync.WaitGroup
	errs := make([]error, len(c.sidecars))
	for i, id := range c.sidecars {
		wg.Go(func() { errs[i] = r.fetchProfile(ctx, c, conns, id) })
	}
	return func() error {
		wg.Wait()
		return errors.Join(errs...)
	}
}

func (r *rig) fetchProfile(ctx context.Context, c benchCase, conns int, id string) error {
	url := fmt.Sprintf("http://127.0.0.1:%d/debug/pprof/profile?seconds=%d", r.sidecars[id].profile, max(1, int(r.duration.Seconds())))
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	name := strings.NewReplacer(" ", "-", ",", "").Replace(fmt.Sprintf("%s-%s-%d-%s.pprof", c.name, c.path, conns, id))
	f, err := os.Create(filepath.Join(r.profiles, name))
	if err != nil {
		return err
	}
	_, err = io.Copy(f, resp.Body)
	return errors.Join(err, f.Close())
}

func (r *rig) costs(ctx context.Context, ids []string) (time.Duration, float64, error) {
	var total time.Duration
	var allocs float64
	for _, id := range ids {
		s := r.sidecars[id]
		m, err := s.mallocs(ctx)
		if err != nil {
			return 0, 0, err
		}
		allocs += m
		d, err := cpu(s.cmd.Process.Pid)
		if err != nil {
			return 0, 0, err
		}
		total += d
	}
	return total, allocs, nil
}

// load makes calls over conns connections for d, each as fast as it can, and
// returns how long each call took.
func (r *rig) load(ctx context.Context, c benchCase, conns int, d time.Duration) ([]time.Duration, error) {
	var wg sync.WaitGroup
	var stop atomic.Bool
	results := make([][]time.Duration, conns)
	errs := make([]error, conns)
	for i := range conns {
		call, closeConn, err := c.dial(ctx)
		if err != nil {
			stop.Store(true)
			wg.Wait()
			return nil, err
		}
		wg.Go(func() {
			defer closeConn()
			for !stop.Load() {
				start := time.Now()
				if errs[i] = call(); errs[i] != nil {
					return
				}
				results[i] = append(results[i], time.Since(start))
			}
		})
	}
	timer := time.AfterFunc(d, func() { stop.Store(true) })
	defer timer.Stop()
	wg.Wait()
	return slices.Concat(results...), errors.Join(errs...)
}

func (r *rig) idle() ([]string, error) {
	var out []string
	fresh, err := r.launch(context.Background(), "idle", nil)
	if err != nil {
		return nil, err
	}
	defer fresh.stop()
	time.Sleep(2 * time.Second)
	mb, err := rss(fresh.cmd.Process.Pid)
	if err != nil {
		return nil, err
	}
	out = append(out, fmt.Sprintf("idle resident memory, engine in another process | %.1f MB", mb))
	home, err := os.MkdirTemp("", "bench-idle-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(home)
	alone := &rig{options: r.options, home: home}
	if err := os.MkdirAll(filepath.Join(home, "resources"), 0o755); err != nil {
		return nil, err
	}
	holder, err := alone.launch(context.Background(), "alone", nil)
	if err != nil {
		return nil, err
	}
	defer holder.stop()
	time.Sleep(2 * time.Second)
	if mb, err = rss(holder.cmd.Process.Pid); err != nil {
		return nil, err
	}
	return append(out, fmt.Sprintf("idle resident memory, with the embedded engine and the default components | %.1f MB", mb)), nil
}

// startRuns is how often the start is measured.
const startRuns = 9

// startToReady measures from the start of the process, in an empty home, until
// it answers that it is ready for the application.
func startToReady(ctx context.Context, proa string) (time.Duration, error) {
	var all []time.Duration
	for range startRuns {
		home, err := os.MkdirTemp("", "bench-start-")
		if err != nil {
			return 0, err
		}
		ports, err := freePorts(2)
		if err != nil {
			return 0, err
		}
		cmd := exec.CommandContext(ctx, proa, "sidecar", "--app-id", "start", "--home", home, "--metrics-port", "0", //nolint:gosec // as above
			"--dapr-http-port", strconv.Itoa(ports[0]), "--dapr-grpc-port", strconv.Itoa(ports[1]), "--durability", "relaxed")
		start := time.Now()
		if err := cmd.Start(); err != nil {
			return 0, err
		}
		err = waitFor(ctx, ports[0], "/v1.0/healthz/outbound")
		all = append(all, time.Since(start))
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
		_ = os.RemoveAll(home)
		if err != nil {
			return 0, err
		}
	}
	slices.Sort(all)
	return all[len(all)/2], nil
}
