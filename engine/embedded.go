package engine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/proa-io/proa/fault"
)

// Timing of the embedded engine.
const (
	// watchInterval is how often a holder checks that it still can be one, and
	// a client that is connected tries the lock.
	watchInterval = time.Second
	// retryMin and retryMax bound the pause between tries of the lock and of
	// the socket while there is no connection, plus as much again at random.
	retryMin = 3 * time.Millisecond
	retryMax = 50 * time.Millisecond
	// troubleMax bounds the pause after an error that is not about the lock.
	troubleMax = 5 * time.Second
)

// embedded makes the engine of one directory available: it is the holder when
// it gets the lock, and otherwise a client of the holder until it gets it.
type embedded struct {
	engine *Engine
	home   home

	local atomic.Pointer[server.Server] // when this process is the holder
}

func newEmbedded(e *Engine) *embedded {
	return &embedded{engine: e, home: newHome(e.opts.Dir)}
}

// run holds or follows until ctx ends.
func (m *embedded) run(ctx context.Context) {
	pause := 50 * time.Millisecond
	for ctx.Err() == nil {
		err := m.turn(ctx)
		if err == nil {
			pause = 50 * time.Millisecond
			continue
		}
		m.engine.note(err)
		sleep(ctx, pause/2+rand.N(pause))
		pause = min(2*pause, troubleMax)
	}
}

// turn is one life as holder or client.
func (m *embedded) turn(ctx context.Context) error {
	if err := m.home.prepare(); err != nil {
		return err
	}
	lock, err := m.home.acquire()
	switch {
	case err == nil:
		return m.hold(ctx, lock)
	case errors.Is(err, errHeld):
		return m.follow(ctx)
	}
	return err
}

// Dial implements nats.CustomDialer: inside the process when it is the
// holder, else through the holder's socket. The role may change between any
// two calls; that is how a connection survives a take-over.
func (m *embedded) Dial(_, _ string) (net.Conn, error) {
	if s := m.local.Load(); s != nil {
		return s.InProcessConn()
	}
	h, err := m.home.read()
	if err != nil {
		return nil, err
	}
	if h.Socket == "" {
		return nil, errors.New("it has not opened its socket yet")
	}
	return net.DialTimeout("unix", h.Socket, handshakeTimeout)
}

func (m *embedded) connect() error {
	// The address is not looked at: Dial knows where to go.
	return m.engine.connectAll("nats://engine:4222", nats.SetCustomDialer(m), nats.SkipHostLookup(),
		nats.CustomReconnectDelay(reconnectDelay), nats.ReconnectErrHandler(m.attemptFailed))
}

func reconnectDelay(attempts int) time.Duration {
	d := min(retryMin<<min(attempts/8, 8), retryMax)
	return d + rand.N(d)
}

// attemptFailed explains a failed connect of a client.
func (m *embedded) attemptFailed(_ *nats.Conn, err error) {
	if m.local.Load() != nil {
		m.engine.note(fmt.Errorf("connect inside the process: %w", err))
		return
	}
	h, _ := m.home.read() // an unreadable record is the error of the dial
	m.engine.note(fmt.Errorf("%s holds %s and cannot be reached at %q: %w", h, m.home.lock(), h.Socket, err))
}

// hold serves the engine until ctx ends or it cannot, and releases the lock.
func (m *embedded) hold(ctx context.Context, lock *os.File) error {
	defer lock.Close()
	e, began := m.engine, time.Now()
	// What a dead holder said of itself is not true of this one.
	if err := os.Remove(m.home.record()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	srv, err := startServer(e.opts, m.home.store())
	if err != nil {
		return err
	}
	ill := illness(srv) // before anybody can make a stream, which looks ill until it is made
	listener, socket, err := m.home.listen()
	if err != nil {
		stopServer(srv)
		return fmt.Errorf("open the engine's socket: %w", err)
	}
	g := &guests{dial: srv.InProcessConn, log: e.log}
	var serving sync.WaitGroup
	serving.Go(func() { g.serve(ctx, listener) })
	defer func() {
		g.end()
		_ = listener.Close()
		m.local.Store(nil)
		if m.home.stillMine(lock) == nil { // else they are another holder's
			_ = os.Remove(socket)
			_ = os.Remove(m.home.record())
		}
		stopServer(srv)
		g.expel()
		serving.Wait()
	}()
	if err := m.offer(srv, socket); err != nil {
		return err
	}
	e.log.InfoContext(ctx, "engine is served by this process", "mode", EmbeddedHolder, "store", m.home.store(),
		"socket", socket, "durability", e.opts.Durability, "meaning", meaning(e.opts.Durability), "took", time.Since(began))
	if err = m.watch(ctx, lock, srv, ill); err != nil {
		e.log.ErrorContext(ctx, "engine closes its store and opens it again", "error", err)
	}
	return err
}

// offer tells other sidecars where the engine is, and connects this one.
func (m *embedded) offer(srv *server.Server, socket string) error {
	e := m.engine
	host, _ := os.Hostname() // only for texts
	err := m.home.write(holder{PID: os.Getpid(), Host: host, App: e.opts.Name, Socket: socket,
		Durability: e.opts.Durability, Since: time.Now()})
	if err != nil {
		return err
	}
	m.local.Store(srv)
	e.setMode(EmbeddedHolder, e.opts.Durability)
	if err := m.connect(); err != nil {
		return err
	}
	e.admit()
	e.kick()
	return nil
}

// watch returns when ctx ends or this process cannot be the holder any more.
// known are the streams that could not be opened.
func (m *embedded) watch(ctx context.Context, lock *os.File, srv *server.Server, known map[string]string) error {
	for stream, what := range known {
		m.engine.log.ErrorContext(ctx, "engine could not open a stream", "stream", stream, "error", what)
	}
	var before map[string]string
	tick := time.NewTicker(watchInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if err := m.home.stillMine(lock); err != nil {
			return err
		}
		if !srv.JetStreamEnabled() {
			return fmt.Errorf("the server closed the store %s: its disk may be full", m.home.store())
		}
		now := illness(srv)
		for stream, what := range now {
			// Twice, for a stream that is just being made or removed looks ill.
			if known[stream] == "" && before[stream] != "" {
				return fmt.Errorf("the store %s failed: %s", m.home.store(), what)
			}
		}
		before = now
	}
}

// illness returns what is wrong with each stream that has something wrong. A
// stream that met a write error, such as a full disk, takes nothing more and
// answers nothing until the store is opened again.
func illness(srv *server.Server) map[string]string {
	ill := make(map[string]string)
	for _, e := range srv.Healthz(&server.HealthzOptions{Details: true}).Errors {
		if e.Type == server.HealthzErrorStream {
			ill[e.Stream] = e.Error
		}
	}
	return ill
}

// follow is a client of the holder until the lock is free. It returns without
// the lock: the next turn takes it.
func (m *embedded) follow(ctx context.Context) error {
	e := m.engine
	e.setMode(EmbeddedClient, e.Durability())
	if err := m.connect(); err != nil {
		return err
	}
	var joined holder
	told, pause := time.Now(), retryMin
	for {
		changed := e.change()
		wait := watchInterval
		if _, up := e.anyUp(); up != nil {
			if err := m.join(ctx, &joined); err != nil {
				return err
			}
			told, pause = time.Now(), retryMin
		} else {
			wait = pause + rand.N(pause)
			pause = min(2*pause, retryMax)
		}
		if time.Since(told) > quiet/2 {
			told = time.Now()
			e.noteLastError()
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		case <-changed:
			if _, up := e.anyUp(); up != nil {
				continue
			}
		}
		if free, err := m.home.free(); free || err != nil {
			return err
		}
	}
}

// join lets calls pass when the holder is another than joined and keeps what
// this process promises.
func (m *embedded) join(ctx context.Context, joined *holder) error {
	e := m.engine
	h, err := m.home.read()
	if err != nil || h.PID == 0 || h.same(*joined) {
		return err
	}
	*joined = h
	e.setMode(EmbeddedClient, h.Durability)
	if e.opts.Durability == Strict && h.Durability == Relaxed {
		e.refuse(fault.New(fault.FailedPrecondition, "the engine in %s is held with durability %q by %s, and this process "+
			"was started with %q: start both alike, or give one of them another directory", m.home.dir, h.Durability, h, Strict))
		return nil
	}
	e.admit()
	e.log.InfoContext(ctx, "engine is served by another process", "mode", EmbeddedClient, "holder", h.String(),
		"socket", h.Socket, "durability", h.Durability, "meaning", meaning(h.Durability))
	return nil
}

// free reports whether the lock could be had.
func (h home) free() (bool, error) {
	f, err := h.acquire()
	if errors.Is(err, errHeld) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, f.Close()
}

func meaning(d Durability) string {
	if d == Strict {
		return "a write is acknowledged when it is on the disk"
	}
	return fmt.Sprintf("an acknowledged write survives the death of a process; a power failure can lose the last %s", SyncInterval)
}

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
