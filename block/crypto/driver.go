package crypto

import (
	"context"
	"crypto"
	"io"

	"github.com/proa-io/proa/component"
)

// Block is the first part of the type string of every component of this block.
const Block = "crypto"

// Driver is what a store of keys implements.
//
// A driver finds keys and names its errors with fault codes, nothing else:
// what is done with a key is the business of [Key], and the policies around it
// are those of Provider. No error text may hold key material. Methods are safe
// for concurrent use and return soon after ctx ends.
type Driver interface {
	// Key returns the named key as it is now. A key that does not exist is
	// fault.NotFound; one that cannot be read as a key is
	// fault.FailedPrecondition, and the error says why.
	//
	// A store whose keys can be read returns a [*LocalKey]; one whose keys
	// never leave it returns a Key of its own that asks the store.
	Key(ctx context.Context, name string) (Key, error)

	io.Closer
}

// Key carries out operations with one key. Algorithms have the names of JSON
// Web Algorithms (RFC 7518), as package documentation lists them.
//
// An algorithm that the key cannot be used with is fault.InvalidArgument, as is
// a nonce, tag or length that the algorithm does not take; what does not
// decrypt, unwrap or is a forgery is ErrDecrypt, whatever the cause, so that
// nobody can tell causes apart. Methods are safe for concurrent use.
type Key interface {
	// Public returns the public half: *rsa.PublicKey, *ecdsa.PublicKey or
	// ed25519.PublicKey. It is nil for a symmetric key.
	Public() crypto.PublicKey
	// Encrypt encrypts a small message. tag is nil unless the algorithm
	// authenticates.
	Encrypt(ctx context.Context, algorithm string, plaintext []byte, p Params) (ciphertext, tag []byte, err error)
	// Decrypt reverses Encrypt.
	Decrypt(ctx context.Context, algorithm string, ciphertext, tag []byte, p Params) (plaintext []byte, err error)
	// Wrap encrypts the bytes of another key.
	Wrap(ctx context.Context, algorithm string, key []byte, p Params) (wrapped, tag []byte, err error)
	// Unwrap reverses Wrap.
	Unwrap(ctx context.Context, algorithm string, wrapped, tag []byte, p Params) (key []byte, err error)
	// Sign signs a digest; with EdDSA, the message itself.
	Sign(ctx context.Context, algorithm string, digest []byte) (signature []byte, err error)
	// Verify reports whether signature is one of digest.
	Verify(ctx context.Context, algorithm string, digest, signature []byte) (bool, error)
}

// Params are the further inputs of an encryption.
type Params struct {
	// Nonce is the initialization vector, of the length that the algorithm
	// wants; unused with AES key wrap and RSA.
	Nonce []byte
	// AssociatedData is authenticated but not encrypted, by algorithms that
	// authenticate, and the label of RSA-OAEP.
	AssociatedData []byte
}

// Spec describes a driver of type "crypto.<name>" to the catalog.
func Spec[C any, D Driver](d component.Description, defaults C,
	open func(context.Context, C, component.Env) (D, error)) component.Spec {
	return component.NewSpec(Block, d, defaults, nil, nil, open)
}
