package identity

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"log/slog"
	"os"
	"sync/atomic"
	"time"

	"github.com/proa-io/proa/fault"
)

// FilesOptions configure a Files source.
type FilesOptions struct {
	// Certificate holds the chain, the application's own first, Key its private
	// key, and Roots the authorities to trust, all in PEM.
	Certificate, Key, Roots string
	// Interval is how often they are looked at; 10 s when zero.
	Interval time.Duration
	Clock    Clock
	Events   Events
	// Log tells of renewals and troubles; nil discards.
	Log *slog.Logger
}

// Files is a Source that reads files which somebody else keeps current, such as
// cert-manager or a mounted secret. A half-written set is left for the next look:
// what was there serves on.
type Files struct {
	opt     FilesOptions
	current atomic.Pointer[Document]
	seen    [3][]byte
}

// NewFiles returns a Files, which has a document at once.
func NewFiles(o FilesOptions) (*Files, error) {
	if o.Interval <= 0 {
		o.Interval = 10 * time.Second
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	f := &Files{opt: o}
	return f, f.refresh()
}

// Current implements Source.
func (f *Files) Current() *Document { return f.current.Load() }

// Run implements Source.
func (f *Files) Run(ctx context.Context) error {
	tick := time.NewTicker(f.opt.Interval)
	defer tick.Stop()
	failed := false // the look before: its failure is logged once
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			err := f.refresh()
			if err != nil {
				f.opt.Events.failed(err)
				if !failed {
					f.opt.Log.ErrorContext(ctx, "the identity's files cannot be used; what they said before serves on", "error", err)
				}
			}
			failed = err != nil
		}
	}
}

// refresh reads the files when they have changed.
func (f *Files) refresh() error {
	var texts [3][]byte
	changed := f.current.Load() == nil
	for i, path := range []string{f.opt.Certificate, f.opt.Key, f.opt.Roots} {
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		texts[i] = text
		changed = changed || !bytes.Equal(text, f.seen[i])
	}
	if !changed {
		return nil
	}
	cert, err := tls.X509KeyPair(texts[0], texts[1])
	if err != nil {
		return fault.Wrap(err, fault.InvalidArgument, "%s and %s", f.opt.Certificate, f.opt.Key)
	}
	roots, err := parseRoots(texts[2])
	if err != nil {
		return fault.Wrap(err, fault.InvalidArgument, "%s", f.opt.Roots)
	}
	doc, err := NewDocument(&cert, roots, f.opt.Clock.now())
	if err != nil {
		return fault.Wrap(err, fault.CodeOf(err), "%s", f.opt.Certificate)
	}
	f.seen = texts
	f.current.Store(doc)
	f.opt.Events.renewed(doc)
	f.opt.Log.Info("identity read", "id", doc.ID.String(), "expires", doc.Expiry(), "roots", len(doc.Roots))
	return nil
}

func parseRoots(text []byte) ([]*x509.Certificate, error) {
	var out []*x509.Certificate
	for n := 1; ; n++ {
		var b *pem.Block
		if b, text = pem.Decode(text); b == nil {
			break
		}
		c, err := x509.ParseCertificate(b.Bytes)
		if err != nil {
			return nil, fault.Wrap(err, fault.InvalidArgument, "block %d", n)
		}
		out = append(out, c)
	}
	if len(out) == 0 {
		return nil, fault.New(fault.InvalidArgument, "there is no certificate in PEM in it")
	}
	return out, nil
}
