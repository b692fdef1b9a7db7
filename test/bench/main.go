// Bench measures what Proa costs, in one run on one machine: as a proxy, beside
// nginx and haproxy; between two sidecars, beside a direct call; before a store,
// beside the store; and how soon it is ready, and how much memory it takes. It
// writes a page of Markdown.
//
// What is compared is measured in turns of less than a second each, because the
// speed of a machine drifts.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

type options struct {
	proa     string
	out      string
	duration time.Duration
	rounds   int
	cores    int
	only     string
	shapes   string
	quick    bool
	profiles string
}

func main() {
	var o options
	flag.StringVar(&o.proa, "proa", "bin/proa", "the program to measure")
	flag.StringVar(&o.out, "out", "", "file to write; standard output by default")
	flag.DurationVar(&o.duration, "duration", 700*time.Millisecond, "how long one turn of a case takes")
	flag.IntVar(&o.rounds, "rounds", 3, "how many turns each has; what counts is their median")
	flag.IntVar(&o.cores, "cores", runtime.NumCPU(), "GOMAXPROCS of Proa, worker processes of nginx, threads of haproxy")
	flag.StringVar(&o.only, "only", "", "measure only cases whose name has one of these in it, separated by commas; \"one hop\", \"gRPC unary, 100 B\", \"nginx\", ...")
	flag.StringVar(&o.shapes, "shapes", "", "measure only these numbers of connections, separated by commas: 1, 16, 64, 4x32")
	flag.BoolVar(&o.quick, "quick", false, "turns of 150 ms: figures to see that it works, and no more")
	flag.StringVar(&o.profiles, "profiles", "", "folder to write CPU profiles of the sidecars to, one per case, each of a run of its own")
	flag.Parse()
	if o.quick {
		o.duration = 150 * time.Millisecond
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		stop()
		os.Exit(1) //nolint:gocritic // stop has been called
	}
}

func run(ctx context.Context, o options) (err error) {
	if o.rounds < 1 || o.cores < 1 || o.duration <= 0 {
		return errors.New("--rounds, --cores and --duration have to be positive")
	}
	if err := manyDescriptors(); err != nil {
		return err
	}
	home, err := os.MkdirTemp("", "bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(home)
	r, err := newRig(o, home)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.close()) }()
	p := page{options: o}
	if p.rows, err = r.measureCases(ctx); err != nil {
		return err
	}
	if p.flows, err = r.measureFlows(ctx); err != nil {
		return err
	}
	if o.wants("resident") {
		if p.memory, err = r.measureMemory(ctx); err != nil {
			return err
		}
	}
	if o.wants("start", "size") {
		if p.facts, err = r.measureFacts(ctx); err != nil {
			return err
		}
	}
	p.machine = describeMachine(ctx, o)
	text := p.render()
	if o.out == "" {
		_, err = os.Stdout.WriteString(text)
		return err
	}
	return os.WriteFile(o.out, []byte(keepNotes(o.out, text)), 0o644)
}

// wants reports whether something with these names is to be measured.
func (o options) wants(names ...string) bool {
	if o.only == "" {
		return true
	}
	for part := range strings.SplitSeq(o.only, ",") {
		if part = strings.TrimSpace(part); part != "" && strings.Contains(strings.Join(names, " "), part) {
			return true
		}
	}
	return false
}

// How many connections nginx and haproxy have to take, which they reserve memory
// for: in most cases, and where it is about many.
const (
	fewConnections  = 1024
	manyConnections = 12_000
)

// manyDescriptors raises the limit of open files as far as it goes, also for the
// processes that are started.
func manyDescriptors() error {
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		return err
	}
	const wanted = 2*manyConnections + 1000
	if l.Max < wanted && unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: wanted, Max: wanted}) == nil {
		return nil
	}
	l.Cur = l.Max
	return unix.Setrlimit(unix.RLIMIT_NOFILE, &l)
}

// notesMark is where the part of the page begins that people write.
const notesMark = "<!-- notes -->"

// keepNotes keeps what people have written below the figures.
func keepNotes(path, page string) string {
	old, err := os.ReadFile(path)
	if err != nil {
		return page
	}
	if _, notes, ok := strings.Cut(string(old), notesMark); ok {
		page += notesMark + notes
	}
	return page
}

func cpuModel() string {
	text, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return "unknown processor"
	}
	for line := range strings.Lines(string(text)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return filepath.Base(runtime.GOARCH)
}
