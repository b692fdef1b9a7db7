package main

import (
	"context"
	"fmt"
	"os/exec"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/proa-io/proa/test/bench/load"
	"github.com/proa-io/proa/test/bench/peer"
)

// page is everything that was measured.
type page struct {
	options
	machine string
	rows    []*row
	flows   []flowRow
	memory  []memoryRow
	facts   []fact
}

// describeMachine says what was measured, on what, and with what.
func describeMachine(ctx context.Context, o options) string {
	kernel := "unknown kernel"
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		kernel = "Linux " + unix.ByteSliceToString(u.Release[:])
	}
	version := "unknown"
	if out, err := exec.CommandContext(ctx, o.proa, "version").Output(); err == nil { //nolint:gosec // the program to measure
		version = strings.TrimSpace(string(out))
	}
	redis := strings.Join(strings.Fields(peer.Version(ctx, "redis-server", "--version"))[:3], " ")
	return fmt.Sprintf("Machine: %d × %s, %s/%s, %s. Proa %s, built with %s; %s; %s; %s.", runtime.NumCPU(), cpuModel(), runtime.GOOS, runtime.GOARCH,
		kernel, version, runtime.Version(), peer.Version(ctx, "nginx", "-v"), peer.Version(ctx, "haproxy", "-v"), redis)
}

// intro is the beginning of the page.
const intro = `# Performance

Written by ` + "`make bench`" + `; every figure is of one run on one machine, where the client, the application and what is
between them share its processors, so compare within the page. CPU time is the figure that compares best.

%s

Each has %d cores: Proa GOMAXPROCS=%[2]d, nginx worker_processes %[2]d, haproxy nbthread %[2]d. Proa counts for metrics, finds
the application by its id, bounds the calls under way (--app-max-concurrency) and has its policies loaded; nginx and
haproxy log nothing and bound nothing. All keep their connections, to the client and to the application.

Each figure is the median of %d runs of %v. The contenders of a case take turns, so that a machine whose speed
drifts is as fast or slow for all of them. ` + "`4x32`" + ` are 4 connections with 32 streams on each; each stream, or connection, has
one call under way. Client and application echo the body, byte by byte on sockets, with no library in between.

CPU time is user and system time of all processes of the proxy, or of both sidecars; a ratio is the median of those of the
runs. Allocations are those of Proa per call. Memory is the most that was resident during the case.

` + "```sh" + `
make bench                                                          # this page, in about ten minutes
go run ./test/bench --only "HTTP/1.1 one hop" --shapes 1,16         # some of it, to standard output
go run ./test/bench --only "two sidecars" --profiles DIR            # with CPU profiles of the sidecars
make soak                                                           # ten minutes of everything at once: is it flat?
` + "```" + `
`

// render makes the page.
func (p *page) render() string {
	var b strings.Builder
	fmt.Fprintf(&b, intro, p.machine, p.cores, p.rounds, p.duration)
	p.table(&b, tableProxy, fmt.Sprintf(`
## As a proxy

One hop: a client, the proxy, the application. `+"`x best`"+` compares with the one of nginx and haproxy that needs less. On the
streams, which are bidirectional and last a run, %d messages are under way at a time, and what counts is messages.
`, inFlight))
	p.table(&b, tableInvoke, `
## Between two sidecars

The client's sidecar, the application's, the application; plain, and over mutual TLS with `+"`--mtls strict`"+` and identities from
files. `+"`added`"+` is what the median takes longer than a direct call.
`)
	p.table(&b, tableState, `
## State and publishing

One key of 1 KiB is set and read. redis itself gets SET and GET; a value of Proa in redis is a hash with a version, set by a script, as Dapr has
it. `+"`added`"+` is what the median takes longer than redis itself. What is on the engine is embedded in the sidecar, durability relaxed.
`)
	if len(p.flows) > 0 {
		b.WriteString("\n## Messages\n" + renderFlows(p.flows))
	}
	if len(p.memory) > 0 {
		b.WriteString(renderMemory(p.memory))
	}
	if len(p.facts) > 0 {
		b.WriteString("\n## Start and size\n\n| fact | value |\n|---|---|\n")
		for _, f := range p.facts {
			fmt.Fprintf(&b, "| %s | %s |\n", f.name, f.value)
		}
	}
	b.WriteString("\n")
	return b.String()
}

// table writes the rows of one table, when there are any.
func (p *page) table(b *strings.Builder, name, text string) {
	proxies := name == tableProxy
	begun := false
	for _, r := range p.rows {
		if r.table != name {
			continue
		}
		if !begun {
			begun = true
			b.WriteString(text + "\n| what | through | connections | requests/s | p50 µs | p99 µs | p99.9 µs |")
			if proxies {
				b.WriteString(" CPU ms per 1,000 | x nginx | x best | allocations | MB |\n|---|---|---|---|---|---|---|---|---|---|---|---|\n")
			} else {
				b.WriteString(" added µs | CPU ms per 1,000 | allocations | MB |\n|---|---|---|---|---|---|---|---|---|---|---|\n")
			}
		}
		b.WriteString(r.markdown(proxies))
	}
}

// markdown is the row for the page.
func (r *row) markdown(proxies bool) string {
	text := fmt.Sprintf("| %s | %s | %v | %.0f | %.0f | %.0f | %.0f |", r.name, r.contender, r.shape,
		load.Median(r.rate), load.Median(r.p50), load.Median(r.p99), load.Median(r.p999))
	cell := func(there bool, format string, v float64) {
		if !there {
			text += "  |"
			return
		}
		text += " " + fmt.Sprintf(format, v) + " |"
	}
	if !proxies {
		added := 0.0
		if r.base != nil {
			added = load.Median(r.p50) - load.Median(r.base.p50)
		}
		cell(r.base != nil, "%.0f", added)
	}
	cell(r.costs, "%.1f", load.Median(r.cpu))
	if proxies {
		cell(r.againstNginx > 0, "%.2f", r.againstNginx)
		cell(r.againstBest > 0, "%.2f", r.againstBest)
	}
	cell(r.allocs >= 0, "%.1f", r.allocs)
	cell(r.costs, "%.1f", r.peak)
	return text + "\n"
}
