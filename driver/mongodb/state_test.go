package mongodb

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/proa-io/proa/block/state"
	"github.com/proa-io/proa/block/state/statetest"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/internal/testserver"
)

var server = testserver.Share(func(tb testserver.TB) *testserver.MongoDBServer { return testserver.MongoDB(tb) })

func TestMain(m *testing.M) { testserver.Main(m, server) }

type counter struct{ atomic.Int64 }

func (c *counter) next(prefix string) string { return fmt.Sprint(prefix, c.Add(1)) }

// collections are those of all tests, each time anew.
var collections counter

func configAt(addr, collection string) StateConfig {
	cfg := stateDefaults()
	cfg.Host, cfg.CollectionName = addr, collection
	return cfg
}

func open(t testing.TB, cfg StateConfig) *State {
	t.Helper()
	s, err := OpenState(t.Context(), cfg, component.Env{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func TestState(t *testing.T) {
	t.Parallel()
	addr := server.Get(t).Addr()
	statetest.Run(t, func(t *testing.T) state.Driver {
		s, err := OpenState(t.Context(), configAt(addr, collections.next("items")), component.Env{})
		if err != nil {
			t.Fatal(err)
		}
		removeExpired(t, s)
		return s
	})
}

// removeExpired does for a collection what the server does not: MongoDB removes
// what has expired about once a minute, by an index.
func removeExpired(t *testing.T, s *State) {
	ctx, cancel := context.WithCancel(t.Context())
	var work sync.WaitGroup
	work.Go(func() {
		for tick := time.NewTicker(200 * time.Millisecond); ; {
			select {
			case <-tick.C:
			case <-ctx.Done():
				tick.Stop()
				return
			}
			// It fails once the store is closed.
			_, _ = s.items.DeleteMany(ctx, bson.D{{Key: fieldTTL, Value: bson.D{{Key: "$lte", Value: time.Now()}}}})
		}
	})
	t.Cleanup(func() {
		cancel()
		work.Wait()
	})
}

func TestStateOnABadNetwork(t *testing.T) {
	t.Parallel()
	statetest.RunBadNetwork(t, server.Get(t).Addr(), func(ctx context.Context, _ *testing.T, addr string) (state.Driver, error) {
		s, err := OpenState(ctx, configAt(addr, collections.next("bad")), component.Env{})
		if err != nil {
			return nil, err
		}
		return s, nil
	})
}
