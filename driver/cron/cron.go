// Package cron is the input binding that produces an event at set times.
package cron

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/robfig/cron/v3"

	"github.com/proa-io/proa/block/binding"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
)

// Specs lists what this package offers to the building blocks.
func Specs() []component.Spec {
	return []component.Spec{
		binding.InputSpec(component.Description{
			Name:    "cron",
			Summary: "Produces an event at set times.",
		}, Config{}, Open),
	}
}

// Config configures a clock.
//
// Events have no data; their metadata are "readTimeUTC", the time, and
// "timeZone". The operation "delete" stops the clock until the component is
// opened again. An event that the application does not take is not repeated.
type Config struct {
	// Schedule says when: five fields, minute, hour, day of the month, month
	// and day of the week ("0 9 * * MON-FRI"); six fields, seconds first ("*/15
	// * * * * *"); "@every 1h30m", of at least a second; or one of @hourly,
	// @daily, @weekly, @monthly and @yearly. "TZ=Asia/Tokyo " before it sets
	// the time zone; otherwise it is that of the process.
	Schedule string `setting:"schedule,required"`
}

// Validate reports a schedule that cannot be read or that never comes.
func (c Config) Validate() error {
	s, err := parse(c.Schedule)
	if err != nil {
		return component.Invalid("schedule", "%v", err)
	}
	if s.Next(time.Now()).IsZero() {
		return component.Invalid("schedule", "names a time that never comes")
	}
	return nil
}

func parse(schedule string) (cron.Schedule, error) {
	schedule = strings.TrimSpace(schedule)
	if zone, hasZone := zoneOf(schedule); hasZone && zone == schedule {
		return nil, fmt.Errorf("has a time zone and no schedule") // the library would panic
	}
	if every, ok := strings.CutPrefix(schedule, "@every "); ok {
		if d, err := time.ParseDuration(strings.TrimSpace(every)); err == nil && d <= 0 {
			return nil, fmt.Errorf("wants a positive duration after @every")
		}
	}
	return cron.NewParser(cron.SecondOptional | cron.Minute | cron.Hour | cron.Dom | cron.Month | cron.Dow | cron.Descriptor).
		Parse(schedule)
}

// zoneOf returns the first word of a schedule if it sets a time zone.
func zoneOf(schedule string) (string, bool) {
	if !strings.HasPrefix(schedule, "TZ=") && !strings.HasPrefix(schedule, "CRON_TZ=") {
		return "", false
	}
	word, _, _ := strings.Cut(schedule, " ")
	return word, true
}

// Clock is a binding.Input, and a binding.Output for the sake of its operation
// "delete".
type Clock struct {
	text     string
	schedule cron.Schedule
	zone     string
	log      *slog.Logger

	deleted    chan struct{} // closed by the operation "delete"
	deleteOnce sync.Once
}

// Open returns a Clock.
func Open(_ context.Context, cfg Config, env component.Env) (*Clock, error) {
	schedule, err := parse(cfg.Schedule)
	if err != nil {
		return nil, fault.New(fault.InvalidArgument, "schedule: %v", err)
	}
	c := &Clock{
		text: cfg.Schedule, schedule: schedule, zone: time.Local.String(),
		log: env.Log, deleted: make(chan struct{}),
	}
	if s, ok := schedule.(*cron.SpecSchedule); ok {
		c.zone = s.Location.String()
	}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	return c, nil
}

// maxOverlap bounds how many events may be under way when handling one takes
// longer than the next is away. Beyond it events are left out.
const maxOverlap = 8

// maxSleep bounds how long to sleep without a look at the wall clock, which
// may be set and which runs on while a machine is suspended.
const maxSleep = time.Minute

// Listen implements binding.Input. An event comes on time whether the one
// before has been handled or not.
func (c *Clock) Listen(ctx context.Context, handle binding.Handler) error {
	var handling sync.WaitGroup
	defer handling.Wait()
	slots := make(chan struct{}, maxOverlap)
	for {
		if !c.sleepUntil(ctx, c.schedule.Next(time.Now())) {
			return context.Cause(ctx)
		}
		select {
		case slots <- struct{}{}:
		default:
			c.log.WarnContext(ctx, "event of the clock is left out because the ones before it are still being handled",
				"under_way", maxOverlap)
			continue
		}
		e := binding.Event{Metadata: map[string]string{
			"timeZone":    c.zone,
			"readTimeUTC": time.Now().UTC().String(),
		}}
		handling.Go(func() {
			defer func() { <-slots }()
			_ = handle(ctx, e) // nothing can be delivered again
		})
	}
}

// sleepUntil waits until t, or for ever once the clock has been stopped, and
// reports whether ctx still lasts.
func (c *Clock) sleepUntil(ctx context.Context, t time.Time) bool {
	for {
		left := t.Round(0).Sub(time.Now().Round(0)) // by the wall clock
		if left <= 0 && ctx.Err() == nil {
			return true
		}
		timer := time.NewTimer(min(left, maxSleep))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return false
		case <-c.deleted:
			timer.Stop()
			<-ctx.Done()
			return false
		}
	}
}

// Operations implements binding.Output.
func (c *Clock) Operations() []string { return []string{"delete"} }

// Repeatable implements binding.Repeatable.
func (c *Clock) Repeatable(string) bool { return true }

// Invoke implements binding.Output.
func (c *Clock) Invoke(ctx context.Context, r binding.Request) (binding.Response, error) {
	if r.Operation != "delete" {
		return binding.Response{}, fault.New(fault.InvalidArgument, "there is no operation %q; there is delete", r.Operation)
	}
	if err := ctx.Err(); err != nil {
		return binding.Response{}, err
	}
	c.deleteOnce.Do(func() { close(c.deleted) })
	return binding.Response{Metadata: map[string]string{
		"schedule":    c.text,
		"stopTimeUTC": time.Now().UTC().String(),
	}}, nil
}

// Close implements io.Closer.
func (c *Clock) Close() error { return nil }
