package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/proa-io/proa/test/bench/sidecar"
	"github.com/proa-io/proa/test/bench/wire"
)

// stand is what takes part: the applications, in this process, and three
// sidecars that speak mutual TLS with each other: one that is called, and one
// beside each application.
type stand struct {
	sidecars             map[string]*sidecar.Process
	apps                 []net.Listener
	published, delivered atomic.Int64
}

// resources of all sidecars: what is delivered goes to the application of http.
const resources = `apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: memory}
spec: {type: state.in-memory, version: v1}
---
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: broker}
spec: {type: pubsub.nats, version: v1}
---
apiVersion: dapr.io/v2alpha1
kind: Subscription
metadata: {name: events}
scopes: [http]
spec:
  pubsubname: broker
  topic: events
  routes: {default: /event}
`

func newStand(ctx context.Context, proa, home string) (*stand, error) {
	s := &stand{sidecars: map[string]*sidecar.Process{}}
	for _, serve := range []func(net.Listener){s.serveHTTP, wire.EchoH2} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, errors.Join(err, s.close())
		}
		s.apps = append(s.apps, l)
		go serve(l) // it ends with the listener
	}
	file := filepath.Join(home, "soak.yaml")
	if err := os.WriteFile(file, []byte(resources), 0o600); err != nil {
		return nil, errors.Join(err, s.close())
	}
	for _, c := range []struct {
		id       string
		app      int
		protocol string
	}{{"front", -1, ""}, {"http", 0, "http"}, {"grpc", 1, "grpc"}} {
		args := []string{"--mtls", "strict", "--resources-path", file}
		if c.app >= 0 {
			args = append(args, "--app-port", fmt.Sprint(s.apps[c.app].Addr().(*net.TCPAddr).Port), "--app-protocol", c.protocol)
		}
		p, err := sidecar.Start(ctx, sidecar.Options{Proa: proa, Home: home, ID: c.id, Args: args})
		if err != nil {
			return nil, errors.Join(err, s.close())
		}
		s.sidecars[c.id] = p
	}
	return s, nil
}

func (s *stand) close() error {
	var errs []error
	for _, p := range s.sidecars {
		errs = append(errs, p.Stop())
	}
	for _, l := range s.apps {
		errs = append(errs, l.Close())
	}
	return errors.Join(errs...)
}

// slowness is how long the application takes for what clients do not wait for.
const slowness = 20 * time.Millisecond

// serveHTTP is the application that speaks HTTP/1.1.
func (s *stand) serveHTTP(l net.Listener) {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /echo", func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
		_, _ = w.Write(body)
	})
	mux.HandleFunc("POST /event", func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		s.delivered.Add(1)
	})
	mux.HandleFunc("POST /slow", func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		time.Sleep(slowness)
	})
	mux.HandleFunc("GET /ws", func(w http.ResponseWriter, _ *http.Request) {
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
			"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n")
		_, _ = io.Copy(conn, rw)
	})
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: time.Minute}
	_ = srv.Serve(l)
}
