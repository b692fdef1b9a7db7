package runtime

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/proa-io/proa/block/invoke"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/mesh/http1"
	"github.com/proa-io/proa/mesh/proxy"
	"github.com/proa-io/proa/resource"
)

// endpoint is an address outside that an HTTPEndpoint resource names. It sends
// requests over connections of its own.
type endpoint struct {
	resource *resource.HTTPEndpoint
	print    string // the fingerprint of what it is made from
	base     *url.URL
	identity resource.Identity
	// lookup reads secrets of the table that the endpoint was made for.
	lookup resource.SecretLookup
	refs   *references // to secrets; nil for none
	until  time.Time   // it is waited for before the former one serves on

	gone   chan struct{} // closed by close
	mu     sync.Mutex
	client *http1.Client // nil until the first request, or warm
	header proxy.Header
	failed error // why the last warm failed
	closed bool
}

// endpoints adds the addresses that the HTTPEndpoints name to b.out: those
// there are, or new ones. Headers and keys from secret stores are resolved when
// the first request needs them.
func (b *builder) endpoints(there []*endpoint) error {
	for i := range b.set.HTTPEndpoints {
		e := &b.set.HTTPEndpoints[i]
		base, err := url.Parse(e.Spec.BaseURL)
		if err != nil {
			return err
		}
		print := e.Name() + " " + e.Digest()
		if e.Auth.SecretStore != "" {
			print += " " + b.stores[e.Auth.SecretStore]
		}
		j := slices.IndexFunc(there, func(old *endpoint) bool { return old.print == print })
		if j >= 0 {
			b.out.endpoints = append(b.out.endpoints, there[j])
			continue
		}
		made := &endpoint{
			resource: e, print: print, base: base, identity: b.cfg.identity(), lookup: b.out.lookupSecret, gone: make(chan struct{}),
		}
		names := secretNames(e.Spec.Headers)
		for _, doc := range made.documents() {
			if doc.SecretKeyRef.IsSet() {
				names = append(names, doc.SecretKeyRef.Name)
			}
		}
		made.refs = newReferences(e.Auth.SecretStore, names, func(ctx context.Context, lookup resource.SecretLookup) error {
			_, _, err := made.read(ctx, lookup)
			return err
		})
		b.out.endpoints = append(b.out.endpoints, made)
	}
	return nil
}

// targets are the endpoints as the block takes them.
func (c *components) targets() []invoke.Endpoint {
	out := make([]invoke.Endpoint, len(c.endpoints))
	for i, e := range c.endpoints {
		out[i] = invoke.Endpoint{Name: e.resource.Name(), Base: e.base, Transport: e}
	}
	return out
}

// RoundTrip implements proxy.RoundTripper.
func (e *endpoint) RoundTrip(ctx context.Context, r *proxy.Request, o proxy.RoundTripOptions) (*proxy.Response, error) {
	client, header, err := e.resolve(ctx)
	if err != nil {
		return nil, err
	}
	if len(header) > 0 {
		out := *r
		out.Header = append(append(proxy.Header{}, r.Header...), header...)
		r = &out
	}
	return client.RoundTrip(ctx, r, o)
}

func (e *endpoint) resolve(ctx context.Context) (*http1.Client, proxy.Header, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.client != nil {
		return e.client, e.header, nil
	}
	lookup, sum := summing(e.lookup)
	fields, pem, err := e.read(ctx, lookup)
	if err != nil {
		return nil, nil, err
	}
	tc, err := e.tlsConfig(pem)
	if err != nil {
		return nil, nil, err
	}
	if e.refs != nil {
		e.refs.used.Store(sum())
	}
	for _, f := range fields {
		e.header.Add(f.Name, f.Value)
	}
	e.client = newOrigin(&url.URL{Scheme: e.base.Scheme, Host: e.base.Host}, tc)
	if e.closed {
		_ = e.client.Close() // keeps no connection
	}
	return e.client, e.header, nil
}

// How long to wait before the secrets of an endpoint are asked for again.
const (
	firstWarm = time.Second
	lastWarm  = 15 * time.Second
)

// warm resolves what the endpoint refers to before anybody asks, trying again
// until it succeeds, the endpoint is closed, or ctx ends.
func (e *endpoint) warm(ctx context.Context) {
	for delay := firstWarm; ; delay = min(2*delay, lastWarm) {
		attempt, cancel := context.WithTimeout(ctx, defaultInitTimeout)
		_, _, err := e.resolve(attempt)
		cancel()
		e.mu.Lock()
		e.failed = err
		e.mu.Unlock()
		if err == nil {
			return
		}
		select {
		case <-time.After(delay):
		case <-e.gone:
			return
		case <-ctx.Done():
			return
		}
	}
}

// ready reports whether requests need not wait, and why not.
func (e *endpoint) ready() (bool, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.client != nil || e.refs == nil, e.failed
}

// endpoint returns the one with the name; nil when there is none.
func (c *components) endpoint(name string) *endpoint {
	for _, e := range c.endpoints {
		if e.resource.Name() == name {
			return e
		}
	}
	return nil
}

// close closes the connections as soon as no request is under way on them.
func (e *endpoint) close() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return
	}
	e.closed = true
	close(e.gone)
	if e.client != nil {
		_ = e.client.Close()
	}
}

// documents are the root certificate, the certificate and the key.
func (e *endpoint) documents() [3]resource.TLSDocument {
	spec := e.resource.Spec.ClientTLS
	return [...]resource.TLSDocument{spec.RootCA, spec.Certificate, spec.PrivateKey}
}

// read resolves the header fields and the documents.
func (e *endpoint) read(ctx context.Context, lookup resource.SecretLookup) (fields component.Settings, pem [3]string, err error) {
	if fields, err = e.resource.HeaderFields(ctx, e.identity, lookup); err != nil {
		return nil, pem, err
	}
	for i, doc := range e.documents() {
		if pem[i], err = doc.Resolve(ctx, e.resource.Auth.SecretStore, lookup); err != nil {
			return nil, pem, err
		}
	}
	return fields, pem, nil
}

func (e *endpoint) tlsConfig(pem [3]string) (*tls.Config, error) {
	if pem[0] == "" && pem[1] == "" {
		return nil, nil //nolint:nilnil // no configuration of its own
	}
	tc := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: e.base.Hostname()}
	if pem[0] != "" {
		tc.RootCAs = x509.NewCertPool()
		if !tc.RootCAs.AppendCertsFromPEM([]byte(pem[0])) {
			return nil, fmt.Errorf("HTTPEndpoint %s: clientTLS.rootCA holds no certificate", e.resource.Name())
		}
	}
	if pem[1] != "" {
		cert, err := tls.X509KeyPair([]byte(pem[1]), []byte(pem[2]))
		if err != nil {
			return nil, fmt.Errorf("HTTPEndpoint %s: clientTLS: %w", e.resource.Name(), err)
		}
		tc.Certificates = []tls.Certificate{cert}
	}
	return tc, nil
}
