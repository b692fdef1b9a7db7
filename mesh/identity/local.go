package identity

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"sync/atomic"
	"time"

	"github.com/proa-io/proa/fault"
)

// Clock is time, which tests make pass faster. Its zero value is the real one.
type Clock struct {
	// Now returns the time; time.Now when nil.
	Now func() time.Time
}

func (c Clock) now() time.Time {
	if c.Now == nil {
		return time.Now()
	}
	return c.Now()
}

// LocalOptions configure a Local source.
type LocalOptions struct {
	ID ID
	// File holds the authority, as Encode writes it. It is made when it does
	// not exist.
	File string
	// Life is that of a document; 24 h when zero. It is renewed when half of it
	// is over.
	Life time.Duration
	// RootLife is that of the keys of an authority that is made; ten years when
	// zero. They are renewed when a third of it is left, and a key that is new is
	// trusted for the Life of a document before it signs.
	RootLife time.Duration
	// Interval is how often File is looked at; a tenth of Life, but at most a
	// minute, when zero.
	Interval time.Duration
	Clock    Clock
	Events   Events
	// Log tells of renewals and troubles; nil discards.
	Log *slog.Logger
}

// Local is a Source that has the authority at hand, in a file which all sidecars
// of a machine share: for development. Who can read the file can speak for
// everybody.
type Local struct {
	opt     LocalOptions
	current atomic.Pointer[Document]
	seen    []byte // the file when the document was issued
}

// NewLocal returns a Local, which has a document at once.
func NewLocal(o LocalOptions) (*Local, error) {
	if err := o.ID.Check(); err != nil {
		return nil, err
	}
	if o.Life <= 0 {
		o.Life = DefaultLeafLife
	}
	if o.Interval <= 0 {
		o.Interval = min(o.Life/10, time.Minute)
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	l := &Local{opt: o}
	return l, l.refresh()
}

// Current implements Source.
func (l *Local) Current() *Document { return l.current.Load() }

// Run implements Source.
func (l *Local) Run(ctx context.Context) error {
	tick := time.NewTicker(l.opt.Interval)
	defer tick.Stop()
	failed := false // the attempt before: its failure is logged once
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			if err := l.refresh(); err != nil {
				l.opt.Events.failed(err)
				if !failed {
					l.opt.Log.ErrorContext(ctx, "the identity cannot be renewed; it is tried again", "id", l.opt.ID.String(), "file", l.opt.File, "error", err)
				}
				failed = true
				continue
			}
			failed = false
		}
	}
}

// refresh issues another document when the authority has changed, or when half
// of the life of the present one is over.
func (l *Local) refresh() error {
	now := l.opt.Clock.now()
	text, err := readOrMake(l.opt.File, l.opt.ID.TrustDomain, now, l.opt.RootLife)
	if err != nil {
		return err
	}
	a, err := DecodeAuthority(text)
	if err != nil {
		return fault.Wrap(err, fault.CodeOf(err), "read the authority in %s", l.opt.File)
	}
	if a, text, err = l.maintain(a, text, now); err != nil {
		return err
	}
	doc := l.current.Load()
	if doc != nil && bytes.Equal(text, l.seen) && now.Before(doc.Expiry().Add(-l.opt.Life/2)) {
		return nil
	}
	if doc, err = a.Issue(l.opt.ID, now, l.opt.Life); err != nil {
		return err
	}
	l.seen = text
	l.current.Store(doc)
	l.opt.Events.renewed(doc)
	l.opt.Log.Info("identity renewed", "id", l.opt.ID.String(), "expires", doc.Expiry(), "roots", len(doc.Roots))
	return nil
}

// maintain renews the keys of the authority, and has them trusted for as long as
// its documents need.
func (l *Local) maintain(a *Authority, text []byte, now time.Time) (*Authority, []byte, error) {
	change := func(a *Authority) (*Authority, error) {
		return a.Promise(l.opt.Life).Maintain(now, l.opt.Life, l.opt.Life)
	}
	next, err := change(a)
	if err != nil || next == a {
		return a, text, err
	}
	if next, text, err = Update(l.opt.File, change); err != nil {
		return nil, nil, err
	}
	l.opt.Log.Info("the authority's keys are renewed", "file", l.opt.File, "keys", len(next.roots), "signs_from", next.Signs(), "expires", next.Expiry())
	return next, text, nil
}

// readOrMake returns what a file of an authority holds, which is made when there
// is none.
func readOrMake(file, trustDomain string, now time.Time, life time.Duration) ([]byte, error) {
	text, err := os.ReadFile(file)
	if !errors.Is(err, fs.ErrNotExist) {
		return text, err
	}
	a, err := NewAuthority(trustDomain, now, AuthorityOptions{RootLife: life})
	if err != nil {
		return nil, err
	}
	if text, err = a.Encode(); err != nil {
		return nil, err
	}
	if err := Create(file, text); errors.Is(err, fs.ErrExist) {
		return os.ReadFile(file) // another process was first
	} else if err != nil {
		return nil, err
	}
	return text, nil
}
