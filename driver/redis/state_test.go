package redis

import (
	"context"
	"testing"

	"github.com/proa-io/proa/block/state"
	"github.com/proa-io/proa/block/state/statetest"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/internal/testserver"
)

var server = testserver.Share(func(tb testserver.TB) *testserver.RedisServer {
	return testserver.Redis(tb, testserver.RedisOptions{})
})

func TestMain(m *testing.M) { testserver.Main(m, server) }

func openState(ctx context.Context, addr string) (*State, error) {
	return OpenState(ctx, StateConfig{Config: configOf(addr)}, component.Env{})
}

func configOf(addr string) Config {
	cfg := defaults()
	cfg.Host = addr
	return cfg
}

func mustOpen(t testing.TB, addr string) *State {
	t.Helper()
	s, err := openState(t.Context(), addr)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// empty opens a driver on the shared server with nothing in it.
func empty(t testing.TB) *State {
	t.Helper()
	s := mustOpen(t, server.Get(t).Addr())
	if _, err := s.client.do(t.Context(), s.client.build().Flushall().Build()); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestState(t *testing.T) {
	statetest.Run(t, func(t *testing.T) state.Driver { return empty(t) })
}

func TestStateOnABadNetwork(t *testing.T) {
	statetest.RunBadNetwork(t, server.Get(t).Addr(), func(ctx context.Context, _ *testing.T, addr string) (state.Driver, error) {
		s, err := openState(ctx, addr)
		if err != nil {
			return nil, err
		}
		return s, nil
	})
}
