package engine

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/internal/fastloop"
)

// The tests of this file run sidecars in processes of their own: the test
// binary again, with these variables.
const (
	envRole       = "PROA_ENGINE_TEST_ROLE"
	envDir        = "PROA_ENGINE_TEST_DIR"
	envName       = "PROA_ENGINE_TEST_NAME"
	envDurability = "PROA_ENGINE_TEST_DURABILITY"
)

func TestMain(m *testing.M) {
	role := os.Getenv(envRole)
	if role == "" {
		os.Exit(m.Run())
	}
	if err := sidecar(role); err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
}

// sidecar runs an engine until standard input ends, and does its role.
func sidecar(role string) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	e, err := Open(ctx, Options{
		Dir: os.Getenv(envDir), Name: os.Getenv(envName), Durability: Durability(os.Getenv(envDurability)),
		Log: slog.New(slog.NewTextHandler(os.Stderr, nil)),
	})
	if err != nil {
		return err
	}
	var work sync.WaitGroup
	defer work.Wait()
	defer cancel()
	work.Go(func() {
		if err := e.Run(ctx); err != nil {
			fmt.Println("error", err)
		}
	})
	working, stopWorking := context.WithCancel(ctx)
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		stopWorking()
	}()
	b, err := insist(working, func() (*Bucket, error) { return e.KeyValue(working, BucketConfig{Name: "b"}) })
	if err != nil {
		return err
	}
	switch role {
	case "share":
		return shareRole(working, e, b)
	case "write":
		return writeRole(working, e, b)
	case "sockets":
		return socketsRole(working, b)
	}
	return fmt.Errorf("unknown role %q", role)
}

// shareRole writes one key and reports every key of the others.
func shareRole(ctx context.Context, e *Engine, b *Bucket) error {
	_, err := insist(ctx, func() (uint64, error) {
		return b.Put(ctx, "share."+e.opts.Name, []byte(e.opts.Name), PutOptions{})
	})
	if err != nil {
		return err
	}
	fmt.Println("mode", e.Mode())
	return b.Watch(ctx, "share.*", func(u Update) error {
		if u.Op == OpPut {
			fmt.Println("saw", string(u.Value))
		}
		return nil
	})
}

// writeRole writes numbered keys, one after the other, and reports each
// acknowledgement before it goes on.
func writeRole(ctx context.Context, e *Engine, b *Bucket) error {
	fmt.Println("mode", e.Mode())
	for i := 0; ctx.Err() == nil; i++ {
		key := fmt.Sprintf("w.%s.%d", e.opts.Name, i)
		_, err := insist(ctx, func() (uint64, error) { return b.Put(ctx, key, []byte(key), PutOptions{}) })
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		fmt.Println("ack", i)
	}
	return nil
}

// socketsRole reports the sockets that this process has of every protocol
// with ports.
func socketsRole(ctx context.Context, b *Bucket) error {
	if _, err := b.Put(ctx, "k", nil, PutOptions{}); err != nil {
		return err
	}
	mine, err := socketInodes()
	if err != nil {
		return err
	}
	for _, protocol := range []string{"tcp", "tcp6", "udp", "udp6"} {
		table, err := os.ReadFile("/proc/self/net/" + protocol)
		if err != nil {
			return err
		}
		for _, line := range strings.Split(string(table), "\n")[1:] {
			if f := strings.Fields(line); len(f) > 9 && mine[f[9]] {
				fmt.Println("open", protocol, f[1], "state", f[3])
			}
		}
	}
	fmt.Println("done", len(mine))
	<-ctx.Done()
	return nil
}

func socketInodes() (map[string]bool, error) {
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return nil, err
	}
	inodes := make(map[string]bool)
	for _, fd := range fds {
		target, err := os.Readlink("/proc/self/fd/" + fd.Name())
		if err != nil {
			continue // the descriptor of the directory itself
		}
		if in, ok := strings.CutPrefix(target, "socket:["); ok {
			inodes[strings.TrimSuffix(in, "]")] = true
		}
	}
	return inodes, nil
}

// child is a sidecar in another process, and what it said.
type child struct {
	name  string
	cmd   *exec.Cmd
	stdin io.Closer
	ended chan struct{}

	mu    sync.Mutex
	lines []string
	acks  int
	mark  time.Time     // set by the test
	after time.Duration // from mark to the first acknowledgement behind it; 0 when there is none yet
	news  chan struct{}
}

func startChild(t testing.TB, role, dir, name string, d Durability) *child {
	t.Helper()
	fastloop.Skip(t, "starts a program")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := &child{name: name, cmd: exec.Command(self), ended: make(chan struct{}), news: make(chan struct{})}
	// The race detector sleeps for a second at exit unless told otherwise.
	c.cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0", envRole+"="+role, envDir+"="+dir, envName+"="+name, envDurability+"="+string(d))
	c.cmd.Stderr = t.Output()
	stdout, err := c.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if c.stdin, err = c.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go c.read(stdout)
	t.Cleanup(func() { c.kill(); _ = c.cmd.Wait() })
	return c
}

func (c *child) read(r io.Reader) {
	for s := bufio.NewScanner(r); s.Scan(); {
		c.mu.Lock()
		if n, ok := strings.CutPrefix(s.Text(), "ack "); ok {
			i, _ := strconv.Atoi(n)
			c.acks = i + 1
			if c.after == 0 && !c.mark.IsZero() {
				c.after = time.Since(c.mark)
			}
		} else {
			c.lines = append(c.lines, s.Text())
		}
		close(c.news)
		c.news = make(chan struct{})
		c.mu.Unlock()
	}
	close(c.ended)
}

// await waits until what the child said satisfies ok.
func (c *child) await(t testing.TB, ctx context.Context, what string, ok func() bool) {
	t.Helper()
	for {
		c.mu.Lock()
		yes, news, lines := ok(), c.news, strings.Join(c.lines, "\n")
		c.mu.Unlock()
		if yes {
			return
		}
		select {
		case <-news:
		case <-c.ended:
			c.mu.Lock()
			yes = ok()
			c.mu.Unlock()
			if !yes {
				t.Fatalf("%s ended, want %s; it said\n%s", c.name, what, lines)
			}
		case <-ctx.Done():
			t.Fatalf("%s: no %s; it said\n%s", c.name, what, lines)
		}
	}
}

func (c *child) awaitLine(t testing.TB, ctx context.Context, line string) {
	t.Helper()
	c.await(t, ctx, strconv.Quote(line), func() bool {
		for _, l := range c.lines {
			if l == line {
				return true
			}
		}
		return false
	})
}

func (c *child) awaitAcks(t testing.TB, ctx context.Context, n int) {
	t.Helper()
	c.await(t, ctx, fmt.Sprintf("%d acks", n), func() bool { return c.acks >= n })
}

// setMark begins to measure the time until the next acknowledgement.
func (c *child) setMark() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mark, c.after = time.Now(), 0
}

func (c *child) ackCount() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.acks
}

// kill ends the process with SIGKILL.
func (c *child) kill() { _ = c.cmd.Process.Kill() }

// stop ends the process gracefully and waits.
func (c *child) stop(t testing.TB, ctx context.Context) {
	t.Helper()
	_ = c.stdin.Close()
	select {
	case <-c.ended:
	case <-ctx.Done():
		t.Fatalf("%s does not stop", c.name)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, l := range c.lines {
		if strings.HasPrefix(l, "error") {
			t.Errorf("%s: %s", c.name, l)
		}
	}
}

func TestSidecarsThatStartTogetherShareOneEngine(t *testing.T) {
	ctx := deadline(t)
	dir := filepath.Join(t.TempDir(), "made", "by", "the", "first")
	names := []string{"a", "b", "c", "d"}
	var children []*child
	for _, name := range names {
		children = append(children, startChild(t, "share", dir, name, Relaxed))
	}
	holders := 0
	for _, c := range children {
		for _, name := range names {
			c.awaitLine(t, ctx, "saw "+name)
		}
		c.mu.Lock()
		for _, l := range c.lines {
			if l == "mode "+string(EmbeddedHolder) {
				holders++
			}
		}
		c.mu.Unlock()
	}
	if holders != 1 {
		t.Fatalf("%d of the sidecars hold the engine", holders)
	}
	for _, c := range children {
		c.stop(t, ctx)
	}
}

func TestNothingAcknowledgedIsLostWhenTheHolderIsKilled(t *testing.T) {
	for _, d := range []Durability{Relaxed, Strict} {
		t.Run(string(d), func(t *testing.T) {
			loseHolders(t, d, func(c *child) { c.kill() })
		})
	}
}

func TestNothingAcknowledgedIsLostWhenTheHolderStops(t *testing.T) {
	loseHolders(t, Relaxed, func(c *child) { c.stop(t, t.Context()) })
}

// loseHolders loses two holders, one after the other, while three sidecars
// write, and then looks for every write that was acknowledged.
func loseHolders(t *testing.T, d Durability, lose func(*child)) {
	ctx := deadline(t)
	dir := t.TempDir()
	holder := startChild(t, "write", dir, "w0", d)
	holder.awaitAcks(t, ctx, 1)
	writers := []*child{holder, startChild(t, "write", dir, "w1", d), startChild(t, "write", dir, "w2", d)}
	observer, _ := run(t, Options{Dir: dir, Name: "observer", Durability: d})
	ob := bucket(t, ctx, observer, BucketConfig{Name: "b"})
	seen := make(map[string]bool)
	var watch sync.WaitGroup
	watch.Go(func() {
		if err := ob.Watch(ctx, "w.*.*", func(u Update) error {
			if u.Op == OpPut {
				seen[u.Key] = true
			}
			if u.Key == "w.end.0" {
				return errEnough
			}
			return nil
		}); !errors.Is(err, errEnough) {
			t.Errorf("watch: %v", err)
		}
	})
	for _, c := range writers {
		c.awaitAcks(t, ctx, 200)
	}
	for alive := writers; len(alive) > 1; alive = alive[1:] {
		victim := holderOf(t, ctx, dir, alive)
		if victim == nil { // the observer took over
			break
		}
		alive = moveFirst(alive, victim)
		for _, c := range alive[1:] {
			c.setMark()
		}
		lose(victim)
		for _, c := range alive[1:] {
			c.awaitAcks(t, ctx, c.ackCount()+200)
			t.Logf("%s: %s wrote again %s after %s was lost", d, c.name, c.after.Round(time.Millisecond), victim.name)
		}
	}
	for _, c := range writers {
		_ = c.stdin.Close()
	}
	for _, c := range writers {
		<-c.ended
	}
	verifyAcks(t, ctx, observer, writers)
	// The watch has seen everything when it sees the last write.
	if _, err := insist(ctx, func() (uint64, error) { return ob.Put(ctx, "w.end.0", nil, PutOptions{}) }); err != nil {
		t.Fatal(err)
	}
	watch.Wait()
	for _, c := range writers {
		for i := range c.ackCount() {
			if key := fmt.Sprintf("w.%s.%d", c.name, i); !seen[key] {
				t.Fatalf("the watch did not report %s", key)
			}
		}
	}
}

// holderOf returns the child that holds the engine now; nil when none does.
func holderOf(t *testing.T, ctx context.Context, dir string, children []*child) *child {
	t.Helper()
	for ctx.Err() == nil {
		h, err := newHome(dir).read()
		if err != nil {
			t.Fatal(err)
		}
		if h.PID == os.Getpid() {
			return nil
		}
		for _, c := range children {
			if c.cmd.Process.Pid == h.PID {
				return c
			}
		}
		sleep(ctx, time.Millisecond)
	}
	t.Fatal("nobody holds the engine")
	return nil
}

func moveFirst(children []*child, first *child) []*child {
	out := []*child{first}
	for _, c := range children {
		if c != first {
			out = append(out, c)
		}
	}
	return out
}

func verifyAcks(t *testing.T, ctx context.Context, e *Engine, writers []*child) {
	t.Helper()
	b, err := insist(ctx, func() (*Bucket, error) { return e.KeyValue(ctx, BucketConfig{Name: "b"}) })
	if err != nil {
		t.Fatal(err)
	}
	there := make(map[string]bool)
	if err := b.Each(ctx, "w.*.*", func(e Entry) error { there[e.Key] = e.Key == string(e.Value); return nil }); err != nil {
		t.Fatal(err)
	}
	total := 0
	for _, c := range writers {
		for i := range c.ackCount() {
			total++
			if key := fmt.Sprintf("w.%s.%d", c.name, i); !there[key] {
				t.Errorf("%s was acknowledged and is lost", key)
			}
		}
	}
	t.Logf("%d acknowledged writes are all there", total)
}

func TestTheEmbeddedEngineOpensNoPort(t *testing.T) {
	if _, err := os.Stat("/proc/self/net/tcp"); err != nil {
		t.Skip("SKIPPED: needs /proc")
	}
	ctx := deadline(t)
	dir := t.TempDir()
	holder := startChild(t, "sockets", dir, "holder", Relaxed)
	holder.await(t, ctx, "done", func() bool { return len(holder.lines) > 0 })
	guest := startChild(t, "sockets", dir, "guest", Relaxed)
	guest.await(t, ctx, "done", func() bool { return len(guest.lines) > 0 })
	for _, c := range []*child{holder, guest} {
		c.stop(t, ctx)
		for _, l := range c.lines {
			if strings.HasPrefix(l, "open") {
				t.Errorf("%s has a socket with a port: %s", c.name, l)
			}
		}
	}
	if guest.lines[0] == "done 0" {
		t.Error("the guest should have Unix sockets: the test does not see sockets")
	}
}

func TestAHolderThatHangsIsNotReplacedAndCallsEnd(t *testing.T) {
	ctx := deadline(t)
	dir := t.TempDir()
	holder := startChild(t, "share", dir, "holder", Relaxed)
	holder.awaitLine(t, ctx, "saw holder")
	e, _ := run(t, Options{Dir: dir})
	b := bucket(t, ctx, e, BucketConfig{Name: "b"})
	if err := holder.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	var status syscall.WaitStatus
	if _, err := syscall.Wait4(holder.cmd.Process.Pid, &status, syscall.WUNTRACED, nil); err != nil || !status.Stopped() {
		t.Fatalf("the holder did not stop: %v, %v", status, err)
	}
	short, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
	defer cancel()
	_, err := b.Put(short, "k", nil, PutOptions{})
	wantCode(t, err, fault.DeadlineExceeded, ReasonInDoubt)
	if e.Mode() != EmbeddedClient {
		t.Fatalf("mode is %s while the holder lives", e.Mode())
	}
	late, _ := run(t, Options{Dir: dir, Wait: 50 * time.Millisecond})
	_, err = late.Conn(ctx)
	wantCode(t, err, fault.Unavailable, ReasonNotReady)
	holder.kill()
	if _, err := insist(ctx, func() (uint64, error) { return b.Put(ctx, "k", nil, PutOptions{}) }); err != nil {
		t.Fatal(err)
	}
}
