// Package peer runs the programs that Proa is measured against: nginx, haproxy
// and redis, as processes of their own with throw-away folders, configured for
// the least work: no logs, no limits, and connections that are kept.
package peer

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/proa-io/proa/internal/freeport"
	"github.com/proa-io/proa/test/bench/proc"
)

// Options are what a proxy is to do.
type Options struct {
	Dir           string // an empty folder for the process
	Cores         int    // worker processes or threads
	HTTPApp       string // address of the application that speaks HTTP/1.1
	GRPCApp       string // and of the one that speaks gRPC
	MaxConnection int    // how many connections it has to take
}

// Peer is a running process.
type Peer struct {
	HTTP, GRPC string // addresses it serves; "" for what it does not
	cmd        *exec.Cmd
	log        *os.File
}

// PIDs returns the processes of the peer.
func (p *Peer) PIDs() ([]int, error) { return proc.Tree(p.cmd.Process.Pid) }

// Close stops the peer.
func (p *Peer) Close() error {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	_ = p.cmd.Wait()
	return p.log.Close()
}

// ErrMissing says that a program is not installed.
var ErrMissing = errors.New("is not installed")

// lookPath finds a program; Debian has some outside of a user's path.
func lookPath(program string) (string, error) {
	for _, dir := range append(filepath.SplitList(os.Getenv("PATH")), "/usr/sbin", "/usr/local/sbin") {
		path := filepath.Join(dir, program)
		if info, err := os.Stat(path); err == nil && !info.IsDir() && info.Mode()&0o111 != 0 {
			return path, nil
		}
	}
	return "", fmt.Errorf("%s %w; test/bench/deps.sh installs it on Debian", program, ErrMissing)
}

// run starts a program and waits until it accepts connections at addrs.
func run(ctx context.Context, dir, program string, args, addrs []string) (*Peer, error) {
	path, err := lookPath(program)
	if err != nil {
		return nil, err
	}
	log, err := os.Create(filepath.Join(dir, program+".log"))
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(path, args...) //nolint:gosec,noctx // Close ends it, as it likes to be ended
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Dir = dir
	if err := cmd.Start(); err != nil {
		return nil, errors.Join(err, log.Close())
	}
	p := &Peer{cmd: cmd, log: log}
	for _, addr := range addrs {
		if err := await(ctx, addr); err != nil {
			text, _ := os.ReadFile(log.Name())
			return nil, errors.Join(fmt.Errorf("%s: %w\n%s", program, err, text), p.Close())
		}
	}
	return p, nil
}

// await waits until somebody accepts connections at an address.
func await(ctx context.Context, addr string) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	var d net.Dialer
	for {
		conn, err := d.DialContext(ctx, "tcp", addr)
		if err == nil {
			return conn.Close()
		}
		select {
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		case <-time.After(time.Millisecond):
		}
	}
}

// addresses picks free loopback addresses.
func addresses(n int) ([]string, error) {
	out := make([]string, n)
	for i := range out {
		port, err := freeport.Pick()
		if err != nil {
			return nil, err
		}
		out[i] = net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	}
	return out, nil
}

// Version returns the first line of what a program says about its version, or
// why there is none.
func Version(ctx context.Context, program string, args ...string) string {
	path, err := lookPath(program)
	if err != nil {
		return err.Error()
	}
	out, err := exec.CommandContext(ctx, path, args...).CombinedOutput() //nolint:gosec // programs that we name
	if err != nil {
		return err.Error()
	}
	line, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	return line
}

// StartRedis starts a redis-server that keeps nothing on disk and returns its
// address.
func StartRedis(ctx context.Context, dir string) (*Peer, string, error) {
	addrs, err := addresses(1)
	if err != nil {
		return nil, "", err
	}
	_, port, _ := net.SplitHostPort(addrs[0])
	p, err := run(ctx, dir, "redis-server", []string{"--bind", "127.0.0.1", "--port", port, "--dir", dir, "--save", "", "--appendonly", "no"}, addrs)
	return p, addrs[0], err
}
