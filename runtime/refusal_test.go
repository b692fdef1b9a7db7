package runtime

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/mesh/discovery"
	"github.com/proa-io/proa/mesh/identity"
	"github.com/proa-io/proa/mesh/proxy"
)

// document is a Source that does not change.
type document struct{ *identity.Document }

func (document) Run(context.Context) error     { return nil }
func (d document) Current() *identity.Document { return d.Document }

func newAuthority(t *testing.T, domain string) *identity.Authority {
	t.Helper()
	a, err := identity.NewAuthority(domain, time.Now().Add(-24*time.Hour), identity.AuthorityOptions{})
	must(t, err)
	return a
}

// secured returns the security of an application, whose certificate began at a
// time and is good for an hour, as seen by a clock.
func secured(t *testing.T, a *identity.Authority, app string, began time.Time, now func() time.Time) *security {
	t.Helper()
	id := identity.ID{TrustDomain: a.TrustDomain, Namespace: "default", AppID: app}
	doc, err := a.Issue(id, began, time.Hour)
	must(t, err)
	return &security{mode: MTLSStrict, domain: a.TrustDomain, source: document{doc}, now: now}
}

// peerOf serves other sidecars until the test ends, and returns where, and what it
// logs.
func peerOf(t *testing.T, s *security) (address string, log *logBuffer) {
	t.Helper()
	log = &logBuffer{}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	handler := func(ex proxy.Exchange) { _ = ex.Respond(204, nil, 0) }
	serve := servePeers(handler, &Config{Log: slog.New(slog.NewTextHandler(log, nil))}, s, l)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return l.Addr().String(), log
}

// callPeer calls the sidecar of "shop" at an address and returns what is logged
// on the way, and what its caller gets.
func callPeer(t *testing.T, s *security, address string) (logged *logBuffer, err error) {
	t.Helper()
	logged = &logBuffer{}
	ts := &transports{log: slog.New(slog.NewTextHandler(logged, nil)), secure: s}
	defer ts.close()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	resp, err := ts.peer(discovery.Service{Namespace: "default", AppID: "shop"}, discovery.Endpoint{Address: address}).
		RoundTrip(ctx, &proxy.Request{Method: "GET", Scheme: "http", Authority: "shop", Target: "/"}, proxy.RoundTripOptions{})
	if err == nil {
		_ = resp.Body.Close()
	}
	return logged, err
}

func TestSidecarsThatDoNotTrustEachOtherSayWhatIsWrongOnBothSides(t *testing.T) {
	ours, theirs, elsewhere := newAuthority(t, "public"), newAuthority(t, "public"), newAuthority(t, "elsewhere")
	now, later, earlier := time.Now, func() time.Time { return time.Now().Add(3 * time.Hour) }, func() time.Time { return time.Now().Add(-3 * time.Hour) }
	shop := secured(t, ours, "shop", now(), now)
	const seeLog = "refuses this sidecar's certificate, and its log says why"
	for _, tc := range []struct {
		name           string
		caller, callee *security
		atCaller       string // what its application is told
		atCallee       string // what is logged there; "" for nothing
	}{
		{"both are right", secured(t, ours, "front", now(), now), shop, "", ""},
		{
			"the caller is of another trust domain", &security{
				mode: MTLSStrict, domain: "public", now: now, source: secured(t, elsewhere, "front", now(), now).source,
			}, shop,
			`spiffe://public/ns/default/shop is of the trust domain "public", and this sidecar of "elsewhere": both want the same accessControl.trustDomain`, "refuses this sidecar's certificate",
		},
		{
			"the caller's authority is not known", &security{mode: MTLSStrict, domain: "public", now: now, source: document{
				withRoots(t, theirs, ours, "front"),
			}}, shop,
			seeLog, "no authority that is trusted here has signed the certificate of spiffe://public/ns/default/front: both sides want the same home folder, roots or SPIFFE provider",
		},
		{
			"the callee's authority is not known", secured(t, ours, "front", now(), now), secured(t, theirs, "shop", now(), now),
			"no authority that is trusted here has signed the certificate of spiffe://public/ns/default/shop", seeLog,
		},
		{
			"the caller's certificate has ended", secured(t, ours, "front", earlier(), now), shop,
			seeLog, "it was not renewed, or a clock is wrong",
		},
		{
			"the callee's certificate has ended", secured(t, ours, "front", now(), now), secured(t, ours, "shop", earlier(), now),
			"it was not renewed, or a clock is wrong", seeLog,
		},
		{
			"the caller's certificate has not begun", secured(t, ours, "front", later(), now), shop,
			seeLog, "a clock is wrong",
		},
		{
			"the callee's certificate has not begun", secured(t, ours, "front", now(), now), secured(t, ours, "shop", later(), now),
			"and here it is only", seeLog,
		},
		{
			"somebody else listens in its place", secured(t, ours, "front", now(), now), secured(t, ours, "billing", now(), now),
			"it is spiffe://public/ns/default/billing, not spiffe://public/ns/default/shop: the name resolution is out of date", seeLog,
		},
		{
			"the caller speaks plain text", nil, shop,
			"the other sidecar says: this sidecar takes nothing but mutual TLS", "start that with --mtls permissive or strict",
		},
		{
			"the callee speaks plain text", secured(t, ours, "front", now(), now), nil,
			"the other side does not speak TLS: start it with --mtls permissive or strict", "the other sidecar speaks mutual TLS, which this one does not take",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			address, log := peerOf(t, tc.callee)
			logged, err := callPeer(t, tc.caller, address)
			if tc.atCaller == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if err == nil || !strings.Contains(fault.Message(err), tc.atCaller) || fault.CodeOf(err) != fault.Unavailable {
				t.Errorf("the caller is told %v", err)
			}
			if !proxy.Unsent(err) {
				t.Error("it is not known that the application has not seen the request")
			}
			if !logs(t, logged, tc.atCaller) || !logs(t, logged, "callee=shop.default") {
				t.Errorf("the caller logs %s", logged)
			}
			if !logs(t, log, tc.atCallee) {
				t.Errorf("the callee logs %s", log)
			}
		})
	}
}

// logs waits until a text is logged.
func logs(t *testing.T, log *logBuffer, text string) bool {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if strings.Contains(strings.ReplaceAll(log.String(), `\"`, `"`), text) {
			return true
		}
	}
	return false
}

// withRoots returns a document of an application that one authority has issued, by
// somebody who trusts another one, too.
func withRoots(t *testing.T, by, also *identity.Authority, app string) *identity.Document {
	t.Helper()
	doc, err := by.Issue(identity.ID{TrustDomain: by.TrustDomain, Namespace: "default", AppID: app}, time.Now(), time.Hour)
	must(t, err)
	doc, err = identity.NewDocument(doc.Certificate, append(by.Roots(), also.Roots()...), time.Now())
	must(t, err)
	return doc
}

func TestClientsThatAreNoSidecarsAreToldWhatIsMissing(t *testing.T) {
	a := newAuthority(t, "public")
	front := secured(t, a, "front", time.Now(), time.Now).source.Current()
	for _, tc := range []struct {
		name     string
		config   *tls.Config
		atClient string
		atServer string
	}{
		{"no certificate", &tls.Config{NextProtos: []string{"h2"}}, "wants a certificate, and this one showed none", "the other side shows no certificate: a sidecar with --mtls"},
		{"TLS 1.2", &tls.Config{
			NextProtos: []string{"h2"}, MaxVersion: tls.VersionTLS12, Certificates: []tls.Certificate{*front.Certificate},
		}, "does not speak the version of TLS that was offered; between sidecars that is 1.3", "the other side speaks no TLS 1.3"},
		{"another protocol", &tls.Config{
			NextProtos: []string{"smtp"}, Certificates: []tls.Certificate{*front.Certificate},
		}, "does not agree on what was offered by ALPN; between sidecars that is h2", "the other side does not agree on h2 by ALPN"},
		{"HTTP/1.1", &tls.Config{
			NextProtos: []string{"http/1.1"}, Certificates: []tls.Certificate{*front.Certificate},
		}, "EOF", "does not use ALPN, by which sidecars agree on h2"},
		{"no ALPN", &tls.Config{Certificates: []tls.Certificate{*front.Certificate}}, "EOF", "does not use ALPN, by which sidecars agree on h2"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			address, log := peerOf(t, secured(t, a, "shop", time.Now(), time.Now))
			tc.config.InsecureSkipVerify = true
			if err := explained(address, tc.config); err == nil || !strings.Contains(err.Error(), tc.atClient) {
				t.Errorf("the client learns %v", err)
			}
			if !logs(t, log, tc.atServer) || !logs(t, log, "remote=127.0.0.1") {
				t.Errorf("the server logs %s", log)
			}
		})
	}
}

// explained makes a connection that ends, and returns why it did.
func explained(address string, c *tls.Config) error {
	nc, err := tls.Dial("tcp", address, c)
	if err != nil {
		return identity.Explain(err)
	}
	defer nc.Close()
	if _, err = nc.Read(make([]byte, 1)); err != nil {
		return identity.Explain(err)
	}
	return nil
}

func TestTheSameTroubleIsLoggedOnceAMinute(t *testing.T) {
	log := &logBuffer{}
	var s seldom
	for i := range 10 * mostTroubles {
		s.log(slog.New(slog.NewTextHandler(log, nil)), "same", "trouble")
		if i%mostTroubles == 1 {
			s.log(slog.New(slog.NewTextHandler(log, nil)), fmt.Sprint(i), "another")
		}
	}
	if n := strings.Count(log.String(), "trouble"); n != 1 {
		t.Errorf("logged %d times", n)
	}
}
