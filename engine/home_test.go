package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/proa-io/proa/fault"
)

func mentions(t *testing.T, text string, all ...string) {
	t.Helper()
	for _, want := range all {
		if !strings.Contains(text, want) {
			t.Errorf("%q does not mention %q", text, want)
		}
	}
}

func TestALockWhoseHolderHasNoSocketYetIsWaitedFor(t *testing.T) {
	ctx := deadline(t)
	h := newHome(t.TempDir())
	lock, err := h.acquire()
	if err != nil {
		t.Fatal(err)
	}
	e, _ := run(t, Options{Dir: h.dir, Wait: 200 * time.Millisecond})
	_, err = e.Conn(ctx)
	wantCode(t, err, fault.Unavailable, ReasonNotReady)
	mentions(t, fault.Message(err), h.lock(), "not said its name", "socket")

	// It says its name, and dies before it listens.
	if err := h.write(holder{PID: 4711, Host: "elsewhere", App: "shop", Socket: filepath.Join(h.dir, "engine.sock")}); err != nil {
		t.Fatal(err)
	}
	for ctx.Err() == nil {
		if _, err = e.Conn(ctx); strings.Contains(err.Error(), "4711") {
			break
		}
	}
	mentions(t, fault.Message(err), "4711", "shop", "elsewhere", "engine.sock")
	_ = lock.Close()
	if _, err := insist(ctx, func() (*Conn, error) { return e.Conn(ctx) }); err != nil {
		t.Fatal(err)
	}
	if e.Mode() != EmbeddedHolder {
		t.Fatalf("mode is %s", e.Mode())
	}
}

func TestTheSocketOfADeadHolderIsReplaced(t *testing.T) {
	ctx := deadline(t)
	h := newHome(t.TempDir())
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(h.dir, "engine.sock")})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	_ = l.Close()
	if err := h.write(holder{PID: 4711, App: "dead", Socket: l.Addr().String()}); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(h.dir, "engine.new"), 0o700); err != nil { // left by a crash while binding
		t.Fatal(err)
	}
	first, _ := run(t, Options{Dir: h.dir})
	if _, err := first.Conn(ctx); err != nil {
		t.Fatal(err)
	}
	second, _ := run(t, Options{Dir: h.dir})
	if _, err := second.Conn(ctx); err != nil {
		t.Fatal(err)
	}
	if second.Mode() != EmbeddedClient {
		t.Fatalf("mode is %s", second.Mode())
	}
	info, err := os.Stat(filepath.Join(h.dir, "engine.sock"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("the socket has mode %v, %v", info.Mode(), err)
	}
}

func TestAGracefulStopLeavesNoSocketAndNoRecord(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "home")
	e, stop := run(t, Options{Dir: dir})
	if _, err := e.Conn(deadline(t)); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(dir)
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Fatalf("the directory has mode %v, %v", info.Mode(), err)
	}
	stop()
	for _, name := range []string{"engine.sock", "engine.holder", "engine.new"} {
		if _, err := os.Lstat(filepath.Join(dir, name)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is left behind (%v)", name, err)
		}
	}
	_, err = e.Conn(t.Context())
	wantCode(t, err, fault.Unavailable, ReasonNotReady)
	mentions(t, err.Error(), "stopped")
}

func TestADirectoryThatCannotBeUsedIsNamedWithWhatToDo(t *testing.T) {
	ctx := deadline(t)
	parent := t.TempDir()
	file := filepath.Join(parent, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(file, "home")
	e, _ := run(t, Options{Dir: dir, Wait: 200 * time.Millisecond})
	_, err := e.Conn(ctx)
	wantCode(t, err, fault.Unavailable, ReasonNotReady)
	mentions(t, fault.Message(err), file, "PROA_HOME")
	// The directory is mended while the engine waits.
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if _, err := insist(ctx, func() (*Conn, error) { return e.Conn(ctx) }); err != nil {
		t.Fatal(err)
	}
}

func TestAFileSystemWithoutLocksIsNamedWithWhatToDo(t *testing.T) {
	for _, cause := range []error{syscall.ENOLCK, syscall.EOPNOTSUPP, syscall.ENOSYS} {
		h := home{dir: t.TempDir(), flock: func(*os.File, int) error { return cause }}
		_, err := h.acquire()
		if !errors.Is(err, cause) {
			t.Fatalf("got %v, want %v", err, cause)
		}
		mentions(t, err.Error(), h.lock(), "local disk", "--engine nats://")
	}
}

func TestAStoreThatCannotBeOpenedIsNamed(t *testing.T) {
	ctx := deadline(t)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "engine"), []byte("not a directory"), 0o600); err != nil {
		t.Fatal(err)
	}
	e, _ := run(t, Options{Dir: dir, Wait: 300 * time.Millisecond})
	_, err := e.Conn(ctx)
	wantCode(t, err, fault.Unavailable, ReasonNotReady)
	mentions(t, fault.Message(err), filepath.Join(dir, "engine"))
}

func TestALongPathMovesTheSocketToAPrivateDirectory(t *testing.T) {
	ctx := deadline(t)
	tmp := t.TempDir()
	t.Setenv("TMPDIR", tmp)
	dir := filepath.Join(t.TempDir(), strings.Repeat("long/", 30), "home")
	holder, _ := run(t, Options{Dir: dir})
	if _, err := holder.Conn(ctx); err != nil {
		t.Fatal(err)
	}
	record, err := newHome(dir).read()
	if err != nil || !strings.HasPrefix(record.Socket, tmp) {
		t.Fatalf("the socket is at %q, %v", record.Socket, err)
	}
	info, err := os.Stat(filepath.Dir(record.Socket))
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Fatalf("its directory has mode %v, %v", info.Mode(), err)
	}
	// A sidecar with another temporary directory finds it by the record.
	t.Setenv("TMPDIR", t.TempDir())
	guest, _ := run(t, Options{Dir: dir})
	if _, err := guest.Conn(ctx); err != nil {
		t.Fatal(err)
	}
	if guest.Mode() != EmbeddedClient {
		t.Fatalf("mode is %s", guest.Mode())
	}
}

func TestASocketDirectoryThatOthersCanEnterIsRefused(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	h := newHome(filepath.Join(t.TempDir(), strings.Repeat("long/", 30)))
	if err := h.prepare(); err != nil {
		t.Fatal(err)
	}
	path, err := h.temporarySocket()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, _, err := h.listen(); err == nil {
		t.Fatal("a directory with mode 0755 was taken")
	} else {
		mentions(t, err.Error(), filepath.Dir(path), "PROA_HOME")
	}
	if err := os.Remove(filepath.Dir(path)); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(t.TempDir(), filepath.Dir(path)); err != nil {
		t.Fatal(err)
	}
	if _, _, err := h.listen(); err == nil {
		t.Fatal("a symbolic link was taken")
	}
}

func TestAHomeThatIsRemovedInUseIsMadeAgain(t *testing.T) {
	ctx := deadline(t)
	dir := filepath.Join(t.TempDir(), "home")
	a, _ := run(t, Options{Dir: dir, Name: "a"})
	if _, err := a.KeyValue(ctx, BucketConfig{Name: "b"}); err != nil {
		t.Fatal(err)
	}
	b, _ := run(t, Options{Dir: dir, Name: "b"})
	if _, err := b.Conn(ctx); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	// Both meet again in a new, empty store.
	for ctx.Err() == nil {
		ba, errA := a.KeyValue(ctx, BucketConfig{Name: "b"})
		bb, errB := b.KeyValue(ctx, BucketConfig{Name: "b"})
		if errA != nil || errB != nil {
			continue
		}
		if _, err := ba.Put(ctx, "met", nil, PutOptions{}); err != nil {
			continue
		}
		if _, err := bb.Get(ctx, "met", Strong); err == nil {
			if _, err := os.Stat(filepath.Join(dir, "engine")); err != nil {
				continue // still in the removed store
			}
			return
		}
	}
	t.Fatal("the sidecars do not meet again")
}

func TestStrictIsNotServedByARelaxedHolder(t *testing.T) {
	ctx := deadline(t)
	dir := t.TempDir()
	relaxed, stopRelaxed := run(t, Options{Dir: dir, Name: "dev"})
	if _, err := relaxed.Conn(ctx); err != nil {
		t.Fatal(err)
	}
	strict, _ := run(t, Options{Dir: dir, Name: "prod", Durability: Strict})
	_, err := strict.Conn(ctx)
	wantCode(t, err, fault.FailedPrecondition, "")
	mentions(t, fault.Message(err), dir, "dev", "relaxed", "strict")
	stopRelaxed()
	for ctx.Err() == nil {
		if _, err = strict.Conn(ctx); err == nil {
			break
		}
		sleep(ctx, 5*time.Millisecond)
	}
	if err != nil || strict.Durability() != Strict {
		t.Fatalf("durability %s, %v", strict.Durability(), err)
	}
	// The other way round is more than was asked for.
	again, _ := run(t, Options{Dir: dir, Name: "dev"})
	if _, err := again.Conn(ctx); err != nil {
		t.Fatal(err)
	}
	if again.Durability() != Strict {
		t.Fatalf("the client of a strict holder says %s", again.Durability())
	}
}

func TestARecordIsReadWholeOrNotAtAll(t *testing.T) {
	h := newHome(t.TempDir())
	if r, err := h.read(); err != nil || r.PID != 0 {
		t.Fatalf("without a record: %+v, %v", r, err)
	}
	if err := os.WriteFile(h.record(), []byte(`{"pid": 1, "sock`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := h.read(); err == nil {
		t.Fatal("half a record was read")
	} else {
		mentions(t, err.Error(), h.record())
	}
}

func TestRunMayBeCalledOnce(t *testing.T) {
	e, _ := run(t, Options{Dir: t.TempDir()})
	if _, err := e.Conn(deadline(t)); err != nil {
		t.Fatal(err)
	}
	if err := e.Run(t.Context()); !fault.Is(err, fault.Internal) {
		t.Fatalf("got %v", err)
	}
}

func TestCallsBeforeRunWaitAndSayWhy(t *testing.T) {
	e, err := Open(t.Context(), Options{Dir: t.TempDir(), Wait: 10 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	_, err = e.Conn(t.Context())
	wantCode(t, err, fault.Unavailable, ReasonNotReady)
	mentions(t, err.Error(), "not running")
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := e.Conn(canceled); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v, want canceled", err)
	}
}

func TestAFullDiskLosesNothingAndRecoversByItself(t *testing.T) {
	ctx := deadline(t)
	dir := t.TempDir()
	if err := syscall.Mount("proa-test", dir, "tmpfs", 0, "size=3m"); err != nil {
		t.Skipf("SKIPPED: a small file system cannot be mounted: %v", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, 0) })
	// A limit beyond the disk, so that the disk is what ends.
	e, _ := run(t, Options{Dir: dir, MaxStore: 1 << 30})
	b := bucket(t, ctx, e, BucketConfig{Name: "b"})
	value := bytes.Repeat([]byte("x"), 64<<10)
	var acked []string
	put := func(key string) error {
		short, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
		defer cancel()
		_, err := b.Put(short, key, value, PutOptions{})
		if err == nil {
			acked = append(acked, key)
		}
		return err
	}
	var err error
	for i := 0; err == nil; i++ {
		err = put(fmt.Sprint("k.", i))
	}
	switch fault.CodeOf(err) {
	case fault.ResourceExhausted, fault.Unavailable, fault.DeadlineExceeded:
	default:
		t.Fatalf("a full disk is %v (%v)", fault.CodeOf(err), err)
	}
	if err := syscall.Mount("proa-test", dir, "tmpfs", syscall.MS_REMOUNT, "size=64m"); err != nil {
		t.Fatal(err)
	}
	for put("after") != nil {
		if ctx.Err() != nil {
			t.Fatal("the engine does not recover from a full disk")
		}
	}
	for _, key := range acked {
		if got, err := b.Get(ctx, key, Strong); err != nil || !bytes.Equal(got.Value, value) {
			t.Errorf("%s was acknowledged: got %d bytes, %v", key, len(got.Value), err)
		}
	}
	if len(acked) < 10 {
		t.Errorf("only %d writes fit", len(acked))
	}
}

func TestAStoreLimitIsResourceExhausted(t *testing.T) {
	ctx := deadline(t)
	e, _ := run(t, Options{Dir: t.TempDir(), MaxStore: 1 << 20})
	b := bucket(t, ctx, e, BucketConfig{Name: "b"})
	var err error
	for i := 0; err == nil && i < 100; i++ {
		_, err = b.Put(ctx, fmt.Sprint("k.", i), make([]byte, 64<<10), PutOptions{})
	}
	wantCode(t, err, fault.ResourceExhausted, "")
	for i := range 4 { // what is deleted makes room
		if err := b.Delete(ctx, fmt.Sprint("k.", i), Anything()); err != nil {
			t.Fatalf("a delete in a full store: %v", err)
		}
	}
	_, err = b.Get(ctx, "k.0", Strong)
	wantCode(t, err, fault.NotFound, "")
	if _, err := b.Put(ctx, "k.new", make([]byte, 64<<10), PutOptions{}); err != nil {
		t.Fatalf("a put after deletes: %v", err)
	}
}

func TestAStopDuringTheStartLeavesNothingOpen(t *testing.T) {
	dir := t.TempDir()
	for i := range 20 {
		e, err := Open(t.Context(), Options{Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i)*time.Millisecond)
		if err := e.Run(ctx); err != nil {
			t.Fatal(err)
		}
		cancel()
		for _, c := range e.conns {
			if nc := c.nc.Load(); nc != nil && !nc.IsClosed() {
				t.Fatalf("a connection is open after a stop at %d ms", i)
			}
		}
		lock, err := newHome(dir).acquire()
		if err != nil {
			t.Fatalf("the lock after a stop at %d ms: %v", i, err)
		}
		_ = lock.Close()
	}
}
