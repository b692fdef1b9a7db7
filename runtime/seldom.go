package runtime

import (
	"log/slog"
	"sync"
	"time"
)

const (
	// tellEvery is how often the same trouble is logged.
	tellEvery = time.Minute
	// mostTroubles bounds how many troubles are told apart.
	mostTroubles = 256
)

// seldom logs troubles that others can cause as often as they like: each once a
// minute, with how often it was kept back since. Its zero value is ready; it is
// safe for concurrent use.
type seldom struct {
	mu   sync.Mutex
	told map[string]*told
}

type told struct {
	at   time.Time
	kept int // since then
}

// log logs a warning unless one of the same key was logged just now.
func (s *seldom) log(log *slog.Logger, key, message string, attrs ...any) {
	now := time.Now()
	s.mu.Lock()
	t := s.told[key]
	switch {
	case t == nil:
		if s.told == nil || len(s.told) >= mostTroubles {
			s.told = map[string]*told{}
		}
		t = &told{}
		s.told[key] = t
	case now.Sub(t.at) < tellEvery:
		t.kept++
		s.mu.Unlock()
		return
	}
	kept := t.kept
	t.at, t.kept = now, 0
	s.mu.Unlock()
	if kept > 0 {
		attrs = append(attrs, "times_more", kept)
	}
	log.Warn(message, attrs...)
}
