package postgres

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/proa-io/proa/block/state"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/internal/testserver"
)

func openState(t testing.TB, url string) *State {
	t.Helper()
	cfg := stateV2Defaults()
	cfg.Config = configOf(url)
	s, err := OpenStateV2(t.Context(), cfg, component.Env{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// endOf begins a watch, calls act when it stands, and returns how it ended.
func endOf(t testing.TB, s *State, act func()) error {
	t.Helper()
	standing, done := make(chan struct{}), make(chan error, 1)
	go func() {
		done <- s.Watch(t.Context(), "", state.WatchOptions{}, func(c state.Change) error {
			if c.Kind == state.Synced {
				close(standing)
			}
			return nil
		})
	}()
	select {
	case <-standing:
	case err := <-done:
		t.Fatalf("the watch did not begin: %v", err)
	}
	act()
	return <-done
}

func TestAWatchThatCannotKnowAllChangesSaysSo(t *testing.T) {
	t.Parallel()
	srv := testserver.Postgres(t, testserver.PostgresOptions{})
	url := srv.URL("postgres")
	db := adminOf(t, url)
	s := openState(t, url)
	if err := endOf(t, s, func() { db.run(t, `TRUNCATE state`) }); fault.ReasonOf(err) != state.ReasonRevisionGone {
		t.Errorf("after all has been removed: %v", err)
	}
	if err := endOf(t, s, func() { db.run(t, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%'`) }); !fault.Is(err, fault.Unavailable) {
		t.Errorf("after the loss of the connection: %v", err)
	}
	if err := endOf(t, s, func() { _ = s.Close() }); !fault.Is(err, fault.Unavailable) {
		t.Errorf("after Close: %v", err)
	}
	other := openState(t, url)
	if err := endOf(t, other, srv.Kill); !fault.Is(err, fault.Unavailable) {
		t.Errorf("after the death of the server: %v", err)
	}
}

func TestAWatchSeesWhatOtherProgramsWrite(t *testing.T) {
	t.Parallel()
	url := database(t, "")
	db, s := adminOf(t, url), openState(t, url)
	enough := errors.New("enough")
	var seen []string
	err := s.Watch(t.Context(), "app||", state.WatchOptions{}, func(c state.Change) error {
		if c.Kind == state.Synced {
			db.run(t, `INSERT INTO state (key, value) VALUES ('app||a', '1'), ('other||b', '1')`)
			db.run(t, `UPDATE state SET key = 'app||c', value = '2' WHERE key = 'other||b'`)
			db.run(t, `DELETE FROM state WHERE key = 'app||a'`)
			db.run(t, `INSERT INTO state (key, value) VALUES ('app||end', '1')`)
			return nil
		}
		if c.Key == "app||end" {
			return enough
		}
		seen = append(seen, fmt.Sprint(c.Key, " ", c.Kind, " ", string(c.Item.Value)))
		return nil
	})
	if !errors.Is(err, enough) {
		t.Fatal(err)
	}
	text := strings.Join(seen, ", ")
	if !strings.Contains(text, "app||c 0 2") || !strings.Contains(text, "app||a 1") {
		t.Errorf("the watch saw %s", text)
	}
}

func TestASlowWatchIsBounded(t *testing.T) {
	c := newChangedKeys("k")
	for i := range maxPending {
		if !c.add(fmt.Sprint("k", i)) || !c.add(fmt.Sprint("other", i)) || !c.add("k0") {
			t.Fatalf("key %d is too many", i)
		}
	}
	if c.add("k") {
		t.Error("there is no end to it")
	}
}

func TestWhoMayNotCreateFunctionsIsToldWhatQueriesNeed(t *testing.T) {
	t.Parallel()
	srv := testserver.Postgres(t, testserver.PostgresOptions{})
	url := srv.URL("postgres")
	owner := openState(t, url)
	adminOf(t, url).run(t, `CREATE USER reader; GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO reader`)
	reader := openState(t, strings.Replace(url, "postgres@", "reader@", 1))
	query := func(s *State) error {
		_, err := s.Query(t.Context(), state.Scope{}, &state.Query{Limit: 1}, state.QueryOptions{})
		return err
	}
	if err := query(reader); !fault.Is(err, fault.PermissionDenied) || !strings.Contains(err.Error(), "owner of the table") {
		t.Errorf("Query: %v", err)
	}
	enough := errors.New("enough")
	watch := func(s *State) error {
		return s.Watch(t.Context(), "", state.WatchOptions{}, func(state.Change) error { return enough })
	}
	if err := watch(reader); !fault.Is(err, fault.PermissionDenied) || !strings.Contains(err.Error(), "owner of the table") {
		t.Errorf("Watch: %v", err)
	}
	if err := query(owner); err != nil {
		t.Error(err)
	}
	if err := watch(owner); !errors.Is(err, enough) {
		t.Error(err)
	}
	if err := query(reader); err != nil {
		t.Errorf("once the functions are there: %v", err)
	}
	if err := watch(reader); !errors.Is(err, enough) {
		t.Errorf("once the triggers are there: %v", err)
	}
}

func TestNamesBesideATable(t *testing.T) {
	for table, want := range map[string]string{
		"state": "f", "public.state": "public.f", `"a.b".state`: `"a.b".f`, `"a.b"."c.d"`: `"a.b".f`, `"c.d"`: "f", `x."c""d"`: "x.f", `"c""d"`: "f",
	} {
		if got := inSchemaOf(table, "f"); got != want {
			t.Errorf("beside %s: %s, want %s", table, got, want)
		}
	}
}
