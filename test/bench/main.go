// Bench measures what a sidecar costs, against the same call made directly, in
// one run on one machine: requests per second, latency, the CPU time of the
// sidecar processes, their allocations, how soon they are ready, and how much
// memory they take. It writes a page of Markdown.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

type options struct {
	proa     string
	out      string
	duration time.Duration
	only     string
	profiles string
}

func main() {
	var o options
	flag.StringVar(&o.proa, "proa", "bin/proa", "the program to measure")
	flag.StringVar(&o.out, "out", "", "file to write; standard output by default")
	flag.DurationVar(&o.duration, "duration", 4*time.Second, "how long to measure each case")
	flag.StringVar(&o.only, "only", "", "measure only cases whose name has this in it")
	flag.StringVar(&o.profiles, "profiles", "", "folder to write CPU profiles of the sidecars to, one per case")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		stop()
		os.Exit(1) //nolint:gocritic // stop has been called
	}
}

func run(ctx context.Context, o options) error {
	home, err := os.MkdirTemp("", "bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(home)
	r := &rig{options: o, home: home}
	defer r.close()
	if err := r.start(ctx); err != nil {
		return err
	}
	var rows []row
	for _, c := range r.cases() {
		if o.only != "" && !strings.Contains(c.name+" "+c.path, o.only) {
			continue
		}
		for _, conns := range []int{1, 16} {
			res, err := r.measure(ctx, c, conns)
			if err != nil {
				return fmt.Errorf("%s, %s, %d connections: %w", c.name, c.path, conns, err)
			}
			rows = append(rows, res)
			fmt.Fprintln(os.Stderr, res)
		}
	}
	flows, err := r.measureFlows(ctx)
	if err != nil {
		return err
	}
	idle, err := r.idle()
	if err != nil {
		return err
	}
	ready, err := startToReady(ctx, o.proa)
	if err != nil {
		return err
	}
	size, err := os.Stat(o.proa)
	if err != nil {
		return err
	}
	page := render(rows, flows, facts{idle: idle, ready: ready, size: size.Size(), duration: o.duration, version: versionOf(ctx, o.proa)})
	if o.out == "" {
		_, err = os.Stdout.WriteString(page)
		return err
	}
	return os.WriteFile(o.out, []byte(keepNotes(o.out, page)), 0o644)
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

func versionOf(ctx context.Context, proa string) string {
	out, err := exec.CommandContext(ctx, proa, "version").Output() //nolint:gosec // what the user asks for
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(out))
}

// facts are what is measured once.
type facts struct {
	idle     []string
	ready    time.Duration
	size     int64
	duration time.Duration
	version  string
}

func render(rows []row, flows []flowRow, f facts) string {
	var b strings.Builder
	fmt.Fprintf(&b, "# Performance\n\nWritten by `make bench`; every figure is of one run on one machine, where the client, the application and the\nsidecars share its processors, so compare within the page. Each case ran for %v.\n\n", f.duration)
	fmt.Fprintf(&b, "Machine: %d × %s, %s/%s, %s. Proa %s.\n\n", runtime.NumCPU(), cpuModel(), runtime.GOOS, runtime.GOARCH, runtime.Version(), f.version)
	b.WriteString("CPU and allocations are those of the sidecar processes together, per request; `direct` has none.\n\n")
	b.WriteString("| what | how | connections | requests/s | p50 µs | p99 µs | CPU ms per 1,000 | allocations |\n|---|---|---|---|---|---|---|---|\n")
	for _, r := range rows {
		fmt.Fprintf(&b, "| %s | %s | %d | %.0f | %.0f | %.0f | %s | %s |\n", r.name, r.path, r.conns, r.rps, us(r.p50), us(r.p99), r.cpuText(), r.allocText())
	}
	b.WriteString(renderFlows(flows))
	fmt.Fprintf(&b, "\n| fact | value |\n|---|---|\n| from start to ready (median of %d, `/v1.0/healthz/outbound` answers) | %v |\n", startRuns, f.ready.Round(100*time.Microsecond))
	for _, line := range f.idle {
		fmt.Fprintf(&b, "| %s |\n", line)
	}
	fmt.Fprintf(&b, "| stripped binary | %.1f MB |\n\n", float64(f.size)/1e6)
	return b.String()
}

func us(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

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
