package engine

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

// home is the directory of the embedded engine:
//
//	engine/         the store, for the holder alone
//	engine.lock     locked by the holder with flock(2)
//	engine.holder   who that is, JSON
//	engine.sock     the holder's socket, unless the path is too long
type home struct {
	dir   string
	flock func(f *os.File, how int) error
}

func newHome(dir string) home { return home{dir: dir, flock: flock} }

// maxSocketPath is the longest path that a Unix socket can be bound to on
// every system: macOS has 104 bytes with the final zero, Linux 108.
const maxSocketPath = 103

func (h home) store() string  { return filepath.Join(h.dir, "engine") }
func (h home) lock() string   { return filepath.Join(h.dir, "engine.lock") }
func (h home) record() string { return filepath.Join(h.dir, "engine.holder") }

// prepare makes the directory, readable for its owner alone.
func (h home) prepare() error {
	if err := os.MkdirAll(h.dir, 0o700); err != nil {
		return fmt.Errorf("%w: make the directory writable or set PROA_HOME to another", err)
	}
	return nil
}

// holder is what the holder tells about itself in the record.
type holder struct {
	PID        int        `json:"pid"`
	Host       string     `json:"host"`
	App        string     `json:"app"`
	Socket     string     `json:"socket"`
	Durability Durability `json:"durability"`
	Since      time.Time  `json:"since"`
}

// same reports whether both are one holding by one process.
func (h holder) same(other holder) bool { return h.PID == other.PID && h.Since.Equal(other.Since) }

func (h holder) String() string {
	if h.PID == 0 {
		return "a process that has not said its name yet"
	}
	text := "process " + strconv.Itoa(h.PID) + " (" + h.App + ")"
	if host, err := os.Hostname(); err == nil && host != h.Host {
		text += " on host " + strconv.Quote(h.Host)
	}
	return text
}

// write replaces the record, so that readers see the old or the new one whole.
func (h home) write(r holder) error {
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	tmp := h.record() + ".new"
	if err := os.WriteFile(tmp, append(data, '\n'), 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, h.record())
}

// read returns the record; the zero holder when there is none.
func (h home) read() (holder, error) {
	data, err := os.ReadFile(h.record())
	if errors.Is(err, fs.ErrNotExist) {
		return holder{}, nil
	}
	if err != nil {
		return holder{}, err
	}
	var r holder
	if err := json.Unmarshal(data, &r); err != nil {
		return holder{}, fmt.Errorf("%s: %w", h.record(), err)
	}
	return r, nil
}

// errHeld says that another process has the lock.
var errHeld = errors.New("the lock is held by another process")

// acquire takes the lock without waiting. The lock ends when the file is
// closed, and so at the latest with the process.
func (h home) acquire() (*os.File, error) {
	f, err := os.OpenFile(h.lock(), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("%w: make the directory writable or set PROA_HOME to another", err)
	}
	switch err := h.flock(f, syscall.LOCK_EX|syscall.LOCK_NB); {
	case errors.Is(err, syscall.EWOULDBLOCK):
		_ = f.Close()
		return nil, errHeld
	case err != nil:
		_ = f.Close()
		return nil, fmt.Errorf("lock %s: %w: the file system cannot lock files; set PROA_HOME to a directory "+
			"on a local disk, or use a NATS server with --engine nats://host:4222", h.lock(), err)
	}
	// The file may have been removed between open and lock: then the lock is
	// on a file that nobody else will find.
	if err := h.stillMine(f); err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

// stillMine reports an error when f is not the lock file any more.
func (h home) stillMine(f *os.File) error {
	mine, err := f.Stat()
	if err != nil {
		return err
	}
	there, err := os.Stat(h.lock())
	if err != nil {
		return fmt.Errorf("the engine's directory was removed while it was in use: %w", err)
	}
	if !os.SameFile(mine, there) {
		return fmt.Errorf("%s was replaced while it was in use", h.lock())
	}
	return nil
}

func flock(f *os.File, how int) error {
	for {
		err := syscall.Flock(int(f.Fd()), how)
		if !errors.Is(err, syscall.EINTR) {
			return err
		}
	}
}

// listen binds the socket: in the directory, or, where that path is too long
// for a socket or its file system has none, in one under the temporary
// directory that belongs to this user alone. The caller holds the lock.
func (h home) listen() (*net.UnixListener, string, error) {
	path := filepath.Join(h.dir, "engine.sock")
	l, err := bind(path)
	if err == nil {
		return l, path, nil
	}
	other, err2 := h.temporarySocket()
	if err2 == nil {
		if l, err2 = bind(other); err2 == nil {
			return l, other, nil
		}
	}
	return nil, "", errors.Join(err, err2)
}

// temporarySocket returns the path of the socket under the temporary
// directory, and makes its directory.
func (h home) temporarySocket() (string, error) {
	dir, err := filepath.EvalSymlinks(h.dir)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256([]byte(dir))
	dir = filepath.Join(os.TempDir(), "proa-"+strconv.Itoa(os.Getuid())+"-"+hex.EncodeToString(sum[:8]))
	return filepath.Join(dir, "engine.sock"), privateDir(dir)
}

// privateDir makes dir, and refuses one that others made or can enter: in a
// temporary directory anybody may have put it there.
func privateDir(dir string) error {
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !info.IsDir() || info.Mode().Perm()&0o077 != 0 || !ok || int(stat.Uid) != os.Getuid() {
		return fmt.Errorf("%s is not a directory that only this user can enter: remove it, or set PROA_HOME to a shorter path", dir)
	}
	return nil
}

// bind listens at path. The socket appears there only when it listens and only
// this user can connect; one that a dead holder left behind is replaced.
func bind(path string) (*net.UnixListener, error) {
	if len(path) > maxSocketPath {
		return nil, fmt.Errorf("the path %s has %d bytes, and a socket's at most %d: set PROA_HOME or TMPDIR to a shorter path",
			path, len(path), maxSocketPath)
	}
	private := filepath.Join(filepath.Dir(path), "engine.new")
	if err := os.RemoveAll(private); err != nil {
		return nil, err
	}
	if err := os.Mkdir(private, 0o700); err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(private) }()
	made := filepath.Join(private, "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: made, Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false) // it would unlink the path it was bound to
	if err := errors.Join(os.Chmod(made, 0o600), os.Rename(made, path)); err != nil {
		_ = l.Close()
		return nil, err
	}
	return l, nil
}
