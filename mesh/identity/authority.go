package identity

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net/url"
	"slices"
	"time"

	"github.com/proa-io/proa/fault"
)

// Lifetimes of an Authority.
const (
	DefaultRootLife = 10 * 365 * 24 * time.Hour
	DefaultLeafLife = 24 * time.Hour
	// skew is how much earlier than now certificates begin, for clocks that
	// are behind; certificates that last for minutes begin less early.
	skew = time.Minute
)

// Authority is a certification authority of one trust domain, for development
// and for those who have no other. It holds its keys in memory; Encode and
// DecodeAuthority keep them. It does not change: Rotate and Prune return another
// one.
type Authority struct {
	TrustDomain string
	// roots are trusted, oldest first. The last one that is active signs.
	roots []root
	// longest is the longest life of documents that it was promised to; see
	// Promise.
	longest time.Duration
}

// root is one key of an Authority.
type root struct {
	cert   *x509.Certificate
	key    crypto.Signer
	active time.Time // from when on it signs
}

// AuthorityOptions say how long things last. Zero fields take the defaults: for a
// further key of an authority, the life of the newest one.
type AuthorityOptions struct {
	RootLife time.Duration
}

// NewAuthority returns an authority with one key, which signs from now on.
func NewAuthority(trustDomain string, now time.Time, o AuthorityOptions) (*Authority, error) {
	if err := (ID{TrustDomain: trustDomain, Namespace: "x", AppID: "x"}).Check(); err != nil {
		return nil, err
	}
	r, err := newRoot(trustDomain, now, now, o)
	if err != nil {
		return nil, err
	}
	return &Authority{TrustDomain: trustDomain, roots: []root{r}}, nil
}

func newRoot(trustDomain string, now, active time.Time, o AuthorityOptions) (root, error) {
	if o.RootLife <= 0 {
		o.RootLife = DefaultRootLife
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return root{}, err
	}
	serial, err := newSerial()
	if err != nil {
		return root{}, err
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{Organization: []string{"Proa"}, CommonName: trustDomain},
		NotBefore: now.Add(-skew), NotAfter: now.Add(o.RootLife),
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, IsCA: true, BasicConstraintsValid: true,
		URIs: []*url.URL{{Scheme: "spiffe", Host: trustDomain}},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return root{}, err
	}
	cert, err := x509.ParseCertificate(der)
	return root{cert: cert, key: key, active: active}, err
}

func newSerial() (*big.Int, error) {
	return rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
}

// Rotate returns an authority that has one more key. It is trusted at once, and
// signs once overlap has passed, when all who ask for documents have seen it.
func (a *Authority) Rotate(now time.Time, overlap time.Duration, o AuthorityOptions) (*Authority, error) {
	if o.RootLife <= 0 {
		newest := a.roots[len(a.roots)-1].cert
		o.RootLife = newest.NotAfter.Sub(newest.NotBefore) - skew
	}
	r, err := newRoot(a.TrustDomain, now, now.Add(overlap), o)
	if err != nil {
		return nil, err
	}
	return &Authority{TrustDomain: a.TrustDomain, roots: append(slices.Clone(a.roots), r), longest: a.longest}, nil
}

// Promise returns an authority whose keys stay trusted for as long as documents
// of a life need it, whoever prunes them. It is a itself when that was promised
// before, as a life of up to DefaultLeafLife is to everybody.
func (a *Authority) Promise(life time.Duration) *Authority {
	if life <= max(a.longest, DefaultLeafLife) {
		return a
	}
	return &Authority{TrustDomain: a.TrustDomain, roots: a.roots, longest: life}
}

// Prune returns an authority without the keys that nobody needs any more: those
// that have ended, and those whose successor has signed for longer than leafLife,
// and than any life that was promised.
func (a *Authority) Prune(now time.Time, leafLife time.Duration) *Authority {
	out := &Authority{TrustDomain: a.TrustDomain, longest: a.longest}
	leafLife = max(leafLife, a.longest)
	for i, r := range a.roots {
		last := i == len(a.roots)-1
		if !last && (now.After(r.cert.NotAfter) || now.After(a.roots[i+1].active.Add(leafLife+skew))) {
			continue
		}
		out.roots = append(out.roots, r)
	}
	return out
}

// Maintain returns an authority that will go on: with another key when a third of
// the newest one's life is left, and without those that nobody needs. It is a
// itself when there is nothing to do. Those who ask for documents must see the
// result within overlap.
func (a *Authority) Maintain(now time.Time, overlap, leafLife time.Duration) (*Authority, error) {
	out := a
	newest := a.roots[len(a.roots)-1].cert
	life := newest.NotAfter.Sub(newest.NotBefore)
	if now.After(newest.NotAfter.Add(-life / 3)) {
		var err error
		// Whoever holds documents in files may need as long as they last to see it.
		overlap = max(overlap, min(a.longest, life/6))
		if out, err = a.Rotate(now, overlap, AuthorityOptions{}); err != nil {
			return nil, err
		}
	}
	if pruned := out.Prune(now, leafLife); len(pruned.roots) < len(out.roots) {
		out = pruned
	}
	return out, nil
}

// Expiry returns when the newest key ends.
func (a *Authority) Expiry() time.Time { return a.roots[len(a.roots)-1].cert.NotAfter }

// Signs returns since when the newest key signs, or when it will.
func (a *Authority) Signs() time.Time { return a.roots[len(a.roots)-1].active }

// Roots returns the certificates to trust.
func (a *Authority) Roots() []*x509.Certificate {
	out := make([]*x509.Certificate, len(a.roots))
	for i, r := range a.roots {
		out[i] = r.cert
	}
	return out
}

// Key is one of the keys of an Authority.
type Key struct {
	Certificate *x509.Certificate
	Active      time.Time // from when on it signs; zero for always
}

// Keys returns the keys, oldest first.
func (a *Authority) Keys() []Key {
	out := make([]Key, len(a.roots))
	for i, r := range a.roots {
		out[i] = Key{r.cert, r.active}
	}
	return out
}

// signer returns the key that signs at a time.
func (a *Authority) signer(now time.Time) root {
	chosen := a.roots[0]
	for _, r := range a.roots[1:] {
		if !now.Before(r.active) {
			chosen = r
		}
	}
	return chosen
}

// Issue returns a new document for an application, with a key of its own.
func (a *Authority) Issue(id ID, now time.Time, life time.Duration) (*Document, error) {
	if err := id.Check(); err != nil {
		return nil, err
	}
	if id.TrustDomain != a.TrustDomain {
		return nil, fault.New(fault.PermissionDenied, "the authority of %q cannot speak for %s", a.TrustDomain, id)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	if life <= 0 {
		life = DefaultLeafLife
	}
	by := a.signer(now)
	template := &x509.Certificate{
		SerialNumber: serial, NotBefore: now.Add(-min(skew, life/10)), NotAfter: earliest(now.Add(life), by.cert.NotAfter),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true, URIs: []*url.URL{id.URL()},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, by.cert, key.Public(), by.key)
	if err != nil {
		return nil, err
	}
	return NewDocument(&tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, a.Roots(), now)
}

func earliest(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// The types of the PEM blocks of an encoded Authority.
const (
	certificateBlock = "CERTIFICATE"
	keyBlock         = "PRIVATE KEY"
	activeHeader     = "Signs-From"
	longestHeader    = "Longest-Certificate"
)

// Encode returns the authority with its keys in PEM: for each a certificate and
// a private key (PKCS #8). Whoever has it can speak for everybody.
func (a *Authority) Encode() ([]byte, error) {
	var out bytes.Buffer
	for _, r := range a.roots {
		der, err := x509.MarshalPKCS8PrivateKey(r.key)
		if err != nil {
			return nil, err
		}
		_ = pem.Encode(&out, &pem.Block{Type: certificateBlock, Bytes: r.cert.Raw}) // to memory
		headers := map[string]string{activeHeader: r.active.UTC().Format(time.RFC3339Nano)}
		if a.longest > 0 {
			headers[longestHeader] = a.longest.String()
		}
		_ = pem.Encode(&out, &pem.Block{Type: keyBlock, Headers: headers, Bytes: der})
	}
	return out.Bytes(), nil
}

// DecodeAuthority reads what Encode wrote. An authority that another tool made,
// with one certificate and its key, is read too.
func DecodeAuthority(text []byte) (*Authority, error) {
	a := &Authority{}
	var cert *x509.Certificate
	for n := 1; ; n++ {
		var b *pem.Block
		if b, text = pem.Decode(text); b == nil {
			break
		}
		var err error
		switch {
		case b.Type == certificateBlock && cert == nil:
			if cert, err = x509.ParseCertificate(b.Bytes); err != nil {
				return nil, fault.Wrap(err, fault.InvalidArgument, "block %d", n)
			}
		case b.Type == keyBlock && cert != nil:
			r := root{cert: cert}
			if r.key, err = signerOf(b.Bytes); err != nil {
				return nil, fault.Wrap(err, fault.InvalidArgument, "block %d", n)
			}
			if text := b.Headers[activeHeader]; text != "" {
				if r.active, err = time.Parse(time.RFC3339Nano, text); err != nil {
					return nil, fault.Wrap(err, fault.InvalidArgument, "block %d: %s", n, activeHeader)
				}
			}
			if text := b.Headers[longestHeader]; text != "" {
				life, err := time.ParseDuration(text)
				if err != nil {
					return nil, fault.Wrap(err, fault.InvalidArgument, "block %d: %s", n, longestHeader)
				}
				a.longest = max(a.longest, life)
			}
			if err := a.add(r); err != nil {
				return nil, fault.Wrap(err, fault.InvalidArgument, "block %d", n)
			}
			cert = nil
		default:
			return nil, fault.New(fault.InvalidArgument, "block %d is a %s; an authority is a list of certificates, each followed by its private key (PKCS #8)", n, b.Type)
		}
	}
	if len(a.roots) == 0 || cert != nil {
		return nil, fault.New(fault.InvalidArgument, "an authority is a list of certificates in PEM, each followed by its private key (PKCS #8)")
	}
	return a, nil
}

func signerOf(der []byte) (crypto.Signer, error) {
	key, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, err
	}
	s, ok := key.(crypto.Signer)
	if !ok {
		return nil, fault.New(fault.InvalidArgument, "a %T cannot sign", key)
	}
	return s, nil
}

// add appends a root that belongs to the same trust domain.
func (a *Authority) add(r root) error {
	if !r.cert.IsCA || len(r.cert.URIs) != 1 || r.cert.URIs[0].Scheme != "spiffe" || r.cert.URIs[0].Path != "" {
		return fault.New(fault.InvalidArgument, "the certificate is not one of an authority of a SPIFFE trust domain")
	}
	domain := r.cert.URIs[0].Host
	if a.TrustDomain != "" && domain != a.TrustDomain {
		return fault.New(fault.InvalidArgument, "the certificate is of the trust domain %q, those before are of %q", domain, a.TrustDomain)
	}
	public, ok := r.cert.PublicKey.(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !public.Equal(r.key.Public()) {
		return fault.New(fault.InvalidArgument, "the private key is not that of the certificate before it")
	}
	a.TrustDomain = domain
	a.roots = append(a.roots, r)
	return nil
}
