package outbox

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/proa-io/proa/fault"
)

// world is a store and a broker that several processes share.
type world struct {
	mu        sync.Mutex
	rows      map[string]Row
	etag      int
	deletes   int
	latency   time.Duration // calls of the store take up to so long before and after they have an effect
	published []Message
	down      func(pubsub, topic string, m Message) error // what the broker refuses
	block     chan struct{}                               // not nil: the broker does not answer before it is closed
}

func newWorld() *world { return &world{rows: map[string]Row{}} }

// process is one process of the application: what it does reaches the world
// until it is killed.
type process struct {
	*world
	*Outbox
	mu    sync.Mutex
	dead  bool
	fail  error // of every call of the store, while set
	calls int
	stop  context.CancelFunc
	done  chan struct{}
}

// start begins a process that relays.
func (w *world) start(t *testing.T) *process {
	p := w.open()
	ctx, cancel := context.WithCancel(t.Context())
	p.stop, p.done = cancel, make(chan struct{})
	go func() {
		defer close(p.done)
		if err := p.Run(ctx); err != nil {
			t.Error(err)
		}
	}()
	t.Cleanup(func() {
		p.kill()
		<-p.done
	})
	return p
}

// open returns a process that only writes.
func (w *world) open() *process {
	p := &process{world: w, stop: func() {}}
	p.Outbox = New(Options{Store: p, Publisher: p, PubSub: "pubsub", Topic: "orders"})
	return p
}

// kill ends a process as SIGKILL does: nothing it does from now on has any
// effect.
func (p *process) kill() {
	p.mu.Lock()
	p.dead = true
	p.mu.Unlock()
	p.stop()
}

// lag takes as long as the network does.
func (w *world) lag() {
	if w.latency > 0 {
		time.Sleep(rand.N(w.latency))
	}
}

func (p *process) use() error {
	p.lag()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.calls++
	if p.dead {
		return fault.New(fault.Unavailable, "the process is dead")
	}
	return p.fail
}

func (p *process) setFail(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fail = err
}

func (p *process) Read(ctx context.Context, names []string) ([]Row, error) {
	if err := p.use(); err != nil {
		return nil, err
	}
	defer p.lag()
	p.world.mu.Lock()
	defer p.world.mu.Unlock()
	out := make([]Row, len(names))
	for i, n := range names {
		r, ok := p.rows[n]
		if !ok {
			r.Name = n
		}
		out[i] = r
	}
	return out, ctx.Err()
}

func (p *process) Write(ctx context.Context, name string, value []byte, etag string) (string, error) {
	if err := p.use(); err != nil {
		return "", err
	}
	defer p.lag()
	p.world.mu.Lock()
	defer p.world.mu.Unlock()
	if p.rows[name].ETag != etag {
		return "", fault.New(fault.Aborted, "the row has changed")
	}
	return p.put(name, value), ctx.Err()
}

func (p *process) Put(ctx context.Context, name string, value []byte) error {
	if err := p.use(); err != nil {
		return err
	}
	defer p.lag()
	p.world.mu.Lock()
	defer p.world.mu.Unlock()
	p.put(name, value)
	return ctx.Err()
}

// put is called with the lock held.
func (w *world) put(name string, value []byte) string {
	w.etag++
	w.rows[name] = Row{Name: name, Value: slices.Clone(value), ETag: strconv.Itoa(w.etag), Found: true}
	return strconv.Itoa(w.etag)
}

func (p *process) Delete(_ context.Context, rows []Row) error {
	if err := p.use(); err != nil {
		return err
	}
	p.world.mu.Lock()
	defer p.world.mu.Unlock()
	p.deletes++
	for _, r := range rows {
		if r.ETag == "" || p.rows[r.Name].ETag == r.ETag {
			delete(p.rows, r.Name)
		}
	}
	return nil
}

func (p *process) Check(pubsub, topic string) error {
	if pubsub == "nowhere" {
		return fault.New(fault.NotFound, "there is no pub/sub component %q", pubsub)
	}
	return nil
}

func (p *process) Envelope(e *Event, _ Trace) []byte {
	var attributes []string
	for _, a := range e.Attributes {
		attributes = append(attributes, a.Name+"="+a.Value)
	}
	return fmt.Appendf(nil, "%s %s [%s]", e.ContentType, e.Data, strings.Join(attributes, " "))
}

func (p *process) Publish(ctx context.Context, pubsub, topic string, messages []Message) []error {
	errs := make([]error, len(messages))
	p.world.mu.Lock()
	block := p.block
	p.world.mu.Unlock()
	if block != nil {
		select {
		case <-block:
		case <-ctx.Done():
		}
	}
	for i, m := range messages {
		if errs[i] = ctx.Err(); errs[i] != nil {
			continue
		}
		p.mu.Lock()
		if p.dead {
			errs[i] = fault.New(fault.Unavailable, "the process is dead")
		}
		p.mu.Unlock()
		p.world.mu.Lock()
		if errs[i] == nil && p.down != nil {
			errs[i] = p.down(pubsub, topic, m)
		}
		if errs[i] == nil {
			p.published = append(p.published, m)
		}
		p.world.mu.Unlock()
	}
	return errs
}

// refuse sets what the broker refuses.
func (w *world) refuse(f func(pubsub, topic string, m Message) error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.down = f
}

func unavailable() error { return fault.New(fault.Unavailable, "the broker is down") }

// begin begins a transaction of upserts, "key=value" each.
func (p *process) begin(t *testing.T, items ...string) *Transaction {
	t.Helper()
	ops := make([]Operation, len(items))
	for i, it := range items {
		key, value, _ := strings.Cut(it, "=")
		ops[i] = Operation{Key: key, Value: []byte(value)}
	}
	tx, err := p.Begin(t.Context(), ops, nil, Trace{})
	if err != nil {
		t.Fatal(err)
	}
	return tx
}

// store puts the row of a transaction into the store, as its commit does.
func (w *world) store(tx *Transaction) {
	w.lag()
	defer w.lag()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.put(tx.Row, tx.Value)
}

// commit carries out a transaction of upserts.
func (p *process) commit(t *testing.T, items ...string) {
	t.Helper()
	tx := p.begin(t, items...)
	p.store(tx)
	tx.End(t.Context(), Committed)
}

// data returns the values that were published, in order; only those of the
// given key unless that is "".
func (w *world) data(key string) []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []string
	for _, m := range w.published {
		if key == "" || m.Key == key {
			text, _, _ := strings.Cut(string(m.Envelope), " [")
			out = append(out, strings.TrimPrefix(text, "text/plain "))
		}
	}
	return out
}

// left names the rows of transactions that are in the store.
func (w *world) left() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.DeleteFunc(slices.Sorted(maps.Keys(w.rows)), func(name string) bool {
		return name == registerName || name == leaseName || strings.HasSuffix(name, "-bell")
	})
}

func (w *world) wantData(t *testing.T, key string, want ...string) {
	t.Helper()
	got := w.data(key)
	if slices.Equal(got, want) {
		return
	}
	i := 0
	for i < min(len(got), len(want)) && got[i] == want[i] {
		i++
	}
	t.Errorf("published for key %q: %d, want %d; from number %d on %.20q, want %.20q", key, len(got), len(want), i+1, got[i:min(i+8, len(got))], want[i:min(i+8, len(want))])
}

func (w *world) wantNoRows(t *testing.T) {
	t.Helper()
	if left := w.left(); len(left) > 0 {
		t.Errorf("rows left in the store: %q", left)
	}
}

// settled lets everything happen that happens within so much time.
func settled(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// numbers returns the texts from first to last.
func numbers(first, last int) []string {
	var out []string
	for n := first; n <= last; n++ {
		out = append(out, strconv.Itoa(n))
	}
	return out
}
