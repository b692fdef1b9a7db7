package e2e_test

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// terminal opens a pseudo terminal: closing master hangs it up.
func terminal(t *testing.T) (master, slave *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = master.Close() })
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	return master, slave
}

// TestWhenTheTerminalIsClosedTheApplicationAndItsSidecarStop closes the terminal
// of `proa run`. SIGHUP alone, with the terminal still there, makes it read the
// resources again.
func TestWhenTheTerminalIsClosedTheApplicationAndItsSidecarStop(t *testing.T) {
	long(t)
	program, dir := proa(t), t.TempDir()
	master, slave := terminal(t)
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(program, "run", "--app-id", "shop", "--home", dir, "--resources-path", dir, "--metrics-port", "0",
		"--", "sh", "-c", "trap 'echo told to stop; exit' TERM; echo works; while :; do sleep 0.05; done")
	cmd.Dir, cmd.Stdin, cmd.Stdout, cmd.Stderr = dir, slave, log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = slave.Close()
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
	printed := func(want string) {
		t.Helper()
		if err := eventually(func() error {
			text, err := os.ReadFile(log.Name())
			if err == nil && !strings.Contains(string(text), want) {
				err = fmt.Errorf("%q is not in %s", want, text)
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	printed("shop | works")
	if err := cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	printed("resources reloaded")
	if err := master.Close(); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("it ended with %v", err)
		}
	case <-time.After(within):
		t.Fatal("it did not end")
	}
	printed("told to stop")
	_, _ = io.Copy(io.Discard, log)
}
