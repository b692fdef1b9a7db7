package redis

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/proa-io/proa/block/state"
	"github.com/proa-io/proa/block/state/statetest"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
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

// notify sets which keyspace notifications the shared server sends.
func notify(t testing.TB, s *State, flags string) {
	t.Helper()
	set := s.client.build().ConfigSet().ParameterValue().ParameterValue(notifyParameter, flags).Build()
	res, err := s.client.do(t.Context(), set)
	if err != nil || res.Error() != nil {
		t.Fatal(err, res.Error())
	}
}

// notifying opens a driver that can watch.
func notifying(t testing.TB) *State {
	s := empty(t)
	notify(t, s, stateEvents)
	return s
}

func TestState(t *testing.T) {
	if err := notifying(t).Close(); err != nil {
		t.Fatal(err)
	}
	statetest.Run(t, func(t *testing.T) state.Driver {
		t.Parallel()
		s, err := OpenState(t.Context(), StateConfig{Config: database(t, server.Get(t).Addr())}, component.Env{})
		if err != nil {
			t.Fatal(err)
		}
		return s
	})
}

func TestStateOnABadNetwork(t *testing.T) {
	if err := notifying(t).Close(); err != nil {
		t.Fatal(err)
	}
	statetest.RunBadNetwork(t, server.Get(t).Addr(), func(ctx context.Context, _ *testing.T, addr string) (state.Driver, error) {
		s, err := openState(ctx, addr)
		if err != nil {
			return nil, err
		}
		return s, nil
	})
}

func TestAWatchOfAServerThatDoesNotNotifySaysHowToTurnItOn(t *testing.T) {
	s := empty(t)
	defer func() { _ = s.Close() }()
	for flags, want := range map[string]string{"": "CONFIG SET notify-keyspace-events Kghxe", "Kx": "CONFIG SET notify-keyspace-events xKghe"} {
		notify(t, s, flags)
		err := s.Watch(t.Context(), "", state.WatchOptions{}, func(state.Change) error { return nil })
		if !fault.Is(err, fault.Unimplemented) || fault.ReasonOf(err) != state.ReasonWatchNotSupported || !strings.HasSuffix(fault.Message(err), want) {
			t.Errorf("with %q: %v, want %q", flags, err, want)
		}
	}
	notify(t, s, "KEA")
	enough := errors.New("enough")
	if err := s.Watch(t.Context(), "", state.WatchOptions{}, func(state.Change) error { return enough }); err != enough {
		t.Errorf("with all notifications: %v", err)
	}
}

// What the server evicts, renames or replaces is gone or there as if by our own
// calls, and what is no item does not exist.
func TestAWatchSeesWhatOthersDo(t *testing.T) {
	s := notifying(t)
	defer func() { _ = s.Close() }()
	do := func(words ...string) {
		t.Helper()
		res, err := s.client.do(t.Context(), s.client.build().Arbitrary(words...).Build())
		if err != nil || res.Error() != nil {
			t.Error(words, err, res.Error())
		}
	}
	enough := errors.New("enough")
	var got []string
	err := s.Watch(t.Context(), "app||", state.WatchOptions{}, func(c state.Change) error {
		switch {
		case c.Kind == state.Synced:
			do("HSET", "app||a", "data", "1", "version", "7")
			do("RENAME", "app||a", "app||b")
			do("SADD", "app||set", "x")
			do("FLUSHDB") // notifies of nothing
			do("HSET", "app||last", "data", "2", "version", "1")
		case c.Kind == state.ItemGone:
			got = append(got, c.Key+" gone")
		default:
			got = append(got, c.Key+" "+string(c.Item.Value)+" "+c.Item.ETag)
		}
		if c.Key == "app||last" {
			return enough
		}
		return nil
	})
	want := []string{"app||a gone", "app||b gone", "app||last 2 1"}
	if err != enough || !slices.Equal(got, want) {
		t.Errorf("%q, %v; want %q", got, err, want)
	}
}
