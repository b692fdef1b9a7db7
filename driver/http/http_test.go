package http

import (
	"crypto/tls"
	"encoding/pem"
	"io"
	"log"
	nethttp "net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/proa-io/proa/block/binding"
	"github.com/proa-io/proa/block/binding/bindingtest"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/internal/faultnet"
)

func TestOutput(t *testing.T) {
	bindingtest.RunOutput(t, bindingtest.Output{
		Open:    func(t testing.TB) binding.Output { return open(t, Config{URL: echo(t).URL}) },
		Request: binding.Request{Operation: "post", Data: []byte("x"), Metadata: map[string]string{"path": "/a"}},
	})
}

func TestOutputOnABadNetwork(t *testing.T) {
	bindingtest.RunNetwork(t, bindingtest.Network{
		Open: func(t testing.TB) (binding.Output, *faultnet.Proxy) {
			proxy := faultnet.New(t, strings.TrimPrefix(echo(t).URL, "http://"))
			return open(t, Config{URL: "http://" + proxy.Addr()}), proxy
		},
		Request: binding.Request{Operation: "put", Data: []byte("x")},
	})
}

// echo answers with what it was asked: method, path and query, headers of
// interest and body.
func echo(t testing.TB) *httptest.Server {
	return serve(t, func(w nethttp.ResponseWriter, r *nethttp.Request) {
		body, _ := io.ReadAll(r.Body)
		for _, name := range []string{"Content-Type", "Accept", "X-Custom", "X-Token", "Traceparent", "Lower"} {
			if v := r.Header.Get(name); v != "" {
				w.Header().Set("Got-"+name, v)
			}
		}
		w.Header().Add("Multi", "one")
		w.Header().Add("Multi", "two")
		_, _ = io.WriteString(w, r.Method+" "+r.URL.RequestURI()+" "+string(body))
	})
}

func serve(t testing.TB, h nethttp.HandlerFunc) *httptest.Server {
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s
}

func TestOperationsAreMethods(t *testing.T) {
	b := open(t, Config{URL: echo(t).URL + "/base/"})
	for _, c := range []struct{ operation, path, want string }{
		{"create", "", "POST /base/ x"},
		{"post", "a", "POST /base/a x"},
		{"put", "/a/b?q=1&r=%2F", "PUT /base/a/b?q=1&r=%2F x"},
		{"patch", "//a", "PATCH /base/a x"},
		{"get", "a%20b", "GET /base/a%20b "},
		{"delete", "a..b/...", "DELETE /base/a..b/... "},
		{"options", "", "OPTIONS /base/ "},
		{"trace", "", "TRACE /base/ "},
		{"head", "", ""},
	} {
		resp, err := b.Invoke(t.Context(), binding.Request{
			Operation: c.operation, Data: []byte("x"), Metadata: map[string]string{"path": c.path},
		})
		if err != nil || string(resp.Data) != c.want {
			t.Errorf("%s %q: %q, %v; want %q", c.operation, c.path, resp.Data, err, c.want)
		}
	}
}

func TestPathCannotClimbOutOfTheURL(t *testing.T) {
	b := open(t, Config{URL: echo(t).URL + "/base"})
	for _, path := range []string{"../x", "/a/../../x", "%2e%2e/x", "a/%2E%2e", "..", `..\x`, "a/..?q", "%zz"} {
		_, err := b.Invoke(t.Context(), binding.Request{Operation: "get", Metadata: map[string]string{"path": path}})
		if !fault.Is(err, fault.InvalidArgument) {
			t.Errorf("path %q: error %v, want invalid_argument", path, err)
		}
	}
}

func TestMetadataBecomesHeaders(t *testing.T) {
	b := open(t, Config{URL: echo(t).URL, SecurityToken: component.NewSecret("s3cret"), SecurityTokenHeader: "X-Token"})
	for _, c := range []struct {
		operation string
		metadata  map[string]string
		want      map[string]string
	}{
		{"post", nil, map[string]string{"Content-Type": anyJSON, "Accept": anyJSON, "X-Token": "s3cret"}},
		{"get", nil, map[string]string{"Content-Type": "", "Accept": anyJSON, "X-Token": "s3cret"}},
		{"post", map[string]string{"Content-Type": "text/plain", "Accept": "*/*", "X-Custom": "1", "lower": "no header"},
			map[string]string{"Content-Type": "text/plain", "Accept": "*/*", "X-Custom": "1", "Lower": ""}},
		{"post", map[string]string{"Traceparent": "made-up", "traceparent": "of-the-call"}, map[string]string{"Traceparent": "of-the-call"}},
	} {
		resp, err := b.Invoke(t.Context(), binding.Request{Operation: c.operation, Metadata: c.metadata})
		if err != nil {
			t.Fatal(err)
		}
		for name, want := range c.want {
			if got := resp.Metadata["Got-"+name]; got != want {
				t.Errorf("%s with %v: header %s is %q, want %q", c.operation, c.metadata, name, got, want)
			}
		}
		if resp.Metadata["statusCode"] != "200" || resp.Metadata["status"] != "200 OK" || resp.Metadata["Multi"] != "one, two" {
			t.Errorf("response metadata %v", resp.Metadata)
		}
	}
	for _, bad := range []map[string]string{{"X-Bad": "s3cret\r\nInjected: 1"}, {"X Bad": "s3cret"}} {
		_, err := b.Invoke(t.Context(), binding.Request{Operation: "get", Metadata: bad})
		if !fault.Is(err, fault.InvalidArgument) || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("metadata %q: error %v, want invalid_argument without the value", bad, err)
		}
	}
}

func TestStatusThatIsNot2XXIsAnErrorUnlessUnwanted(t *testing.T) {
	s := serve(t, func(w nethttp.ResponseWriter, r *nethttp.Request) {
		w.Header().Set("Retry-After", "7")
		w.WriteHeader(int(r.URL.Path[1]-'0')*100 + int(r.URL.Path[2]-'0')*10 + int(r.URL.Path[3]-'0'))
		_, _ = io.WriteString(w, "why")
	})
	b, lenient := open(t, Config{URL: s.URL}), open(t, Config{URL: s.URL})
	lenient.cfg.ErrorIfNot2XX = false
	for status, want := range map[string]fault.Code{
		"400": fault.InvalidArgument, "401": fault.Unauthenticated, "403": fault.PermissionDenied, "404": fault.NotFound,
		"409": fault.Aborted, "412": fault.FailedPrecondition, "429": fault.ResourceExhausted, "418": fault.InvalidArgument,
		"500": fault.Internal, "501": fault.Unimplemented, "502": fault.Unavailable, "503": fault.Unavailable, "504": fault.DeadlineExceeded,
	} {
		for _, c := range []struct {
			b        *Binding
			override string
			fails    bool
		}{{b, "", true}, {b, "false", false}, {lenient, "", false}, {lenient, "true", true}} {
			resp, err := c.b.Invoke(t.Context(), binding.Request{
				Operation: "get", Metadata: map[string]string{"path": status, "errorIfNot2XX": c.override},
			})
			if string(resp.Data) != "why" || resp.Metadata["statusCode"] != status {
				t.Errorf("%s: response %+v", status, resp)
			}
			switch {
			case !c.fails:
				if err != nil {
					t.Errorf("%s: error %v, want none", status, err)
				}
			case !fault.Is(err, want) || err.Error() != "received status code "+status || fault.RetryAfterOf(err) != 7*time.Second:
				t.Errorf("%s: error %v after %v, want %v after 7 s", status, err, fault.RetryAfterOf(err), want)
			}
		}
	}
}

func TestResponseIsBounded(t *testing.T) {
	s := serve(t, func(w nethttp.ResponseWriter, _ *nethttp.Request) { _, _ = io.WriteString(w, strings.Repeat("x", 100)) })
	for _, c := range []struct {
		limit Limit
		fails bool
	}{{99, true}, {100, false}, {0, false}} {
		resp, err := open(t, Config{URL: s.URL, MaxResponseBodySize: c.limit}).Invoke(t.Context(), binding.Request{Operation: "get"})
		if c.fails != fault.Is(err, fault.ResourceExhausted) || !c.fails && len(resp.Data) != 100 {
			t.Errorf("limit %d: %d bytes, %v", c.limit, len(resp.Data), err)
		}
	}
}

func TestResponseTimeoutEndsACall(t *testing.T) {
	release := make(chan struct{})
	s := serve(t, func(_ nethttp.ResponseWriter, r *nethttp.Request) {
		select {
		case <-release:
		case <-r.Context().Done():
		}
	})
	defer close(release)
	b := open(t, Config{URL: s.URL, ResponseTimeout: component.Duration(20 * time.Millisecond)})
	_, err := b.Invoke(t.Context(), binding.Request{Operation: "get"})
	if !fault.Is(err, fault.DeadlineExceeded) {
		t.Errorf("error %v, want deadline_exceeded", err)
	}
}

func TestErrorsHideTheQueryAndTheUser(t *testing.T) {
	proxy := faultnet.New(t, strings.TrimPrefix(echo(t).URL, "http://"))
	proxy.Refuse()
	b := open(t, Config{URL: "http://user:s3cret@" + proxy.Addr() + "/p?key=s3cret"})
	_, err := b.Invoke(t.Context(), binding.Request{Operation: "get"})
	if !fault.Is(err, fault.Unavailable) || strings.Contains(err.Error(), "s3cret") || !strings.Contains(err.Error(), "GET http://"+proxy.Addr()+"/p: ") {
		t.Errorf("error %v", err)
	}
}

func TestSecurityTokenDoesNotFollowARedirectElsewhere(t *testing.T) {
	elsewhere := echo(t)
	s := serve(t, func(w nethttp.ResponseWriter, r *nethttp.Request) {
		switch r.URL.Path {
		case "/out":
			nethttp.Redirect(w, r, elsewhere.URL+"/there", nethttp.StatusFound)
		case "/in":
			nethttp.Redirect(w, r, "/here", nethttp.StatusFound)
		case "/loop":
			nethttp.Redirect(w, r, "/loop", nethttp.StatusFound)
		default:
			w.Header().Set("Got-X-Token", r.Header.Get("X-Token"))
		}
	})
	b := open(t, Config{URL: s.URL, SecurityToken: component.NewSecret("s3cret"), SecurityTokenHeader: "x-token"})
	for path, want := range map[string]string{"/out": "", "/in": "s3cret"} {
		resp, err := b.Invoke(t.Context(), binding.Request{Operation: "get", Metadata: map[string]string{"path": path}})
		if err != nil || resp.Metadata["Got-X-Token"] != want {
			t.Errorf("%s: token %q, %v; want %q", path, resp.Metadata["Got-X-Token"], err, want)
		}
	}
	_, err := b.Invoke(t.Context(), binding.Request{Operation: "get", Metadata: map[string]string{"path": "/loop"}})
	if !fault.Is(err, fault.FailedPrecondition) {
		t.Errorf("endless redirects: %v", err)
	}
}

func TestTLSOfBothSides(t *testing.T) {
	var clients int
	s := httptest.NewUnstartedServer(nethttp.HandlerFunc(func(_ nethttp.ResponseWriter, r *nethttp.Request) {
		clients = len(r.TLS.PeerCertificates)
	}))
	s.Config.ErrorLog = log.New(io.Discard, "", 0) // failed handshakes are meant
	s.TLS = &tls.Config{ClientAuth: tls.RequestClientCert}
	s.StartTLS()
	defer s.Close()
	authority := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}))
	file := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, []byte(authority), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, root := range []string{authority, file} {
		if _, err := open(t, Config{URL: s.URL, MTLSRootCA: root}).Invoke(t.Context(), binding.Request{Operation: "get"}); err != nil {
			t.Errorf("with the authority: %v", err)
		}
	}
	_, err := open(t, Config{URL: s.URL}).Invoke(t.Context(), binding.Request{Operation: "get"})
	if !fault.Is(err, fault.FailedPrecondition) {
		t.Errorf("with a server that nobody vouches for: %v, want failed_precondition", err)
	}
	cert, key := keyPair(t)
	b := open(t, Config{URL: s.URL, MTLSRootCA: authority, MTLSClientCert: cert, MTLSClientKey: component.NewSecret(key)})
	if _, err := b.Invoke(t.Context(), binding.Request{Operation: "get"}); err != nil || clients != 1 {
		t.Errorf("with a client certificate: the server saw %d, error %v", clients, err)
	}
	other, _ := keyPair(t)
	for name, cfg := range map[string]Config{
		"a pair that does not match": {URL: s.URL, MTLSClientCert: other, MTLSClientKey: component.NewSecret(key)},
		"an authority that is none":  {URL: s.URL, MTLSRootCA: key},
		"a file that is not there":   {URL: s.URL, MTLSRootCA: file + ".none"},
		"a key that is cut off":      {URL: s.URL, MTLSClientCert: cert, MTLSClientKey: component.NewSecret(key[:60])},
	} {
		_, err := Open(t.Context(), cfg, component.Env{})
		if err == nil || fault.CodeOf(err) == fault.Unknown || !strings.Contains(err.Error(), "MTLS") || strings.Contains(err.Error(), key[30:50]) {
			t.Errorf("%s: error %v", name, err)
		}
	}
}

func TestSettingsAreChecked(t *testing.T) {
	spec := Specs()[0]
	for _, c := range []struct{ name, value, want string }{
		{"url", "", "wants a URL"},
		{"url", "localhost:80", "wants a URL"},
		{"url", "ftp://host", "wants a URL"},
		{"responseTimeout", "-1s", "must not be negative"},
		{"responseTimeout", "soon", "wants a duration"},
		{"maxResponseBodySize", "big", "wants a size"},
		{"maxResponseBodySize", "-big", "wants a size"},
		{"errorIfNot2XX", "maybe", "wants true or false"},
		{"securityToken", "t", "needs securityTokenHeader"},
		{"securityTokenHeader", "a b", "names no header"},
		{"MTLSClientCert", "c.pem", "must be given together"},
		{"MTLSRenegotiation", "Always", `not "Always"`},
		{"mtlsClientCertificate", "x", `did you mean "MTLSClientCert"?`},
	} {
		settings := component.Settings{{Name: c.name, Value: c.value, Pos: component.Position{File: "b.yaml", Line: 9}}}
		if c.name != "url" {
			settings = append(settings, component.Setting{Name: "url", Value: "http://h"})
		}
		err := spec.Check(settings)
		if err == nil || !strings.Contains(err.Error(), "b.yaml:9: ") || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s=%q: error %v, want one with the line and %q", c.name, c.value, err, c.want)
		}
	}
	for _, ok := range []component.Setting{
		{Name: "maxResponseBodySize", Value: "-1"}, {Name: "maxResponseBodySize", Value: "1Mi"}, {Name: "mtlsRootCA", Value: "x"},
		{Name: "direction", Value: "output"}, {Name: "responseTimeout", Value: "10s"},
	} {
		if err := spec.Check(component.Settings{{Name: "url", Value: "http://h"}, ok}); err != nil {
			t.Errorf("%s=%q: %v", ok.Name, ok.Value, err)
		}
	}
}

func open(t testing.TB, cfg Config) *Binding {
	t.Helper()
	cfg.ErrorIfNot2XX = true
	b, err := Open(t.Context(), cfg, component.Env{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	return b
}
