package runtime

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/proa-io/proa/mesh/http1"
	"github.com/proa-io/proa/mesh/http2"
	"github.com/proa-io/proa/mesh/proxy"
)

// listeners are the sockets of a process, bound before anything else so that a
// taken port is known at once.
type listeners struct {
	http, grpc []net.Listener
	internal   net.Listener
	public     net.Listener
	metrics    net.Listener
	profile    net.Listener
	forwards   []net.Listener // as Config.Forwards
}

// bind opens all sockets, that of metrics only if they are on. On error it
// closes what it opened.
func bind(cfg *Config, metrics bool) (_ *listeners, err error) {
	l := &listeners{}
	defer func() {
		if err != nil {
			l.close()
		}
	}()
	if dir := cfg.UnixDomainSocket; dir != "" {
		if l.http, err = unixSocket(dir, cfg.AppID, "http"); err != nil {
			return nil, err
		}
		if l.grpc, err = unixSocket(dir, cfg.AppID, "grpc"); err != nil {
			return nil, err
		}
	} else {
		if l.http, err = listenAll("HTTP API", "--dapr-http-port", cfg.ListenAddresses, cfg.HTTPPort); err != nil {
			return nil, err
		}
		if l.grpc, err = listenAll("gRPC API", "--dapr-grpc-port", cfg.ListenAddresses, cfg.GRPCPort); err != nil {
			return nil, err
		}
	}
	one := func(to *net.Listener, what, flag, host string, port int) {
		if err == nil {
			*to, err = listenOn(what, flag, host, port)
		}
	}
	one(&l.internal, "internal", "--dapr-internal-grpc-port", cfg.InternalListenAddress, cfg.InternalPort)
	if cfg.PublicPort > 0 {
		one(&l.public, "public", "--dapr-public-port", cfg.PublicListenAddress, cfg.PublicPort)
	}
	if cfg.MetricsPort >= 0 && metrics {
		one(&l.metrics, "metrics", "--metrics-port", cfg.MetricsListenAddress, cfg.MetricsPort)
	}
	if cfg.ProfilePort > 0 {
		one(&l.profile, "profile", "--profile-port", "127.0.0.1", cfg.ProfilePort)
	}
	for _, f := range cfg.Forwards {
		if err == nil {
			var ln net.Listener
			if ln, err = listenForward(f); err == nil {
				l.forwards = append(l.forwards, ln)
			}
		}
	}
	if err != nil {
		return nil, err
	}
	return l, nil
}

func listenForward(f Forward) (net.Listener, error) {
	ln, err := net.Listen("tcp", f.Listen)
	if err != nil {
		return nil, fmt.Errorf("the forward to %s cannot be opened: %w (choose another address with --tcp-forward)", f.App, err)
	}
	return ln, nil
}

func listenAll(what, flag string, hosts []string, port int) ([]net.Listener, error) {
	var out []net.Listener
	for _, host := range hosts {
		l, err := listenOn(what, flag, host, port)
		if err != nil {
			for _, l := range out {
				_ = l.Close()
			}
			return nil, err
		}
		if port == 0 { // the same port on every address
			port = portOf(l)
		}
		out = append(out, l)
	}
	return out, nil
}

func listenOn(what, flag, host string, port int) (net.Listener, error) {
	l, err := net.Listen("tcp", net.JoinHostPort(host, strconv.Itoa(port)))
	if err != nil {
		return nil, fmt.Errorf("the %s port cannot be opened: %w (choose another with %s, or 0 for any)", what, err, flag)
	}
	return l, nil
}

// SocketPath returns where a sidecar listens in the folder that
// Config.UnixDomainSocket names, for an API: "http" or "grpc".
func SocketPath(dir, appID, api string) string {
	return filepath.Join(dir, "dapr-"+appID+"-"+api+".socket")
}

// unixSocket listens on the socket of an API. A socket that nobody serves any
// more is replaced.
func unixSocket(dir, appID, api string) ([]net.Listener, error) {
	path := SocketPath(dir, appID, api)
	if conn, err := net.DialTimeout("unix", path, time.Second); err == nil {
		_ = conn.Close()
		return nil, fmt.Errorf("%s is in use by another sidecar", path)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("a stale socket is in the way: %w", err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("the %s socket cannot be opened: %w (--unix-domain-socket wants a folder that exists)", api, err)
	}
	return []net.Listener{l}, nil
}

func (l *listeners) all() []net.Listener {
	out := slices.Concat(l.http, l.grpc, l.forwards)
	for _, x := range []net.Listener{l.internal, l.public, l.metrics, l.profile} {
		if x != nil {
			out = append(out, x)
		}
	}
	return out
}

func (l *listeners) close() {
	for _, x := range l.all() {
		_ = x.Close()
	}
}

// portOf returns the port of a listener; 0 for a Unix socket.
func portOf(l net.Listener) int {
	if a, ok := l.Addr().(*net.TCPAddr); ok {
		return a.Port
	}
	return 0
}

// serveHTTP serves HTTP/1.1, and HTTP/2 with prior knowledge, on every
// listener, with what both call Inline, until ctx ends; then it lets exchanges
// under way finish within the grace period.
func serveHTTP(handler proxy.Handler, inline func(*proxy.Request) bool, cfg *Config, ls ...net.Listener) func(context.Context) error {
	return func(ctx context.Context) error {
		h2 := &http2.Server{Handler: handler, Inline: inline, Log: cfg.Log, Config: http2.Config{MaxHeaderBytes: cfg.maxHead()}}
		h1 := &http1.Server{
			Handler: handler, Inline: inline, Connect: handler, Log: cfg.Log, MaxHead: cfg.maxHead(),
			HandOver: func(c net.Conn, read []byte) { h2.ServeConn(c, read) },
		}
		return serveUntil(ctx, ls, h1.Serve, func(ctx context.Context) error {
			return errors.Join(h1.Shutdown(ctx), h2.Shutdown(ctx))
		}, func() {
			_ = h1.Close()
			h2.Close()
		})
	}
}

// leastDrain is what exchanges under way get at least when what stopped before
// has used up the grace period.
const leastDrain = 500 * time.Millisecond

// serveUntil serves all listeners until ctx ends, then shuts down within what
// is left of the grace period, and by force after it.
func serveUntil(ctx context.Context, ls []net.Listener, serve func(net.Listener) error,
	shutdown func(context.Context) error, closeAll func()) error {
	failed := make(chan error, len(ls))
	for _, l := range ls {
		go func() { failed <- serve(l) }()
	}
	var err error
	left := len(ls)
	select {
	case err = <-failed:
		left--
	case <-ctx.Done():
	}
	drain, cancel := Draining(ctx, leastDrain)
	defer cancel()
	if shutdown(drain) != nil {
		closeAll()
	}
	for range left {
		if e := <-failed; err == nil {
			err = e
		}
	}
	return err
}
