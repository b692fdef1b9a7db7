package job

import (
	"context"
	"strings"
	"sync"
	"time"
)

// A session is one Run, as the other replicas see it. While it has a part in
// what goes on it writes its entry again and again; a session whose entry has
// not been written for the length of a lease is dead, and what it has claimed
// is free. Each replica measures that on its own clock, from when it saw the
// entry change: the clocks need not agree.
type session struct {
	id  string
	d   Driver
	key Key

	io sync.Mutex // held while the entry is written; before mu

	mu      sync.Mutex
	written time.Time // when the entry was last written; zero when there is none
	until   time.Time // when the session may fall silent
	claims  int       // how many it has; it is not silent while there is any
	wake    chan struct{}
}

// Timing of sessions.
const (
	// lease is how long a session is taken for alive after its last sign.
	lease = 6 * time.Second
	// heartbeat is how often it gives one.
	heartbeat = 2 * time.Second
	// maxGap is the most time between signs of a session that can rely on
	// having heard those of the others.
	maxGap = 3 * time.Second
	// linger is how long it goes on after it last had a part in anything.
	linger = 10 * time.Second
	// callTimeout bounds one call of the driver.
	callTimeout = 10 * time.Second
)

// sessionPrefix begins the names of the entries of sessions. No job has it.
const sessionPrefix = "/session/"

func isSession(name string) bool { return strings.HasPrefix(name, sessionPrefix) }

func newSession(d Driver, scope Scope) *session {
	id := newID()
	return &session{id: id, d: d, key: Key{scope, sessionPrefix + id}, wake: make(chan struct{}, 1)}
}

// busy tells the session that it has a part in something now.
func (s *session) busy() {
	s.mu.Lock()
	silent := s.written.IsZero()
	s.until = time.Now().Add(linger)
	s.mu.Unlock()
	if silent {
		select {
		case s.wake <- struct{}{}:
		default:
		}
	}
}

// age returns how long ago the entry was written, and false when there is none.
func (s *session) age() (time.Duration, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return time.Since(s.written), !s.written.IsZero()
}

// hold keeps the session from falling silent until release is called.
func (s *session) hold() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.claims++
}

func (s *session) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.claims--
	s.until = time.Now().Add(linger)
}

// ensure makes sure that the others take the session for alive, and will for
// some time to come. It is called before anything is claimed.
func (s *session) ensure(ctx context.Context) error {
	s.busy()
	if age, there := s.age(); there && age < lease/2 {
		return nil
	}
	s.io.Lock()
	defer s.io.Unlock()
	if age, there := s.age(); there && age < lease/2 {
		return nil // another has written it meanwhile
	}
	return s.write(ctx)
}

// write writes the entry. The caller holds io.
func (s *session) write(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	began := time.Now()
	if _, err := s.d.Put(ctx, s.key, []byte(began.UTC().Format(time.RFC3339Nano)), Anything()); err != nil {
		return err
	}
	s.mu.Lock()
	s.written = began
	s.mu.Unlock()
	return nil
}

// run gives signs of life while there is need for them, until ctx ends; then
// it removes the entry. Nothing may be claimed any more by then.
func (s *session) run(ctx context.Context) {
	defer s.remove(context.WithoutCancel(ctx))
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-s.wake:
		case <-ctx.Done():
			return
		}
		timer.Reset(s.beat(ctx))
	}
}

// beat writes or removes the entry if it is time to, and returns how long to
// wait for the next time.
func (s *session) beat(ctx context.Context) time.Duration {
	s.io.Lock()
	defer s.io.Unlock()
	s.mu.Lock()
	idle := s.claims == 0 && time.Now().After(s.until)
	s.mu.Unlock()
	age, there := s.age()
	switch {
	case idle && !there:
		return time.Hour // busy wakes it
	case idle:
		s.delete(ctx)
		return time.Second
	case there && age < heartbeat:
		return heartbeat - age
	case s.write(ctx) != nil:
		return heartbeat / 2
	}
	return heartbeat
}

func (s *session) remove(ctx context.Context) {
	s.io.Lock()
	defer s.io.Unlock()
	if _, there := s.age(); there {
		s.delete(ctx)
	}
}

// delete removes the entry. When that fails the others do it.
func (s *session) delete(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, heartbeat)
	defer cancel()
	if s.d.Delete(ctx, s.key, Anything()) == nil {
		s.mu.Lock()
		s.written = time.Time{}
		s.mu.Unlock()
	}
}
