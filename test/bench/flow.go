package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/proa-io/proa/test/bench/proc"
	"github.com/proa-io/proa/test/bench/sidecar"
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
	return fmt.Sprintf("%-28s %s: %.0f/s  cpu %.1f ms/1k", f.name, f.conditions, f.rates, ms(f.cpu))
}

// measureFlows measures all flows that are wanted.
func (r *rig) measureFlows(ctx context.Context) ([]flowRow, error) {
	var out []flowRow
	flows, err := r.flows(ctx)
	if err != nil {
		return nil, err
	}
	for _, f := range flows {
		if !r.wants(f.name, f.conditions) {
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

// flows returns the flows there are, and starts what those that are wanted need.
func (r *rig) flows(ctx context.Context) ([]flow, error) {
	var out []flow
	if r.wants("outbox", "flow") {
		if err := r.startOutbox(ctx); err != nil {
			return nil, err
		}
		out = r.outboxFlows()
	}
	if r.wants("delivery", "flow") {
		if err := r.startDelivery(ctx); err != nil {
			return nil, err
		}
		out = append(out, r.deliveryFlows()...)
	}
	return out, nil
}

func (r *rig) measureFlow(ctx context.Context, f flow) (flowRow, error) {
	out := flowRow{flow: f}
	d := r.duration * 3
	if _, _, err := f.run(ctx, d/4); err != nil { // warm up
		return out, err
	}
	total := 0
	s := r.sidecars[f.sidecar]
	before, err := proc.CPU(s.PID())
	if err != nil {
		return out, err
	}
	wait := r.takeProfiles(ctx, []*sidecar.Process{s}, d, f.name+"-"+f.conditions)
	for i := range out.rates {
		n, took, err := f.run(ctx, d)
		if err != nil {
			return out, err
		}
		total += n
		out.rates[i] = float64(n) / took.Seconds()
	}
	if err := wait(); err != nil {
		return out, err
	}
	after, err := proc.CPU(s.PID())
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
		fmt.Fprintf(&b, "| %s | %s | %.0f, %.0f, %.0f | %.1f |\n", r.name, r.conditions, r.rates[0], r.rates[1], r.rates[2], ms(r.cpu))
	}
	return b.String()
}
