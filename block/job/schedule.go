package job

import (
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/robfig/cron/v3"
)

// schedule says when a recurring job is due.
type schedule interface {
	// after returns when a job that was due is due again: the first time after
	// now; zero when there is none.
	after(due, now time.Time) time.Time
}

// every is a fixed distance between the times.
type every time.Duration

// minEvery is the shortest distance; shorter ones are raised to it.
const minEvery = time.Millisecond

func (e every) after(due, now time.Time) time.Time {
	d := time.Duration(e)
	if due.After(now) { // the clock has been set back
		return now.Add(d)
	}
	return due.Add((now.Sub(due)/d + 1) * d)
}

// calendar is a cron expression.
type calendar struct{ cron.Schedule }

func (c calendar) after(due, now time.Time) time.Time {
	if now.After(due) {
		due = now
	}
	return c.Next(due)
}

// parseSchedule reads a schedule: six fields, or one of the words that begin
// with @, with an optional time zone before.
func parseSchedule(text string) (schedule, error) {
	zone, rest, err := cutZone(strings.TrimSpace(text))
	if err != nil {
		return nil, err
	}
	if interval, ok := strings.CutPrefix(rest, "@every"); ok && strings.TrimLeftFunc(interval, unicode.IsSpace) != interval {
		d, err := time.ParseDuration(strings.TrimSpace(interval))
		if err != nil {
			return nil, fmt.Errorf(`@every wants a duration such as "1h30m", not %q`, strings.TrimSpace(interval))
		}
		return every(max(d, minEvery).Truncate(minEvery)), nil
	}
	if n := len(strings.Fields(rest)); !strings.HasPrefix(rest, "@") && n != 6 {
		return nil, fmt.Errorf("wants six fields (second, minute, hour, day of the month, month, day of the week), "+
			"@every with a duration, @hourly, @daily, @weekly, @monthly or @yearly; %q has %d fields", rest, n)
	}
	parsed, err := cron.NewParser(cron.Second | cron.Minute | cron.Hour | cron.Dom | cron.Month | cron.Dow | cron.Descriptor).Parse(rest)
	if err != nil {
		return nil, fmt.Errorf("%q: %w", rest, err)
	}
	if spec, ok := parsed.(*cron.SpecSchedule); ok {
		spec.Location = zone
	}
	return calendar{parsed}, nil
}

// cutZone takes "TZ=Zone " or "CRON_TZ=Zone " off the beginning of a schedule.
// Without it the zone is that of the process.
func cutZone(text string) (zone *time.Location, rest string, err error) {
	name, found := strings.CutPrefix(text, "CRON_TZ=")
	if !found {
		if name, found = strings.CutPrefix(text, "TZ="); !found {
			return time.Local, text, nil //nolint:gosmopolitan // as the API promises
		}
	}
	end := strings.IndexFunc(name, unicode.IsSpace)
	if end < 0 {
		return nil, "", fmt.Errorf("has a time zone and no schedule")
	}
	name, rest = name[:end], strings.TrimSpace(name[end:])
	if zone, err = time.LoadLocation(name); err != nil || name == "" {
		return nil, "", fmt.Errorf("there is no time zone %q", name)
	}
	return zone, rest, nil
}

// lastYear is the last year that can be stored.
const lastYear = 9999

// parsePoint reads a point in time: RFC 3339, or a duration from base on in
// Go's form or in that of ISO 8601.
func parsePoint(text string, base time.Time) (time.Time, error) {
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		var d time.Duration
		if d, err = time.ParseDuration(text); err == nil {
			t = base.Add(d)
		} else if t, err = addISO(base, text); err != nil {
			return time.Time{}, err
		}
	}
	if y := t.UTC().Year(); y > lastYear || y < 1 {
		return time.Time{}, fmt.Errorf("%q is out of range", text)
	}
	return t, nil
}

// addISO adds a duration in the form of ISO 8601, "P1Y2M3W4DT5H6M7S".
func addISO(base time.Time, text string) (time.Time, error) {
	rest, isDuration := strings.CutPrefix(text, "P")
	date, clock, hasClock := strings.Cut(rest, "T")
	d, okDate := isoParts(date, "YMWD")
	c, okClock := isoParts(clock, "HMS")
	if !isDuration || !okDate || !okClock || date+clock == "" || hasClock && clock == "" {
		return time.Time{}, fmt.Errorf(`wants a time (RFC 3339, "2030-01-02T15:04:05Z") or a duration ("90s" or "PT1M30S"), not %q`, text)
	}
	return base.AddDate(d[0], d[1], 7*d[2]+d[3]).
		Add(time.Duration(c[0])*time.Hour + time.Duration(c[1])*time.Minute + time.Duration(c[2])*time.Second), nil
}

// isoParts reads numbers with units, which come in their order.
func isoParts(text, units string) (counts []int, ok bool) {
	counts = make([]int, len(units))
	next := 0
	for text != "" {
		end := strings.IndexFunc(text, func(r rune) bool { return r < '0' || r > '9' })
		if end < 1 || end > 6 { // a million of anything is enough
			return nil, false
		}
		unit := strings.IndexByte(units[next:], text[end])
		if unit < 0 {
			return nil, false
		}
		counts[next+unit], _ = strconv.Atoi(text[:end]) // digits
		next, text = next+unit+1, text[end+1:]
	}
	return counts, true
}
