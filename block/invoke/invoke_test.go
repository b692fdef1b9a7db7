package invoke_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/proa-io/proa/block/invoke"
	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/internal/leak"
	"github.com/proa-io/proa/mesh/discovery"
	"github.com/proa-io/proa/mesh/http1"
	"github.com/proa-io/proa/mesh/http2"
	"github.com/proa-io/proa/mesh/proxy"
	"github.com/proa-io/proa/policy"
)

// chains gives every application the same chain.
type chains struct{ app policy.Chain }

func (chains) Component(string, string, bool) policy.Chain { return nil }
func (c chains) App(string) policy.Chain                   { return c.app }

// mesh is two sidecars, "front" and "back", and the application behind the
// second, an ordinary server of the standard library.
type mesh struct {
	front *invoke.Service
	http  string // API address of front, HTTP/1.1
	grpc  string // API address of front, HTTP/2
	peers discovery.Static
}

type options struct {
	app    http.Handler
	grpc   func(*grpc.Server)
	policy policy.Chain
	access invoke.AccessRules
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func start(t *testing.T, o options) *mesh {
	t.Helper()
	leak.Check(t)
	app := &invoke.App{}
	client := func(addr string) *http2.Client {
		c := &http2.Client{Addr: addr}
		t.Cleanup(c.Close)
		return c
	}
	if o.app != nil {
		l := listen(t)
		srv := &http.Server{Handler: o.app, Protocols: new(http.Protocols), ReadHeaderTimeout: time.Second}
		srv.Protocols.SetUnencryptedHTTP2(true)
		go func() { _ = srv.Serve(l) }()
		t.Cleanup(func() { _ = srv.Close() })
		app.HTTP = client(l.Addr().String())
	}
	if o.grpc != nil {
		l := listen(t)
		srv := grpc.NewServer()
		o.grpc(srv)
		go func() { _ = srv.Serve(l) }()
		t.Cleanup(srv.Stop)
		app.GRPC = client(l.Addr().String())
	}
	back := invoke.New(invoke.Options{AppID: "back", Namespace: "default", Host: "127.0.0.1", Chains: policy.None{}, App: app,
		Directory: directory(t, nil), Access: o.access})
	backListener := listen(t)
	backServer := &http2.Server{Handler: back.Receive}
	go func() { _ = backServer.Serve(backListener) }()
	t.Cleanup(backServer.Close)

	m := &mesh{peers: discovery.Static{"back": {{Address: backListener.Addr().String()}}}}
	var mu sync.Mutex
	clients := map[string]*http2.Client{}
	m.front = invoke.New(invoke.Options{
		AppID: "front", Namespace: "default", Host: "127.0.0.1", Chains: chains{o.policy},
		Directory: directory(t, m.peers),
		Peer: func(_ discovery.Service, ep discovery.Endpoint) proxy.RoundTripper {
			addr := ep.Address
			mu.Lock()
			defer mu.Unlock()
			if clients[addr] == nil {
				clients[addr] = client(addr)
			}
			return clients[addr]
		},
		External: func(u *url.URL) proxy.RoundTripper { return client(u.Host) },
	})
	handler := func(ex proxy.Exchange) {
		r := ex.Request()
		id := r.Header.Get("dapr-app-id")
		if _, err := m.front.Forward(ex, id, r.Target); err != nil {
			text := fault.CodeOf(err).String() + ": " + fault.Message(err)
			_ = ex.Respond(500, nil, int64(len(text)))
			_, _ = ex.Write([]byte(text))
		}
	}
	h1l, h2l := listen(t), listen(t)
	h1 := &http1.Server{Handler: handler}
	h2 := &http2.Server{Handler: handler}
	go func() { _ = h1.Serve(h1l) }()
	go func() { _ = h2.Serve(h2l) }()
	t.Cleanup(func() { _ = h1.Close(); h2.Close() })
	m.http, m.grpc = h1l.Addr().String(), h2l.Addr().String()
	return m
}

func directory(t *testing.T, s discovery.Static) *discovery.Directory {
	t.Helper()
	d := discovery.New(discovery.Options{Sources: []discovery.Source{s}, AppearWait: 50 * time.Millisecond})
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return d
}

// do sends a request to the application through both sidecars.
func (m *mesh) do(t *testing.T, method, path string, body io.Reader, header ...string) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://"+m.http+path, body)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("dapr-app-id", "back")
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	return resp
}

func text(t *testing.T, resp *http.Response) string {
	t.Helper()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestARequestArrivesAsItWasSent(t *testing.T) {
	m := start(t, options{app: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		w.Header().Set("X-Answer", "yes")
		w.Header().Set("Trailer", "X-Sum")
		w.WriteHeader(http.StatusCreated)
		fmt.Fprintf(w, "%s %s %s|%s", r.Method, r.RequestURI, b, r.Header.Get("X-Question"))
		for _, name := range []string{"dapr-callee-app-id", "dapr-caller-app-id", "dapr-caller-namespace", "destination-app-id", "dapr-app-id", "dapr-api-token", "x-forwarded-for"} {
			fmt.Fprintf(w, "|%s=%s", name, r.Header.Get(name))
		}
		w.Header().Set("X-Sum", "42")
	})})
	resp := m.do(t, "PATCH", "/a%2Fb/c?x=1&y=%20z", strings.NewReader("hello"), "X-Question", "why",
		"dapr-caller-app-id", "somebody-else", "dapr-api-token", "secret")
	want := "PATCH /a%2Fb/c?x=1&y=%20z hello|why|dapr-callee-app-id=back|dapr-caller-app-id=front|dapr-caller-namespace=default" +
		"|destination-app-id=back|dapr-app-id=|dapr-api-token=|x-forwarded-for=127.0.0.1"
	if got := text(t, resp); resp.StatusCode != 201 || resp.Header.Get("X-Answer") != "yes" || got != want {
		t.Errorf("answer %d %v\n got %s\nwant %s", resp.StatusCode, resp.Header, got, want)
	}
	if resp.Trailer.Get("X-Sum") != "42" {
		t.Errorf("trailers are %v", resp.Trailer)
	}
}

func TestEventsArriveWhileTheyAreSent(t *testing.T) {
	seen := make(chan struct{})
	m := start(t, options{app: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		fmt.Fprint(w, "data: 1\n\n")
		w.(http.Flusher).Flush()
		select {
		case <-seen: // the client has the first before the second is sent
		case <-r.Context().Done():
		}
		fmt.Fprint(w, "data: 2\n\n")
	})})
	resp := m.do(t, "GET", "/events", nil)
	lines := bufio.NewReader(resp.Body)
	first, err := lines.ReadString('\n')
	if err != nil || first != "data: 1\n" {
		t.Fatalf("first event %q, %v", first, err)
	}
	close(seen)
	rest, err := io.ReadAll(lines)
	if err != nil || string(rest) != "\ndata: 2\n\n" {
		t.Errorf("rest %q, %v", rest, err)
	}
}

func TestAClientThatLeavesEndsTheRequestAtTheApplication(t *testing.T) {
	began, ended := make(chan struct{}), make(chan struct{})
	m := start(t, options{app: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		close(began)
		<-r.Context().Done()
		close(ended)
	})})
	ctx, cancel := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, "GET", "http://"+m.http+"/slow", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("dapr-app-id", "back")
	go func() { <-began; cancel() }()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	if resp, err := client.Do(req); err == nil {
		resp.Body.Close()
		t.Error("a canceled request was answered")
	}
	<-ended
}

func TestBodiesAreStreamedBothWays(t *testing.T) {
	const size = 64 << 20
	m := start(t, options{app: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(w, r.Body)
	})})
	resp := m.do(t, "POST", "/echo", io.LimitReader(zeros{}, size))
	n, err := io.Copy(io.Discard, resp.Body)
	if err != nil || n != size {
		t.Errorf("%d bytes came back, %v", n, err)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestARetryPolicyRepeatsFailures(t *testing.T) {
	for _, tc := range []struct {
		name   string
		fail   int32
		status int
		want   int
		calls  int32
	}{
		{"recovers", 2, 503, 200, 3},
		{"gives the last answer", 99, 503, 503, 3},
		{"the caller's mistakes are not repeated", 99, 404, 404, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var calls atomic.Int32
			m := start(t, options{
				policy: policy.Chain{policy.Retry{Max: 2}.Policy},
				app: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					b, _ := io.ReadAll(r.Body)
					if calls.Add(1) <= tc.fail {
						w.WriteHeader(tc.status)
					}
					fmt.Fprintf(w, "call %d: %s", calls.Load(), b)
				})})
			resp := m.do(t, "POST", "/x", strings.NewReader("body"))
			if got := text(t, resp); resp.StatusCode != tc.want || calls.Load() != tc.calls || !strings.HasSuffix(got, ": body") {
				t.Errorf("answer %d %q after %d calls", resp.StatusCode, got, calls.Load())
			}
		})
	}
}

func TestADeadInstanceIsPassedOver(t *testing.T) {
	m := start(t, options{app: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "ok") })})
	dead := listen(t)
	dead.Close()
	m.peers["back"] = append(m.peers["back"], discovery.Endpoint{Address: dead.Addr().String()})
	for range 6 {
		if resp := m.do(t, "POST", "/", strings.NewReader("x")); resp.StatusCode != 200 {
			t.Errorf("answer %d %s", resp.StatusCode, text(t, resp))
		}
	}
}

func TestErrorsSayWhatIsWrong(t *testing.T) {
	m := start(t, options{})
	m.peers["other"] = m.peers["back"] // an address that now belongs to somebody else
	for id, want := range map[string]string{
		"":              "not_found: no application to invoke was named",
		"nobody":        `not_found: no instance of application "nobody" is running in namespace "default"`,
		"a.b.c":         `invalid_argument: "a.b.c" cannot be invoked`,
		"back":          `failed_precondition: application "back" does not take HTTP requests; see --app-protocol`,
		"front":         `failed_precondition: application "front" takes no requests: its sidecar was started without --app-port`,
		"other":         `unavailable: this is the sidecar of application "back", not of "other"`,
		"http://u:p@h/": `invalid_argument: "http://u:p@h/" cannot be invoked`,
	} {
		resp := m.do(t, "GET", "/x", nil, "dapr-app-id", id)
		if got := text(t, resp); resp.StatusCode != 500 || !strings.HasPrefix(got, want) {
			t.Errorf("%q: answer %d %q, want %s", id, resp.StatusCode, got, want)
		}
	}
}

func TestAddressesOutsideAreInvokedDirectly(t *testing.T) {
	m := start(t, options{})
	l := listen(t)
	srv := &http.Server{Protocols: new(http.Protocols), ReadHeaderTimeout: time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s %s %s", r.Host, r.RequestURI, r.Header.Get("dapr-caller-app-id"))
	})}
	srv.Protocols.SetUnencryptedHTTP2(true)
	go func() { _ = srv.Serve(l) }()
	t.Cleanup(func() { _ = srv.Close() })
	base := "http://" + l.Addr().String()
	resp := m.do(t, "GET", "/x?y=1", nil, "dapr-app-id", base+"/prefix")
	if got, want := text(t, resp), l.Addr().String()+" /prefix/x?y=1 "; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestCallReturnsTheWholeAnswer(t *testing.T) {
	m := start(t, options{app: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		w.WriteHeader(http.StatusTeapot)
		fmt.Fprintf(w, "%s %s %s", r.Method, r.RequestURI, b)
	})})
	r := invoke.Request{Method: "PUT", Path: "x?y=1", Body: []byte("in")}
	reply, err := m.front.Call(t.Context(), "back", r, 1<<20)
	if err != nil || reply.Status != 418 || string(reply.Body) != "PUT /x?y=1 in" {
		t.Errorf("Call = %+v, %v", reply, err)
	}
	if _, err := m.front.Call(t.Context(), "back", r, 3); !fault.Is(err, fault.ResourceExhausted) {
		t.Errorf("an answer that is too large: %v", err)
	}
	if _, err := m.front.Call(t.Context(), "nobody", r, 3); !fault.Is(err, fault.NotFound) {
		t.Errorf("an application that does not exist: %v", err)
	}
}

// echo is a gRPC service without generated code, with all kinds of streams in
// one: it answers each message, and the metadata in its trailer.
func echo(s *grpc.Server) {
	s.RegisterService(&grpc.ServiceDesc{
		ServiceName: "test.Echo", HandlerType: (*any)(nil),
		Streams: []grpc.StreamDesc{{StreamName: "Talk", ServerStreams: true, ClientStreams: true, Handler: func(_ any, st grpc.ServerStream) error {
			md, _ := metadata.FromIncomingContext(st.Context())
			st.SetTrailer(metadata.Pairs("caller", strings.Join(md.Get("dapr-caller-app-id"), ",")))
			for {
				m := &wrapperspb.StringValue{}
				if err := st.RecvMsg(m); errors.Is(err, io.EOF) {
					return nil
				} else if err != nil {
					return err
				}
				if err := st.SendMsg(wrapperspb.String("echo " + m.GetValue())); err != nil {
					return err
				}
			}
		}}},
	}, nil)
}

func TestGRPCStreamsPassThrough(t *testing.T) {
	m := start(t, options{grpc: echo})
	cc, err := grpc.NewClient(m.grpc, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer cc.Close()
	ctx := metadata.AppendToOutgoingContext(t.Context(), "dapr-app-id", "back")
	st, err := cc.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, "/test.Echo/Talk")
	if err != nil {
		t.Fatal(err)
	}
	for i := range 5 { // in turns: each message must get through before the next
		if err := st.SendMsg(wrapperspb.String(fmt.Sprint(i))); err != nil {
			t.Fatal(err)
		}
		got := &wrapperspb.StringValue{}
		if err := st.RecvMsg(got); err != nil || got.GetValue() != fmt.Sprintf("echo %d", i) {
			t.Fatalf("got %v, %v", got, err)
		}
	}
	if err := st.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if err := st.RecvMsg(&wrapperspb.StringValue{}); !errors.Is(err, io.EOF) {
		t.Fatalf("the stream ended with %v", err)
	}
	if got := st.Trailer().Get("caller"); len(got) != 1 || got[0] != "front" {
		t.Errorf("trailer %v", st.Trailer())
	}
}

// transport is an application that is called without a network.
type transport func(ctx context.Context, r *proxy.Request) (*proxy.Response, error)

func (f transport) RoundTrip(ctx context.Context, r *proxy.Request, _ proxy.RoundTripOptions) (*proxy.Response, error) {
	return f(ctx, r)
}

func TestAnApplicationThatInvokesItselfIsBoundedAndShownItsToken(t *testing.T) {
	entered, leave := make(chan string), make(chan struct{})
	app := transport(func(_ context.Context, r *proxy.Request) (*proxy.Response, error) {
		entered <- r.Header.Get("dapr-api-token")
		<-leave
		return &proxy.Response{Status: 204, Body: http.NoBody}, nil
	})
	s := invoke.New(invoke.Options{
		AppID: "shop", Namespace: "default", Chains: policy.None{}, Directory: directory(t, nil),
		App: &invoke.App{HTTP: app, Token: "secret", Limit: policy.NewBulkhead(1, 0).Policy},
	})
	first := make(chan error)
	go func() {
		_, err := s.Call(t.Context(), "shop", invoke.Request{Method: "GET", Path: "/x"}, 100)
		first <- err
	}()
	if token := <-entered; token != "secret" {
		t.Errorf("the application was shown the token %q", token)
	}
	if _, err := s.Call(t.Context(), "shop", invoke.Request{Method: "GET", Path: "/x"}, 100); fault.CodeOf(err) != fault.ResourceExhausted {
		t.Errorf("a second request at once: %v, want ResourceExhausted", err)
	}
	close(leave)
	if err := <-first; err != nil {
		t.Error(err)
	}
}
