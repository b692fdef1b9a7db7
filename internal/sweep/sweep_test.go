package sweep

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestTheChoreIsDoneAtOnceAndThenEveryInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var at []time.Duration
		began := time.Now()
		s := Start(ctx, time.Minute, nil, func(ctx context.Context) error {
			at = append(at, time.Since(began))
			return ctx.Err()
		})
		cancel() // the chore goes on
		time.Sleep(150 * time.Second)
		s.Stop()
		if len(at) != 3 || at[0] != 0 || at[1] != time.Minute || at[2] != 2*time.Minute {
			t.Errorf("the chore was done at %v", at)
		}
	})
}

func TestStopEndsAChoreUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		ended := false
		s := Start(t.Context(), time.Minute, slog.New(slog.NewTextHandler(&log, nil)), func(ctx context.Context) error {
			<-ctx.Done()
			ended = true
			return ctx.Err()
		})
		synctest.Wait()
		s.Stop()
		if !ended || log.Len() > 0 {
			t.Errorf("ended: %v, logged: %s", ended, &log)
		}
	})
}

func TestFailuresAreLoggedAndTheChoreGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		n := 0
		s := Start(t.Context(), time.Minute, slog.New(slog.NewTextHandler(&log, nil)), func(context.Context) error {
			n++
			return errors.New("no broom")
		})
		time.Sleep(90 * time.Second)
		s.Stop()
		if n != 2 || strings.Count(log.String(), "no broom") != 2 {
			t.Errorf("done %d times, logged: %s", n, &log)
		}
	})
}

func TestWithoutAnIntervalNothingIsDone(t *testing.T) {
	Start(t.Context(), 0, nil, func(context.Context) error {
		t.Error("the chore is done")
		return nil
	}).Stop()
	Start(t.Context(), -time.Second, nil, nil).Stop()
}

func TestTablesDoNotShareTheRowThatSaysWhenTheyWereCleaned(t *testing.T) {
	for table, want := range map[string]string{"state": "last-cleanup", "items": "last-cleanup-items", "apart.state": "last-cleanup-apart.state"} {
		if got := Row(table, "state"); got != want {
			t.Errorf("the row of %q is %q, want %q", table, got, want)
		}
	}
}
