package runtime

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/url"
	"sync"

	"github.com/proa-io/proa/block/invoke"
	"github.com/proa-io/proa/mesh/proxy"
	"github.com/proa-io/proa/resource"
)

// endpoints turns HTTPEndpoint resources into targets of invocations. Headers
// and keys from secret stores are resolved when the first request needs them.
func (rt *Runtime) endpoints() ([]invoke.Endpoint, error) {
	var out []invoke.Endpoint
	list := rt.table.Load().set.HTTPEndpoints
	for i := range list {
		e := &list[i]
		base, err := url.Parse(e.Spec.BaseURL)
		if err != nil {
			return nil, err
		}
		out = append(out, invoke.Endpoint{Name: e.Name(), Base: base, Transport: &endpointTransport{rt: rt, resource: e, base: base}})
	}
	return out, nil
}

// endpointTransport sends requests to an HTTPEndpoint.
type endpointTransport struct {
	rt       *Runtime
	resource *resource.HTTPEndpoint
	base     *url.URL

	mu     sync.Mutex
	ready  proxy.RoundTripper
	header proxy.Header
}

// RoundTrip implements proxy.RoundTripper.
func (t *endpointTransport) RoundTrip(ctx context.Context, r *proxy.Request, o proxy.RoundTripOptions) (*proxy.Response, error) {
	rt, header, err := t.resolve(ctx)
	if err != nil {
		return nil, err
	}
	if len(header) > 0 {
		out := *r
		out.Header = append(append(proxy.Header{}, r.Header...), header...)
		r = &out
	}
	return rt.RoundTrip(ctx, r, o)
}

func (t *endpointTransport) resolve(ctx context.Context) (proxy.RoundTripper, proxy.Header, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ready != nil {
		return t.ready, t.header, nil
	}
	lookup := t.rt.table.Load().lookupSecret
	fields, err := t.resource.HeaderFields(ctx, t.rt.cfg.identity(), lookup)
	if err != nil {
		return nil, nil, err
	}
	tc, err := t.tlsConfig(ctx, lookup)
	if err != nil {
		return nil, nil, err
	}
	for _, f := range fields {
		t.header.Add(f.Name, f.Value)
	}
	t.ready = t.rt.transports.originWith(&url.URL{Scheme: t.base.Scheme, Host: t.base.Host}, tc)
	return t.ready, t.header, nil
}

func (t *endpointTransport) tlsConfig(ctx context.Context, lookup resource.SecretLookup) (*tls.Config, error) {
	spec := t.resource.Spec.ClientTLS
	var pem [3]string
	for i, doc := range []resource.TLSDocument{spec.RootCA, spec.Certificate, spec.PrivateKey} {
		var err error
		if pem[i], err = doc.Resolve(ctx, t.resource.Auth.SecretStore, lookup); err != nil {
			return nil, err
		}
	}
	if pem[0] == "" && pem[1] == "" {
		return nil, nil //nolint:nilnil // no configuration of its own
	}
	tc := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: t.base.Hostname()}
	if pem[0] != "" {
		tc.RootCAs = x509.NewCertPool()
		if !tc.RootCAs.AppendCertsFromPEM([]byte(pem[0])) {
			return nil, fmt.Errorf("HTTPEndpoint %s: clientTLS.rootCA holds no certificate", t.resource.Name())
		}
	}
	if pem[1] != "" {
		cert, err := tls.X509KeyPair([]byte(pem[1]), []byte(pem[2]))
		if err != nil {
			return nil, fmt.Errorf("HTTPEndpoint %s: clientTLS: %w", t.resource.Name(), err)
		}
		tc.Certificates = []tls.Certificate{cert}
	}
	return tc, nil
}
