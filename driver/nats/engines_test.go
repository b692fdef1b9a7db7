package nats

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/proa-io/proa/engine"
	"github.com/proa-io/proa/internal/fastloop"
	"github.com/proa-io/proa/internal/testserver"
)

// engineKind is a kind of server that the drivers must work on.
type engineKind struct {
	name  string
	start func(t testing.TB) *engine.Engine
}

// engineKinds are the embedded engine, a server as new as go.mod says, and one
// as old as the machine's.
var engineKinds = []engineKind{
	{"Embedded", func(t testing.TB) *engine.Engine {
		return runEngine(t, engine.Options{Dir: t.TempDir()})
	}},
	{"External", func(t testing.TB) *engine.Engine {
		return runEngine(t, engine.Options{URL: testserver.NATS(t, testserver.NATSOptions{}).URL()})
	}},
	{"ExternalOld", func(t testing.TB) *engine.Engine {
		return runEngine(t, engine.Options{URL: testserver.NATS(t, testserver.NATSOptions{Installed: true}).URL()})
	}},
}

// runEngine runs an engine until the test ends.
func runEngine(t testing.TB, o engine.Options) *engine.Engine {
	t.Helper()
	fastloop.Skip(t, "starts an engine")
	o.Log = slog.New(slog.NewTextHandler(t.Output(), nil))
	e, err := engine.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var running sync.WaitGroup
	running.Go(func() {
		if err := e.Run(ctx); err != nil {
			t.Errorf("engine: %v", err)
		}
	})
	t.Cleanup(func() {
		cancel()
		running.Wait()
	})
	return e
}

var buckets atomic.Int64

// newBucket returns the name of a bucket that there is not.
func newBucket() string { return fmt.Sprintf("test_%d", buckets.Add(1)) }
