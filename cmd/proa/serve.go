package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/proa-io/proa/runtime"
)

// together is how long after the order to stop another one counts as the same:
// those who start programs often pass on a Ctrl-C that reached the program too.
const together = 500 * time.Millisecond

// settling is how long a sidecar takes to start, at the most.
const settling = time.Second

// serve runs a sidecar until ctx ends. When SIGINT or SIGTERM come again it does
// not wait any longer for what is under way. SIGHUP makes it read its resources
// again; but when the terminal is gone that it was started from, which is told
// by the same signal, it stops, unless it was started to outlive that (nohup).
func serve(ctx context.Context, rt *runtime.Runtime) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	outlives, had := signal.Ignored(syscall.SIGHUP), hasTerminal()
	signals, over, done := make(chan os.Signal, 8), make(chan struct{}), make(chan struct{})
	signal.Notify(signals, syscall.SIGHUP, syscall.SIGTERM, os.Interrupt)
	go func() {
		defer close(done)
		var first time.Time
		for {
			var s os.Signal
			select {
			case s = <-signals:
			case <-over:
				return
			}
			switch {
			case s == syscall.SIGHUP && had && !outlives && !hasTerminal():
				cancel()
			case s == syscall.SIGHUP:
				rt.Reload()
			case first.IsZero():
				first = time.Now()
			case time.Since(first) > together:
				rt.Hasten()
			}
		}
	}()
	started := time.AfterFunc(settling, releaseProgram)
	err := rt.Run(ctx)
	started.Stop()
	signal.Stop(signals)
	close(over)
	<-done
	return err
}

// hasTerminal reports whether the process has a terminal that controls it.
func hasTerminal() bool {
	f, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	if err != nil {
		return false
	}
	_ = f.Close()
	return true
}
