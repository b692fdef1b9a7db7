// Package crypto is the building block that encrypts, decrypts, wraps, signs
// and verifies with keys which the application never sees.
//
// Dialects call Provider; stores of keys implement Driver. Streams of any
// length are encrypted with the scheme dapr.io/enc/v1 (see [Provider.Encrypt]);
// the other operations are for small messages.
//
// Algorithms, by the names of RFC 7518 and its registry:
//
//   - encryption with a symmetric key: A128CBC, A192CBC, A256CBC (PKCS #7
//     padding), the same with -NOPAD, A128GCM, A192GCM, A256GCM,
//     A128CBC-HS256, A192CBC-HS384, A256CBC-HS512, C20P, XC20P;
//   - wrapping with a symmetric key: all of these and A128KW, A192KW, A256KW
//     (RFC 3394), A128GCMKW, A192GCMKW, A256GCMKW, C20PKW, XC20PKW;
//   - encryption and wrapping with an RSA key: RSA-OAEP, RSA-OAEP-256,
//     RSA-OAEP-384, RSA-OAEP-512;
//   - signatures: RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384,
//     ES512 (in ASN.1 form), EdDSA (Ed25519), HS256, HS384, HS512.
package crypto

import (
	"context"
	"crypto"
	"sync"

	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/policy"
)

// Reasons of the errors that Provider returns.
const (
	// ReasonNoKey marks a key that the provider does not have.
	ReasonNoKey fault.Reason = "crypto.no_key"
	// ReasonDecrypt marks what could not be decrypted or unwrapped.
	ReasonDecrypt fault.Reason = "crypto.decrypt"
	// ReasonAlgorithm marks an algorithm that does not exist or that the key
	// cannot be used with.
	ReasonAlgorithm fault.Reason = "crypto.algorithm"
)

// ErrDecrypt returns the one error of everything that does not decrypt or
// unwrap: a wrong key, wrong padding, a forged tag. It does not say which.
func ErrDecrypt() error {
	return fault.New(fault.InvalidArgument, "the message cannot be decrypted with this key").WithReason(ReasonDecrypt)
}

// Options configure a Provider.
type Options struct {
	// Chains gives the policies around the calls.
	Chains policy.Chains
}

// Provider is a named store of keys. It is safe for concurrent use.
type Provider struct {
	handle  *component.Handle[Driver]
	ops     [numOperations]*policy.Operation
	buffers sync.Pool // of *buffers
}

// operation is one of Provider's, for policies.
type operation uint8

const (
	opGetKey operation = iota
	opEncrypt
	opDecrypt
	opWrapKey
	opUnwrapKey
	opSign
	opVerify
	numOperations
)

func (o operation) String() string {
	return [numOperations]string{"get_key", "encrypt", "decrypt", "wrap_key", "unwrap_key", "sign", "verify"}[o]
}

// New returns a Provider over the driver that h opens.
func New(h *component.Handle[Driver], o Options) *Provider {
	p := &Provider{handle: h}
	chain := o.Chains.Component(Block, h.Name(), false)
	for op := range numOperations {
		p.ops[op] = chain.Bind(policy.Op{Block: Block, Component: h.Name(), Name: op.String()})
	}
	return p
}

// Name returns the component's name.
func (p *Provider) Name() string { return p.handle.Name() }

// PublicKey returns the public half of the named key, as [Key.Public]. A
// symmetric key has none: it is as if there were no such key.
func (p *Provider) PublicKey(ctx context.Context, name string) (crypto.PublicKey, error) {
	return with(ctx, p, opGetKey, name, func(_ context.Context, k Key) (crypto.PublicKey, error) {
		public := k.Public()
		if public == nil {
			return nil, fault.New(fault.NotFound, "it is a symmetric key, which has no public half").WithReason(ReasonNoKey)
		}
		return public, nil
	})
}

// Sealed is the outcome of an encryption.
type Sealed struct {
	Ciphertext []byte
	Tag        []byte // nil unless the algorithm authenticates
}

// EncryptMessage encrypts a small message with the named key. [Provider.Encrypt]
// is for streams.
func (p *Provider) EncryptMessage(ctx context.Context, key, algorithm string, plaintext []byte, params Params) (Sealed, error) {
	return with(ctx, p, opEncrypt, key, func(ctx context.Context, k Key) (s Sealed, err error) {
		s.Ciphertext, s.Tag, err = k.Encrypt(ctx, algorithm, plaintext, params)
		return s, err
	})
}

// DecryptMessage reverses EncryptMessage.
func (p *Provider) DecryptMessage(ctx context.Context, key, algorithm string, s Sealed, params Params) ([]byte, error) {
	return with(ctx, p, opDecrypt, key, func(ctx context.Context, k Key) ([]byte, error) {
		return k.Decrypt(ctx, algorithm, s.Ciphertext, s.Tag, params)
	})
}

// WrapKey encrypts the bytes of a key with the named key.
func (p *Provider) WrapKey(ctx context.Context, key, algorithm string, plaintextKey []byte, params Params) (Sealed, error) {
	return with(ctx, p, opWrapKey, key, func(ctx context.Context, k Key) (s Sealed, err error) {
		s.Ciphertext, s.Tag, err = k.Wrap(ctx, algorithm, plaintextKey, params)
		return s, err
	})
}

// UnwrapKey reverses WrapKey.
func (p *Provider) UnwrapKey(ctx context.Context, key, algorithm string, s Sealed, params Params) ([]byte, error) {
	return with(ctx, p, opUnwrapKey, key, func(ctx context.Context, k Key) ([]byte, error) {
		return k.Unwrap(ctx, algorithm, s.Ciphertext, s.Tag, params)
	})
}

// Sign signs a digest with the named key; with EdDSA, the message itself.
func (p *Provider) Sign(ctx context.Context, key, algorithm string, digest []byte) ([]byte, error) {
	return with(ctx, p, opSign, key, func(ctx context.Context, k Key) ([]byte, error) {
		return k.Sign(ctx, algorithm, digest)
	})
}

// Verify reports whether signature is one of digest by the named key.
func (p *Provider) Verify(ctx context.Context, key, algorithm string, digest, signature []byte) (bool, error) {
	return with(ctx, p, opVerify, key, func(ctx context.Context, k Key) (bool, error) {
		return k.Verify(ctx, algorithm, digest, signature)
	})
}

// with runs f with the named key, within the policies of the operation. All
// operations may be repeated: none changes anything.
func with[T any](ctx context.Context, p *Provider, op operation, name string, f func(context.Context, Key) (T, error)) (T, error) {
	if name == "" {
		var none T
		return none, fault.New(fault.InvalidArgument, "the name of a key of %q is empty", p.Name())
	}
	call := policy.Call{Key: name, Idempotent: true}
	return policy.Do(ctx, p.ops[op], call, func(ctx context.Context) (T, error) {
		var none T
		d, err := p.handle.Get(ctx)
		if err != nil {
			return none, err
		}
		k, err := d.Key(ctx, name)
		if err == nil {
			var out T
			if out, err = f(ctx, k); err == nil {
				return out, nil
			}
		}
		reason := fault.ReasonOf(err)
		if reason == "" && fault.Is(err, fault.NotFound) {
			reason = ReasonNoKey
		}
		return none, fault.Wrap(err, fault.CodeOf(err), "key %q of %q", name, p.Name()).WithReason(reason)
	})
}
