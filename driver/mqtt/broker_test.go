package mqtt

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha512"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"

	"github.com/proa-io/proa/block/pubsub"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/internal/fastloop"
	"github.com/proa-io/proa/internal/freeport"
	"github.com/proa-io/proa/internal/testserver"
)

// application takes note of the events it gets.
type application struct{ events chan string }

func (a application) Deliver(_ context.Context, _ string, e *pubsub.Event) (pubsub.Status, error) {
	a.events <- string(e.Data())
	return pubsub.Success, nil
}

func (a application) DeliverBulk(context.Context, string, *pubsub.BulkEvent) ([]pubsub.EntryStatus, error) {
	return nil, fault.New(fault.Unimplemented, "not in bulk")
}

func TestSubscriptionsAndMessagesSurviveARestartOfTheBroker(t *testing.T) {
	t.Parallel()
	srv := testserver.Mosquitto(t, testserver.MosquittoOptions{Persistence: true})
	p := mustOpenPubSub(t, srv.Addr(), nil)
	gather(t, p, pubsub.Subscription{Topic: "t", Group: "away"}, nil)()
	gather(t, p, pubsub.Subscription{Topic: "t", Group: "app"}, nil)()
	broker := pubsub.New(component.Opened[pubsub.Driver]("bus", p), pubsub.Options{AppID: "app"})
	app := application{make(chan string, 100)}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- broker.Subscribe(ctx, &pubsub.SubscriptionSpec{PubSub: "bus", Topic: "t"}, app) }()
	publish := func(text string) error {
		return broker.Publish(t.Context(), &pubsub.PublishRequest{Topic: "t", Data: []byte(text)})
	}
	if err := publish("before"); err != nil {
		t.Fatal(err)
	}
	if got := <-app.events; got != "before" {
		t.Errorf("event %q", got)
	}
	srv.Save()
	srv.Kill()
	if err := publish("down"); !fault.Is(err, fault.Unavailable) {
		t.Errorf("Publish to a broker that is down: %v", err)
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
	arrived := newChannel()
	gather(t, p, pubsub.Subscription{Topic: "t", Group: "away", MaxInFlight: 1}, toChannel(arrived))
	if d := next(t, arrived); !strings.Contains(string(d.Data), "before") {
		t.Errorf("after the restart the first message is %s", d.Data)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// passwordLine is a user of mosquitto's password file.
func passwordLine(t *testing.T, user, password string) string {
	t.Helper()
	const rounds = 101
	salt := make([]byte, 12)
	if _, err := rand.Read(salt); err != nil {
		t.Fatal(err)
	}
	hash, err := pbkdf2.Key(sha512.New, password, salt, rounds, 64)
	if err != nil {
		t.Fatal(err)
	}
	text := base64.StdEncoding
	return fmt.Sprintf("%s:$7$%d$%s$%s\n", user, rounds, text.EncodeToString(salt), text.EncodeToString(hash))
}

// certificate returns one for 127.0.0.1 that is its own authority, and its key.
func certificate(t *testing.T) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	about := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "broker"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, about, about, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}))
}

func TestABrokerThatLetsOnlySomeIn(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	cert, key := certificate(t)
	stranger, _ := certificate(t)
	port, err := freeport.Pick()
	if err != nil {
		t.Fatal(err)
	}
	srv := testserver.Mosquitto(t, testserver.MosquittoOptions{Config: []string{
		"password_file " + file("passwords", passwordLine(t, "user", "pass/word")),
		"acl_file " + file("acl", "user user\ntopic readwrite open/#\n"),
		"listener " + strconv.Itoa(port) + " 127.0.0.1",
		"certfile " + file("cert.pem", cert), "keyfile " + file("key.pem", key), "cafile " + file("ca.pem", cert), "require_certificate true",
	}})
	secure := fmt.Sprintf("ssl://user:pass%%2Fword@127.0.0.1:%d", port)
	for name, tc := range map[string]struct {
		cfg  PubSubConfig
		code fault.Code // Unknown for none
	}{
		"right password":       {PubSubConfig{Server: Server{URL: component.NewSecret("tcp://user:pass%2Fword@" + srv.Addr())}}, fault.Unknown},
		"wrong password":       {PubSubConfig{Server: Server{URL: component.NewSecret("tcp://user:hunter2@" + srv.Addr())}}, fault.Unauthenticated},
		"certificates":         {PubSubConfig{Server: Server{component.NewSecret(secure), component.NewSecret(cert), component.NewSecret(cert), component.NewSecret(key)}}, fault.Unknown},
		"no certificate":       {PubSubConfig{Server: Server{URL: component.NewSecret(secure), CACert: component.NewSecret(cert)}}, fault.Unavailable},
		"broker not trusted":   {PubSubConfig{Server: Server{URL: component.NewSecret(secure), CACert: component.NewSecret(stranger)}}, fault.FailedPrecondition},
		"no TLS where it must": {PubSubConfig{Server: Server{URL: component.NewSecret("tcp://user:hunter2@127.0.0.1:" + strconv.Itoa(port))}}, fault.Unavailable},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := OpenPubSub(t.Context(), tc.cfg, component.Env{AppID: "app"})
			if tc.code != fault.Unknown {
				if !fault.Is(err, tc.code) || strings.Contains(err.Error(), "hunter2") {
					t.Errorf("OpenPubSub: %v, want %v", err, tc.code)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = p.Close() }) // after the subscription
			mustPublish(t, p, "open/t", "x", nil)
			arrived := newChannel()
			gather(t, p, pubsub.Subscription{Topic: "open/t", Group: "g" + strings.ReplaceAll(name, " ", "")}, toChannel(arrived))
			mustPublish(t, p, "open/t", "x", nil)
		})
	}
}

// fake is a broker that says what a test tells it to.
type fake struct {
	t *testing.T
	l net.Listener
}

func newFake(t *testing.T) *fake {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return &fake{t, l}
}

// peer is a client of a fake broker.
type peer struct {
	net.Conn
	t *testing.T
	r *bufio.Reader
}

// accept takes the next client, up to its CONNECT.
func (f *fake) accept(present bool) peer {
	f.t.Helper()
	conn, err := f.l.Accept()
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { _ = conn.Close() })
	p := peer{conn, f.t, bufio.NewReader(conn)}
	p.want(packets.Connect)
	p.send(&packets.ConnackPacket{FixedHeader: packets.FixedHeader{MessageType: packets.Connack}, SessionPresent: present})
	return p
}

func (p peer) send(packet packets.ControlPacket) {
	p.t.Helper()
	if err := packet.Write(p); err != nil {
		p.t.Fatal(err)
	}
}

// want takes the next packet, which must be of the given type. Pings are
// answered.
func (p peer) want(kind byte) packets.ControlPacket {
	p.t.Helper()
	for {
		got, err := packets.ReadPacket(p.r)
		if err != nil {
			p.t.Fatalf("no packet of type %d: %v", kind, err)
		}
		if _, ping := got.(*packets.PingreqPacket); ping && kind != packets.Pingreq {
			p.send(packets.NewControlPacket(packets.Pingresp))
			continue
		}
		if packets.NewControlPacket(kind).String()[:4] != got.String()[:4] {
			p.t.Fatalf("packet %s, want type %d", got, kind)
		}
		return got
	}
}

func (p peer) suback(code byte) {
	p.t.Helper()
	s := p.want(packets.Subscribe).(*packets.SubscribePacket)
	p.send(&packets.SubackPacket{FixedHeader: packets.FixedHeader{MessageType: packets.Suback}, MessageID: s.MessageID, ReturnCodes: []byte{code}})
}

// TestAMessageOfQoS2IsProcessedOnce has the broker deliver a message again that
// it has no acknowledgement of, and forget the session later.
func TestAMessageOfQoS2IsProcessedOnce(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	opened := make(chan *PubSub)
	go func() {
		p, err := openPubSub(t.Context(), f.l.Addr().String(), func(c *PubSubConfig) { c.QoS = 2 })
		if err != nil {
			t.Error(err)
		}
		opened <- p
	}()
	f.accept(false) // the producer
	p := <-opened
	t.Cleanup(func() { _ = p.Close() })
	arrived := newChannel()
	subscribe := func(present bool) (peer, chan error) {
		done := make(chan error, 1)
		go func() {
			done <- p.Subscribe(t.Context(), pubsub.Subscription{Topic: "t", Group: "g"}, toChannel(arrived))
		}()
		c := f.accept(present)
		c.suback(2)
		return c, done
	}
	message := &packets.PublishPacket{FixedHeader: packets.FixedHeader{MessageType: packets.Publish, Qos: 2}, TopicName: "t", MessageID: 7, Payload: []byte("x")}
	c, done := subscribe(false)
	c.send(message)
	next(t, arrived)
	c.want(packets.Pubrec)
	_ = c.Close()
	if err := <-done; !fault.Is(err, fault.Unavailable) {
		t.Errorf("Subscribe: %v", err)
	}
	message.Dup = true
	c, done = subscribe(true)
	c.send(message)
	c.want(packets.Pubrec)
	if len(arrived) > 0 {
		t.Error("the message was delivered twice")
	}
	release := packets.NewControlPacket(packets.Pubrel).(*packets.PubrelPacket)
	release.MessageID = 7
	c.send(release)
	c.want(packets.Pubcomp)
	c.send(message) // the id is free: this is another message
	if d := next(t, arrived); d.Attempt != 2 {
		t.Errorf("attempt %d", d.Attempt)
	}
	c.want(packets.Pubrec)
	_ = c.Close()
	<-done
	c, _ = subscribe(false) // it has forgotten the session
	c.send(message)
	next(t, arrived)
}

func TestABrokerThatTalksNonsenseBreaksNothingButItsConnection(t *testing.T) {
	fastloop.Skip(t, "takes seconds")
	t.Parallel()
	for name, nonsense := range map[string]string{
		"no packet":            "\x00\x00",
		"SUBACK nobody wants":  "\x90\x03\x12\x34\x00" + "\xf0\x00",
		"acks nobody wants":    "\x40\x02\x12\x34\x50\x02\x12\x34\x70\x02\x12\x34\xb0\x02\x12\x34\xd0\x00\xd0\x00" + "\xf0\x00",
		"packets for a broker": "\xc0\x00",
		"topic of no one":      "\x32\x06\x00\x02zz\x00\x01" + "\xf0\x00",
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t)
			opened := make(chan *PubSub)
			go func() {
				p, err := openPubSub(t.Context(), f.l.Addr().String(), nil)
				if err != nil {
					t.Error(err)
				}
				opened <- p
			}()
			f.accept(false)
			p := <-opened
			t.Cleanup(func() { _ = p.Close() })
			done := make(chan error, 1)
			go func() { done <- p.Subscribe(t.Context(), pubsub.Subscription{Topic: "t", Group: "g"}, nil) }()
			c := f.accept(false)
			c.suback(1)
			if _, err := io.WriteString(c, nonsense); err != nil {
				t.Fatal(err)
			}
			if err := <-done; !fault.Is(err, fault.Unavailable) {
				t.Errorf("Subscribe: %v", err)
			}
		})
	}
}

func TestRefusalsAreNamed(t *testing.T) {
	fastloop.Skip(t, "takes seconds")
	t.Parallel()
	for code, want := range map[byte]fault.Code{
		1: fault.FailedPrecondition, 2: fault.FailedPrecondition, 3: fault.Unavailable, 4: fault.Unauthenticated, 5: fault.Unauthenticated, 99: fault.Unavailable,
	} {
		f := newFake(t)
		done := make(chan error, 1)
		go func() {
			_, err := openPubSub(t.Context(), f.l.Addr().String(), nil)
			done <- err
		}()
		conn, err := f.l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Write([]byte{0x20, 2, 0, code}); err != nil {
			t.Fatal(err)
		}
		if err := <-done; !fault.Is(err, want) {
			t.Errorf("code %d: %v, want %v", code, err, want)
		}
		_ = conn.Close()
	}
	f := newFake(t)
	go func() {
		f.accept(false)
		f.accept(false).suback(0x80)
	}()
	p := mustOpenPubSub(t, f.l.Addr().String(), nil)
	if err := p.Subscribe(t.Context(), pubsub.Subscription{Topic: "t", Group: "g"}, nil); !fault.Is(err, fault.PermissionDenied) {
		t.Errorf("Subscribe to what is refused: %v", err)
	}
}

func TestABrokerThatIsSilentCountsAsDead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := net.Pipe()
		defer theirs.Close()
		c := &conn{net: ours, ended: make(chan struct{}), pending: map[uint16]*pending{}}
		c.heard.Store(time.Now().UnixNano())
		go func() { _, _ = io.Copy(io.Discard, theirs) }()
		c.workers.Go(c.watch)
		begun := time.Now()
		<-c.ended
		if took := time.Since(begun); !errors.Is(c.broken(), errSilent) || took > keepAlive {
			t.Errorf("%v after %v", c.broken(), took)
		}
		c.workers.Wait()
	})
}
