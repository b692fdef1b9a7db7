package etcd

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/proa-io/proa/block/lock"
	"github.com/proa-io/proa/block/state"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/internal/leak"
	"github.com/proa-io/proa/internal/testserver"
)

// identity is a certificate and its key, in PEM.
type identity struct {
	cert, key string
	parsed    *x509.Certificate
	private   *ecdsa.PrivateKey
}

// issue makes a certificate for 127.0.0.1 that by has signed; itself when by is
// nil.
func issue(t *testing.T, serial int64, by *identity) identity {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: "test"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: by == nil, BasicConstraintsValid: true, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	parent, signer := template, key
	if by != nil {
		parent, signer = by.parsed, by.private
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return identity{
		cert: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		key:  string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw})), parsed: parsed, private: key,
	}
}

// encrypted returns the address of a server that speaks TLS, wants a certificate
// of ca, and passes on to upstream.
func encrypted(t *testing.T, upstream string, ca identity) string {
	t.Helper()
	own := issue(t, 2, &ca)
	cert, err := tls.X509KeyPair([]byte(own.cert), []byte(own.key))
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(ca.parsed)
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{
		MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{cert}, NextProtos: []string{"h2"},
		ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool,
	})
	if err != nil {
		t.Fatal(err)
	}
	var work sync.WaitGroup
	t.Cleanup(func() {
		_ = l.Close()
		work.Wait()
	})
	work.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			work.Go(func() {
				defer client.Close()
				server, err := net.Dial("tcp", upstream)
				if err != nil {
					return
				}
				defer server.Close()
				work.Go(func() {
					defer server.Close()
					_, _ = io.Copy(server, client)
				})
				_, _ = io.Copy(client, server)
			})
		}
	})
	return l.Addr().String()
}

func TestConnectionsAreEncryptedAndVerified(t *testing.T) {
	ca := issue(t, 1, nil)
	mine, other := issue(t, 3, &ca), issue(t, 4, nil)
	addr := encrypted(t, server.Get(t).Addr(), ca)
	base := emptyPrefix(addr)
	base.TLSEnable, base.CA, base.Cert, base.Key = true, ca.cert, mine.cert, component.NewSecret(mine.key)
	good := openLock(t, base)
	if _, err := good.Acquire(t.Context(), "l", "me", time.Hour); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(*Config){
		"another authority":   func(c *Config) { c.CA = other.cert },
		"another certificate": func(c *Config) { c.Cert, c.Key = other.cert, component.NewSecret(other.key) },
		"no certificate":      func(c *Config) { c.Cert, c.Key = "", component.Secret{} },
		"no encryption":       func(c *Config) { *c = Config{Endpoints: c.Endpoints} },
	} {
		cfg := base
		spoil(&cfg)
		if err := cfg.Validate(); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if _, err := OpenLock(t.Context(), LockConfig{cfg}, component.Env{}); !fault.Is(err, fault.Unavailable) {
			t.Errorf("%s: %v, want unavailable", name, err)
		}
	}
}

func TestUsersAreAuthenticated(t *testing.T) {
	t.Parallel()
	own := testserver.Etcd(t)
	admin, err := clientv3.New(clientv3.Config{Endpoints: []string{own.Addr()}})
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	for _, step := range []func() error{
		func() error { _, err := admin.UserAdd(t.Context(), "root", "root's"); return err },
		func() error { _, err := admin.UserGrantRole(t.Context(), "root", "root"); return err },
		func() error { _, err := admin.UserAdd(t.Context(), "app", "app's"); return err },
		func() error { _, err := admin.RoleAdd(t.Context(), "app"); return err },
		func() error {
			_, err := admin.RoleGrantPermission(t.Context(), "app", "mine/", clientv3.GetPrefixRangeEnd("mine/"),
				clientv3.PermissionType(clientv3.PermReadWrite))
			return err
		},
		func() error { _, err := admin.UserGrantRole(t.Context(), "app", "app"); return err },
		func() error { _, err := admin.AuthEnable(t.Context()); return err },
	} {
		if err := step(); err != nil {
			t.Fatal(err)
		}
	}
	open := func(path, user, password string) error {
		cfg := Config{Endpoints: []string{own.Addr()}, KeyPrefixPath: path, Username: user, Password: component.NewSecret(password)}
		l, err := OpenLock(t.Context(), LockConfig{cfg}, component.Env{})
		if err != nil {
			return err
		}
		defer l.Close()
		_, err = l.Acquire(t.Context(), "l", "me", time.Hour)
		return err
	}
	if err := open("mine", "app", "app's"); err != nil {
		t.Errorf("the user: %v", err)
	}
	for _, c := range []struct {
		path, user, password string
		want                 fault.Code
	}{
		{"mine", "app", "wrong", fault.Unauthenticated},
		{"mine", "nobody", "wrong", fault.Unauthenticated},
		{"mine", "", "", fault.Unauthenticated},
		{"yours", "app", "app's", fault.PermissionDenied},
	} {
		if err := open(c.path, c.user, c.password); !fault.Is(err, c.want) || strings.Contains(err.Error(), "wrong") {
			t.Errorf("user %q at %q: %v, want %v", c.user, c.path, err, c.want)
		}
	}
}

func TestCloseEndsCallsAndGoroutines(t *testing.T) {
	addr := server.Get(t).Addr()
	leak.Check(t)
	l := openLock(t, emptyPrefix(addr))
	if _, err := l.Acquire(t.Context(), "l", "me", time.Hour); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- l.AwaitFree(t.Context(), "l") }()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-ended:
		if !fault.Is(err, fault.Unavailable) {
			t.Errorf("AwaitFree: %v, want unavailable", err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("AwaitFree has not ended 20 s after Close")
	}
	if _, err := l.Acquire(t.Context(), "m", "me", time.Hour); !fault.Is(err, fault.Unavailable) {
		t.Errorf("Acquire after Close: %v", err)
	}
}

func TestSettingsThatCannotWorkAreRefused(t *testing.T) {
	ca := issue(t, 1, nil)
	for _, spec := range Specs() {
		for _, c := range []struct {
			settings map[string]string
			want     string
		}{
			{map[string]string{}, `"endpoints": is required`},
			{map[string]string{"endpoints": "ftp://a:1"}, "not ftp://"},
			{map[string]string{"endpoints": "a:1, b/c:2"}, "wants host:port"},
			{map[string]string{"endpoints": "http://a:1", "tlsEnable": "true"}, "in clear"},
			{map[string]string{"endpoints": "a:1", "ca": ca.cert}, `"tlsEnable": must be on`},
			{map[string]string{"endpoints": "a:1", "tlsEnable": "true", "cert": ca.cert}, "must be given together"},
			{map[string]string{"endpoints": "a:1", "tlsEnable": "true", "ca": "no certificate"}, "has no certificate in PEM"},
			{map[string]string{"endpoints": "a:1", "tlsEnable": "true", "cert": ca.cert, "key": "bad"}, "not a PEM certificate and its key"},
			{map[string]string{"endpoints": "a:1", "username": "u"}, "must be given together"},
			{map[string]string{"endpoints": "a:1,b:2", "tlsEnable": "true", "ca": ca.cert, "cert": ca.cert, "key": ca.key}, ""},
			{map[string]string{"endpoints": "https://a:1", "keyPrefixPath": "p"}, ""},
		} {
			var settings component.Settings
			for name, value := range c.settings {
				settings = append(settings, component.Setting{Name: name, Value: value})
			}
			err := spec.Check(settings)
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("%s %v: error %v, want %q", spec.Type(), c.settings, err, c.want)
			}
		}
		if spec.Block == lock.Block {
			continue
		}
		if err := spec.Check(component.Settings{{Name: "endpoints", Value: "a:1"}, {Name: "maxTxnOps", Value: "0"}}); err == nil {
			t.Error("maxTxnOps 0 is taken")
		}
	}
}

func TestVersionsOfTheComponentDifferInTheFormatOnly(t *testing.T) {
	catalog, err := component.NewCatalog(Specs()...)
	if err != nil {
		t.Fatal(err)
	}
	for version, want := range map[string]format{"": formatV1{}, "v1": formatV1{}, "v2": formatV2{}} {
		spec, err := catalog.Lookup("state.etcd", version)
		if err != nil {
			t.Fatal(err)
		}
		d, err := spec.Open(t.Context(), component.Settings{{Name: "endpoints", Value: server.Get(t).Addr()}}, component.Env{})
		if err != nil {
			t.Fatal(err)
		}
		s, ok := d.(*State)
		if !ok || s.format != want {
			t.Errorf("version %q is %T with %+v", version, d, s)
		}
		_ = s.Close()
	}
	var _ state.Watcher = &State{}
}
