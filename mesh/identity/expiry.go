package identity

import (
	"context"
	"crypto/x509"
	"log/slog"
	"sync"
	"time"
)

// Events are what becomes of the document of a Source. Functions that are nil are
// not called; they must not block.
type Events struct {
	// Renewed is told each document that is taken into use, the first, too.
	Renewed func(*Document)
	// Failed is told each failure to get another one.
	Failed func(error)
}

func (e Events) renewed(d *Document) {
	if e.Renewed != nil {
		e.Renewed(d)
	}
}

func (e Events) failed(err error) {
	if e.Failed != nil {
		e.Failed(err)
	}
}

// Both returns events that are told to a and b.
func Both(a, b Events) Events {
	return Events{
		Renewed: func(d *Document) { a.renewed(d); b.renewed(d) },
		Failed:  func(err error) { a.failed(err); b.failed(err) },
	}
}

// RootsExpiry returns when the last of the authorities ends: from then on the
// document trusts nobody.
func (d *Document) RootsExpiry() time.Time {
	var last time.Time
	for _, r := range d.Roots {
		if r.NotAfter.After(last) {
			last = r.NotAfter
		}
	}
	return last
}

// Expired reports whether the document says nothing any more: its certificate or
// its authorities have ended.
func (d *Document) Expired(now time.Time) bool {
	return now.After(d.Expiry()) || now.After(d.RootsExpiry())
}

// Monitor warns in the log when a document comes to its end and has not been
// renewed: when a third of its life is left, and whenever half of what was left is
// over, but at most once a minute. For the authorities, which last long, the third
// is one of a month at most. Events are those that it has to be told of.
type Monitor struct {
	source Source
	now    func() time.Time
	log    *slog.Logger

	mu   sync.Mutex
	last error // of the last attempt to renew; nil when that went well
	leaf warned
	root warned
}

// warned is what was said of one certificate.
type warned struct {
	of *x509.Certificate
	at time.Time // when
	// left is how much time there was then.
	left time.Duration
}

const (
	// longestThird bounds when the end of an authority is near.
	longestThird = 30 * 24 * time.Hour
	// warnEvery is how often the log is told at the most, and of what has ended
	// already at the least, too.
	warnEvery = time.Minute
)

// NewMonitor returns a Monitor of the document of a Source.
func NewMonitor(src Source, now func() time.Time, log *slog.Logger) *Monitor {
	return &Monitor{source: src, now: now, log: log}
}

// Events returns what the monitor has to be told.
func (m *Monitor) Events() Events {
	return Events{
		Renewed: func(*Document) { m.note(nil) },
		Failed:  m.note,
	}
}

func (m *Monitor) note(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.last = err
}

// Run looks at the document every now and then until ctx ends, and returns nil
// then.
func (m *Monitor) Run(ctx context.Context) error {
	for {
		wait := m.check()
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
	}
}

// check warns if there is reason to, and returns when to look again.
func (m *Monitor) check() time.Duration {
	doc, now := m.source.Current(), m.now()
	if doc == nil {
		return time.Second
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	leaf := doc.Certificate.Leaf
	life := leaf.NotAfter.Sub(leaf.NotBefore)
	m.warn(&m.leaf, "certificate", doc, leaf, life/3)
	if root := lastRoot(doc); root != nil {
		m.warn(&m.root, "authorities", doc, root, min(root.NotAfter.Sub(root.NotBefore)/3, longestThird))
	}
	return min(max(earliest(leaf.NotAfter, doc.RootsExpiry()).Sub(now)/20, time.Second), warnEvery)
}

func lastRoot(d *Document) (last *x509.Certificate) {
	for _, r := range d.Roots {
		if last == nil || r.NotAfter.After(last.NotAfter) {
			last = r
		}
	}
	return last
}

// warn says that a certificate ends within near, or has ended. m.mu is held.
func (m *Monitor) warn(w *warned, what string, doc *Document, cert *x509.Certificate, near time.Duration) {
	now := m.now()
	left := cert.NotAfter.Sub(now)
	if w.of == nil || !w.of.Equal(cert) {
		*w = warned{of: cert, left: 2 * near}
	}
	if left > near || now.Sub(w.at) < warnEvery || left > 0 && left > w.left/2 {
		return
	}
	w.at, w.left = now, left
	attrs := []any{"what", what, "id", doc.ID.String(), "expires", cert.NotAfter.UTC()}
	if m.last != nil {
		attrs = append(attrs, "error", m.last)
	}
	if left <= 0 {
		m.log.Error("the identity of this sidecar has ended: no other sidecar can be called over mutual TLS, and none is let in", attrs...)
		return
	}
	m.log.Warn("the identity of this sidecar ends soon and has not been renewed", append(attrs, "left", left.Round(time.Second).String())...)
}
