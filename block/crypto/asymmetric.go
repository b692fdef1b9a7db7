package crypto

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1" //nolint:gosec // RSA-OAEP is defined with it (RFC 7518, section 4.3)
	"crypto/sha256"
	"crypto/sha512"
	"hash"

	"github.com/proa-io/proa/fault"
)

// oaepHash returns the hash of an RSA-OAEP algorithm, nil for none of these.
// RSA1_5 is left out: whoever may have messages decrypted with it, and sees
// which fail, has as good as the key.
func oaepHash(algorithm string) hash.Hash {
	switch algorithm {
	case "RSA-OAEP":
		return sha1.New() //nolint:gosec // as above
	case "RSA-OAEP-256":
		return sha256.New()
	case "RSA-OAEP-384":
		return sha512.New384()
	case "RSA-OAEP-512":
		return sha512.New()
	}
	return nil
}

func encryptRSA(key *rsa.PublicKey, algorithm string, plaintext, label []byte) (out []byte, err error) {
	h := oaepHash(algorithm)
	if h == nil {
		return nil, (&LocalKey{rsaPublic: key}).errAlgorithm(algorithm)
	}
	if out, err = rsa.EncryptOAEP(h, rand.Reader, key, plaintext, label); err != nil {
		return nil, fault.Wrap(err, fault.InvalidArgument, "encrypt %d bytes with %s and a key of %d bits", len(plaintext), algorithm, key.N.BitLen())
	}
	return out, nil
}

func decryptRSA(key *rsa.PrivateKey, algorithm string, ciphertext, label []byte) (out []byte, err error) {
	h := oaepHash(algorithm)
	if h == nil {
		return nil, (&LocalKey{rsaPublic: &key.PublicKey}).errAlgorithm(algorithm)
	}
	if out, err = rsa.DecryptOAEP(h, nil, key, ciphertext, label); err != nil {
		return nil, ErrDecrypt()
	}
	return out, nil
}

// digestHash returns the hash that a signature algorithm is over.
func digestHash(algorithm string) (crypto.Hash, bool) {
	if len(algorithm) != 5 {
		return 0, false
	}
	switch algorithm[2:] {
	case "256":
		return crypto.SHA256, true
	case "384":
		return crypto.SHA384, true
	case "512":
		return crypto.SHA512, true
	}
	return 0, false
}

// checkDigest returns the hash of the algorithm, whose name must begin with one
// of the prefixes, and checks the size of the digest.
func checkDigest(k *LocalKey, algorithm string, digest []byte, prefixes ...string) (crypto.Hash, error) {
	h, ok := digestHash(algorithm)
	for _, prefix := range prefixes {
		if ok && algorithm[:2] == prefix {
			if len(digest) != h.Size() {
				return 0, fault.New(fault.InvalidArgument, "the algorithm %s signs a digest of %d bytes (%s), not of %d", algorithm, h.Size(), h, len(digest))
			}
			return h, nil
		}
	}
	return 0, k.errAlgorithm(algorithm)
}

func signRSA(key *rsa.PrivateKey, algorithm string, digest []byte) (out []byte, err error) {
	h, err := checkDigest(&LocalKey{rsaPublic: &key.PublicKey}, algorithm, digest, "RS", "PS")
	if err != nil {
		return nil, err
	}
	if algorithm[0] == 'R' {
		out, err = rsa.SignPKCS1v15(nil, key, h, digest)
	} else {
		out, err = rsa.SignPSS(rand.Reader, key, h, digest, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash})
	}
	if err != nil {
		return nil, fault.Wrap(err, fault.InvalidArgument, "sign with %s and a key of %d bits", algorithm, key.N.BitLen())
	}
	return out, nil
}

func verifyRSA(key *rsa.PublicKey, algorithm string, digest, signature []byte) (bool, error) {
	h, err := checkDigest(&LocalKey{rsaPublic: key}, algorithm, digest, "RS", "PS")
	if err != nil {
		return false, err
	}
	if algorithm[0] == 'R' {
		return rsa.VerifyPKCS1v15(key, h, digest, signature) == nil, nil
	}
	return rsa.VerifyPSS(key, h, digest, signature, nil) == nil, nil
}

// curveBits are the sizes of the curves that RFC 7518, section 3.4, pairs with
// the algorithms.
func curveBits(algorithm string) int {
	switch algorithm {
	case "ES256":
		return 256
	case "ES384":
		return 384
	case "ES512":
		return 521
	}
	return 0
}

func checkCurve(key *ecdsa.PublicKey, algorithm string, digest []byte) error {
	k := &LocalKey{ecPublic: key}
	if _, err := checkDigest(k, algorithm, digest, "ES"); err != nil {
		return err
	}
	if want := curveBits(algorithm); key.Curve.Params().BitSize != want {
		return fault.New(fault.InvalidArgument, "the algorithm %s wants a key on the curve P-%d; this one is on %s",
			algorithm, want, key.Curve.Params().Name).WithReason(ReasonAlgorithm)
	}
	return nil
}

func signECDSA(key *ecdsa.PrivateKey, algorithm string, digest []byte) ([]byte, error) {
	if err := checkCurve(&key.PublicKey, algorithm, digest); err != nil {
		return nil, err
	}
	out, err := ecdsa.SignASN1(rand.Reader, key, digest)
	if err != nil {
		return nil, fault.Wrap(err, fault.Internal, "sign with %s", algorithm)
	}
	return out, nil
}

func verifyECDSA(key *ecdsa.PublicKey, algorithm string, digest, signature []byte) (bool, error) {
	if err := checkCurve(key, algorithm, digest); err != nil {
		return false, err
	}
	return ecdsa.VerifyASN1(key, digest, signature), nil
}

// signHMAC signs the digest as a message: what a MAC is over is hashed again.
func signHMAC(key []byte, algorithm string, digest []byte) ([]byte, error) {
	h, ok := digestHash(algorithm)
	if !ok || algorithm[:2] != "HS" {
		return nil, (&LocalKey{secret: key}).errAlgorithm(algorithm)
	}
	m := hmac.New(h.New, key)
	m.Write(digest)
	return m.Sum(nil), nil
}

func verifyHMAC(key []byte, algorithm string, digest, signature []byte) (bool, error) {
	want, err := signHMAC(key, algorithm, digest)
	if err != nil {
		return false, err
	}
	return hmac.Equal(want, signature), nil
}
