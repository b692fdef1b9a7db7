package identity

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"sync/atomic"

	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"

	"github.com/proa-io/proa/fault"
)

// WorkloadOptions configure a Workload source.
type WorkloadOptions struct {
	// Address is that of the Workload API, "unix:///run/spire/agent.sock" or
	// "tcp://127.0.0.1:8081"; the variable SPIFFE_ENDPOINT_SOCKET names it when
	// it is empty.
	Address string
	// ID chooses among several documents that the workload may have; the zero
	// value takes the first that names an application.
	ID     ID
	Clock  Clock
	Events Events
	// Log tells of renewals and troubles; nil discards.
	Log *slog.Logger
}

// Workload is a Source that gets documents from the SPIFFE Workload API, of SPIRE
// or another provider, which pushes each renewal. When the provider is gone, what
// it gave last serves on.
type Workload struct {
	opt     WorkloadOptions
	current atomic.Pointer[Document]
}

// NewWorkload returns a Workload, which has no document before Run got one.
func NewWorkload(o WorkloadOptions) *Workload {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Workload{opt: o}
}

// Current implements Source.
func (w *Workload) Current() *Document { return w.current.Load() }

// Run implements Source.
func (w *Workload) Run(ctx context.Context) error {
	var options []workloadapi.ClientOption
	if w.opt.Address != "" {
		options = append(options, workloadapi.WithAddr(w.opt.Address))
	}
	client, err := workloadapi.New(ctx, options...)
	if err != nil {
		return fault.Wrap(err, fault.InvalidArgument, "the Workload API at %q", w.opt.Address)
	}
	err = client.WatchX509Context(ctx, w)
	closeErr := client.Close()
	if ctx.Err() != nil {
		return nil
	}
	return errors.Join(err, closeErr)
}

// OnX509ContextUpdate implements workloadapi.X509ContextWatcher.
func (w *Workload) OnX509ContextUpdate(update *workloadapi.X509Context) {
	for _, svid := range update.SVIDs {
		doc, err := w.document(update, svid)
		if err != nil {
			w.opt.Log.Warn("a document of the Workload API cannot be used", "id", svid.ID.String(), "error", err)
			continue
		}
		if w.opt.ID != (ID{}) && doc.ID != w.opt.ID {
			continue
		}
		w.current.Store(doc)
		w.opt.Events.renewed(doc)
		w.opt.Log.Info("identity renewed", "id", doc.ID.String(), "expires", doc.Expiry(), "roots", len(doc.Roots))
		return
	}
	w.opt.Log.Error("the Workload API has no document for this application", "wanted", w.opt.ID.String(), "documents", len(update.SVIDs))
	w.opt.Events.failed(fault.New(fault.NotFound, "the Workload API has no document for %s", w.opt.ID))
}

func (w *Workload) document(update *workloadapi.X509Context, svid *x509svid.SVID) (*Document, error) {
	bundle, ok := update.Bundles.Get(svid.ID.TrustDomain())
	if !ok {
		return nil, fault.New(fault.InvalidArgument, "there is no bundle of the trust domain %q", svid.ID.TrustDomain())
	}
	cert := &tls.Certificate{PrivateKey: svid.PrivateKey}
	for _, c := range svid.Certificates {
		cert.Certificate = append(cert.Certificate, c.Raw)
	}
	return NewDocument(cert, bundle.X509Authorities(), w.opt.Clock.now())
}

// OnX509ContextWatchError implements workloadapi.X509ContextWatcher.
func (w *Workload) OnX509ContextWatchError(err error) {
	w.opt.Log.Warn("the Workload API cannot be watched; it is tried again", "error", err)
	w.opt.Events.failed(err)
}
