// Package sidecar runs sidecars as processes of their own and reads what they
// tell of themselves.
package sidecar

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/proa-io/proa/internal/freeport"
)

// Options say how a sidecar is started.
type Options struct {
	Proa string   // the program
	Home string   // the folder that sidecars share; the log is written there too
	ID   string   // of the application
	Args []string // besides ports and home
	Env  []string // besides this process's
	// Ready is the path that is asked until it answers with success;
	// /v1.0/healthz by default.
	Ready string
	// Profile makes it serve profiles.
	Profile bool
}

// Process is a running sidecar. Its ports are on the loopback address.
type Process struct {
	ID                           string
	HTTP, GRPC, Metrics, Profile int

	cmd *exec.Cmd
	log *os.File
}

// Start starts a sidecar and waits until it is ready.
func Start(ctx context.Context, o Options) (*Process, error) {
	p := &Process{ID: o.ID}
	for _, port := range []*int{&p.HTTP, &p.GRPC, &p.Metrics, &p.Profile} {
		var err error
		if *port, err = freeport.Pick(); err != nil {
			return nil, err
		}
	}
	args := append([]string{
		"sidecar", "--app-id", o.ID, "--home", o.Home, "--durability", "relaxed",
		"--dapr-http-port", strconv.Itoa(p.HTTP), "--dapr-grpc-port", strconv.Itoa(p.GRPC), "--metrics-port", strconv.Itoa(p.Metrics),
	}, o.Args...)
	if o.Profile {
		args = append(args, "--enable-profiling", "--profile-port", strconv.Itoa(p.Profile))
	}
	var err error
	if p.log, err = os.Create(filepath.Join(o.Home, o.ID+".log")); err != nil {
		return nil, err
	}
	p.cmd = exec.Command(o.Proa, args...) //nolint:gosec,noctx // the program to measure; Stop ends it
	p.cmd.Stdout, p.cmd.Stderr = p.log, p.log
	p.cmd.Env = append(os.Environ(), o.Env...)
	if err := p.cmd.Start(); err != nil {
		return nil, errors.Join(err, p.log.Close())
	}
	ready := o.Ready
	if ready == "" {
		ready = "/v1.0/healthz"
	}
	if err := await(ctx, fmt.Sprintf("http://127.0.0.1:%d%s", p.HTTP, ready)); err != nil {
		text := p.Log()
		return nil, errors.Join(fmt.Errorf("the sidecar of %s: %w\n%s", o.ID, err, text), p.Stop())
	}
	return p, nil
}

// await asks a URL until it answers with success.
func await(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	for {
		_, err := get(ctx, url)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(time.Millisecond):
		}
	}
}

func get(ctx context.Context, url string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	req.Close = true // no connection of ours is to count among those that are measured
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode >= 300 {
		err = fmt.Errorf("%s answers %s: %.200s", url, resp.Status, body)
	}
	return body, err
}

// PID returns the process's id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// HTTPAddr returns the address of the HTTP API.
func (p *Process) HTTPAddr() string { return fmt.Sprintf("127.0.0.1:%d", p.HTTP) }

// GRPCAddr returns the address of the gRPC API.
func (p *Process) GRPCAddr() string { return fmt.Sprintf("127.0.0.1:%d", p.GRPC) }

// Log returns what the sidecar has logged.
func (p *Process) Log() string {
	text, err := os.ReadFile(p.log.Name())
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// Stop stops the sidecar and waits until it has.
func (p *Process) Stop() error {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	err := p.cmd.Wait()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.ExitCode() < 0 {
		err = nil // by the signal
	}
	return errors.Join(err, p.log.Close())
}

// Figures returns the values of the metrics with the given names, which have to
// be without labels.
func (p *Process) Figures(ctx context.Context, names ...string) ([]float64, error) {
	text, err := get(ctx, fmt.Sprintf("http://127.0.0.1:%d/metrics", p.Metrics))
	if err != nil {
		return nil, err
	}
	return figures(string(text), names)
}

func figures(text string, names []string) ([]float64, error) {
	out, found := make([]float64, len(names)), make([]bool, len(names))
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		for i := range names {
			if name != names[i] {
				continue
			}
			v, err := strconv.ParseFloat(value, 64)
			if err != nil {
				return nil, fmt.Errorf("metric %s: %w", name, err)
			}
			out[i], found[i] = v, true
		}
	}
	for i := range names {
		if !found[i] {
			return nil, errors.New("there is no metric " + names[i])
		}
	}
	return out, nil
}

// Allocations returns how many objects the sidecar has allocated.
func (p *Process) Allocations(ctx context.Context) (float64, error) {
	v, err := p.Figures(ctx, "go_memstats_mallocs_total")
	if err != nil {
		return 0, err
	}
	return v[0], nil
}

// CPUProfile writes a CPU profile of the next d, at least a second, to a file.
func (p *Process) CPUProfile(ctx context.Context, d time.Duration, file string) error {
	body, err := get(ctx, fmt.Sprintf("http://127.0.0.1:%d/debug/pprof/profile?seconds=%d", p.Profile, max(1, int(d.Seconds()))))
	if err != nil {
		return err
	}
	return os.WriteFile(file, body, 0o600)
}

// Heap collects garbage and returns how many bytes are in use then: by objects,
// and by what they and the stacks occupy, with the gaps between them, which
// cannot be given back. It needs Options.Profile.
func (p *Process) Heap(ctx context.Context) (objects, held int64, err error) {
	text, err := get(ctx, fmt.Sprintf("http://127.0.0.1:%d/debug/pprof/heap?gc=1&debug=1", p.Profile))
	if err != nil {
		return 0, 0, err
	}
	return heap(string(text))
}

// heap finds fields of runtime.MemStats in a profile as text.
func heap(profile string) (objects, held int64, err error) {
	fields := map[string]int64{"HeapAlloc": -1, "HeapInuse": -1, "Stack": -1}
	for line := range strings.Lines(profile) {
		name, value, _ := strings.Cut(strings.TrimPrefix(line, "# "), " = ")
		if _, wanted := fields[name]; !wanted {
			continue
		}
		value, _, _ = strings.Cut(value, " / ") // of stacks: in use / from the system
		if fields[name], err = strconv.ParseInt(strings.TrimSpace(value), 10, 64); err != nil {
			return 0, 0, fmt.Errorf("%s in the profile of the heap: %w", name, err)
		}
	}
	for name, n := range fields {
		if n < 0 {
			return 0, 0, errors.New("the profile of the heap does not have " + name)
		}
	}
	return fields["HeapAlloc"], fields["HeapInuse"] + fields["Stack"], nil
}
