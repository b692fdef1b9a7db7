package http2

import "time"

// alarm wakes coroutines that wait for a response when their time is over. All of
// a connection share one timer: most responses come long before, and setting and
// stopping a timer for each would cost more than waiting. The mutex of the
// connection guards it.
type alarm struct {
	timer *time.Timer // nil before the first
	at    time.Time   // when it goes off; zero when it does not
}

// alarmAt has the coroutine that is parked at st look again at a time, the zero
// time for never. c.mu is held.
func (c *conn) alarmAt(st *stream, by time.Time) {
	st.wakeBy = by
	if by.IsZero() || !c.alarm.at.IsZero() && !by.Before(c.alarm.at) {
		return
	}
	c.alarm.at = by
	if c.alarm.timer == nil {
		c.alarm.timer = time.AfterFunc(time.Until(by), c.goOff)
		return
	}
	c.alarm.timer.Reset(time.Until(by))
}

// goOff wakes those whose time is over, and sets the alarm for the next one.
func (c *conn) goOff() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.alarm.at = time.Time{}
	var next time.Time
	for _, st := range c.streams {
		switch {
		case !st.parked || st.wakeBy.IsZero():
		case time.Until(st.wakeBy) <= 0:
			st.co.Wake()
		case next.IsZero() || st.wakeBy.Before(next):
			next = st.wakeBy
		}
	}
	if c.err == nil && !next.IsZero() {
		c.alarm.at = next
		c.alarm.timer.Reset(time.Until(next))
	}
}

// stopAlarm is for the end of the connection. c.mu is held.
func (c *conn) stopAlarm() {
	if c.alarm.timer != nil {
		c.alarm.timer.Stop()
	}
}
