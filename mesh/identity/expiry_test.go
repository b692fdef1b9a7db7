package identity

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// changing is a Source whose document the test changes.
type changing struct {
	fixed
	doc atomic.Pointer[Document]
}

func (c *changing) Current() *Document { return c.doc.Load() }

// lines is what was logged.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

// take returns what was logged since the last time.
func (l *lines) take() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	defer l.text.Reset()
	return l.text.String()
}

func TestWhatEndsAndIsNotRenewedIsWarnedOf(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, err := NewAuthority("cluster.local", time.Now(), AuthorityOptions{RootLife: 30 * 24 * time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		var src changing
		renew := func() {
			doc, err := a.Issue(shop, time.Now(), 24*time.Hour)
			if err != nil {
				t.Fatal(err)
			}
			src.doc.Store(doc)
		}
		var log lines
		said := func() string {
			synctest.Wait()
			return log.take()
		}
		m := NewMonitor(&src, time.Now, slog.New(slog.NewTextHandler(&log, nil)))
		done := make(chan error, 1)
		ctx, cancel := context.WithCancel(t.Context())
		go func() { done <- m.Run(ctx) }()
		renew()
		for range 3 {
			time.Sleep(15 * time.Hour)
			m.Events().renewed(src.Current())
			renew()
		}
		if text := said(); text != "" {
			t.Errorf("what is renewed in time is warned of: %s", text)
		}
		m.Events().failed(errors.New("the disk is full"))
		time.Sleep(15 * time.Hour)
		if text := said(); text != "" {
			t.Errorf("too early: %s", text)
		}
		time.Sleep(2 * time.Hour)
		text := said()
		if strings.Count(text, "ends soon") != 1 || !strings.Contains(text, `error="the disk is full"`) || !strings.Contains(text, "what=certificate") {
			t.Errorf("a third before the end: %s", text)
		}
		time.Sleep(7*time.Hour - time.Minute)
		if n := strings.Count(said(), "ends soon"); n < 5 || n > 10 {
			t.Errorf("said %d times until the end", n)
		}
		if src.Current().Expired(time.Now()) {
			t.Error("it has ended already")
		}
		time.Sleep(10 * time.Minute)
		if text := said(); !strings.Contains(text, "level=ERROR") || strings.Count(text, "has ended") > 11 || !src.Current().Expired(time.Now()) {
			t.Errorf("after the end: %s", text)
		}
		renew()
		m.Events().renewed(src.Current())
		time.Sleep(time.Hour)
		if text := said(); text != "" {
			t.Errorf("after it was renewed: %s", text)
		}
		for range 20 {
			time.Sleep(24*time.Hour - time.Minute)
			renew()
		}
		if text := said(); !strings.Contains(text, "what=authorities") {
			t.Errorf("the authority ends unnoticed: %s", text)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
