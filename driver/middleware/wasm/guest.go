package wasm

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/imports/wasi_snapshot_preview1"
	"github.com/tetratelabs/wazero/sys"

	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
)

// The functions of a guest.
const (
	handleRequest  = "handle_request"
	handleResponse = "handle_response"
)

// Middleware is a middleware.Driver.
type Middleware struct {
	cfg      Config
	log      *slog.Logger
	compiled wazero.CompilationCache
	runtime  wazero.Runtime
	module   wazero.CompiledModule
	settings wazero.ModuleConfig
	features atomic.Uint32      // that guests ask for when they are started
	idle     chan *guest        // with nothing to do
	places   chan struct{}      // one token per guest there is
	end      context.CancelFunc // of all guests
	life     context.Context    //nolint:containedctx // that of the guests, which outlive the requests
}

// guest is one instance of the module. It does one thing at a time.
type guest struct {
	module   api.Module
	request  api.Function
	response api.Function
}

// Driver opens guests. Those of the same module share what was compiled of it
// for as long as one of them is open. It is safe for concurrent use.
type Driver struct{ compiled wazero.CompilationCache }

// New returns a Driver.
func New() *Driver { return &Driver{compiled: wazero.NewCompilationCache()} }

// Open compiles the module and starts a first guest.
func (d *Driver) Open(ctx context.Context, cfg Config, env component.Env) (*Middleware, error) {
	code, err := load(ctx, cfg, env)
	if err != nil {
		return nil, err
	}
	m := &Middleware{
		compiled: d.compiled, cfg: cfg, log: env.Log, idle: make(chan *guest, cfg.MaxGuests), places: make(chan struct{}, cfg.MaxGuests),
	}
	if m.log == nil {
		m.log = slog.New(slog.DiscardHandler)
	}
	m.life, m.end = context.WithCancel(context.WithoutCancel(ctx))
	if err := m.prepare(ctx, code, cfg.StrictSandbox || env.StrictSandbox); err != nil {
		_ = m.Close()
		return nil, err
	}
	g, err := m.take(ctx)
	if err != nil {
		_ = m.Close()
		return nil, err
	}
	m.giveBack(g)
	return m, nil
}

// prepare compiles the module and what it imports.
func (m *Middleware) prepare(ctx context.Context, code []byte, strict bool) error {
	pages := uint32((m.cfg.GuestMemory + pageSize - 1) / pageSize) //nolint:gosec // bounded by Validate
	m.runtime = wazero.NewRuntimeWithConfig(ctx, wazero.NewRuntimeConfig().
		WithCompilationCache(m.compiled).WithCloseOnContextDone(true).WithMemoryLimitPages(pages))
	if _, err := wasi_snapshot_preview1.Instantiate(ctx, m.runtime); err != nil {
		return fault.Wrap(err, fault.Internal, "prepare what a guest imports")
	}
	if err := m.export(ctx); err != nil {
		return fault.Wrap(err, fault.Internal, "prepare what a guest imports")
	}
	module, err := m.runtime.CompileModule(ctx, code)
	if err != nil {
		return fault.New(fault.InvalidArgument, "the module cannot be compiled: %s", firstLine(err))
	}
	m.module = module
	m.settings = wazero.NewModuleConfig().WithName("").WithStartFunctions("_start", "_initialize").
		WithStdout(&printed{log: m.log, level: slog.LevelInfo}).WithStderr(&printed{log: m.log, level: slog.LevelWarn})
	if !strict {
		m.settings = m.settings.WithSysWalltime().WithSysNanotime().WithSysNanosleep().WithRandSource(rand.Reader)
	}
	return check(module)
}

// check reports a module that is no middleware.
func check(module wazero.CompiledModule) error {
	for _, want := range []struct {
		name            string
		params, results []api.ValueType
		form            string
	}{
		{handleRequest, nil, []api.ValueType{i64}, "without parameters, with a result of type i64"},
		{handleResponse, []api.ValueType{i32, i32}, nil, "with two parameters of type i32, without a result"},
	} {
		f, ok := module.ExportedFunctions()[want.name]
		if !ok || !slices.Equal(f.ParamTypes(), want.params) || !slices.Equal(f.ResultTypes(), want.results) {
			return fault.New(fault.InvalidArgument, "the module is no HTTP handler of http-wasm: it has to export the function %s %s", want.name, want.form)
		}
	}
	if _, ok := module.ExportedMemories()["memory"]; !ok {
		return fault.New(fault.InvalidArgument, "the module is no HTTP handler of http-wasm: it has to export its memory")
	}
	return nil
}

// take returns a guest that has nothing to do. It waits for one when there are as
// many as there may be.
func (m *Middleware) take(ctx context.Context) (*guest, error) {
	if m.life.Err() != nil {
		return nil, errClosed()
	}
	select {
	case g := <-m.idle:
		return g, nil
	default:
	}
	select {
	case g := <-m.idle:
		return g, nil
	case m.places <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-m.life.Done():
		return nil, errClosed()
	}
	g, err := m.start(ctx)
	if err != nil {
		<-m.places
	}
	return g, err
}

func errClosed() error { return fault.New(fault.Unavailable, "the middleware is closed") }

// start makes a guest.
func (m *Middleware) start(ctx context.Context) (*guest, error) {
	ctx, cancel := context.WithTimeout(ctx, m.cfg.GuestTimeout.Std())
	defer cancel()
	module, err := m.runtime.InstantiateModule(ctx, m.module, m.settings)
	if exit, ok := errors.AsType[*sys.ExitError](err); ok && exit.ExitCode() == sys.ExitCodeDeadlineExceeded {
		return nil, fault.New(fault.DeadlineExceeded, "the guest was not ready within %s", m.cfg.GuestTimeout)
	}
	if err != nil {
		return nil, fault.New(fault.FailedPrecondition, "the guest cannot be started: %s", firstLine(err))
	}
	return &guest{module, module.ExportedFunction(handleRequest), module.ExportedFunction(handleResponse)}, nil
}

// giveBack makes a guest available to others.
func (m *Middleware) giveBack(g *guest) { m.idle <- g }

// discard ends a guest that has failed.
func (m *Middleware) discard(g *guest) {
	_ = g.module.Close(m.life) // its memory goes whatever this says
	<-m.places
}

// Close implements io.Closer. It ends the guests that are at work.
func (m *Middleware) Close() error {
	m.end()
	if m.runtime == nil {
		return nil
	}
	return m.runtime.Close(context.Background())
}

// call calls a function of a guest for an exchange, and returns its result, if it
// has one. When it fails the guest is gone.
func (m *Middleware) call(ctx context.Context, x *exchange, f func(*guest) api.Function, args ...uint64) (uint64, error) {
	g, err := m.take(ctx)
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(m.life, func() { cancel(errClosed()) })()
	x.watch = &watch{limit: m.cfg.GuestTimeout.Std(), end: func() { cancel(errTooLong) }}
	x.watch.resume()
	results, err := f(g).Call(context.WithValue(ctx, exchangeKey{}, x), args...)
	x.watch.pause()
	switch why := context.Cause(ctx); {
	case err == nil && why == nil:
		m.giveBack(g)
	case err == nil: // it was ended as it returned
		m.discard(g)
	default:
		m.discard(g)
		if why != nil {
			return 0, why
		}
		return 0, fault.New(fault.Internal, "the guest failed: %s", firstLine(err))
	}
	if len(results) == 0 {
		return 0, nil
	}
	return results[0], nil
}

var errTooLong = errors.New("the guest took too long")

// watch ends a guest that takes too long.
type watch struct {
	limit time.Duration // what is left
	end   func()
	since time.Time
	timer *time.Timer
}

func (w *watch) resume() {
	w.since = time.Now()
	w.timer = time.AfterFunc(w.limit, w.end)
}

// pause stops the clock, for the time in which somebody else is waited for.
func (w *watch) pause() {
	w.timer.Stop()
	w.limit = max(w.limit-time.Since(w.since), 0)
}

// firstLine returns what happened without where in the guest.
func firstLine(err error) string {
	text, _, _ := strings.Cut(err.Error(), "\nwasm stack trace")
	text, _, _ = strings.Cut(text, " (recovered by wazero)")
	return strings.TrimSpace(strings.ToValidUTF8(text, "?"))
}

// maxLine bounds one message of a guest, in bytes.
const maxLine = 4096

// printed logs what guests print, line by line.
type printed struct {
	log   *slog.Logger
	level slog.Level

	mu   sync.Mutex
	line []byte // not ended yet
}

var _ io.Writer = (*printed)(nil)

// Write implements io.Writer.
func (p *printed) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := len(b)
	for len(b) > 0 {
		line, rest, ended := bytes.Cut(b, []byte("\n"))
		p.line = append(p.line, line[:min(len(line), maxLine-min(len(p.line), maxLine))]...)
		b = rest
		if ended && len(p.line) > 0 {
			p.log.Log(context.Background(), p.level, "the guest printed", "text", strings.ToValidUTF8(string(p.line), "?"))
			p.line = p.line[:0]
		}
	}
	return n, nil
}
