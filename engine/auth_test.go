package engine

import (
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
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nkeys"

	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
)

func writeFile(t *testing.T, dir, name string, data []byte) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestEveryWayToAuthenticate(t *testing.T) {
	dir := t.TempDir()
	user, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	public, err := user.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	seed, err := user.Seed()
	if err != nil {
		t.Fatal(err)
	}
	nkeyConf := writeFile(t, dir, "nkey.conf", fmt.Appendf(nil, "authorization { users = [{ nkey: %s }] }", public))
	seedFile := writeFile(t, dir, "seed", seed)
	tests := map[string]struct {
		args []string
		url  func(url string) string
		auth Auth
	}{
		"token in the URL": {args: []string{"--auth", "tok"}, url: func(u string) string { return strings.Replace(u, "//", "//tok@", 1) }},
		"token":            {args: []string{"--auth", "tok"}, auth: Auth{Token: component.NewSecret("tok")}},
		"nkey":             {args: []string{"-c", nkeyConf}, auth: Auth{NKey: seedFile}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			server := startNATS(t, t.TempDir(), freePort(t), append([]string{"-js"}, tt.args...)...)
			o := Options{URL: server.url, Auth: tt.auth}
			if tt.url != nil {
				o.URL = tt.url(server.url)
			}
			e, _ := run(t, o)
			if _, err := e.KeyValue(deadline(t), BucketConfig{Name: "b"}); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestAFileThatCannotBeReadIsNamedAndTriedAgain(t *testing.T) {
	ctx := deadline(t)
	server := startNATS(t, t.TempDir(), freePort(t))
	dir := t.TempDir()
	for name, auth := range map[string]Auth{
		"nkey":        {NKey: filepath.Join(dir, "nkey")},
		"credentials": {Credentials: filepath.Join(dir, "me.creds")},
		"authority":   {CA: filepath.Join(dir, "ca.pem")},
	} {
		t.Run(name, func(t *testing.T) {
			e, _ := run(t, Options{URL: server.url, Auth: auth, Wait: 500 * time.Millisecond})
			_, err := e.Conn(ctx)
			wantCode(t, err, fault.Unavailable, ReasonNotReady)
			mentions(t, err.Error(), dir)
		})
	}
}

func TestTLSWithClientCertificates(t *testing.T) {
	ctx := deadline(t)
	dir := t.TempDir()
	ca, caKey := certificate(t, dir, "ca", nil, nil)
	certificate(t, dir, "server", ca, caKey)
	certificate(t, dir, "client", ca, caKey)
	file := func(name string) string { return filepath.Join(dir, name) }
	server := startNATS(t, t.TempDir(), freePort(t), "-js", "--tls", "--tlsverify",
		"--tlscert", file("server.pem"), "--tlskey", file("server.key"), "--tlscacert", file("ca.pem"))
	url := strings.Replace(server.url, "nats://", "tls://", 1)

	e, _ := run(t, Options{URL: url, Auth: Auth{CA: file("ca.pem"), Cert: file("client.pem"), Key: file("client.key")}})
	if _, err := e.KeyValue(ctx, BucketConfig{Name: "b"}); err != nil {
		t.Fatal(err)
	}
	stranger, _ := run(t, Options{URL: url, Wait: time.Second})
	_, err := stranger.Conn(ctx)
	wantCode(t, err, fault.Unavailable, ReasonNotReady)
	mentions(t, err.Error(), "certificate")
}

// certificate writes name.pem and name.key, signed by parent or by itself.
func certificate(t *testing.T, dir, name string, parent *x509.Certificate, parentKey *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		Subject:   pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: parent == nil, BasicConstraintsValid: true, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if parent == nil {
		parent, parentKey = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, parentKey)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, dir, name+".pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	writeFile(t, dir, name+".key", pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER}))
	made, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return made, key
}
