package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// play tells the story.
func play(ctx context.Context) (err error) {
	proa := flag.String("proa", "proa", "the proa program")
	flag.Parse()
	ctx, cancel := context.WithTimeout(ctx, 100*time.Second)
	defer cancel()
	s, err := open(ctx, *proa)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	if err := s.ready(ctx); err != nil {
		return err
	}
	say("The shop asks reviews without a pause. Version 1 answers 99 of 100 times.")
	stop := s.load(ctx)
	defer stop()
	if err := s.watch(ctx, 0.002, 0.05); err != nil {
		return err
	}
	if got, err := s.ask(ctx, "yes"); err != nil || got != "v2" {
		return fmt.Errorf("a tester gets %q: %w", got, err)
	}
	say("Who sends x-tester: yes always gets version 2. Now 10 %% for it:")
	if err := s.edit(90, 10); err != nil {
		return err
	}
	if err := s.watch(ctx, 0.06, 0.16); err != nil {
		return err
	}
	say("And all of it:")
	if err := s.edit(0, 100); err != nil {
		return err
	}
	if err := s.watch(ctx, 1, 1); err != nil {
		return err
	}
	stop()
	all, failed := s.all.Load(), s.failed.Load()
	say("%d requests, %d failed.", all, failed)
	if failed > 0 {
		return fmt.Errorf("%d of %d requests failed, the last one: %v", failed, all, s.why.Load())
	}
	say("Done.")
	return nil
}

func say(format string, args ...any) { fmt.Printf("\n▶ "+format+"\n", args...) }

// story is the running services.
type story struct {
	cmd    *exec.Cmd
	home   string
	output bytes.Buffer
	shop   string // its address
	api    int    // of its sidecar

	all, v2, failed atomic.Int64
	why             atomic.Value
}

// open starts the services with their sidecars.
func open(ctx context.Context, proa string) (*story, error) {
	s := &story{}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	route, err := os.ReadFile(filepath.Join("examples", "canary", "resources", "reviews.yaml"))
	if err != nil {
		return nil, fmt.Errorf("run it from the root of the repository: %w", err)
	}
	if s.home, err = os.MkdirTemp("", "canary-"); err != nil {
		return nil, err
	}
	if err := os.Mkdir(filepath.Join(s.home, "resources"), 0o700); err != nil {
		return nil, err
	}
	if err := os.WriteFile(s.route(), route, 0o600); err != nil {
		return nil, err
	}
	file := fmt.Sprintf("version: 1\ncommon:\n  resourcesPaths:\n  - %s\napps:\n", filepath.Join(s.home, "resources"))
	for _, app := range []struct{ id, role string }{{"shop", "shop"}, {"reviews-v1", "v1"}, {"reviews-v2", "v2"}} {
		ports, err := freePorts()
		if err != nil {
			return nil, err
		}
		if app.role == "shop" {
			s.shop, s.api = fmt.Sprintf("http://127.0.0.1:%d/", ports[0]), ports[1]
		}
		command, err := json.Marshal([]string{self, app.role})
		if err != nil {
			return nil, err
		}
		file += fmt.Sprintf("- appID: %s\n  appDirPath: %s\n  appPort: %d\n  daprHTTPPort: %d\n  logLevel: warn\n  command: %s\n", app.id, s.home, ports[0], ports[1], command)
	}
	path := filepath.Join(s.home, "canary.yaml")
	if err := os.WriteFile(path, []byte(file), 0o600); err != nil {
		return nil, err
	}
	s.cmd = exec.CommandContext(ctx, proa, "run", "--home", s.home, "-f", path) //nolint:gosec // what the user asks for
	s.cmd.Cancel = func() error { return s.cmd.Process.Signal(syscall.SIGTERM) }
	s.cmd.WaitDelay = 15 * time.Second
	s.cmd.Stdout = &s.output
	s.cmd.Stderr = s.cmd.Stdout
	return s, s.cmd.Start()
}

func (s *story) route() string { return filepath.Join(s.home, "resources", "reviews.yaml") }

// freePorts returns two ports that nobody uses now.
func freePorts() (ports [2]int, err error) {
	for i := range ports {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return ports, err
		}
		defer l.Close()
		ports[i] = l.Addr().(*net.TCPAddr).Port //nolint:forcetypeassert // it was asked for as one
	}
	return ports, nil
}

// close stops the services.
func (s *story) close() error {
	var err error
	if serr := s.cmd.Process.Signal(syscall.SIGTERM); serr == nil {
		err = s.cmd.Wait()
	}
	if err != nil {
		err = fmt.Errorf("%w\n%s", err, s.output.String())
	}
	return errors.Join(err, os.RemoveAll(s.home))
}

// ask lets the shop ask reviews, and returns the version that answers.
func (s *story) ask(ctx context.Context, tester string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.shop, nil)
	if err != nil {
		return "", err
	}
	if tester != "" {
		req.Header.Set("X-Tester", tester)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", resp.Status, answer)
	}
	return string(answer), err
}

// ready waits until both versions can be reached.
func (s *story) ready(ctx context.Context) error {
	for _, name := range []string{"reviews-v1", "reviews-v2"} {
		for {
			resp, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/v1.0/invoke/%s/method/", s.api, name)) //nolint:noctx // it is local
			if err == nil {
				_ = resp.Body.Close()
				if resp.StatusCode == http.StatusOK {
					break
				}
			}
			if ctx.Err() != nil {
				return fmt.Errorf("%s did not get ready: %w\n%s", name, err, s.output.String())
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
	for {
		if _, err := s.ask(ctx, ""); err == nil {
			return nil
		} else if ctx.Err() != nil {
			return fmt.Errorf("the shop did not get ready: %w\n%s", err, s.output.String())
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// load asks without a pause until it is told to stop.
func (s *story) load(ctx context.Context) (stop func()) {
	end := make(chan struct{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-end:
					return
				default:
				}
				got, err := s.ask(ctx, "")
				s.all.Add(1)
				switch {
				case err != nil:
					s.failed.Add(1)
					s.why.Store(err.Error())
				case got == "v2":
					s.v2.Add(1)
				}
			}
		})
	}
	return sync.OnceFunc(func() {
		close(end)
		wg.Wait()
	})
}

// edit changes the weights, as somebody with an editor would.
func (s *story) edit(v1, v2 int) error {
	text, err := os.ReadFile(s.route())
	if err != nil {
		return err
	}
	lines := strings.Split(string(text), "\n")
	for i, line := range lines {
		for name, weight := range map[string]int{"reviews-v1": v1, "reviews-v2": v2} {
			if strings.Contains(line, "{name: "+name+", weight:") {
				lines[i] = fmt.Sprintf("    - {name: %s, weight: %d}", name, weight)
			}
		}
	}
	return os.WriteFile(s.route(), []byte(strings.Join(lines, "\n")), 0o600)
}

// sample is how many requests tell the share of a version.
const sample = 1500

// watch waits until the share of version 2 in a sample of the requests is what the
// file says.
func (s *story) watch(ctx context.Context, least, most float64) error {
	for {
		all, v2 := s.all.Load(), s.v2.Load()
		for s.all.Load()-all < sample && ctx.Err() == nil {
			time.Sleep(10 * time.Millisecond)
		}
		n := s.all.Load() - all
		share := float64(s.v2.Load()-v2) / float64(max(1, n))
		if ctx.Err() != nil {
			return fmt.Errorf("version 2 answers %.1f %% of the requests, want %.1f to %.1f: %w\n%s", 100*share, 100*least, 100*most, ctx.Err(), s.output.String())
		}
		if share >= least && share <= most {
			fmt.Printf("    → version 2 answers %.1f %% of %d requests\n", 100*share, n)
			return nil
		}
	}
}
