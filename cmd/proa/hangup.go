package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/proa-io/proa/runtime"
)

// serve runs a sidecar until ctx ends. SIGHUP makes it read its resources
// again; but when the terminal is gone that it was started from, which is told
// by the same signal, it stops, unless it was started to outlive that (nohup).
func serve(ctx context.Context, rt *runtime.Runtime) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	outlives, had := signal.Ignored(syscall.SIGHUP), hasTerminal()
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-hangups:
			case <-ctx.Done():
				return
			}
			if had && !outlives && !hasTerminal() {
				cancel()
				return
			}
			rt.Reload()
		}
	}()
	err := rt.Run(ctx)
	signal.Stop(hangups)
	cancel()
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
