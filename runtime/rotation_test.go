package runtime

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/proa-io/proa/mesh/identity"
)

// leafLife is the life of certificates in the test of rotations, of which each
// sidecar gets another one when half of it is over.
const leafLife = 6 * time.Second

const shortLife = "apiVersion: dapr.io/v1alpha1\nkind: Configuration\nmetadata:\n  name: quick\nspec:\n  mtls:\n    enabled: true\n    workloadCertTTL: 6s\n"

// shown returns what callers have shown to a sidecar, by its log: serial numbers,
// and the keys that have signed.
func shown(r *rig) (serials, keys map[string]bool) {
	serials, keys = map[string]bool{}, map[string]bool{}
	for _, m := range regexp.MustCompile(`another sidecar has connected.* serial=(\w+) signed_by=(\w+)`).FindAllStringSubmatch(r.log.String(), -1) {
		serials[m[1]], keys[m[2]] = true, true
	}
	return serials, keys
}

// echoServer is a gRPC application that sends back what it gets, as often as it
// gets something.
func echoServer(t *testing.T) (port int) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	s := grpc.NewServer(grpc.UnknownServiceHandler(func(_ any, s grpc.ServerStream) error {
		for {
			m := &wrapperspb.StringValue{}
			switch err := s.RecvMsg(m); {
			case errors.Is(err, io.EOF):
				return nil
			case err != nil:
				return err
			}
			if err := s.SendMsg(m); err != nil {
				return err
			}
		}
	}))
	var wg sync.WaitGroup
	wg.Go(func() { _ = s.Serve(l) }) // ends with the test
	t.Cleanup(func() { s.Stop(); wg.Wait() })
	return portOf(l)
}

// TestCertificatesAndAuthoritiesRotateUnderLoadWithoutAFailure has certificates
// that are good for seconds, and an authority whose key changes twice, while
// requests and calls go through two sidecars, and a stream stays open all the
// time.
func TestCertificatesAndAuthoritiesRotateUnderLoadWithoutAFailure(t *testing.T) {
	t.Parallel()
	home := t.TempDir()
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) }))
	t.Cleanup(app.Close)
	appPort, err := strconv.Atoi(app.URL[strings.LastIndex(app.URL, ":")+1:])
	must(t, err)
	files := map[string]string{}
	quick := t.TempDir() + "/quick.yaml"
	must(t, os.WriteFile(quick, []byte(shortLife), 0o600))
	with := func(id, protocol string, port int) func(*Config) {
		return func(c *Config) {
			c.AppID, c.Engine.Dir, c.AppProtocol, c.AppPort, c.ConfigPaths, c.NoDefaultComponents = id, home, protocol, port, []string{quick}, true
		}
	}
	shop := newRig(t, files, with("shop", "http", appPort))
	stock := newRig(t, files, with("stock", "grpc", echoServer(t)))
	front := newRig(t, files, with("front", "http", 0))

	load := newRotationLoad(t, front)
	file := AuthorityFile(home)
	began := time.Now()
	for range 2 {
		a, _, err := identity.Update(file, func(a *identity.Authority) (*identity.Authority, error) {
			return a.Rotate(time.Now(), leafLife/2, identity.AuthorityOptions{})
		})
		must(t, err)
		// Until what the new key has signed is shown, and a bit longer than
		// certificates of the former one last.
		time.Sleep(time.Until(a.Signs().Add(leafLife + leafLife/4)))
	}
	requests := load.stop()
	t.Logf("%d requests and calls in %v", requests, time.Since(began).Round(time.Second))
	if requests < 100 {
		t.Errorf("there were only %d requests", requests)
	}
	for _, r := range []*rig{shop, stock} {
		serials, keys := shown(r)
		if len(serials) < 4 || len(keys) != 3 {
			t.Errorf("%s was shown %d certificates, of %d keys", r.cfg.AppID, len(serials), len(keys))
		}
	}
	for _, r := range []*rig{shop, stock, front} {
		for _, bad := range []string{"cannot be called", "is refused", "ends soon"} {
			if strings.Contains(r.log.String(), bad) {
				t.Errorf("%s logs that something %s: %s", r.cfg.AppID, bad, tail(r.log.String()))
			}
		}
	}
}

// rotationLoad calls two applications all the time.
type rotationLoad struct {
	t    *testing.T
	work sync.WaitGroup
	done atomic.Bool
	n    atomic.Int64
	conn *grpc.ClientConn
}

func newRotationLoad(t *testing.T, front *rig) *rotationLoad {
	t.Helper()
	conn, err := grpc.NewClient(fmt.Sprintf("127.0.0.1:%d", front.Addresses().GRPCPort), grpc.WithTransportCredentials(insecure.NewCredentials()))
	must(t, err)
	l := &rotationLoad{t: t, conn: conn}
	ctx := metadata.AppendToOutgoingContext(t.Context(), "dapr-app-id", "stock")
	l.loop("unary", func(text string) (string, error) {
		out := &wrapperspb.StringValue{}
		err := conn.Invoke(ctx, "/test.Echo/Unary", wrapperspb.String(text), out)
		return out.Value, err
	})
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, "/test.Echo/Stream")
	must(t, err)
	l.loop("stream", func(text string) (string, error) {
		if err := stream.SendMsg(wrapperspb.String(text)); err != nil {
			return "", err
		}
		out := &wrapperspb.StringValue{}
		err := stream.RecvMsg(out)
		return out.Value, err
	})
	for range 2 {
		l.loop("http", func(text string) (string, error) {
			status, answer, err := front.call("POST", "/v1.0/invoke/shop/method/echo", text)
			if err == nil && status != 200 {
				err = fmt.Errorf("status %d: %s", status, answer)
			}
			return answer, err
		})
	}
	return l
}

// loop calls until stop does, with a moment's rest: what counts here is when
// requests come, not how many.
func (l *rotationLoad) loop(name string, call func(text string) (string, error)) {
	l.work.Go(func() {
		for i := 0; !l.done.Load(); i++ {
			text := fmt.Sprint(name, i)
			if got, err := call(text); err != nil || got != text {
				l.t.Errorf("%s: %q, %v", text, got, err)
				return
			}
			l.n.Add(1)
			time.Sleep(2 * time.Millisecond)
		}
	})
}

// stop ends the load and returns how much there was.
func (l *rotationLoad) stop() int64 {
	l.done.Store(true)
	l.work.Wait()
	if err := l.conn.Close(); err != nil {
		l.t.Error(err)
	}
	return l.n.Load()
}
