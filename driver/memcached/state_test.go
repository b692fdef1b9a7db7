package memcached

import (
	"context"
	"testing"

	"github.com/proa-io/proa/block/state"
	"github.com/proa-io/proa/block/state/statetest"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/internal/testserver"
)

var shared = testserver.Share(func(tb testserver.TB) *testserver.MemcachedServer {
	return testserver.Memcached(tb, "-m", "256", "-I", "2m")
})

func TestMain(m *testing.M) { testserver.Main(m, shared) }

func openState(ctx context.Context, addrs ...string) (*State, error) {
	cfg := defaults()
	cfg.Hosts = addrs
	return OpenState(ctx, cfg, component.Env{})
}

// empty opens a driver on servers with nothing in them.
func empty(t testing.TB, addrs ...string) *State {
	t.Helper()
	s, err := openState(t.Context(), addrs...)
	if err != nil {
		t.Fatal(err)
	}
	for _, srv := range s.servers {
		err := srv.do(t.Context(), func(c *conn) error {
			if _, err := c.w.WriteString("flush_all\r\nmn\r\n"); err != nil {
				return err
			}
			if err := c.w.Flush(); err != nil {
				return err
			}
			if _, err := c.r.ReadString('\n'); err != nil { // OK
				return err
			}
			_, err := readReply(c.r)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func TestState(t *testing.T) {
	statetest.Run(t, func(t *testing.T) state.Driver { return empty(t, shared.Get(t).Addr()) })
}

func TestStateOnABadNetwork(t *testing.T) {
	statetest.RunBadNetwork(t, shared.Get(t).Addr(), func(ctx context.Context, _ *testing.T, addr string) (state.Driver, error) {
		s, err := openState(ctx, addr)
		if err != nil {
			return nil, err
		}
		return s, nil
	})
}
