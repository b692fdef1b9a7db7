package crypto

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"slices"

	"github.com/proa-io/proa/fault"
)

// LocalKey is a Key whose material is in memory. Make one with NewLocalKey or
// ParseKey.
type LocalKey struct {
	// Only one of these is set, or a private key together with its public
	// half.
	secret    []byte
	rsa       *rsa.PrivateKey
	rsaPublic *rsa.PublicKey
	ec        *ecdsa.PrivateKey
	ecPublic  *ecdsa.PublicKey
	ed        ed25519.PrivateKey
	edPublic  ed25519.PublicKey

	// algorithm, when not empty, is the only one that the key may be used
	// with ("alg" of a JWK); uses, when not empty, are the only operations
	// ("key_ops", "use").
	algorithm string
	uses      []string
}

var _ Key = (*LocalKey)(nil)

// The operations of RFC 7517, section 4.3.
const (
	useSign    = "sign"
	useVerify  = "verify"
	useEncrypt = "encrypt"
	useDecrypt = "decrypt"
	useWrap    = "wrapKey"
	useUnwrap  = "unwrapKey"
)

// NewLocalKey returns a key made of material: []byte, *rsa.PrivateKey,
// *rsa.PublicKey, *ecdsa.PrivateKey, *ecdsa.PublicKey, ed25519.PrivateKey or
// ed25519.PublicKey. Anything else is fault.FailedPrecondition.
func NewLocalKey(material any) (*LocalKey, error) {
	k := &LocalKey{}
	switch m := material.(type) {
	case []byte:
		if len(m) == 0 {
			return nil, fault.New(fault.FailedPrecondition, "the key is empty")
		}
		k.secret = m
	case *rsa.PrivateKey:
		k.rsa, k.rsaPublic = m, &m.PublicKey
	case *rsa.PublicKey:
		k.rsaPublic = m
	case *ecdsa.PrivateKey:
		k.ec, k.ecPublic = m, &m.PublicKey
	case *ecdsa.PublicKey:
		k.ecPublic = m
	case ed25519.PrivateKey:
		k.ed, k.edPublic = m, m.Public().(ed25519.PublicKey)
	case ed25519.PublicKey:
		k.edPublic = m
	default:
		return nil, fault.New(fault.FailedPrecondition, "a key of type %T cannot be used: want RSA, ECDSA, Ed25519 or bytes", material)
	}
	return k, nil
}

// Public implements Key.
func (k *LocalKey) Public() crypto.PublicKey {
	switch {
	case k.rsaPublic != nil:
		return k.rsaPublic
	case k.ecPublic != nil:
		return k.ecPublic
	case k.edPublic != nil:
		return k.edPublic
	}
	return nil
}

// Encrypt implements Key.
func (k *LocalKey) Encrypt(_ context.Context, algorithm string, plaintext []byte, p Params) ([]byte, []byte, error) {
	return k.seal(useEncrypt, algorithm, plaintext, p)
}

// Decrypt implements Key.
func (k *LocalKey) Decrypt(_ context.Context, algorithm string, ciphertext, tag []byte, p Params) ([]byte, error) {
	return k.open(useDecrypt, algorithm, ciphertext, tag, p)
}

// Wrap implements Key.
func (k *LocalKey) Wrap(_ context.Context, algorithm string, key []byte, p Params) ([]byte, []byte, error) {
	return k.seal(useWrap, algorithm, key, p)
}

// Unwrap implements Key.
func (k *LocalKey) Unwrap(_ context.Context, algorithm string, wrapped, tag []byte, p Params) ([]byte, error) {
	return k.open(useUnwrap, algorithm, wrapped, tag, p)
}

func (k *LocalKey) seal(use, algorithm string, plaintext []byte, p Params) ([]byte, []byte, error) {
	if err := k.permits(use, algorithm); err != nil {
		return nil, nil, err
	}
	switch {
	case k.secret != nil:
		return sealSymmetric(k.secret, algorithm, plaintext, p)
	case k.rsaPublic != nil:
		ciphertext, err := encryptRSA(k.rsaPublic, algorithm, plaintext, p.AssociatedData)
		return ciphertext, nil, err
	}
	return nil, nil, k.errAlgorithm(algorithm)
}

func (k *LocalKey) open(use, algorithm string, ciphertext, tag []byte, p Params) ([]byte, error) {
	if err := k.permits(use, algorithm); err != nil {
		return nil, err
	}
	switch {
	case k.secret != nil:
		return openSymmetric(k.secret, algorithm, ciphertext, tag, p)
	case k.rsa != nil:
		return decryptRSA(k.rsa, algorithm, ciphertext, p.AssociatedData)
	case k.rsaPublic != nil:
		return nil, errPrivateHalf("decrypt")
	}
	return nil, k.errAlgorithm(algorithm)
}

// Sign implements Key.
func (k *LocalKey) Sign(_ context.Context, algorithm string, digest []byte) ([]byte, error) {
	if err := k.permits(useSign, algorithm); err != nil {
		return nil, err
	}
	switch {
	case k.secret != nil:
		return signHMAC(k.secret, algorithm, digest)
	case k.rsa != nil:
		return signRSA(k.rsa, algorithm, digest)
	case k.ec != nil:
		return signECDSA(k.ec, algorithm, digest)
	case k.ed != nil && algorithm == "EdDSA":
		return ed25519.Sign(k.ed, digest), nil
	case k.Public() != nil && k.rsa == nil && k.ec == nil && k.ed == nil:
		return nil, errPrivateHalf("sign")
	}
	return nil, k.errAlgorithm(algorithm)
}

// Verify implements Key.
func (k *LocalKey) Verify(_ context.Context, algorithm string, digest, signature []byte) (bool, error) {
	if err := k.permits(useVerify, algorithm); err != nil {
		return false, err
	}
	switch {
	case k.secret != nil:
		return verifyHMAC(k.secret, algorithm, digest, signature)
	case k.rsaPublic != nil:
		return verifyRSA(k.rsaPublic, algorithm, digest, signature)
	case k.ecPublic != nil:
		return verifyECDSA(k.ecPublic, algorithm, digest, signature)
	case algorithm == "EdDSA":
		return ed25519.Verify(k.edPublic, digest, signature), nil
	}
	return false, k.errAlgorithm(algorithm)
}

// permits checks what the key itself says of its use.
func (k *LocalKey) permits(use, algorithm string) error {
	if k.algorithm != "" && k.algorithm != algorithm {
		return fault.New(fault.InvalidArgument, "the key is for the algorithm %s, not %q", k.algorithm, algorithm).WithReason(ReasonAlgorithm)
	}
	if len(k.uses) > 0 && !slices.Contains(k.uses, use) {
		return fault.New(fault.InvalidArgument, "the key is not for the operation %s, only for %v", use, k.uses).WithReason(ReasonAlgorithm)
	}
	return nil
}

func (k *LocalKey) errAlgorithm(algorithm string) error {
	kind := "this kind of key"
	switch {
	case k.secret != nil:
		kind = "a symmetric key"
	case k.rsaPublic != nil:
		kind = "an RSA key"
	case k.ecPublic != nil:
		kind = "an elliptic curve key"
	case k.edPublic != nil:
		kind = "an Ed25519 key"
	}
	return fault.New(fault.InvalidArgument, "the algorithm %q cannot be used with %s", algorithm, kind).WithReason(ReasonAlgorithm)
}

func errPrivateHalf(what string) error {
	return fault.New(fault.FailedPrecondition, "only the public half of the key is here, which cannot %s", what)
}
