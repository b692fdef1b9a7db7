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

	"github.com/proa-io/proa/internal/freeport"
	"github.com/proa-io/proa/test/bench/sidecar"
	"github.com/proa-io/proa/test/bench/wire"
)

// stand is what takes part: the applications, in this process, and three
// sidecars that speak mutual TLS with each other: one that is called, and one
// beside each application.
type stand struct {
	sidecars             map[string]*sidecar.Process
	apps                 []net.Listener
	forward              string // a local port of front that leads to the raw port of http
	resources            string // the folder of all sidecars
	published, delivered atomic.Int64
	reloads              atomic.Int64
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

// configuration is of all sidecars: certificates that live shortly, so that they
// are renewed all the time, and tunnels to the raw port of http.
const configuration = `apiVersion: dapr.io/v1alpha1
kind: Configuration
metadata: {name: config}
spec:
  mtls: {enabled: true, workloadCertTTL: 40s}
  connect: {allow: ["app:http"], ports: [%d]}
`

// changing is a component that is replaced while it is used.
const changing = `apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: changing}
spec:
  type: state.in-memory
  version: v1
  metadata: [{name: keyPrefix, value: change%d}]
`

// rawPort is the port of the application that serves raw connections.
func (s *stand) rawPort() int { return s.apps[rawApp].Addr().(*net.TCPAddr).Port }

// The applications, by their places in apps.
const (
	httpApp = iota
	grpcApp
	rawApp
)

// writeChanging writes another version of the component.
func (s *stand) writeChanging() error {
	file := filepath.Join(s.resources, "changing.yaml")
	text := fmt.Sprintf(changing, s.reloads.Load())
	return errors.Join(os.WriteFile(file+".new", []byte(text), 0o600), os.Rename(file+".new", file))
}

func newStand(ctx context.Context, proa, home string) (*stand, error) {
	s := &stand{sidecars: map[string]*sidecar.Process{}, resources: filepath.Join(home, "resources")}
	for _, serve := range []func(net.Listener){httpApp: s.serveHTTP, grpcApp: wire.EchoH2, rawApp: serveRaw} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, errors.Join(err, s.close())
		}
		s.apps = append(s.apps, l)
		go serve(l) // it ends with the listener
	}
	port, err := freeport.Pick()
	if err != nil {
		return nil, errors.Join(err, s.close())
	}
	s.forward = fmt.Sprintf("127.0.0.1:%d", port)
	if err := errors.Join(os.Mkdir(s.resources, 0o700), s.writeChanging(),
		os.WriteFile(filepath.Join(s.resources, "soak.yaml"), []byte(resources), 0o600),
		os.WriteFile(filepath.Join(s.resources, "config.yaml"), fmt.Appendf(nil, configuration, s.rawPort()), 0o600)); err != nil {
		return nil, errors.Join(err, s.close())
	}
	for _, c := range []struct {
		id   string
		args []string
	}{
		{"front", []string{"--tcp-forward", fmt.Sprintf("%s=http:%d", s.forward, s.rawPort())}},
		{"http", []string{"--app-protocol", "http", "--app-port", s.port(httpApp)}},
		{"grpc", []string{"--app-protocol", "grpc", "--app-port", s.port(grpcApp)}},
	} {
		args := append([]string{"--mtls", "strict", "--resources-path", s.resources}, c.args...)
		p, err := sidecar.Start(ctx, sidecar.Options{Proa: proa, Home: home, ID: c.id, Args: args, Profile: true})
		if err != nil {
			return nil, errors.Join(err, s.close())
		}
		s.sidecars[c.id] = p
	}
	return s, nil
}

func (s *stand) port(app int) string { return strconv.Itoa(s.apps[app].Addr().(*net.TCPAddr).Port) }

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
	mux.HandleFunc("GET /events", func(w http.ResponseWriter, _ *http.Request) { stream(w, streamed) })
	mux.HandleFunc("GET /endless", func(w http.ResponseWriter, _ *http.Request) { stream(w, 1<<30) })
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: time.Minute}
	_ = srv.Serve(l)
}

// stream sends events until there were so many or the client has gone.
func stream(w http.ResponseWriter, events int) {
	w.Header().Set("Content-Type", "text/event-stream")
	flusher := http.NewResponseController(w)
	for n := range events {
		if _, err := fmt.Fprintf(w, "data: %d\n\n", n); err != nil || flusher.Flush() != nil {
			return
		}
		time.Sleep(time.Millisecond)
	}
}

// serveRaw is an application that is no HTTP: it sends back what it gets.
func serveRaw(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		go func() { // it ends with the connection
			defer conn.Close()
			_, _ = io.Copy(conn, conn)
		}()
	}
}
