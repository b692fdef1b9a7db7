package http2

import (
	"slices"
	"sync"
	"time"
)

// A task is something to do on a pooled goroutine.
type task interface{ do() }

// workers runs tasks on goroutines that it keeps for the next ones, since a new
// goroutine has to grow its stack first. The last to become idle is the first
// to be used again; what stays idle for some time is let go.
type workers struct {
	mu     sync.Mutex
	idle   []*worker
	closed bool
	epoch  int // counts the ticks of timer
	timer  *time.Timer
	armed  bool // timer is running
	wg     sync.WaitGroup
}

type worker struct {
	tasks chan task // nil: end
	epoch int       // when it became idle
}

// workerIdle is how long, at least, an idle goroutine is kept.
const workerIdle = 5 * time.Second

// run does t on another goroutine.
func (w *workers) run(t task) {
	w.mu.Lock()
	if n := len(w.idle) - 1; n >= 0 {
		k := w.idle[n]
		w.idle[n] = nil
		w.idle = w.idle[:n]
		w.mu.Unlock()
		k.tasks <- t
		return
	}
	w.wg.Add(1)
	w.mu.Unlock()
	go w.work(t)
}

func (w *workers) work(t task) {
	defer w.wg.Done()
	k := &worker{tasks: make(chan task, 1)}
	for t != nil {
		t.do()
		if !w.rest(k) {
			return
		}
		t = <-k.tasks
	}
}

// rest puts k among the idle ones, unless there are to be none any more.
func (w *workers) rest(k *worker) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return false
	}
	k.epoch = w.epoch
	w.idle = append(w.idle, k)
	if !w.armed {
		w.armed = true
		if w.timer == nil {
			w.timer = time.AfterFunc(workerIdle, w.tick)
		} else {
			w.timer.Reset(workerIdle)
		}
	}
	return true
}

// tick lets go of those who have been idle since the tick before.
func (w *workers) tick() {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := 0
	for n < len(w.idle) && w.idle[n].epoch < w.epoch {
		w.idle[n].tasks <- nil
		n++
	}
	w.idle = slices.Delete(w.idle, 0, n)
	w.epoch++
	w.armed = len(w.idle) > 0 && !w.closed
	if w.armed {
		w.timer.Reset(workerIdle)
	}
}

// close lets go of all idle goroutines, and of the others as they finish, and
// waits for them. Tasks may still be run meanwhile.
func (w *workers) close() {
	w.mu.Lock()
	w.closed = true
	for _, k := range w.idle {
		k.tasks <- nil
	}
	w.idle = nil
	if w.timer != nil {
		w.timer.Stop()
	}
	w.mu.Unlock()
	w.wg.Wait()
}
