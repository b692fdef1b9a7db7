// Package cryptotest is the contract of crypto.Driver as tests.
package cryptotest

import (
	"bytes"
	"context"
	gocrypto "crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"strings"
	"sync"
	"testing"

	"github.com/proa-io/proa/block/crypto"
	"github.com/proa-io/proa/fault"
)

// Harness makes the drivers under test.
type Harness struct {
	// Open returns a driver that holds exactly the given keys, by name: []byte,
	// *rsa.PrivateKey, *rsa.PublicKey, *ecdsa.PrivateKey or
	// ed25519.PrivateKey. Use t.Cleanup for what must be undone.
	Open func(t testing.TB, keys map[string]any) crypto.Driver
	// Symmetric tells that the driver can hold symmetric keys.
	Symmetric bool
}

// Run proves that a driver keeps the contract.
func Run(t *testing.T, h Harness) {
	for _, p := range []struct {
		name string
		test func(*testing.T, Harness)
	}{
		{"SymmetricKeyEncryptsAndWraps", symmetric},
		{"RSAKeyWrapsAndSigns", rsaKey},
		{"PublicHalfAloneWrapsButDoesNotUnwrap", publicHalf},
		{"EllipticCurveKeySigns", ecKey},
		{"Ed25519KeySigns", edKey},
		{"PublicHalfIsThatOfTheKey", public},
		{"MissingKeyIsNotFound", missing},
		{"ErrorsHoldNoKeyMaterial", secretive},
		{"CanceledContextReturnsCanceled", canceled},
		{"ConcurrentUseWorks", concurrent},
	} {
		t.Run(p.name, func(t *testing.T) { p.test(t, h) })
	}
}

func key(t *testing.T, d crypto.Driver, name string) crypto.Key {
	t.Helper()
	k, err := d.Key(t.Context(), name)
	if err != nil {
		t.Fatalf("Key(%q): %v", name, err)
	}
	return k
}

func generateRSA(t *testing.T) *rsa.PrivateKey {
	t.Helper()
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func generateEC(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func symmetric(t *testing.T, h Harness) {
	if !h.Symmetric {
		t.Skip("the driver holds no symmetric keys")
	}
	secret := make([]byte, 32)
	if _, err := rand.Read(secret); err != nil {
		t.Fatal(err)
	}
	k := key(t, h.Open(t, map[string]any{"oct": secret}), "oct")
	p := crypto.Params{Nonce: make([]byte, 12), AssociatedData: []byte("about")}
	ciphertext, tag, err := k.Encrypt(t.Context(), "A256GCM", []byte("hello"), p)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := k.Decrypt(t.Context(), "A256GCM", ciphertext, tag, p); err != nil || string(got) != "hello" {
		t.Fatalf("Decrypt = %q, %v", got, err)
	}
	// What the driver uses is the very key that it was given.
	same, err := crypto.NewLocalKey(secret)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := same.Decrypt(t.Context(), "A256GCM", ciphertext, tag, p); err != nil || string(got) != "hello" {
		t.Fatalf("Decrypt with the key itself = %q, %v", got, err)
	}
	roundTrip(t, k, k, "A256KW")
	if k.Public() != nil {
		t.Error("a symmetric key has a public half")
	}
}

// roundTrip wraps with one key and unwraps with another.
func roundTrip(t *testing.T, wrap, unwrap crypto.Key, algorithm string) {
	t.Helper()
	want := bytes.Repeat([]byte{7}, 32)
	wrapped, tag, err := wrap.Wrap(t.Context(), algorithm, want, crypto.Params{})
	if err != nil {
		t.Fatalf("Wrap with %s: %v", algorithm, err)
	}
	got, err := unwrap.Unwrap(t.Context(), algorithm, wrapped, tag, crypto.Params{})
	if err != nil || !bytes.Equal(got, want) {
		t.Fatalf("Unwrap with %s = %x, %v", algorithm, got, err)
	}
	wrapped[len(wrapped)-1] ^= 1
	if _, err := unwrap.Unwrap(t.Context(), algorithm, wrapped, tag, crypto.Params{}); fault.ReasonOf(err) != crypto.ReasonDecrypt {
		t.Fatalf("Unwrap of a changed key with %s: %v; want the reason %s", algorithm, err, crypto.ReasonDecrypt)
	}
}

// signs signs with the key and verifies.
func signs(t *testing.T, k crypto.Key, algorithm string, message []byte) {
	t.Helper()
	signature, err := k.Sign(t.Context(), algorithm, message)
	if err != nil {
		t.Fatalf("Sign with %s: %v", algorithm, err)
	}
	if ok, err := k.Verify(t.Context(), algorithm, message, signature); err != nil || !ok {
		t.Fatalf("Verify with %s = %v, %v", algorithm, ok, err)
	}
	message[0] ^= 1
	if ok, err := k.Verify(t.Context(), algorithm, message, signature); err != nil || ok {
		t.Fatalf("Verify of another message with %s = %v, %v", algorithm, ok, err)
	}
}

func digest() []byte {
	d := sha256.Sum256([]byte("message"))
	return d[:]
}

func rsaKey(t *testing.T, h Harness) {
	k := key(t, h.Open(t, map[string]any{"rsa": generateRSA(t)}), "rsa")
	for _, algorithm := range []string{"RSA-OAEP", "RSA-OAEP-256"} {
		roundTrip(t, k, k, algorithm)
	}
	for _, algorithm := range []string{"RS256", "PS256"} {
		signs(t, k, algorithm, digest())
	}
	_, _, err := k.Encrypt(t.Context(), "A256GCM", nil, crypto.Params{})
	if !fault.Is(err, fault.InvalidArgument) || fault.ReasonOf(err) != crypto.ReasonAlgorithm {
		t.Errorf("Encrypt with A256GCM and an RSA key: %v", err)
	}
}

func publicHalf(t *testing.T, h Harness) {
	private := generateRSA(t)
	d := h.Open(t, map[string]any{"public": &private.PublicKey, "private": private})
	roundTrip(t, key(t, d, "public"), key(t, d, "private"), "RSA-OAEP-256")
	if _, err := key(t, d, "public").Unwrap(t.Context(), "RSA-OAEP-256", make([]byte, 256), nil, crypto.Params{}); err == nil {
		t.Error("Unwrap with a public key succeeds")
	}
	if _, err := key(t, d, "public").Sign(t.Context(), "RS256", digest()); !fault.Is(err, fault.FailedPrecondition) {
		t.Errorf("Sign with a public key: %v; want failed_precondition", err)
	}
}

func ecKey(t *testing.T, h Harness) {
	signs(t, key(t, h.Open(t, map[string]any{"ec": generateEC(t)}), "ec"), "ES256", digest())
}

func edKey(t *testing.T, h Harness) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signs(t, key(t, h.Open(t, map[string]any{"ed": private}), "ed"), "EdDSA", []byte("any message"))
}

func public(t *testing.T, h Harness) {
	ec := generateEC(t)
	got, ok := key(t, h.Open(t, map[string]any{"ec": ec}), "ec").Public().(interface {
		Equal(gocrypto.PublicKey) bool
	})
	if !ok || !got.Equal(&ec.PublicKey) {
		t.Errorf("the public half is %v, want %v", got, ec.PublicKey)
	}
}

func missing(t *testing.T, h Harness) {
	d := h.Open(t, map[string]any{"present": generateEC(t)})
	for _, name := range []string{"absent", "presen", "Present", "present ", "*", "presen?", "", ".", "..", "../present", "./present", "x/../present", "/", "present\x00"} {
		if _, err := d.Key(t.Context(), name); !fault.Is(err, fault.NotFound) {
			t.Errorf("Key(%q): %v; want not_found", name, err)
		}
	}
}

func secretive(t *testing.T, h Harness) {
	if !h.Symmetric {
		t.Skip("the driver holds no symmetric keys")
	}
	const secret = "the-16-byte-key!"
	k := key(t, h.Open(t, map[string]any{"oct": []byte(secret)}), "oct")
	_, _, err := k.Encrypt(t.Context(), "A256GCM", []byte("x"), crypto.Params{Nonce: make([]byte, 12)})
	if !fault.Is(err, fault.InvalidArgument) || strings.Contains(err.Error(), secret) {
		t.Errorf("Encrypt with a key of the wrong size: %v", err)
	}
}

func canceled(t *testing.T, h Harness) {
	d := h.Open(t, map[string]any{"ec": generateEC(t)})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := d.Key(ctx, "ec"); !fault.Is(err, fault.Canceled) {
		t.Errorf("Key: %v, want canceled", err)
	}
}

func concurrent(t *testing.T, h Harness) {
	d := h.Open(t, map[string]any{"ec": generateEC(t)})
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 20 {
				k, err := d.Key(t.Context(), "ec")
				if err != nil {
					t.Error(err)
					return
				}
				if _, err := k.Sign(t.Context(), "ES256", digest()); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}
