package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/internal/fastloop"
)

// natsProcess is a real server in a process of its own.
type natsProcess struct {
	url string
	cmd *exec.Cmd
}

// startNATS starts a server and waits until it takes connections. Without the
// binary the test is skipped; PROA_TEST_NATS_SERVER names another.
func startNATS(t testing.TB, dir string, port int, args ...string) *natsProcess {
	t.Helper()
	fastloop.Skip(t, "starts a server")
	path := os.Getenv("PROA_TEST_NATS_SERVER")
	if path == "" {
		var err error
		if path, err = exec.LookPath("nats-server"); err != nil {
			t.Skip("SKIPPED: no nats-server on PATH; install it or set PROA_TEST_NATS_SERVER")
		}
	}
	if len(args) == 0 {
		args = []string{"-js"}
	}
	args = append([]string{"-a", "127.0.0.1", "-p", strconv.Itoa(port), "-sd", dir}, args...)
	p := &natsProcess{url: "nats://127.0.0.1:" + strconv.Itoa(port), cmd: exec.Command(path, args...)}
	var out bytes.Buffer
	p.cmd.Stdout, p.cmd.Stderr = &out, &out
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.stop)
	for end := time.Now().Add(10 * time.Second); ; {
		c, err := net.Dial("tcp", strings.TrimPrefix(p.url, "nats://"))
		if err == nil {
			_ = c.Close()
			return p
		}
		if time.Now().After(end) {
			p.stop()
			t.Fatalf("nats-server does not answer: %v\n%s", err, out.String())
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func (p *natsProcess) stop() {
	if p.cmd.ProcessState == nil {
		_ = p.cmd.Process.Signal(syscall.SIGTERM)
		_ = p.cmd.Wait()
	}
}

func freePort(t testing.TB) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

func TestAnExternalServerMayStartLateAndRestart(t *testing.T) {
	ctx := deadline(t)
	dir, port := t.TempDir(), freePort(t)
	e, _ := run(t, Options{URL: fmt.Sprintf("nats://127.0.0.1:%d", port), Name: "app", Wait: 500 * time.Millisecond})
	_, err := e.Conn(ctx)
	wantCode(t, err, fault.Unavailable, ReasonNotReady)
	if text := fault.Message(err); !strings.Contains(text, strconv.Itoa(port)) || !strings.Contains(text, "refused") {
		t.Fatalf("the error does not say where and why: %s", text)
	}
	server := startNATS(t, dir, port)
	b, err := insist(ctx, func() (*Bucket, error) { return e.KeyValue(ctx, BucketConfig{Name: "b"}) })
	if err != nil {
		t.Fatal(err)
	}
	if e.Mode() != External || e.Durability() != ServerDefined || e.ServerVersion() == "" || !e.Status().Ready {
		t.Fatalf("status is %+v", e.Status())
	}
	rev, err := b.Put(ctx, "k", []byte("v"), PutOptions{})
	if err != nil {
		t.Fatal(err)
	}
	server.stop()
	_, err = insistNot(ctx, func() (Entry, error) { return b.Get(ctx, "k", Strong) })
	wantCode(t, err, fault.Unavailable, fault.ReasonOf(err))
	startNATS(t, dir, port)
	got, err := insist(ctx, func() (Entry, error) { return b.Get(ctx, "k", Strong) })
	if err != nil || got.Revision != rev {
		t.Fatalf("after the restart: %+v, %v", got, err)
	}
}

// insistNot calls fn until it fails.
func insistNot[T any](ctx context.Context, fn func() (T, error)) (T, error) {
	for {
		v, err := fn()
		if err != nil || ctx.Err() != nil {
			return v, err
		}
	}
}

func TestAServerWithoutJetStreamIsNamedAndTriedAgain(t *testing.T) {
	ctx := deadline(t)
	dir, port := t.TempDir(), freePort(t)
	server := startNATS(t, dir, port, "-l", os.DevNull)
	e, _ := run(t, Options{URL: server.url})
	_, err := e.Conn(ctx)
	wantCode(t, err, fault.FailedPrecondition, "")
	if text := fault.Message(err); !strings.Contains(text, server.url) || !strings.Contains(text, "JetStream") {
		t.Fatalf("the error does not say what to do: %s", text)
	}
	if s := e.Status(); s.Ready || s.Err == nil {
		t.Fatalf("status is %+v", s)
	}
	server.stop()
	startNATS(t, dir, port)
	for {
		if _, err := e.Conn(ctx); err == nil {
			return
		} else if ctx.Err() != nil {
			t.Fatal(err)
		}
		sleep(ctx, 10*time.Millisecond)
	}
}

// logged is a log that can be searched.
type logged struct{ lines chan string }

func (l logged) Write(p []byte) (int, error) {
	select {
	case l.lines <- string(p):
	default:
	}
	return len(p), nil
}

func TestCredentialsAreUsedAndNeverShown(t *testing.T) {
	const secret = "s3cr3t-pass"
	ctx := deadline(t)
	server := startNATS(t, t.TempDir(), freePort(t), "-js", "--user", "me", "--pass", secret)
	host := strings.TrimPrefix(server.url, "nats://")
	lines := logged{make(chan string, 10_000)}
	log := slog.New(slog.NewTextHandler(io.MultiWriter(lines, t.Output()), &slog.HandlerOptions{Level: slog.LevelDebug}))
	good := map[string]Options{
		"in the URL":  {URL: "nats://me:" + secret + "@" + host, Log: log},
		"in the auth": {URL: server.url, Auth: Auth{User: "me", Password: component.NewSecret(secret)}, Log: log},
	}
	for name, o := range good {
		t.Run(name, func(t *testing.T) {
			e, _ := run(t, o)
			if _, err := e.KeyValue(ctx, BucketConfig{Name: "b"}); err != nil {
				t.Fatal(err)
			}
			if s := fmt.Sprintf("%+v %s", e.Status(), e); strings.Contains(s, secret) {
				t.Fatalf("the status shows the password: %s", s)
			}
		})
	}
	t.Run("wrong", func(t *testing.T) {
		e, _ := run(t, Options{URL: "nats://me:not-" + secret + "@" + host, Wait: 2 * time.Second, Log: log})
		_, err := e.Conn(ctx)
		wantCode(t, err, fault.Unavailable, ReasonNotReady)
		text := err.Error()
		if !strings.Contains(strings.ToLower(text), "authorization") || strings.Contains(text, secret) {
			t.Fatalf("the error should name the cause and not the password: %s", text)
		}
	})
	close(lines.lines)
	for line := range lines.lines {
		if strings.Contains(line, secret) {
			t.Fatalf("the log shows the password: %s", line)
		}
	}
}

func TestARefusedRequestIsPermissionDenied(t *testing.T) {
	ctx := deadline(t)
	dir := t.TempDir()
	conf := filepath.Join(dir, "nats.conf")
	if err := os.WriteFile(conf, []byte(`
		authorization { users = [{ user: u, password: p, permissions: {
			publish: { deny: ["$KV.b.secret.>", "$JS.API.DIRECT.GET.KV_b.$KV.b.secret.>"] } } }] }`), 0o600); err != nil {
		t.Fatal(err)
	}
	server := startNATS(t, dir, freePort(t), "-js", "-c", conf)
	e, _ := run(t, Options{URL: server.url, Auth: Auth{User: "u", Password: component.NewSecret("p")}})
	b := bucket(t, ctx, e, BucketConfig{Name: "b"})
	if _, err := b.Put(ctx, "open.k", nil, PutOptions{}); err != nil {
		t.Fatal(err)
	}
	short, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
	defer cancel()
	_, err := b.Put(short, "secret.k", nil, PutOptions{})
	wantCode(t, err, fault.PermissionDenied, "")
}

func TestAnAccountThatMayNotAskForJetStreamCanStillUseIt(t *testing.T) {
	ctx := deadline(t)
	dir := t.TempDir()
	conf := filepath.Join(dir, "nats.conf")
	if err := os.WriteFile(conf, []byte(`
		authorization { users = [{ user: u, password: p, permissions: { publish: { deny: ["$JS.API.INFO"] } } }] }`), 0o600); err != nil {
		t.Fatal(err)
	}
	server := startNATS(t, dir, freePort(t), "-js", "-c", conf)
	e, _ := run(t, Options{URL: server.url, Auth: Auth{User: "u", Password: component.NewSecret("p")}})
	b := bucket(t, ctx, e, BucketConfig{Name: "b"})
	if _, err := b.Put(ctx, "k", nil, PutOptions{}); err != nil {
		t.Fatal(err)
	}
}

func TestACallInFlightWhenTheServerDiesIsInDoubtAtOnce(t *testing.T) {
	ctx := deadline(t)
	server := startNATS(t, t.TempDir(), freePort(t))
	e, _ := run(t, Options{URL: server.url})
	c, err := e.Conn(ctx)
	if err != nil {
		t.Fatal(err)
	}
	sub, err := c.NATS().SubscribeSync("nobody.answers")
	if err != nil {
		t.Fatal(err)
	}
	failed := make(chan error, 1)
	go func() {
		failed <- c.Do(ctx, func(ctx context.Context) error {
			_, err := c.NATS().RequestWithContext(ctx, "nobody.answers", nil)
			return err
		})
	}()
	if _, err := sub.NextMsgWithContext(ctx); err != nil {
		t.Fatal(err)
	}
	server.stop()
	select {
	case err := <-failed:
		wantCode(t, err, fault.Unavailable, ReasonInDoubt)
		if !errors.Is(err, errLinkLost) {
			t.Fatalf("the cause is %v", err)
		}
	case <-ctx.Done():
		t.Fatal("the call hangs")
	}
}
