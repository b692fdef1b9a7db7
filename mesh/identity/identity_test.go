package identity

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/proa-io/proa/fault"
)

var shop = ID{TrustDomain: "cluster.local", Namespace: "default", AppID: "shop"}

var stock = ID{TrustDomain: "cluster.local", Namespace: "prod", AppID: "stock"}

// fixed is a Source that does not change.
type fixed struct{ doc *Document }

func (fixed) Run(context.Context) error { return nil }
func (f fixed) Current() *Document      { return f.doc }

func authority(t *testing.T, domain string) *Authority {
	t.Helper()
	a, err := NewAuthority(domain, time.Now(), AuthorityOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func issue(t *testing.T, a *Authority, id ID) *Document {
	t.Helper()
	d, err := a.Issue(id, time.Now(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// shake makes a connection and returns what both sides say of each other.
func shake(client, server *tls.Config) (ofServer, ofClient ID, err error) {
	near, far := net.Pipe()
	done := make(chan error, 1)
	go func() {
		s := tls.Server(far, server)
		err := s.Handshake()
		if err == nil {
			ofClient, err = Peer(s.ConnectionState())
			_, _ = s.Write([]byte("x"))
		}
		_ = far.Close()
		done <- err
	}()
	c := tls.Client(near, client)
	clientErr := c.Handshake()
	if clientErr == nil {
		ofServer, clientErr = Peer(c.ConnectionState())
		if _, err := c.Read(make([]byte, 1)); err != nil && clientErr == nil { // a refusal comes after the handshake
			clientErr = err
		}
	}
	_ = near.Close()
	return ofServer, ofClient, errors.Join(clientErr, <-done)
}

func TestBothSidesKnowEachOther(t *testing.T) {
	a := authority(t, "cluster.local")
	ofServer, ofClient, err := shake(Client(fixed{issue(t, a, shop)}, stock, Options{}), Server(fixed{issue(t, a, stock)}, Options{}))
	if err != nil || ofServer != stock || ofClient != shop {
		t.Errorf("the server is %v, the client is %v, %v", ofServer, ofClient, err)
	}
}

func TestWhoCannotBeTrustedIsRefused(t *testing.T) {
	a, other := authority(t, "cluster.local"), authority(t, "cluster.local")
	server := Server(fixed{issue(t, a, stock)}, Options{})
	late := func() time.Time { return time.Now().Add(2 * time.Hour) }
	for _, tc := range []struct {
		name   string
		client *tls.Config
		server *tls.Config
		want   string
	}{
		{"a client of another authority", Client(fixed{issue(t, other, shop)}, stock, Options{}), server, "unknown authority"},
		{"a server of another authority", Client(fixed{issue(t, a, shop)}, stock, Options{}), Server(fixed{issue(t, other, stock)}, Options{}), "unknown authority"},
		{"another application", Client(fixed{issue(t, a, shop)}, ID{"cluster.local", "prod", "billing"}, Options{}), server, "it is spiffe://cluster.local/ns/prod/stock, not"},
		{"an expired certificate", Client(fixed{issue(t, a, shop)}, stock, Options{Now: late}), Server(fixed{issue(t, a, stock)}, Options{Now: late}), "expired"},
		{"a client without a certificate", &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13}, server, "certificate"},
		{"a client that speaks TLS 1.2", &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12}, server, "protocol version"},
		{"a sidecar without an identity", Client(fixed{}, stock, Options{}), server, "no identity yet"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if _, _, err := shake(tc.client, tc.server); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%v, want %q", err, tc.want)
			}
		})
	}
}

func TestIDsAreThoseOfSPIFFE(t *testing.T) {
	for text, ok := range map[string]bool{
		"spiffe://cluster.local/ns/default/shop":       true,
		"spiffe://cluster.local/ns/default/Shop_1.x-y": true,
		"spiffe://Cluster/ns/default/shop":             false,
		"spiffe://cluster.local/ns/default/shop/":      false,
		"spiffe://cluster.local/ns/default/..":         false,
		"spiffe://cluster.local/ns//shop":              false,
		"spiffe://cluster.local/sa/default/shop":       false,
		"spiffe://cluster.local:1/ns/default/shop":     false,
		"spiffe://u@cluster.local/ns/default/shop":     false,
		"spiffe://cluster.local/ns/default/shop?x":     false,
		"spiffe://cluster.local/ns/def%2Fault/shop":    false,
		"https://cluster.local/ns/default/shop":        false,
		"":                                             false,
	} {
		id, err := Parse(text)
		if (err == nil) != ok || ok && id.String() != text {
			t.Errorf("%s: %v, %v", text, id, err)
		}
	}
}

func TestAnAuthorityIsReadAsItWasWritten(t *testing.T) {
	a := authority(t, "cluster.local")
	b, err := a.Rotate(time.Now(), time.Hour, AuthorityOptions{})
	if err != nil {
		t.Fatal(err)
	}
	text, err := b.Encode()
	if err != nil {
		t.Fatal(err)
	}
	c, err := DecodeAuthority(text)
	if err != nil || c.TrustDomain != "cluster.local" || len(c.Roots()) != 2 || !c.Signs().Equal(b.Signs()) || !c.Roots()[1].Equal(b.Roots()[1]) {
		t.Fatalf("%+v, %v", c, err)
	}
	if _, _, err := shake(Client(fixed{issue(t, a, shop)}, stock, Options{}), Server(fixed{issue(t, c, stock)}, Options{})); err != nil {
		t.Error(err)
	}
	blocks := strings.SplitAfter(string(text), "-----END PRIVATE KEY-----\n")
	foreign, _ := authority(t, "elsewhere").Encode()
	for name, broken := range map[string]string{
		"nothing":            "",
		"no key":             strings.SplitAfter(string(text), "-----END CERTIFICATE-----\n")[0],
		"another's key":      strings.SplitAfter(blocks[0], "-----END CERTIFICATE-----\n")[0] + "-----BEGIN PRIVATE" + strings.SplitN(blocks[1], "-----BEGIN PRIVATE", 2)[1],
		"another domain":     string(text) + string(foreign),
		"no authority's":     string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: issue(t, a, shop).Certificate.Leaf.Raw})),
		"two certificates":   strings.SplitAfter(string(text), "-----END CERTIFICATE-----\n")[0] + string(text),
		"a bad certificate":  strings.Replace(string(text), "MI", "XX", 1),
		"a bad time to sign": strings.Replace(string(text), "Signs-From: ", "Signs-From: x", 1),
	} {
		if _, err := DecodeAuthority([]byte(broken)); fault.CodeOf(err) != fault.InvalidArgument {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzDecodeAuthority(f *testing.F) {
	a, err := NewAuthority("cluster.local", time.Now(), AuthorityOptions{})
	if err != nil {
		f.Fatal(err)
	}
	text, _ := a.Encode()
	f.Add(text)
	f.Add([]byte("-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		if a, err := DecodeAuthority(text); err == nil {
			if _, err := a.Issue(ID{a.TrustDomain, "n", "a"}, time.Now(), time.Hour); err != nil && fault.CodeOf(err) == fault.Unknown {
				t.Errorf("an authority that was read issues nothing: %v", err)
			}
		}
	})
}

// TestKeysChangeUnderLoadWithoutAFailure lets days pass in which documents and
// the authority's keys are renewed, while connections are made all the time.
func TestKeysChangeUnderLoadWithoutAFailure(t *testing.T) {
	file := filepath.Join(t.TempDir(), "ca.pem")
	synctest.Test(t, func(t *testing.T) {
		const life = 24 * time.Hour
		source := func(id ID) *Local {
			l, err := NewLocal(LocalOptions{ID: id, File: file, Life: life, RootLife: 8 * life, Interval: 20 * time.Minute})
			if err != nil {
				t.Fatal(err)
			}
			return l
		}
		a, b := source(shop), source(stock)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 2)
		go func() { done <- a.Run(ctx) }()
		go func() { done <- b.Run(ctx) }()
		client, server := Client(a, stock, Options{}), Server(b, Options{})
		first := a.Current().Roots[0]
		serials, roots := map[string]bool{}, 0
		for hour := range 9 * 24 {
			if _, _, err := shake(client, server); err != nil {
				t.Fatalf("after %d hours: %v", hour, err)
			}
			time.Sleep(time.Hour + 7*time.Second)
			serials[a.Current().Certificate.Leaf.SerialNumber.String()] = true
			roots = max(roots, len(a.Current().Roots))
		}
		cancel()
		if err := errors.Join(<-done, <-done); err != nil {
			t.Error(err)
		}
		if len(serials) < 17 || roots != 2 || len(a.Current().Roots) != 1 || a.Current().Roots[0].Equal(first) {
			t.Errorf("%d documents, up to %d roots, in the end %d", len(serials), roots, len(a.Current().Roots))
		}
	})
}

func TestAFileOfAnAuthorityIsMadeOnceAndForItsOwner(t *testing.T) {
	file := filepath.Join(t.TempDir(), "identity", "ca.pem")
	docs := make(chan *Document, 8)
	for i := range cap(docs) {
		go func() {
			l, err := NewLocal(LocalOptions{ID: ID{"cluster.local", "default", fmt.Sprint("app", i)}, File: file})
			if err != nil {
				t.Error(err)
			}
			docs <- l.Current()
		}()
	}
	first := <-docs
	for range cap(docs) - 1 {
		if d := <-docs; !d.Roots[0].Equal(first.Roots[0]) {
			t.Error("two processes have made an authority each")
		}
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
}

func TestFilesAreReadWhenAllOfThemFit(t *testing.T) {
	dir := t.TempDir()
	a := authority(t, "cluster.local")
	path := func(name string) string { return filepath.Join(dir, name) }
	write := func(d *Document, names ...string) {
		t.Helper()
		key, err := x509.MarshalPKCS8PrivateKey(d.Certificate.PrivateKey)
		if err != nil {
			t.Fatal(err)
		}
		texts := map[string][]byte{
			"cert.pem": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: d.Certificate.Certificate[0]}),
			"key.pem":  pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}),
			"ca.pem":   pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.Roots()[0].Raw}),
		}
		for _, n := range names {
			if err := os.WriteFile(path(n), texts[n], 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	o := FilesOptions{Certificate: path("cert.pem"), Key: path("key.pem"), Roots: path("ca.pem")}
	if _, err := NewFiles(o); err == nil {
		t.Error("files that are not there are no error")
	}
	write(issue(t, a, shop), "cert.pem", "key.pem", "ca.pem")
	f, err := NewFiles(o)
	if err != nil || f.Current().ID != shop {
		t.Fatalf("%v", err)
	}
	next := issue(t, a, stock)
	write(next, "cert.pem")
	if err := f.refresh(); err == nil || f.Current().ID != shop {
		t.Errorf("half of a new set: %v, %v", err, f.Current().ID)
	}
	write(next, "key.pem")
	if err := f.refresh(); err != nil || f.Current().ID != stock {
		t.Errorf("the whole set: %v, %v", err, f.Current().ID)
	}
	write(issue(t, authority(t, "cluster.local"), shop), "cert.pem", "key.pem")
	if err := f.refresh(); fault.ReasonOf(err) != ReasonUntrusted || f.Current().ID != stock {
		t.Errorf("a set whose authority is unknown: %v", err)
	}
}
