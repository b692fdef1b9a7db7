package testserver

import (
	"flag"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"sync"
)

// Shared is a server that the tests of one package share.
type Shared[S any] struct {
	start func(TB) S

	mu      sync.Mutex
	started bool
	server  S
	scope   scope
}

// Share returns a Shared that calls start when the first test asks for the
// server. List it in [Main], which stops it.
func Share[S any](start func(TB) S) *Shared[S] { return &Shared[S]{start: start} }

// Get returns the server, starting it if no test has yet. When it could not be
// started, Get ends every test that asks as it ended the first: skipped or
// failed, with the same text. It is safe for concurrent use.
func (s *Shared[S]) Get(tb TB) S {
	tb.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.started {
		s.started = true
		s.scope.run(func() { s.server = s.start(&s.scope) })
	}
	switch {
	case s.scope.skipped != "":
		tb.Skipf("%s", s.scope.skipped)
	case s.scope.failed != "":
		tb.Fatalf("%s", s.scope.failed)
	}
	return s.server
}

// Stop stops the server and removes what it left. A Shared that no test asked
// for has nothing to stop.
func (s *Shared[S]) Stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.scope.cleanup()
}

// Main runs the tests of a package, stops the shared servers and exits. Call it
// from TestMain with *testing.M. More parallel tests run at a time than there
// are processors, unless the command line has -parallel: tests of servers spend
// their time waiting, for leases to end and networks to heal.
func Main(m interface{ Run() int }, shared ...interface{ Stop() }) {
	crowd()
	code := m.Run()
	for _, s := range shared {
		s.Stop()
	}
	os.Exit(code)
}

// crowded is how many parallel tests run at a time.
const crowded = 8

func crowd() {
	const name = "test.parallel"
	flag.Parse()
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == name })
	if f := flag.Lookup(name); f != nil && !given {
		_ = f.Value.Set(strconv.Itoa(max(crowded, runtime.GOMAXPROCS(0)))) // cannot fail
	}
}

// scope is the TB of a shared server: it lives as long as the package's tests.
type scope struct {
	running         bool
	skipped, failed string
	cleanups        []func()
}

// run calls f and comes back also when f ends through Skipf or Fatalf.
func (s *scope) run(f func()) {
	s.running = true
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	<-done
	s.running = false
}

func (s *scope) cleanup() {
	for _, f := range slices.Backward(s.cleanups) {
		f()
	}
	s.cleanups = nil
}

// Helper implements TB.
func (s *scope) Helper() {}

// Failed implements TB.
func (s *scope) Failed() bool { return s.failed != "" }

// Cleanup implements TB.
func (s *scope) Cleanup(f func()) { s.cleanups = append(s.cleanups, f) }

// Logf implements TB.
func (s *scope) Logf(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "testserver: "+format+"\n", args...)
}

// Skipf implements TB.
func (s *scope) Skipf(format string, args ...any) { s.end(&s.skipped, format, args) }

// Fatalf implements TB.
func (s *scope) Fatalf(format string, args ...any) { s.end(&s.failed, format, args) }

// end leaves run. A server that fails later, as in Restart, has no test to
// blame: the text goes out with the panic.
func (s *scope) end(text *string, format string, args []any) {
	*text = fmt.Sprintf(format, args...)
	if !s.running {
		panic("testserver: shared server: " + *text)
	}
	runtime.Goexit()
}
