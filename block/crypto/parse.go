package crypto

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"

	"github.com/lestrrat-go/jwx/v3/jwk"

	"github.com/proa-io/proa/fault"
)

// KeyFormat is how the bytes of a key are to be read.
type KeyFormat uint8

// The formats.
const (
	// AnyFormat guesses: what begins with "-----" is PEM, what begins with "{"
	// and has not the size of an AES key is a JWK, anything else is a
	// symmetric key, in base64 (either alphabet, padded or not) or as it is.
	AnyFormat KeyFormat = iota
	// JWK is a JSON Web Key (RFC 7517).
	JWK
	// PEM holds a private key (PKCS #8, PKCS #1 or SEC 1), a public key (PKIX
	// or PKCS #1) or a certificate, whose public key is meant.
	PEM
)

// maxKeyBytes bounds the text of a key.
const maxKeyBytes = 1 << 20

// ParseKey reads a key. What cannot be read is fault.FailedPrecondition; the
// error says why without quoting the key.
func ParseKey(text []byte, format KeyFormat) (*LocalKey, error) {
	switch {
	case len(text) == 0:
		return nil, fault.New(fault.FailedPrecondition, "the key is empty")
	case len(text) > maxKeyBytes:
		return nil, fault.New(fault.FailedPrecondition, "the key is larger than %d bytes", maxKeyBytes)
	}
	if format == AnyFormat {
		switch {
		case bytes.HasPrefix(text, []byte("-----")):
			format = PEM
		case text[0] == '{' && len(text) != 16 && len(text) != 24 && len(text) != 32:
			format = JWK
		}
	}
	switch format {
	case JWK:
		return parseJWK(text)
	case PEM:
		return parsePEM(text)
	}
	return NewLocalKey(symmetricBytes(text))
}

// symmetricBytes decodes base64 if text is that.
func symmetricBytes(text []byte) []byte {
	bare := bytes.TrimRight(bytes.TrimSpace(text), "=")
	for _, enc := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
		out := make([]byte, enc.DecodedLen(len(bare)))
		if n, err := enc.Decode(out, bare); err == nil && n > 0 {
			return out[:n]
		}
	}
	return bytes.Clone(text)
}

func parsePEM(text []byte) (*LocalKey, error) {
	for {
		block, rest := pem.Decode(text)
		if block == nil {
			return nil, fault.New(fault.FailedPrecondition, "there is no key in the PEM text")
		}
		if block.Type != "EC PARAMETERS" {
			material, err := parseDER(block)
			if err != nil {
				return nil, fault.New(fault.FailedPrecondition, "the PEM block %q cannot be read: %v", block.Type, err)
			}
			return NewLocalKey(material)
		}
		text = rest
	}
}

func parseDER(block *pem.Block) (any, error) {
	switch block.Type {
	case "PRIVATE KEY":
		return x509.ParsePKCS8PrivateKey(block.Bytes)
	case "RSA PRIVATE KEY":
		return x509.ParsePKCS1PrivateKey(block.Bytes)
	case "EC PRIVATE KEY":
		return x509.ParseECPrivateKey(block.Bytes)
	case "PUBLIC KEY":
		return x509.ParsePKIXPublicKey(block.Bytes)
	case "RSA PUBLIC KEY":
		return x509.ParsePKCS1PublicKey(block.Bytes)
	case "CERTIFICATE":
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		return cert.PublicKey, nil
	case "ENCRYPTED PRIVATE KEY":
		return nil, errors.New("encrypted keys are not supported: store it without a passphrase")
	}
	return nil, errors.New("it is not the type of a key")
}

func parseJWK(text []byte) (*LocalKey, error) {
	parsed, err := jwk.ParseKey(text)
	if err != nil {
		return nil, fault.New(fault.FailedPrecondition, "the JSON Web Key cannot be read: %s", reasonOf(err))
	}
	return fromJWK(parsed)
}

// reasonOf returns what is known to hold no key material of an error of the
// library.
func reasonOf(err error) string {
	if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
		return syntax.Error()
	}
	return `want an object with "kty" and what that kind of key has`
}

func fromJWK(parsed jwk.Key) (*LocalKey, error) {
	var material any
	if err := jwk.Export(parsed, &material); err != nil {
		return nil, fault.New(fault.FailedPrecondition, "a JSON Web Key of type %q cannot be used", parsed.KeyType())
	}
	k, err := NewLocalKey(material)
	if err != nil {
		return nil, err
	}
	if alg, ok := parsed.Algorithm(); ok {
		k.algorithm = alg.String()
	}
	if ops, ok := parsed.KeyOps(); ok {
		for _, op := range ops {
			k.uses = append(k.uses, string(op))
		}
	}
	if use, ok := parsed.KeyUsage(); ok && len(k.uses) == 0 {
		switch use {
		case "sig":
			k.uses = []string{useSign, useVerify}
		case "enc":
			k.uses = []string{useEncrypt, useDecrypt, useWrap, useUnwrap}
		}
	}
	return k, nil
}

// KeySet is what a JSON Web Key Set holds, by key id.
type KeySet map[string]*LocalKey

// ParseKeySet reads a JSON Web Key Set (RFC 7517, section 5). Keys without an
// id and keys of unknown kinds are left out, as the RFC asks for. What is no
// set is fault.FailedPrecondition.
func ParseKeySet(text []byte) (KeySet, error) {
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(text, &set); err != nil || set.Keys == nil {
		return nil, fault.New(fault.FailedPrecondition, `it is no JSON Web Key Set: want {"keys": [...]}`)
	}
	out := KeySet{}
	for _, raw := range set.Keys {
		parsed, err := jwk.ParseKey(raw)
		if err != nil {
			continue
		}
		id, ok := parsed.KeyID()
		if !ok || id == "" {
			continue
		}
		if k, err := fromJWK(parsed); err == nil {
			out[id] = k
		}
	}
	return out, nil
}

// KeyMaterial returns the bytes of a key to be wrapped: those of a symmetric key
// as they are, a private key in PKCS #8 and a public one in PKIX form. text is
// as ParseKey takes it, but what has the size of an AES key and does not end
// like Base64 is never taken for Base64: it is the key. What cannot be read is
// fault.InvalidArgument.
func KeyMaterial(text []byte) ([]byte, error) {
	switch len(text) {
	case 16, 24, 32:
		if text[len(text)-1] != '=' {
			return text, nil
		}
	}
	k, err := ParseKey(text, AnyFormat)
	if err != nil {
		return nil, fault.Wrap(err, fault.InvalidArgument, "the key to wrap").WithReason(ReasonOptions)
	}
	var der []byte
	switch {
	case k.secret != nil:
		return k.secret, nil
	case k.rsa != nil:
		der, err = x509.MarshalPKCS8PrivateKey(k.rsa)
	case k.ec != nil:
		der, err = x509.MarshalPKCS8PrivateKey(k.ec)
	case k.ed != nil:
		der, err = x509.MarshalPKCS8PrivateKey(k.ed)
	default:
		der, err = x509.MarshalPKIXPublicKey(k.Public())
	}
	if err != nil {
		return nil, fault.Wrap(err, fault.InvalidArgument, "the key to wrap").WithReason(ReasonOptions)
	}
	return der, nil
}

// MarshalPublicPEM returns a public key as a PEM block in PKIX form.
func MarshalPublicPEM(key crypto.PublicKey) ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return nil, fault.Wrap(err, fault.Internal, "marshal the public key")
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), nil
}

// MarshalPublicJWK returns a public key as a JSON Web Key.
func MarshalPublicJWK(key crypto.PublicKey) ([]byte, error) {
	k, err := jwk.Import(key)
	if err != nil {
		return nil, fault.Wrap(err, fault.Internal, "marshal the public key")
	}
	out, err := json.Marshal(k)
	if err != nil {
		return nil, fmt.Errorf("marshal the public key: %w", err)
	}
	return out, nil
}
