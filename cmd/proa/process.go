package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	goruntime "runtime"
	"time"

	"github.com/proa-io/proa/runtime"
)

// process is the application that a sidecar is started with.
type process struct {
	command []string
	dir     string
	env     []string
	out     io.Writer
}

// run starts the application and waits until it ends, which is an error with
// its exit code, or until ctx ends: then it is asked to stop and, after the
// grace period, killed with all that it has started.
func (p *process) run(ctx context.Context) error {
	cmd := exec.Command(p.command[0], p.command[1:]...) //nolint:gosec // what the user asks for
	cmd.Dir, cmd.Env = p.dir, append(os.Environ(), p.env...)
	cmd.Stdout, cmd.Stderr = p.out, p.out
	cmd.WaitDelay = time.Second // for output of what it has started
	// On Linux the application is told to stop when the thread that started it
	// ends, which is when this program was killed.
	goruntime.LockOSThread()
	defer goruntime.UnlockOSThread()
	ownGroup(cmd)
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("the application cannot be started: %w", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case err := <-ended:
		return exitOf(err)
	case <-ctx.Done():
	}
	interrupt(cmd)
	drain, cancel := runtime.Draining(ctx, 0)
	defer cancel()
	select {
	case <-ended:
	case <-drain.Done():
		killGroup(cmd)
		<-ended
	}
	killGroup(cmd) // what it has left behind
	return nil
}

// errExited says that the application ended by itself.
var errExited = errors.New("the application ended")

// exitOf turns how a process ended into an error with its exit code.
func exitOf(err error) error {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return fmt.Errorf("%w: %s (%w)", errExited, exit.ProcessState, exitError{exitCode(exit.ProcessState)})
	}
	if err != nil && !errors.Is(err, exec.ErrWaitDelay) {
		return err
	}
	return errExited
}
