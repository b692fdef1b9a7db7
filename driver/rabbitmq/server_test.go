package rabbitmq

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/proa-io/proa/block/pubsub"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/internal/freeport"
	"github.com/proa-io/proa/internal/testserver"
)

// authority issues certificates for 127.0.0.1.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  string
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t}
	a.cert, a.key, a.pem, _ = a.issue("authority", true)
	return a
}

func (a *authority) issue(name string, ca bool) (cert *x509.Certificate, key *ecdsa.PrivateKey, certPEM, keyPEM string) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	cert = &x509.Certificate{
		Subject:   pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: ca, BasicConstraintsValid: true, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	parent, signer := cert, key
	if a.cert != nil {
		parent, signer = a.cert, a.key
	}
	der, err := x509.CreateCertificate(rand.Reader, cert, parent, &key.PublicKey, signer)
	if err != nil {
		a.t.Fatal(err)
	}
	if cert, err = x509.ParseCertificate(der); err != nil {
		a.t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	return cert, key, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}))
}

// secureServer starts a server that also speaks TLS, to clients whose
// certificates name a user of it.
func secureServer(t *testing.T, a *authority) (srv *testserver.RabbitMQServer, tlsPort int) {
	t.Helper()
	dir := t.TempDir()
	_, _, cert, key := a.issue("server", false)
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	port, err := freeport.Pick()
	if err != nil {
		t.Fatal(err)
	}
	return testserver.RabbitMQ(t, testserver.RabbitMQOptions{
		Plugins: []string{"rabbitmq_auth_mechanism_ssl"},
		Config: []string{
			"listeners.ssl.1 = 127.0.0.1:" + strconv.Itoa(port),
			"ssl_options.cacertfile = " + file("ca.pem", a.pem),
			"ssl_options.certfile = " + file("cert.pem", cert),
			"ssl_options.keyfile = " + file("key.pem", key),
			"ssl_options.verify = verify_peer",
			"ssl_options.fail_if_no_peer_cert = false",
			"ssl_cert_login_from = common_name",
			"auth_mechanisms.1 = PLAIN",
			"auth_mechanisms.2 = EXTERNAL",
		},
	}), port
}

// TestAServerOfItsOwn does what the shared server must be spared. It is one
// test because such a server takes long to start.
func TestAServerOfItsOwn(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	srv, tlsPort := secureServer(t, a)
	t.Run("Encrypted", func(t *testing.T) { encrypted(t, a, tlsPort) })
	t.Run("BadCredentials", func(t *testing.T) { badCredentials(t, srv.Addr()) })
	t.Run("Alarm", func(t *testing.T) { alarm(t, srv) })
	t.Run("Restart", func(t *testing.T) { restart(t, srv) })
}

func encrypted(t *testing.T, a *authority, port int) {
	_, _, cert, key := a.issue("guest", false) // the name of a user
	stranger := newAuthority(t)
	for name, tc := range map[string]struct {
		change func(*PubSubConfig)
		code   fault.Code
	}{
		"by password": {func(c *PubSubConfig) { c.Username, c.Password = "guest", component.NewSecret("guest") }, fault.Unknown},
		"by certificate": {func(c *PubSubConfig) {
			c.ClientCert, c.ClientKey, c.SaslExternal = component.NewSecret(cert), component.NewSecret(key), true
		}, fault.Unknown},
		"server not trusted": {func(c *PubSubConfig) { c.CACert = component.NewSecret(stranger.pem) }, fault.FailedPrecondition},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := pubSubDefaults()
			cfg.Hostname, cfg.Protocol = fmt.Sprintf("127.0.0.1:%d", port), "amqps"
			cfg.CACert = component.NewSecret(a.pem)
			tc.change(&cfg)
			if err := cfg.Validate(); err != nil {
				t.Fatal(err)
			}
			p, err := OpenPubSub(t.Context(), cfg, component.Env{})
			if tc.code != fault.Unknown {
				if !fault.Is(err, tc.code) {
					t.Errorf("OpenPubSub: %v, want %v", err, tc.code)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			mustPublish(t, p, &pubsub.Message{Topic: "t"})
			if err := p.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

func badCredentials(t *testing.T, addr string) {
	for name, tc := range map[string]struct {
		uri  string
		code fault.Code
	}{
		"password":      {"amqp://guest:hunter2@" + addr, fault.Unauthenticated},
		"user":          {"amqp://nobody:hunter2@" + addr, fault.Unauthenticated},
		"virtual host":  {"amqp://guest:guest@" + addr + "/nowhere", fault.FailedPrecondition},
		"plain for TLS": {"amqps://guest:hunter2@" + addr, fault.Unavailable},
	} {
		_, err := openPubSub(t.Context(), addr, func(c *PubSubConfig) { c.ConnectionString = component.NewSecret(tc.uri) })
		if !fault.Is(err, tc.code) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("bad %s: %v, want %v", name, err, tc.code)
		}
	}
}

// alarm has the server take no messages.
func alarm(t *testing.T, srv *testserver.RabbitMQServer) {
	p := mustOpenPubSub(t, srv.Addr(), lasting)
	mustPublish(t, p, &pubsub.Message{Topic: "alarm"})
	control := func(args ...string) {
		t.Helper()
		if _, err := srv.Control(args...); err != nil {
			t.Fatal(err)
		}
	}
	control("set_vm_memory_high_watermark", "0")
	for deadline := time.Now().Add(within); ; {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		err := p.Publish(ctx, &pubsub.Message{Topic: "alarm"})
		cancel()
		if fault.Is(err, fault.ResourceExhausted) {
			break
		}
		if err != nil && !fault.Is(err, fault.DeadlineExceeded) { // the first one waits for an answer
			t.Fatalf("Publish during the alarm: %v", err)
		}
		if time.Now().After(deadline) {
			t.Fatalf("Publish during the alarm: %v", err)
		}
	}
	control("set_vm_memory_high_watermark", "0.4")
	for deadline := time.Now().Add(within); ; {
		err := p.Publish(t.Context(), &pubsub.Message{Topic: "alarm"})
		if err == nil {
			break
		}
		if !fault.Is(err, fault.ResourceExhausted) || time.Now().After(deadline) {
			t.Fatalf("Publish after the alarm: %v", err)
		}
	}
}

// application takes note of the events it gets.
type application struct{ events chan string }

func (a application) Deliver(_ context.Context, _ string, e *pubsub.Event) (pubsub.Status, error) {
	a.events <- string(e.Data())
	return pubsub.Success, nil
}

func (a application) DeliverBulk(context.Context, string, *pubsub.BulkEvent) ([]pubsub.EntryStatus, error) {
	return nil, fault.New(fault.Unimplemented, "not in bulk")
}

// restart kills the server and starts it again.
func restart(t *testing.T, srv *testserver.RabbitMQServer) {
	p := mustOpenPubSub(t, srv.Addr(), lasting)
	topic := "restart"
	gather(t, p, pubsub.Subscription{Topic: topic, Group: "idle"}, nil)() // a queue that nobody consumes from
	broker := pubsub.New(component.Opened[pubsub.Driver]("bus", p), pubsub.Options{AppID: "app"})
	app := application{make(chan string, 100)}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	gather(t, p, pubsub.Subscription{Topic: topic, Group: "app"}, nil)()
	go func() { done <- broker.Subscribe(ctx, &pubsub.SubscriptionSpec{PubSub: "bus", Topic: topic}, app) }()
	publish := func(text string) error {
		return broker.Publish(t.Context(), &pubsub.PublishRequest{Topic: topic, Data: []byte(text)})
	}
	if err := publish("before"); err != nil {
		t.Fatal(err)
	}
	if got := <-app.events; got != "before" {
		t.Errorf("event %q", got)
	}
	srv.Kill()
	if err := publish("down"); !fault.Is(err, fault.Unavailable) {
		t.Errorf("Publish to a server that is down: %v", err)
	}
	srv.Restart()
	if err := publish("after"); err != nil {
		t.Errorf("Publish after the restart: %v", err)
	}
	for got := ""; got != "after"; {
		select {
		case got = <-app.events:
		case <-time.After(2 * within):
			t.Fatal("the subscription has not come back")
		}
	}
	arrived := make(chan *pubsub.Delivery, 100)
	gather(t, p, pubsub.Subscription{Topic: topic, Group: "idle", MaxInFlight: 1}, toChannel(arrived))
	if d := next(t, arrived); !strings.Contains(string(d.Data), "before") {
		t.Errorf("after the restart the first message is %s", d.Data)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
