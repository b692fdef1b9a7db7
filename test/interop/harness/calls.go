package harness

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/proa-io/proa/internal/surface"
	"github.com/proa-io/proa/internal/testserver"
)

// Calls records which parts of the Dapr API applications use, and which of their
// callbacks are called, by what goes over the wire between them and their
// sidecars. Give one to the sidecars of a suite, in [Options], and Check it at
// the end. It is safe for concurrent use.
//
// A record is a text file with a line for each part, sorted:
//
//	callback POST {route}: event
//	callback rpc dapr.proto.runtime.v1.AppCallback/OnTopicEvent
//	route GET /v1.0/state/{store}/{key}
//	rpc dapr.proto.runtime.v1.Dapr/GetState
//
// docs/reference/dapr-compatibility.md is made from the records in
// test/interop/testdata/calls, each named after its suite.
type Calls struct {
	mu    sync.Mutex
	parts map[string]struct{}
	taps  []*tap
}

// NewCalls returns an empty record.
func NewCalls() *Calls { return &Calls{parts: map[string]struct{}{}} }

// Check ends the test when the record in the file is another one than what was
// seen. With PROA_UPDATE=1 it writes the file instead. The sidecars must have
// stopped.
func (c *Calls) Check(t *testing.T, file string) {
	t.Helper()
	for _, tap := range c.taps {
		tap.close()
	}
	got := c.text()
	if os.Getenv("PROA_UPDATE") == "1" {
		if err := os.WriteFile(file, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatalf("%v (PROA_UPDATE=1 writes it)", err)
	}
	for line := range strings.Lines(string(want)) {
		if !strings.Contains("\n"+got, "\n"+line) {
			t.Errorf("%s says that this is used, but it is not (PROA_UPDATE=1 writes it anew): %s", file, line)
		}
	}
	for line := range strings.Lines(got) {
		if !strings.Contains("\n"+string(want), "\n"+line) {
			t.Errorf("%s does not say that this is used (PROA_UPDATE=1 writes it anew): %s", file, line)
		}
	}
}

// text returns the record.
func (c *Calls) text() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var b strings.Builder
	for _, part := range slices.Sorted(maps.Keys(c.parts)) {
		fmt.Fprintln(&b, part)
	}
	return b.String()
}

func (c *Calls) add(part string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.parts[part] = struct{}{}
}

// overHTTP notes a request to the HTTP port of a sidecar.
func (c *Calls) overHTTP(r request) { c.add("route " + surface.Find(r.method, r.target)) }

// overGRPC notes a call to the gRPC port of a sidecar.
func (c *Calls) overGRPC(r request) {
	c.add("rpc " + surface.FindRPC(r.target))
}

// ofApp notes a request to an application.
func (c *Calls) ofApp(r request) {
	if strings.HasPrefix(r.field("content-type"), "application/grpc") {
		c.add("callback rpc " + surface.FindRPC(r.target))
		return
	}
	c.add("callback " + surface.FindCallback(r.method, r.target, r.field))
}

// between puts taps between a sidecar and the application that it is to start.
// It returns the application's command, and the port that is the sidecar's for
// the application's.
func (c *Calls) between(tb testserver.TB, s *Sidecar, app []string) (command []string, appPort int) {
	tb.Helper()
	env := []string{"env"}
	for _, side := range []struct {
		name string
		port int
		seen func(request)
	}{{"DAPR_HTTP_PORT", s.HTTPPort, c.overHTTP}, {"DAPR_GRPC_PORT", s.GRPCPort, c.overGRPC}} {
		t := c.tap(tb, side.port, side.seen)
		port, err := t.listen(0)
		if err != nil {
			tb.Fatalf("tap: %v", err)
		}
		env = append(env, side.name+"="+strconv.Itoa(port))
	}
	if s.AppPort != 0 {
		appPort = port(tb, 0)
		c.tap(tb, s.AppPort, c.ofApp).follow(tb, appPort)
		// INTEROP_APP_PORT is the port as the sidecar has it.
		env = append(env, "APP_PORT="+strconv.Itoa(s.AppPort), "INTEROP_APP_PORT="+strconv.Itoa(appPort))
	}
	return append(env, app...), appPort
}

func (c *Calls) tap(tb testserver.TB, to int, seen func(request)) *tap {
	t := newTap(tb, to, seen)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.taps = append(c.taps, t)
	return t
}
