package identity

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/proa-io/proa/fault"
)

// Update changes the authority in a file: change gets the one that is there and
// returns another one, or the same for no change. Others who change it wait, so
// that nobody's change is lost. It returns what the file holds then. Whenever the
// process is killed, the file holds the one or the other.
func Update(file string, change func(*Authority) (*Authority, error)) (*Authority, []byte, error) {
	unlock, err := lock(file)
	if err != nil {
		return nil, nil, err
	}
	defer unlock()
	sweep(file)
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, nil, err
	}
	a, err := DecodeAuthority(text)
	if err != nil {
		return nil, nil, fault.Wrap(err, fault.CodeOf(err), "read the authority in %s", file)
	}
	next, err := change(a)
	if err != nil || next == a {
		return a, text, err
	}
	if text, err = next.Encode(); err != nil {
		return nil, nil, err
	}
	return next, text, Replace(file, text)
}

const (
	// lockPatience is how long Update waits for another one, which takes as long
	// as writing a small file does.
	lockPatience = 5 * time.Second
	lockRetry    = 5 * time.Millisecond
)

// lock keeps others from changing a file. The lock of a process that is killed is
// free.
func lock(file string) (unlock func(), err error) {
	f, err := os.OpenFile(file+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	for began := time.Now(); ; time.Sleep(lockRetry) {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		switch {
		case err == nil:
			return func() { _ = f.Close() }, nil
		case err != syscall.EWOULDBLOCK && err != syscall.EINTR:
			return nil, errors.Join(os.NewSyscallError("flock", err), f.Close())
		case time.Since(began) > lockPatience:
			return nil, errors.Join(fault.New(fault.Unavailable, "another process has %s locked", file), f.Close())
		}
	}
}

// abandoned is how old a temporary file is that nobody is writing any more.
const abandoned = time.Minute

// sweep removes what processes left behind that were killed while they wrote the
// file: there are keys in it.
func sweep(file string) {
	entries, err := os.ReadDir(filepath.Dir(file))
	if err != nil {
		return
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), tempPrefix(file)) {
			continue
		}
		if info, err := e.Info(); err == nil && time.Since(info.ModTime()) > abandoned {
			_ = os.Remove(filepath.Join(filepath.Dir(file), e.Name()))
		}
	}
}

func tempPrefix(file string) string { return "." + filepath.Base(file) + "-" }

// Create writes a file of secrets that must not exist, and its folder, at once
// and whole.
func Create(file string, text []byte) error {
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return err
	}
	temp, err := writeTemp(file, text)
	if err != nil {
		return err
	}
	defer os.Remove(temp)
	if err := os.Link(temp, file); err != nil {
		return err
	}
	return syncFolder(file)
}

// Replace writes a file of secrets, at once and whole, over what was there.
func Replace(file string, text []byte) error {
	temp, err := writeTemp(file, text)
	if err != nil {
		return err
	}
	if err := os.Rename(temp, file); err != nil {
		return errors.Join(err, os.Remove(temp))
	}
	return syncFolder(file)
}

// syncFolder makes the name of a file last: a rename is in the folder.
func syncFolder(file string) error {
	dir, err := os.Open(filepath.Dir(file))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// writeTemp writes a file beside the one that it is for, for its owner only.
func writeTemp(file string, text []byte) (string, error) {
	f, err := os.CreateTemp(filepath.Dir(file), tempPrefix(file)+"*")
	if err != nil {
		return "", err
	}
	_, err = f.Write(text)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return "", errors.Join(err, os.Remove(f.Name()))
	}
	return f.Name(), nil
}
