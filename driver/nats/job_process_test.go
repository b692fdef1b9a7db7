package nats

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/proa-io/proa/block/job"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/engine"
	"github.com/proa-io/proa/internal/fastloop"
	"github.com/proa-io/proa/internal/testserver"
	"github.com/proa-io/proa/policy"
)

// The tests of this file run replicas in processes of their own: the test
// binary again, with these variables.
const (
	envReplica = "PROA_NATS_TEST_REPLICA" // its name
	envDir     = "PROA_NATS_TEST_DIR"     // of the embedded engine
	envURL     = "PROA_NATS_TEST_URL"     // of the external one
)

func TestMain(m *testing.M) {
	if os.Getenv(envReplica) == "" {
		testserver.Main(m)
	}
	if err := replica(); err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
}

// replica triggers jobs until standard input ends.
func replica() error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	log := slog.New(slog.NewTextHandler(os.Stderr, nil)).With("replica", os.Getenv(envReplica))
	e, err := engine.Open(ctx, engine.Options{Dir: os.Getenv(envDir), URL: os.Getenv(envURL), Log: log})
	if err != nil {
		return err
	}
	var work sync.WaitGroup
	defer work.Wait()
	defer cancel()
	work.Go(func() { _ = e.Run(ctx) })
	s := jobsOf(ctx, &work, e, log)
	working, stop := context.WithCancel(ctx)
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		stop()
	}()
	fmt.Println("ready")
	return s.Run(working, talker{})
}

// jobsOf returns the jobs of the application "shop" on an engine.
func jobsOf(ctx context.Context, work *sync.WaitGroup, e *engine.Engine, log *slog.Logger) *job.Store {
	h := component.NewHandle[job.Driver](component.HandleOptions{Name: "jobstore", Type: "jobs.nats", Log: log, Wait: time.Minute},
		func(ctx context.Context) (job.Driver, error) { return OpenJobs(ctx, e, JobsConfig{}, component.Env{}) })
	work.Go(func() { _ = h.Run(ctx) })
	return job.New(h, job.Options{Namespace: "default", AppID: "shop", Chains: policy.None{}, Log: log})
}

// talker is an application that says what it is called for.
type talker struct{}

func (talker) OnJobEvent(_ context.Context, e job.Event) error {
	fmt.Printf("begin %s\n", e.Name)
	time.Sleep(20 * time.Millisecond)
	fmt.Printf("end %s\n", e.Name)
	return nil
}

// fleet is some replicas and what they have said.
type fleet struct {
	t   *testing.T
	env []string

	mu    sync.Mutex
	ready int
	begun map[string]int
	ended map[string]int
	news  chan struct{}
}

func newFleet(t *testing.T, env ...string) *fleet {
	fastloop.Skip(t, "starts programs")
	return &fleet{t: t, env: env, begun: map[string]int{}, ended: map[string]int{}, news: make(chan struct{})}
}

// start starts a replica and returns how to kill it.
func (f *fleet) start(name string) (kill func()) {
	f.t.Helper()
	self, err := os.Executable()
	if err != nil {
		f.t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(append(os.Environ(), "GORACE=atexit_sleep_ms=0", envReplica+"="+name), f.env...)
	cmd.Stderr = f.t.Output()
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		f.t.Fatal(err)
	}
	if _, err = cmd.StdinPipe(); err != nil { // ends when this process does
		f.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		f.t.Fatal(err)
	}
	var reading sync.WaitGroup
	reading.Go(func() { f.read(stdout) })
	kill = sync.OnceFunc(func() {
		_ = cmd.Process.Kill()
		reading.Wait()
		_ = cmd.Wait()
	})
	f.t.Cleanup(kill)
	return kill
}

func (f *fleet) read(r io.Reader) {
	for s := bufio.NewScanner(r); s.Scan(); {
		what, name, _ := strings.Cut(s.Text(), " ")
		f.mu.Lock()
		switch what {
		case "ready":
			f.ready++
		case "begin":
			f.begun[name]++
		case "end":
			f.ended[name]++
		default:
			f.t.Errorf("a replica says %q", s.Text())
		}
		close(f.news)
		f.news = make(chan struct{})
		f.mu.Unlock()
	}
}

// await waits until ok, which is called with mu held.
func (f *fleet) await(what string, ok func() bool) {
	f.t.Helper()
	for late := time.After(90 * time.Second); ; {
		f.mu.Lock()
		done, news, n := ok(), f.news, len(f.ended)
		f.mu.Unlock()
		if done {
			return
		}
		select {
		case <-news:
		case <-late:
			f.t.Fatalf("it does not come so far that %s; %d jobs are done", what, n)
		}
	}
}

// wantOnce checks that all jobs were triggered, and at most more of them twice.
func (f *fleet) wantOnce(jobs, more int) {
	f.t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	extra := 0
	for i := range jobs {
		n := f.begun[fmt.Sprint("j", i)]
		if n == 0 || f.ended[fmt.Sprint("j", i)] == 0 {
			f.t.Errorf("job %d was not triggered", i)
		}
		extra += n - 1
	}
	f.t.Logf("%d jobs, %d triggers more", jobs, extra)
	if extra > more {
		f.t.Errorf("there were %d more triggers than jobs; at most %d can have been under way", extra, more)
	}
}

// scheduleMany schedules jobs, half of them at once and half in some seconds,
// through a replica of its own that triggers none.
func scheduleMany(t *testing.T, s *job.Store, jobs int) {
	t.Helper()
	for i := range jobs {
		due := "0s"
		if i%2 == 1 {
			due = "8s"
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		for {
			err := s.Schedule(ctx, &job.Job{Name: fmt.Sprint("j", i), DueTime: due}, true)
			if err == nil {
				break
			}
			if ctx.Err() != nil {
				t.Fatal(err)
			}
		}
		cancel()
	}
}

// What a replica has claimed when it is killed: all that its application can
// be called for at a time.
const underWay = 256

// The replica that is killed first also holds the engine.
func TestJobsSurviveTheDeathOfReplicas(t *testing.T) {
	t.Parallel()
	const jobs = 600
	dir := t.TempDir()
	f := newFleet(t, envDir+"="+dir)
	first := f.start("first")
	f.await("the first is ready", func() bool { return f.ready == 1 })
	second := f.start("second")
	f.start("third")
	f.await("all are ready", func() bool { return f.ready == 3 })
	s := storeOn(t, engine.Options{Dir: dir})
	scheduleMany(t, s, jobs)
	f.await("some are triggered", func() bool { return len(f.begun) > 50 })
	first()
	f.await("some more are triggered", func() bool { return len(f.begun) > jobs/2+50 })
	second()
	f.await("all are triggered", func() bool { return len(f.ended) == jobs })
	f.wantOnce(jobs, 2*underWay)
	awaitNoJobs(t, s)
}

func TestJobsSurviveTheDeathOfTheServer(t *testing.T) {
	t.Parallel()
	const jobs = 400
	server := testserver.NATS(t, testserver.NATSOptions{})
	f := newFleet(t, envURL+"="+server.URL())
	f.start("first")
	f.start("second")
	f.await("all are ready", func() bool { return f.ready == 2 })
	s := storeOn(t, engine.Options{URL: server.URL()})
	scheduleMany(t, s, jobs)
	f.await("some are triggered", func() bool { return len(f.begun) > 50 })
	server.Kill()
	time.Sleep(silence) // so that all have been silent for as long as that
	server.Restart()
	f.await("all are triggered", func() bool { return len(f.ended) == jobs })
	f.wantOnce(jobs, 0)
	awaitNoJobs(t, s)
}

// silence is longer than a replica takes another one for alive that is silent.
const silence = 7 * time.Second

func storeOn(t *testing.T, o engine.Options) *job.Store {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var work sync.WaitGroup
	e := runEngine(t, o)
	s := jobsOf(ctx, &work, e, slog.New(slog.NewTextHandler(t.Output(), nil)))
	t.Cleanup(func() { cancel(); work.Wait() })
	return s
}

func awaitNoJobs(t *testing.T, s *job.Store) {
	t.Helper()
	for late := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		jobs, err := s.List(t.Context())
		if err == nil && len(jobs) == 0 {
			return
		}
		if time.Now().After(late) {
			t.Fatalf("%d jobs are left: %v", len(jobs), err)
		}
	}
}
