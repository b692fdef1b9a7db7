package harness

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/proa-io/proa/internal/freeport"
	"github.com/proa-io/proa/internal/testserver"
)

const (
	// readyWithin bounds how long a sidecar and its application may take to be
	// ready. It costs time only when something is broken.
	readyWithin = 60 * time.Second
	// askEvery is the pause between two questions whether they are.
	askEvery = 20 * time.Millisecond
)

// Options say how a sidecar runs.
type Options struct {
	// AppID identifies the application.
	AppID string
	// Home is the folder of the embedded engine. Sidecars with the same home
	// find each other.
	Home string
	// App is the command of an application to run with the sidecar, as "proa
	// run" does. Without one the sidecar runs alone, as "proa sidecar" does.
	App []string
	// AppProtocol is what the application listens for: "http", "grpc", or ""
	// when it does not listen.
	AppProtocol string
	// AppPort is where the application listens; any free port when 0. It is
	// not used without an AppProtocol.
	AppPort int
	// HTTPPort and GRPCPort are those of the API; any free ones when 0.
	HTTPPort, GRPCPort int
	// Resources are files or folders of resources.
	Resources []string
	// Flags are further flags.
	Flags []string
	// Env is added to the environment of the sidecar and so of the
	// application.
	Env []string
	// OnLine gets every line of output, without the name in front.
	OnLine func(string)
	// Calls, unless nil, records what App and the sidecar ask of each other.
	Calls *Calls
}

// Sidecar is a running sidecar, with its application if it has one.
type Sidecar struct {
	*Program
	AppID              string
	HTTPPort, GRPCPort int
	AppPort            int
}

// Run starts a sidecar until the test ends. It does not wait: see WaitReady.
func (p *Proa) Run(tb testserver.TB, o Options) *Sidecar {
	tb.Helper()
	s := &Sidecar{AppID: o.AppID, HTTPPort: port(tb, o.HTTPPort), GRPCPort: port(tb, o.GRPCPort)}
	args := []string{p.path, "sidecar"}
	if len(o.App) > 0 {
		args[1] = "run"
	}
	args = append(args, "--app-id", o.AppID, "--home", o.Home, "--durability", "relaxed",
		"--dapr-http-port", strconv.Itoa(s.HTTPPort), "--dapr-grpc-port", strconv.Itoa(s.GRPCPort), "--metrics-port", "0")
	appPort := 0
	if o.AppProtocol != "" {
		s.AppPort = port(tb, o.AppPort)
		appPort = s.AppPort
	}
	if o.Calls != nil {
		o.App, appPort = o.Calls.between(tb, s, o.App)
	}
	if appPort != 0 {
		args = append(args, "--app-protocol", o.AppProtocol, "--app-port", strconv.Itoa(appPort))
	}
	for _, r := range o.Resources {
		args = append(args, "--resources-path", r)
	}
	args = append(args, o.Flags...)
	if len(o.App) > 0 {
		args = append(append(args, "--"), o.App...)
	}
	s.Program = Start(tb, Command{Name: "proa " + args[1] + " " + o.AppID, Args: args, Env: o.Env, OnLine: withoutName(o.OnLine)})
	return s
}

// port returns the given port or, when that is 0, a free one.
func port(tb testserver.TB, given int) int {
	tb.Helper()
	if given != 0 {
		return given
	}
	free, err := freeport.Pick()
	if err != nil {
		tb.Fatalf("%v", err)
	}
	return free
}

// withoutName removes the name that "proa run" puts in front of every line.
func withoutName(onLine func(string)) func(string) {
	if onLine == nil {
		return nil
	}
	return func(line string) {
		if _, after, ok := strings.Cut(line, " | "); ok {
			line = after
		}
		onLine(line)
	}
}

// URL returns the address of a path of the HTTP API, "/v1.0/metadata".
func (s *Sidecar) URL(path string) string {
	return "http://127.0.0.1:" + strconv.Itoa(s.HTTPPort) + path
}

// WaitReady waits until the sidecar and its application are ready, subscriptions
// and all, and ends the test when that takes too long or the sidecar ends.
func (s *Sidecar) WaitReady() {
	s.tb.Helper()
	deadline := time.Now().Add(readyWithin)
	for {
		err := s.healthy()
		if err == nil {
			return
		}
		select {
		case <-s.exited:
			s.tb.Fatalf("%s ended with exit code %d before it was ready", s, s.code)
		case <-time.After(askEvery):
		}
		if time.Now().After(deadline) {
			s.tb.Fatalf("%s was not ready within %v: %v", s, readyWithin, err)
		}
	}
}

func (s *Sidecar) healthy() error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.URL("/v1.0/healthz"), nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusNoContent {
		body, _ := io.ReadAll(io.LimitReader(resp.Body, 4<<10))
		return fmt.Errorf("it answers %s: %s", resp.Status, body)
	}
	return nil
}
