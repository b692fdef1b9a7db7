package nats

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/proa-io/proa/engine"
	"github.com/proa-io/proa/fault"
)

// ledger is a store for groups: it takes a while for each commit, and notes
// them.
type ledger struct {
	mu      sync.Mutex
	commits []string
	refuse  string // a key with which a commit conflicts
}

func (l *ledger) commit(ctx context.Context, writes []engine.Write) error {
	select {
	case <-time.After(time.Second):
	case <-ctx.Done():
		return ctx.Err()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	var keys []string
	for _, w := range writes {
		keys = append(keys, w.Key+"="+string(w.Value))
		if w.Key == l.refuse {
			return fault.New(fault.Aborted, "conflict").WithReason(engine.ReasonConflict)
		}
	}
	l.commits = append(l.commits, strings.Join(keys, " "))
	return nil
}

func put(key, value string) engine.Write { return engine.Write{Key: key, Value: []byte(value)} }

func TestTransactionsThatComeTogetherAreCommittedTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l ledger
		g := groups{commit: l.commit}
		began := time.Now()
		for i := range 100 {
			go func() {
				if err := g.do(t.Context(), []engine.Write{put(fmt.Sprint("a", i), ""), put(fmt.Sprint("b", i), "")}); err != nil {
					t.Error(err)
				}
			}()
			synctest.Wait()
		}
		g.close()
		if took := time.Since(began); took != 2*time.Second || len(l.commits) != 2 {
			t.Errorf("%d commits in %v, want the first alone and the others together", len(l.commits), took)
		}
	})
}

func TestTransactionsOfOneKeyAreCommittedInTheOrderTheyCame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l ledger
		g := groups{commit: l.commit}
		for _, writes := range [][]engine.Write{
			{put("busy", "")}, {put("a", "1"), put("b", "1")}, {put("b", "2"), put("c", "2")}, {put("c", "3")}, {put("d", "4")}, {put("a", "5")},
		} {
			go func() {
				if err := g.do(t.Context(), writes); err != nil {
					t.Error(err)
				}
			}()
			synctest.Wait()
		}
		g.close()
		want := []string{"busy=", "a=1 b=1 d=4", "b=2 c=2 a=5", "c=3"}
		if !slices.Equal(l.commits, want) {
			t.Errorf("commits %q, want %q", l.commits, want)
		}
	})
}

func TestAConflictIsTheProblemOfTheOneThatHasIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := ledger{refuse: "stale"}
		g := groups{commit: l.commit}
		demand := engine.PutOptions{Expect: engine.Revision(7)}
		errs := make([]error, 5)
		for i, writes := range [][]engine.Write{
			{put("busy", "")}, {put("a", "")}, {{Key: "stale", PutOptions: demand}, put("x", "")}, {{Key: "fresh", PutOptions: demand}}, {put("b", "")},
		} {
			go func() { errs[i] = g.do(t.Context(), writes) }()
			synctest.Wait()
		}
		g.close()
		synctest.Wait()
		if errs[0] != nil || errs[1] != nil || fault.ReasonOf(errs[2]) != engine.ReasonConflict || errs[3] != nil || errs[4] != nil {
			t.Errorf("errors %v, want a conflict for the third only", errs)
		}
		if want := []string{"busy=", "fresh=", "a= b="}; !slices.Equal(l.commits, want) {
			t.Errorf("commits %q, want %q", l.commits, want)
		}
	})
}

func TestACommitGoesOnWhileSomebodyWaitsForIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l ledger
		g := groups{commit: l.commit}
		go func() { _ = g.do(t.Context(), []engine.Write{put("busy", "")}) }()
		synctest.Wait()
		short, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
		defer cancel()
		late, cancelLate := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancelLate()
		errs := make([]error, 3)
		for i, ctx := range []context.Context{short, t.Context(), late} {
			go func() { errs[i] = g.do(ctx, []engine.Write{put(fmt.Sprint(i), "")}) }()
		}
		time.Sleep(5 * time.Second)
		g.close()
		synctest.Wait()
		if !errors.Is(errs[0], context.DeadlineExceeded) || errs[1] != nil || !errors.Is(errs[2], context.DeadlineExceeded) {
			t.Errorf("errors %v", errs)
		}
		if want := "0= 1="; !slices.Contains(l.commits, want) && !slices.Contains(l.commits, "1= 0=") {
			t.Errorf("commits %q, want the second with one that gave up, and not the one that never began", l.commits)
		}
	})
}
