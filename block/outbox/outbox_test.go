package outbox

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/proa-io/proa/fault"
)

func TestWhatIsCommittedIsPublishedInOrderAndDeleted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		p := w.start(t)
		for i := range 1000 {
			p.commit(t, fmt.Sprintf("k%d=%d", i%7, i))
		}
		settled(time.Second)
		w.wantNoRows(t)
		if got := len(w.data("")); got != 1000 {
			t.Errorf("%d events, want 1000", got)
		}
		for k := range 7 {
			var want []string
			for i := k; i < 1000; i += 7 {
				want = append(want, fmt.Sprint(i))
			}
			w.wantData(t, fmt.Sprintf("k%d", k), want...)
		}
		if w.deletes > 500 {
			t.Errorf("rows were deleted in %d calls, not together", w.deletes)
		}
	})
}

func TestACommitIsPublishedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		p := w.start(t)
		settled(time.Minute) // nothing happens for long
		p.commit(t, "k=1")
		synctest.Wait() // no time passes
		w.wantData(t, "k", "1")
		time.Sleep(time.Millisecond)
		p.commit(t, "k=2")
		synctest.Wait()
		w.wantData(t, "k", "1", "2")
	})
}

func TestNothingIsPublishedOfWhatDoesNotHappen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		p := w.start(t)
		for range 1000 { // far more than the numbers there are
			p.begin(t, "k=never").End(t.Context(), Aborted)
		}
		p.commit(t, "k=1")
		settled(time.Hour)
		w.wantData(t, "", "1")
	})
}

func TestADoubtfulTransactionIsPublishedIfItHasHappened(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		p := w.start(t)
		happened, late, never := p.begin(t, "a=1"), p.begin(t, "b=2"), p.begin(t, "c=3")
		w.store(happened)
		for _, tx := range []*Transaction{happened, late, never} {
			tx.End(t.Context(), InDoubt)
		}
		settled(2 * time.Second)
		w.wantData(t, "", "1")
		settled(5 * time.Minute)
		w.store(late) // the store had it in a queue
		settled(2 * time.Second)
		w.wantData(t, "", "1", "2")
		settled(24 * time.Hour)
		w.wantData(t, "", "1", "2")
		w.wantNoRows(t)
		p.Outbox.mu.Lock()
		defer p.Outbox.mu.Unlock()
		if p.doubted != 0 || p.stored != 0 {
			t.Errorf("%d rows are in doubt and %d are stored for ever", p.doubted, p.stored)
		}
	})
}

func TestWhatAKilledProcessLeavesIsPublishedByTheNextInOrder(t *testing.T) {
	for _, step := range []struct {
		name  string
		setup func(w *world, p *process, t *testing.T)
		twice bool
	}{
		{name: "BeforeAnythingIsPublished", setup: func(w *world, p *process, t *testing.T) {
			w.refuse(func(string, string, Message) error { return unavailable() })
		}},
		{name: "InTheMiddle", setup: func(w *world, p *process, t *testing.T) {
			n := 0
			w.refuse(func(string, string, Message) error {
				if n++; n > 10 {
					return unavailable()
				}
				return nil
			})
		}, twice: true},
		{name: "BeforeTheRowsAreDeleted", setup: func(w *world, p *process, t *testing.T) {
			w.refuse(func(string, string, Message) error {
				p.setFail(fault.New(fault.Unavailable, "the store is down"))
				return nil
			})
		}, twice: true},
	} {
		t.Run(step.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld()
				first := w.start(t)
				settled(time.Second)
				open := first.begin(t, "other=x") // under way when the process dies
				step.setup(w, first, t)
				for i := 1; i <= 30; i++ {
					tx := first.begin(t, fmt.Sprintf("k=%d", i))
					w.store(tx)
					tx.End(t.Context(), Committed)
					if i == 20 {
						settled(time.Second)
						first.setFail(nil)
					}
				}
				first.kill()
				<-first.done
				w.refuse(nil)
				second := w.start(t)
				second.commit(t, "k=31")
				settled(20 * time.Second)
				got := w.data("k")
				seen := map[string]string{} // data by id
				w.mu.Lock()
				for _, m := range w.published {
					text := string(m.Envelope)
					if before, dup := seen[m.ID]; dup && before != text {
						t.Errorf("the id %q has two events: %s, %s", m.ID, before, text)
					} else if dup && !step.twice {
						t.Errorf("the event %s came twice", text)
					}
					seen[m.ID] = text
				}
				w.mu.Unlock()
				if len(seen) != 31 {
					t.Errorf("%d events, want 31: %q", len(seen), got)
				}
				if tail := got[len(got)-11:]; !slices.Equal(tail, numbers(21, 31)) {
					t.Errorf("the last events are %q, want 21 to 31", tail)
				}
				w.wantNoRows(t)
				open.End(t.Context(), InDoubt)
			})
		})
	}
}

func TestRowsOfDeadProcessesAreFoundThoughNobodyWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		p := w.start(t)
		dead := w.open()
		for i := range 200 { // more than one page of numbers
			dead.store(dead.begin(t, fmt.Sprintf("k%d=%d", i, i)))
		}
		dead.kill()
		settled(30 * time.Second)
		if got := len(w.data("")); got != 200 {
			t.Errorf("%d events, want 200", got)
		}
		w.wantNoRows(t)
		settled(time.Hour)
		if text := string(w.rows[registerName].Value); strings.Contains(text, dead.id) {
			t.Errorf("the dead process is in the register for ever: %s", text)
		}
		p.commit(t, "k=1")
		synctest.Wait()
		w.wantData(t, "k", "1")
	})
}

func TestEventsOfSeveralProcessesKeepTheOrderOfTheirKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.latency = 2 * time.Millisecond
		processes := []*process{w.start(t), w.start(t), w.start(t)}
		for i := 1; i <= 300; i++ {
			processes[i%3].commit(t, fmt.Sprintf("k=%d", i))
			time.Sleep(time.Duration(i*i%3000) * time.Microsecond)
		}
		settled(10 * time.Second)
		w.wantData(t, "k", numbers(1, 300)...)
		w.wantNoRows(t)
		settled(10 * time.Second)
		for i, p := range processes {
			if p.stored > 0 {
				t.Errorf("process %d takes %d rows for stored", i, p.stored)
			}
		}
	})
}

func TestABacklogOfSeveralProcessesIsPublishedInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		a, b := w.start(t), w.start(t)
		w.refuse(func(string, string, Message) error { return unavailable() })
		for i := 1; i <= 2000; i += 2 {
			a.commit(t, fmt.Sprintf("k=%d", i))
			time.Sleep(time.Millisecond)
			b.commit(t, fmt.Sprintf("k=%d", i+1))
			time.Sleep(time.Millisecond)
		}
		w.refuse(nil)
		settled(30 * time.Second)
		w.wantData(t, "k", numbers(1, 2000)...)
		w.wantNoRows(t)
	})
}

func TestAnotherProcessTakesOverFromOneThatIsKilled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		a, b := w.start(t), w.start(t)
		a.commit(t, "k=1") // a has the lease now
		settled(time.Second)
		w.refuse(func(string, string, Message) error { return unavailable() })
		a.commit(t, "k=2")
		time.Sleep(time.Millisecond)
		b.commit(t, "k=3")
		a.kill()
		w.refuse(nil)
		settled(leaseTime + 2*time.Second)
		w.wantData(t, "k", "1", "2", "3")
		b.commit(t, "k=4")
		synctest.Wait()
		w.wantData(t, "k", "1", "2", "3", "4")
		w.wantNoRows(t)
	})
}

func TestAnOrderlyStopPublishesWhatThereIsAndLeavesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		p := w.start(t)
		p.commit(t, "k=0")
		settled(time.Second)
		w.block = make(chan struct{})
		for i := range 100 {
			p.commit(t, fmt.Sprintf("k=%d", i+1))
		}
		p.stop()
		time.Sleep(time.Second)
		close(w.block)
		<-p.done
		w.wantData(t, "k", numbers(0, 100)...)
		w.wantNoRows(t)
		if text := string(w.rows[registerName].Value); strings.Contains(text, p.id) {
			t.Errorf("the process is still in the register: %s", text)
		}
		if text := string(w.rows[leaseName].Value); !strings.Contains(text, `"holder":""`) {
			t.Errorf("the lease is still taken: %s", text)
		}
		next := w.start(t)
		next.commit(t, "k=101")
		synctest.Wait()
		w.wantData(t, "k", numbers(0, 101)...)
	})
}

func TestAStopWaitsForTheBrokerOnlyForTheGrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		p := w.start(t)
		w.refuse(func(string, string, Message) error { return unavailable() })
		p.commit(t, "k=1")
		settled(time.Second)
		began := time.Now()
		p.stop()
		<-p.done
		if took := time.Since(began); took > 6*time.Second {
			t.Errorf("it took %v to stop", took)
		}
		w.refuse(nil)
		w.start(t)
		settled(10 * time.Second)
		w.wantData(t, "k", "1")
	})
}

func TestABrokenTopicDoesNotHoldUpTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		p := w.start(t)
		w.refuse(func(_, topic string, _ Message) error {
			if topic == "broken" {
				return unavailable()
			}
			return nil
		})
		publish := func(topic string, n int) {
			tx, err := p.Begin(t.Context(), []Operation{
				{Key: "k", Value: fmt.Append(nil, n), Metadata: map[string]string{"outbox.topic": topic}},
			}, nil, Trace{})
			if err != nil {
				t.Fatal(err)
			}
			w.store(tx)
			tx.End(t.Context(), Committed)
		}
		for i := 1; i <= 50; i++ {
			publish("broken", i)
			publish("well", i)
		}
		settled(time.Second)
		w.wantData(t, "", numbers(1, 50)...)
		w.refuse(nil)
		settled(10 * time.Second)
		w.wantData(t, "", append(numbers(1, 50), numbers(1, 50)...)...)
		w.wantNoRows(t)
	})
}

func TestAMessageThatTheBrokerNeverTakesHoldsUpItsKeyOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		p := w.start(t)
		w.refuse(func(_, _ string, m Message) error {
			if strings.Contains(string(m.Envelope), "large") {
				return fault.New(fault.InvalidArgument, "the message is too large")
			}
			return nil
		})
		p.commit(t, "a=large")
		settled(time.Millisecond)
		for i := 1; i <= 20; i++ {
			p.commit(t, fmt.Sprintf("a=%d", i), fmt.Sprintf("b=%d", i))
			time.Sleep(100 * time.Millisecond)
		}
		w.wantData(t, "", numbers(1, 20)...) // of b
		w.refuse(nil)
		settled(10 * time.Second)
		w.wantData(t, "a", append([]string{"large"}, numbers(1, 20)...)...)
		w.wantNoRows(t)
	})
}

func TestAfterAFailureInTheMiddleTheLastEventOfAKeyIsTheLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		p := w.start(t)
		failed := false
		w.refuse(func(_, _ string, m Message) error {
			if strings.Contains(string(m.Envelope), " 2 ") && !failed {
				failed = true
				return unavailable()
			}
			return nil
		})
		w.block = make(chan struct{})
		for i := 1; i <= 3; i++ {
			p.commit(t, fmt.Sprintf("k=%d", i))
		}
		close(w.block)
		settled(time.Second)
		if got := w.data("k"); got[0] != "1" || !slices.Equal(got[len(got)-2:], numbers(2, 3)) {
			t.Errorf("published %q: the last two are not 2, 3", got)
		}
	})
}

func TestAStoreThatIsDownForAWhileLosesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		p := w.start(t)
		for i := 1; i <= 50; i++ {
			if i%10 == 5 {
				p.setFail(fault.New(fault.Unavailable, "the store is down"))
			}
			if i%10 == 8 {
				time.Sleep(time.Duration(i) * time.Second)
				p.setFail(nil)
			}
			p.commit(t, fmt.Sprintf("k=%d", i))
		}
		settled(time.Minute)
		got := w.data("k")
		if unique := slices.Compact(got); !slices.Equal(unique, numbers(1, 50)) {
			t.Errorf("published %q, want 1 to 50", got)
		}
		w.wantNoRows(t)
	})
}

func TestRowsThatDoNotFitIntoMemoryAreReadAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		p := w.start(t)
		p.commit(t, "k=0")
		settled(time.Second)
		w.refuse(func(string, string, Message) error { return unavailable() })
		pad := strings.Repeat("x", 1<<20)
		var want []string
		for i := range 50 {
			want = append(want, fmt.Sprint(i, pad))
			p.commit(t, "k="+want[i])
		}
		settled(time.Second)
		if p.hot > maxHot {
			t.Errorf("%d bytes wait in memory; %d is the most", p.hot, maxHot)
		}
		w.refuse(nil)
		settled(10 * time.Second)
		if !slices.Equal(w.data("k"), append([]string{"0"}, want...)) {
			t.Error("what was published is not what was committed")
		}
		w.wantNoRows(t)
		if p.hot != 0 {
			t.Errorf("%d bytes are taken for waiting", p.hot)
		}
	})
}

func TestTransactionsWithTheSameKeyWaitForEachOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newWorld().open()
		first := p.begin(t, "a=1", "b=1", "a=2")
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := p.Begin(ctx, []Operation{{Key: "b"}}, nil, Trace{}); !fault.Is(err, fault.DeadlineExceeded) {
			t.Errorf("a transaction with a key that another has: %v", err)
		}
		other := p.begin(t, "c=1")
		first.End(t.Context(), Aborted)
		second := p.begin(t, "b=2")
		second.End(t.Context(), Aborted)
		other.End(t.Context(), Aborted)
		if len(p.keys.held) != 0 {
			t.Errorf("keys are still taken: %v", p.keys.held)
		}
	})
}

func TestAnIdleProcessLeavesTheStoreAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		p := w.start(t)
		p.commit(t, "k=1")
		settled(time.Minute)
		count := func() int { p.mu.Lock(); defer p.mu.Unlock(); return p.calls }
		before := count()
		settled(10 * time.Minute)
		if calls := count() - before; calls > 100 {
			t.Errorf("%d calls of the store in ten idle minutes", calls)
		}
	})
}

func TestAWriterTakesNoNumbersThatTheRegisterDoesNotKnow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		p := w.open()
		p.setFail(fault.New(fault.Unavailable, "the store is down"))
		if _, err := p.Begin(t.Context(), []Operation{{Key: "k"}}, nil, Trace{}); !fault.Is(err, fault.Unavailable) {
			t.Errorf("Begin without a register: %v, want unavailable", err)
		}
		p.setFail(nil)
		for i := range 1000 {
			w.store(p.begin(t, fmt.Sprintf("k%d=", i)))
			if reg, err := decodeRegister(w.rows[registerName]); err != nil || reg.Writers[p.id].Slots <= i {
				t.Fatalf("row %d is written and the register says %v, %v", i, reg, err)
			}
		}
		p.setFail(fault.New(fault.Unavailable, "the store is down"))
		time.Sleep(knownFor + time.Second) // it may have been struck off
		if _, err := p.Begin(t.Context(), []Operation{{Key: "k"}}, nil, Trace{}); !fault.Is(err, fault.Unavailable) {
			t.Errorf("Begin long after the register was seen: %v, want unavailable", err)
		}
	})
}
