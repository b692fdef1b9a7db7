package job

import (
	"strings"
	"testing"
	"time"
)

func at(t *testing.T, text string) time.Time {
	t.Helper()
	p, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestSchedulesAreDueWhenTheySay(t *testing.T) {
	const now = "2026-03-04T05:06:07Z" // a Wednesday
	for schedule, want := range map[string]string{
		"CRON_TZ=UTC * * * * * *":               "2026-03-04T05:06:08Z",
		"TZ=UTC 0 30 * * * *":                   "2026-03-04T05:30:00Z",
		"TZ=UTC 0 15 3 * * *":                   "2026-03-05T03:15:00Z",
		"TZ=UTC */20 * * * * *":                 "2026-03-04T05:06:20Z",
		"TZ=UTC 0 0 0 1 jan *":                  "2027-01-01T00:00:00Z",
		"TZ=UTC 0 0 12 ? * SUN":                 "2026-03-08T12:00:00Z",
		"TZ=UTC  @hourly":                       "2026-03-04T06:00:00Z",
		"TZ=UTC\t@daily":                        "2026-03-05T00:00:00Z",
		"TZ=UTC @midnight":                      "2026-03-05T00:00:00Z",
		"TZ=UTC @weekly":                        "2026-03-08T00:00:00Z",
		"TZ=UTC @monthly":                       "2026-04-01T00:00:00Z",
		"TZ=UTC @yearly":                        "2027-01-01T00:00:00Z",
		"TZ=UTC @annually":                      "2027-01-01T00:00:00Z",
		"CRON_TZ=Europe/Berlin 0 0 9 * * *":     "2026-03-04T08:00:00Z",
		"CRON_TZ=Asia/Tokyo @daily":             "2026-03-04T15:00:00Z",
		"CRON_TZ=America/New_York 0 30 2 7 3 *": "2026-03-07T07:30:00Z",
		"@every 1h30m":                          "2026-03-04T06:36:07Z",
		"CRON_TZ=Europe/Rome @every 1h":         "2026-03-04T06:06:07Z",
		"@every 500ms":                          "2026-03-04T05:06:07.5Z",
		"@every 0s":                             "2026-03-04T05:06:07.001Z",
	} {
		s, err := parseSchedule(schedule)
		if err != nil {
			t.Errorf("%q: %v", schedule, err)
			continue
		}
		if got := s.after(at(t, now), at(t, now)); !got.Equal(at(t, want)) {
			t.Errorf("%q is due at %v, want %s", schedule, got.UTC(), want)
		}
	}
}

// In Berlin clocks go from 2:00 to 3:00 on 29 March 2026, and from 3:00 back to
// 2:00 on 25 October.
func TestSchedulesKeepToTheClockOnTheWall(t *testing.T) {
	s, err := parseSchedule("CRON_TZ=Europe/Berlin 0 0 9 * * *")
	if err != nil {
		t.Fatal(err)
	}
	due := at(t, "2026-03-27T12:00:00Z")
	for _, want := range []string{"2026-03-28T08:00:00Z", "2026-03-29T07:00:00Z", "2026-03-30T07:00:00Z"} {
		if due = s.after(due, due); !due.Equal(at(t, want)) {
			t.Errorf("due at %v, want %s", due.UTC(), want)
		}
	}
	due = at(t, "2026-10-24T12:00:00Z")
	for _, want := range []string{"2026-10-25T08:00:00Z", "2026-10-26T08:00:00Z"} {
		if due = s.after(due, due); !due.Equal(at(t, want)) {
			t.Errorf("due at %v, want %s", due.UTC(), want)
		}
	}
}

func TestMissedTimesArePassedOver(t *testing.T) {
	for _, c := range []struct{ schedule, due, now, want string }{
		{"@every 1m", "2026-03-04T05:00:30Z", "2026-03-04T05:00:31Z", "2026-03-04T05:01:30Z"},
		{"@every 1m", "2026-03-04T05:00:30Z", "2026-03-04T07:10:00Z", "2026-03-04T07:10:30Z"},
		{"@every 1m", "2026-03-04T05:00:30Z", "2026-03-04T07:10:30Z", "2026-03-04T07:11:30Z"},
		{"@every 1m", "2026-03-04T05:00:30Z", "2026-03-04T04:00:00Z", "2026-03-04T04:01:00Z"},
		{"TZ=UTC 0 * * * * *", "2026-03-04T05:00:00Z", "2026-03-04T07:10:20Z", "2026-03-04T07:11:00Z"},
		{"TZ=UTC 0 * * * * *", "2026-03-04T05:00:00Z", "2026-03-04T04:59:59Z", "2026-03-04T05:01:00Z"},
	} {
		s, err := parseSchedule(c.schedule)
		if err != nil {
			t.Fatal(err)
		}
		if got := s.after(at(t, c.due), at(t, c.now)); !got.Equal(at(t, c.want)) {
			t.Errorf("%q, due at %s and triggered at %s, is due again at %v, want %s", c.schedule, c.due, c.now, got.UTC(), c.want)
		}
	}
}

func TestScheduleThatCannotBeReadIsExplained(t *testing.T) {
	for schedule, want := range map[string]string{
		"":                                  "wants six fields",
		"* * * * *":                         `wants six fields (second, minute, hour, day of the month, month, day of the week), @every with a duration, @hourly, @daily, @weekly, @monthly or @yearly; "* * * * *" has 5 fields`,
		"1 2 3 4 5 6 7":                     "has 7 fields",
		"60 * * * * *":                      "above maximum (59)",
		"* * * * * monkey":                  "monkey",
		"@never":                            "@never",
		"@every":                            "unrecognized descriptor",
		"@every soon":                       `@every wants a duration such as "1h30m", not "soon"`,
		"@everyday":                         "unrecognized descriptor",
		"TZ=UTC":                            "has a time zone and no schedule",
		"CRON_TZ=Not/AZone 0 0 9 * * *":     `there is no time zone "Not/AZone"`,
		"TZ= 0 0 9 * * *":                   `there is no time zone ""`,
		"CRON_TZ=../../etc/passwd @daily":   "there is no time zone",
		strings.Repeat("* ", 1000):          "has 1000 fields",
		"@every 9999999999999999999999999h": "@every wants a duration",
	} {
		if _, err := parseSchedule(schedule); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40q: error %v, want %q in it", schedule, err, want)
		}
	}
}

func TestPointsInTimeAreRead(t *testing.T) {
	base := at(t, "2026-01-31T10:00:00Z")
	for text, want := range map[string]string{
		"2030-01-02T15:04:05Z":       "2030-01-02T15:04:05Z",
		"2030-01-02T15:04:05+02:00":  "2030-01-02T13:04:05Z",
		"2030-01-02T15:04:05.25Z":    "2030-01-02T15:04:05.25Z",
		"0s":                         "2026-01-31T10:00:00Z",
		"90s":                        "2026-01-31T10:01:30Z",
		"-1h":                        "2026-01-31T09:00:00Z",
		"500ms":                      "2026-01-31T10:00:00.5Z",
		"PT1M30S":                    "2026-01-31T10:01:30Z",
		"P1D":                        "2026-02-01T10:00:00Z",
		"P2W":                        "2026-02-14T10:00:00Z",
		"P1Y2M3DT4H5M6S":             "2027-04-03T14:05:06Z",
		"P0D":                        "2026-01-31T10:00:00Z",
		"9999-12-31T23:59:59Z":       "9999-12-31T23:59:59Z",
		"P7000Y":                     "9026-01-31T10:00:00Z",
		"2030-01-02T15:04:05-00:00":  "2030-01-02T15:04:05Z",
		"2026-01-31T10:00:00.0001Z":  "2026-01-31T10:00:00.0001Z",
		"P1M":                        "2026-03-03T10:00:00Z",
		"2262-04-12T00:00:00+00:00":  "2262-04-12T00:00:00Z",
		"8760h":                      "2027-01-31T10:00:00Z",
		"2026-02-28T23:59:59.999Z":   "2026-02-28T23:59:59.999Z",
		"2024-02-29T00:00:00+14:00":  "2024-02-28T10:00:00Z",
		"1.5h":                       "2026-01-31T11:30:00Z",
		"P1DT":                       "",
		"P":                          "",
		"PT":                         "",
		"P1":                         "",
		"P1H":                        "",
		"PT1D":                       "",
		"P1D2Y":                      "",
		"P1DT1S1H":                   "",
		"P-1D":                       "",
		"P9999999D":                  "",
		"P999999Y":                   "",
		"R3/P1D":                     "",
		"tomorrow":                   "",
		"":                           "",
		"2030-01-02":                 "",
		"2030-02-30T00:00:00Z":       "",
		"99999999999999999999999999": "",
	} {
		got, err := parsePoint(text, base)
		if want == "" {
			if err == nil {
				t.Errorf("%q: no error and %v", text, got)
			}
			continue
		}
		if err != nil || !got.Equal(at(t, want)) {
			t.Errorf("%q: %v, %v; want %s", text, got.UTC(), err, want)
		}
	}
}

func FuzzSchedules(f *testing.F) {
	for _, s := range []string{"* * * * * *", "TZ=UTC 1-5/2 * * * * *", "@every 1s", "CRON_TZ= ", "TZ=", "P1DT1S", "2030-01-02T15:04:05Z", "@", "TZ=UTC @every 1s"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		now := time.Date(2026, 1, 31, 10, 0, 0, 0, time.UTC)
		if s, err := parseSchedule(text); err == nil {
			if next := s.after(now, now); !next.IsZero() && !next.After(now) {
				t.Errorf("%q is due at %v, which is not after %v", text, next, now)
			}
		}
		if p, err := parsePoint(text, now); err == nil && (p.UTC().Year() > lastYear || p.UTC().Year() < 1) {
			t.Errorf("%q is %v", text, p)
		}
	})
}
