package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"
)

// flowRuns is how often a flow is measured: it has to be the same every time.
const flowRuns = 3

// flow is a stream of messages through a sidecar, from their publisher to the
// one who gets them.
type flow struct {
	name, conditions string
	// run lets messages flow for d and waits until the last has arrived. It
	// returns how many there were and how long it all took.
	run func(ctx context.Context, d time.Duration) (n int, took time.Duration, err error)
	// sidecar is the one whose cost counts.
	sidecar string
}

// flowRow is one line of the result.
type flowRow struct {
	flow
	rates [flowRuns]float64 // messages per second
	cpu   time.Duration     // per 1,000 messages
}

// String is the row for the screen.
func (f flowRow) String() string {
	return fmt.Sprintf("%-28s %s: %.0f/s  cpu %.1f ms/1k", f.name, f.conditions, f.rates, float64(f.cpu)/float64(time.Millisecond))
}

// measureFlows measures all flows that are wanted.
func (r *rig) measureFlows(ctx context.Context) ([]flowRow, error) {
	if err := r.startOutbox(ctx); err != nil {
		return nil, err
	}
	if err := r.startDelivery(ctx); err != nil {
		return nil, err
	}
	var out []flowRow
	for _, f := range append(r.outboxFlows(), r.deliveryFlows()...) {
		if r.only != "" && !strings.Contains(f.name+" "+f.conditions, r.only) {
			continue
		}
		row, err := r.measureFlow(ctx, f)
		if err != nil {
			return nil, fmt.Errorf("%s, %s: %w", f.name, f.conditions, err)
		}
		out = append(out, row)
		fmt.Fprintln(os.Stderr, row)
	}
	return out, nil
}

func (r *rig) measureFlow(ctx context.Context, f flow) (flowRow, error) {
	out := flowRow{flow: f}
	if _, _, err := f.run(ctx, r.duration/4); err != nil { // warm up
		return out, err
	}
	total := 0
	before, _, err := r.costs(ctx, []string{f.sidecar})
	if err != nil {
		return out, err
	}
	wait := r.profile(ctx, benchCase{name: f.name, path: f.conditions, sidecars: []string{f.sidecar}}, 0)
	for i := range out.rates {
		n, took, err := f.run(ctx, r.duration)
		if err != nil {
			return out, err
		}
		total += n
		out.rates[i] = float64(n) / took.Seconds()
	}
	if err := wait(); err != nil {
		return out, err
	}
	after, _, err := r.costs(ctx, []string{f.sidecar})
	out.cpu = (after - before) * 1000 / time.Duration(max(total, 1))
	return out, err
}

// renderFlows is the part of the page that is about flows.
func renderFlows(rows []flowRow) string {
	var b strings.Builder
	b.WriteString("\nMessages per second, from the first that is sent until the last has arrived, in three runs one after the other;\n" +
		"publisher and subscriber share the processors with the sidecar. Deliveries are of messages that wait already: their time begins when\n" +
		"the subscriber takes the first, and their CPU time has that of publishing in it.\n\n| what | how | messages/s | CPU ms per 1,000 |\n|---|---|---|---|\n")
	for _, r := range rows {
		fmt.Fprintf(&b, "| %s | %s | %.0f, %.0f, %.0f | %.1f |\n", r.name, r.conditions, r.rates[0], r.rates[1], r.rates[2], float64(r.cpu)/float64(time.Millisecond))
	}
	return b.String()
}
