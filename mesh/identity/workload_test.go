package identity

import (
	"context"
	"crypto/x509"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// agent is a provider of the Workload API.
type agent struct {
	workload.UnimplementedSpiffeWorkloadAPIServer

	mu      sync.Mutex
	docs    []*Document
	changed chan struct{} // closed when docs change
}

func (a *agent) give(docs ...*Document) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.docs = docs
	if a.changed != nil {
		close(a.changed)
	}
	a.changed = make(chan struct{})
}

func (a *agent) FetchX509SVID(_ *workload.X509SVIDRequest, stream workload.SpiffeWorkloadAPI_FetchX509SVIDServer) error {
	md, _ := metadata.FromIncomingContext(stream.Context())
	if v := md.Get("workload.spiffe.io"); len(v) != 1 || v[0] != "true" {
		return status.Error(codes.InvalidArgument, "no security header")
	}
	for {
		a.mu.Lock()
		docs, changed := a.docs, a.changed
		a.mu.Unlock()
		var resp workload.X509SVIDResponse
		for _, d := range docs {
			key, err := x509.MarshalPKCS8PrivateKey(d.Certificate.PrivateKey)
			if err != nil {
				return err
			}
			resp.Svids = append(resp.Svids, &workload.X509SVID{
				SpiffeId: d.ID.String(), X509Svid: d.Certificate.Certificate[0], X509SvidKey: key, Bundle: d.Roots[0].Raw,
			})
		}
		if err := stream.Send(&resp); err != nil {
			return err
		}
		select {
		case <-changed:
		case <-stream.Context().Done():
			return nil
		}
	}
}

// serve serves the Workload API on a socket until the returned function is
// called.
func (a *agent) serve(t *testing.T, socket string) (stop func()) {
	t.Helper()
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	srv := grpc.NewServer()
	workload.RegisterSpiffeWorkloadAPIServer(srv, a)
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(l) }()
	return func() { srv.Stop(); <-done }
}

// await waits until a source has the document.
func await(t *testing.T, s Source, want *Document) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		d := s.Current()
		if d != nil && d.Certificate.Leaf.Equal(want.Certificate.Leaf) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the source has %v, not the document of %v", d, want.ID)
		}
		time.Sleep(time.Millisecond) // a poll with a deadline
	}
}

func TestTheWorkloadAPIKeepsADocumentCurrent(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "agent.sock")
	ca := authority(t, "cluster.local")
	var a agent
	first := issue(t, ca, shop)
	a.give(issue(t, ca, stock), first)
	stop := a.serve(t, socket)
	w := NewWorkload(WorkloadOptions{Address: "unix://" + socket, ID: shop})
	if w.Current() != nil {
		t.Error("there is a document before there can be one")
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	await(t, w, first)
	if _, _, err := shake(Client(w, stock, Options{}), Server(fixed{issue(t, ca, stock)}, Options{})); err != nil {
		t.Error(err)
	}
	second := issue(t, ca, shop)
	a.give(second)
	await(t, w, second)
	a.give(issue(t, ca, stock)) // none for this application: what there was serves on
	stop()                      // and so it does without a provider
	third := issue(t, ca, shop)
	a.give(third)
	stop = a.serve(t, socket)
	defer stop()
	await(t, w, third)
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestAnAddressThatCannotBeIsAnError(t *testing.T) {
	if err := NewWorkload(WorkloadOptions{Address: "http://x"}).Run(t.Context()); err == nil {
		t.Error("no error")
	}
}
