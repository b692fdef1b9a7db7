package job

import "time"

// SetClock gives the store another clock on the wall.
func (s *Store) SetClock(now func() time.Time) { s.now = now }
