package job

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"time"
)

// record is a job as it is stored: a line of JSON, and its data as they are.
type record struct {
	// ID tells apart the calls of Schedule that stored jobs of one name.
	ID string `json:"id"`

	Schedule string    `json:"schedule,omitempty"`
	Repeats  uint32    `json:"repeats,omitempty"`
	DueTime  string    `json:"dueTime,omitempty"`
	TTL      string    `json:"ttl,omitempty"`
	Failure  onFailure `json:"onFailure"`
	// DataType is the type of the data; nil when there are none.
	DataType *string `json:"dataType,omitempty"`

	Created time.Time `json:"created"`
	// Due is when the job is due, or was when it is being tried.
	Due time.Time `json:"due"`
	// Expires is when the job ends; zero for never.
	Expires time.Time `json:"expires,omitzero"`
	// Count is how often it has been triggered, tries of one trigger not counted.
	Count uint32 `json:"count,omitempty"`

	// Began is when the first try at the present trigger began; zero before.
	Began time.Time `json:"began,omitzero"`
	// Attempts counts the tries that failed, RetryAt is when the next one is.
	Attempts uint32    `json:"attempts,omitempty"`
	RetryAt  time.Time `json:"retryAt,omitzero"`
	// Claim is the session whose turn it is; empty when it is nobody's.
	Claim string `json:"claim,omitempty"`

	data []byte
}

// onFailure is FailurePolicy as it is stored.
type onFailure struct {
	Drop        bool    `json:"drop,omitempty"`
	Interval    string  `json:"interval,omitempty"`
	MaxInterval string  `json:"maxInterval,omitempty"`
	MaxRetries  *uint32 `json:"maxRetries,omitempty"`
}

// encode returns r as it is stored.
func (r *record) encode() ([]byte, error) {
	head, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	return append(append(head, '\n'), r.data...), nil
}

// decode reads what encode wrote.
func decode(value []byte) (*record, error) {
	head, data, _ := bytes.Cut(value, []byte{'\n'})
	r := &record{data: data}
	if err := json.Unmarshal(head, r); err != nil {
		return nil, err
	}
	if r.ID == "" || r.Due.IsZero() {
		return nil, errors.New("it is no job")
	}
	return r, nil
}

// newRecord checks a job and returns it as it is first stored.
func newRecord(j *Job, id string, now time.Time) (*record, error) {
	r := &record{
		ID: id, Schedule: j.Schedule, DueTime: j.DueTime, TTL: j.TTL, Created: now.UTC().Round(0),
		Failure: defaultFailurePolicy().stored(),
	}
	if j.Repeats != nil {
		r.Repeats = *j.Repeats
	}
	if j.FailurePolicy != nil {
		r.Failure = j.FailurePolicy.stored()
	}
	if j.Data != nil {
		r.DataType, r.data = &j.Data.TypeURL, j.Data.Value
	}
	if err := r.setDue(now); err != nil {
		return nil, err
	}
	if j.TTL != "" {
		base := now
		if j.DueTime != "" {
			base = r.Due
		}
		expires, err := parsePoint(j.TTL, base)
		if err != nil {
			return nil, invalid(ReasonTTL, "ttl: %v", err)
		}
		if j.DueTime != "" && r.Due.After(expires) {
			return nil, invalid(ReasonTTL, "ttl: the job would end at %s, before it is due at %s",
				expires.Format(time.RFC3339), r.Due.Format(time.RFC3339))
		}
		r.Expires = expires.UTC()
	}
	return r, nil
}

// setDue sets when the job is due first.
func (r *record) setDue(now time.Time) error {
	var s schedule
	var err error
	if r.Schedule != "" {
		if s, err = parseSchedule(r.Schedule); err != nil {
			return invalid(ReasonSchedule, "schedule: %v", err)
		}
	}
	if r.DueTime != "" {
		if r.Due, err = parsePoint(r.DueTime, now); err != nil {
			return invalid(ReasonDueTime, "dueTime: %v", err)
		}
	} else if r.Due = s.after(now, now); r.Due.IsZero() {
		return invalid(ReasonSchedule, "schedule: %q names a time that never comes", r.Schedule)
	}
	r.Due = r.Due.UTC().Round(0)
	return nil
}

// job returns what was scheduled.
func (r *record) job(name string) Job {
	j := Job{
		Name: name, Schedule: r.Schedule, DueTime: r.DueTime, TTL: r.TTL,
		FailurePolicy: r.Failure.policy(), Due: r.Due, Triggered: r.Count, Data: r.payload(),
	}
	if r.Repeats > 0 {
		j.Repeats = &r.Repeats
	}
	return j
}

func (r *record) payload() *Data {
	if r.DataType == nil {
		return nil
	}
	return &Data{TypeURL: *r.DataType, Value: r.data}
}

// wakeAt is when there is something to do with the job, claims aside: it is
// due, or it ends before it would be.
func (r *record) wakeAt() time.Time {
	switch {
	case r.ends():
		return r.Expires
	case !r.RetryAt.IsZero():
		return r.RetryAt
	}
	return r.Due
}

// ends reports whether the job is not due any more before it ends.
func (r *record) ends() bool { return !r.Expires.IsZero() && r.Due.After(r.Expires) }

// over reports whether the job has ended.
func (r *record) over(now time.Time) bool { return r.ends() && !now.Before(r.Expires) }

// advance moves on to the next trigger and reports whether there is one. Times
// that came before the present trigger began are covered by it: of those that
// were missed while nobody could be triggered, one is made up for.
func (r *record) advance() bool {
	began := r.Began
	r.Count++
	r.Attempts, r.Began, r.RetryAt, r.Claim = 0, time.Time{}, time.Time{}, ""
	if r.Schedule == "" || r.Repeats > 0 && r.Count >= r.Repeats {
		return false
	}
	s, err := parseSchedule(r.Schedule)
	if err != nil {
		return false // it could be read when it was stored
	}
	r.Due = s.after(r.Due, began).UTC().Round(0)
	return r.Due.Unix() > 0 && !r.ends()
}

// fail notes that a try failed, and reports whether there is another try or
// another trigger.
func (r *record) fail(now time.Time) (again bool) {
	r.Attempts++
	p := r.Failure.policy()
	if p.Drop || p.MaxRetries != nil && r.Attempts > *p.MaxRetries {
		return r.advance()
	}
	r.Claim, r.RetryAt = "", now.Add(p.delay(r.Attempts)).UTC().Round(0)
	return true
}

// gaveUp reports whether failing once more ends the tries of this trigger.
func (r *record) gaveUp() bool {
	p := r.Failure.policy()
	return p.Drop || p.MaxRetries != nil && r.Attempts+1 > *p.MaxRetries
}

// interval returns how far away the next trigger is at most, for a job that has
// a fixed distance and waits for nothing else; 0 for every other.
func (r *record) interval() time.Duration {
	if r.Count == 0 && r.DueTime != "" || !r.RetryAt.IsZero() || r.ends() || !strings.Contains(r.Schedule, "@every") {
		return 0
	}
	s, _ := parseSchedule(r.Schedule)
	d, _ := s.(every)
	return time.Duration(d)
}
