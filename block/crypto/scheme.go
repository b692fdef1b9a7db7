package crypto

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"strings"

	"golang.org/x/crypto/chacha20poly1305"

	"github.com/proa-io/proa/fault"
)

// Reasons of the errors of streams.
const (
	// ReasonFormat marks a stream that is not one of the scheme.
	ReasonFormat fault.Reason = "crypto.format"
	// ReasonOptions marks options that no stream can be encrypted with.
	ReasonOptions fault.Reason = "crypto.options"
)

const (
	segmentSize = 64 << 10 // of plaintext
	overhead    = 16       // of a segment's tag, with both ciphers
)

// EncryptOptions say how a stream is encrypted.
type EncryptOptions struct {
	// Key names the key that wraps the key of the stream; required.
	Key string
	// KeyWrapAlgorithm is what Key wraps with, in any case: A256KW (or AES),
	// RSA-OAEP-256 (or RSA), A128CBC-NOPAD, A192CBC-NOPAD or A256CBC-NOPAD;
	// required.
	KeyWrapAlgorithm string
	// Cipher encrypts the stream: "aes-gcm", which is the default, or
	// "chacha20-poly1305", in any case.
	Cipher string
	// DecryptionKey is the name of a key that is written into the stream in
	// place of Key: that of the private half, say.
	DecryptionKey string
	// OmitDecryptionKey writes no name into the stream: whoever decrypts must
	// know it.
	OmitDecryptionKey bool
}

// Encrypt encrypts a stream of any length from in to out, with the scheme
// dapr.io/enc/v1: a random key, wrapped with the named one, encrypts segments of
// 64 KiB, each authenticated with its number and whether it is the last. It
// holds one segment in memory. Nothing is written when it fails before the first
// segment: wrong options are fault.InvalidArgument with ReasonOptions; errors of
// in and out are returned as they are.
func (p *Provider) Encrypt(ctx context.Context, out io.Writer, in io.Reader, o EncryptOptions) error {
	m, err := newManifest(o)
	if err != nil {
		return err
	}
	var fileKey [fileKeySize]byte
	if _, err := rand.Read(fileKey[:]); err != nil {
		return fault.Wrap(err, fault.Internal, "make a key")
	}
	m.NoncePrefix = make([]byte, noncePrefixSize)
	if _, err := rand.Read(m.NoncePrefix); err != nil {
		return fault.Wrap(err, fault.Internal, "make a nonce")
	}
	sealed, err := p.WrapKey(ctx, o.Key, m.KeyWrap.String(), fileKey[:], Params{})
	if err != nil {
		return err
	}
	m.WrappedKey = sealed.Ciphertext
	header, err := m.header(fileKey[:])
	if err != nil {
		return err
	}
	aead, err := m.payloadCipher(fileKey[:])
	if err != nil {
		return err
	}
	if _, err := out.Write(header); err != nil {
		return err
	}
	s := segments{prefix: m.NoncePrefix, size: segmentSize}
	return p.each(ctx, in, &s, func(dst, segment, nonce []byte) error {
		_, err := out.Write(aead.Seal(dst, nonce, segment, nil))
		return err
	})
}

// DecryptOptions say how a stream is decrypted.
type DecryptOptions struct {
	// Key is used in place of the key that the stream names.
	Key string
}

// Decrypt decrypts what Encrypt, or another implementation of the scheme, has
// written. It holds one segment in memory and writes only what it has
// authenticated; when a later segment turns out to be forged, missing or out of
// order, the error comes after the ones before it were written. What is no
// stream of the scheme is fault.InvalidArgument with ReasonFormat; what this key
// does not open, or was tampered with, is ErrDecrypt.
//
// A stream that is cut right behind its header reads as an empty one: the
// scheme has no segment to miss then.
func (p *Provider) Decrypt(ctx context.Context, out io.Writer, in io.Reader, o DecryptOptions) error {
	h, in, err := readHeader(in)
	if err != nil {
		return err
	}
	name := o.Key
	if name == "" {
		name = h.manifest.Key
	}
	if name == "" {
		return fault.New(fault.InvalidArgument, "the stream does not name a key, and none was given").WithReason(ReasonOptions)
	}
	fileKey, err := p.UnwrapKey(ctx, name, h.manifest.KeyWrap.String(), Sealed{Ciphertext: h.manifest.WrappedKey}, Params{})
	if err != nil {
		return err
	}
	if len(fileKey) != fileKeySize {
		return ErrDecrypt()
	}
	if err := h.verify(fileKey); err != nil {
		return err
	}
	aead, err := h.manifest.payloadCipher(fileKey)
	if err != nil {
		return err
	}
	s := segments{prefix: h.manifest.NoncePrefix, size: segmentSize + overhead}
	return p.each(ctx, in, &s, func(dst, segment, nonce []byte) error {
		plaintext, err := aead.Open(dst, nonce, segment, nil)
		if err != nil {
			return ErrDecrypt()
		}
		_, err = out.Write(plaintext)
		return err
	})
}

// segments is the way through a stream.
type segments struct {
	prefix []byte // of the nonces
	size   int    // of a whole segment
}

// buffers are what one stream needs in memory.
type buffers struct {
	in  [segmentSize + overhead + 1]byte
	out [segmentSize + overhead]byte
}

// each calls f with each segment of in, its nonce, and room for what becomes of
// it. The segment is the last when there is nothing after it.
func (p *Provider) each(ctx context.Context, in io.Reader, s *segments, f func(dst, segment, nonce []byte) error) error {
	b, _ := p.buffers.Get().(*buffers)
	if b == nil {
		b = &buffers{}
	}
	defer func() { clear(b.in[:]); clear(b.out[:]); p.buffers.Put(b) }()
	nonce := append(make([]byte, 0, 12), s.prefix...)
	have := 0 // bytes of the next segment that were read already
	for i := uint64(0); ; i++ {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := io.ReadFull(in, b.in[have:s.size+1])
		n += have
		last := errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
		if err != nil && !last {
			return err
		}
		if last && n == 0 {
			return nil // an empty stream has no segment
		}
		if i > math.MaxUint32 {
			return fault.New(fault.InvalidArgument, "the stream is longer than 256 TiB").WithReason(ReasonFormat)
		}
		nonce = binary.BigEndian.AppendUint32(nonce[:len(s.prefix)], uint32(i))
		if last {
			return f(b.out[:0], b.in[:n], append(nonce, 1))
		}
		if err := f(b.out[:0], b.in[:s.size], append(nonce, 0)); err != nil {
			return err
		}
		b.in[0], have = b.in[s.size], 1
	}
}

// newManifest checks the options.
func newManifest(o EncryptOptions) (*manifest, error) {
	refuse := func(format string, args ...any) error {
		return fault.New(fault.InvalidArgument, format, args...).WithReason(ReasonOptions)
	}
	m := &manifest{Key: o.DecryptionKey}
	if m.Key == "" {
		m.Key = o.Key
	}
	if o.OmitDecryptionKey {
		m.Key = ""
	}
	if o.Key == "" {
		return nil, refuse("the name of the key is empty")
	}
	switch strings.ToUpper(o.KeyWrapAlgorithm) {
	case "":
		return nil, refuse("the key wrap algorithm is empty: want %s", wrapAlgorithms)
	case "AES", "A256KW":
		m.KeyWrap = wrapA256KW
	case "RSA", "RSA-OAEP-256":
		m.KeyWrap = wrapRSAOAEP256
	case "A128CBC-NOPAD", "A192CBC-NOPAD", "A256CBC-NOPAD":
		// They exist on paper: the scheme keeps no initialization vector.
		return nil, refuse("the key wrap algorithm %s cannot be used for streams, which keep no nonce for it: want %s", o.KeyWrapAlgorithm, wrapAlgorithms)
	default:
		return nil, refuse("algorithm %q is not supported: want %s", o.KeyWrapAlgorithm, wrapAlgorithms)
	}
	switch strings.ToLower(o.Cipher) {
	case "", "aes-gcm":
		m.Cipher = cipherAESGCM
	case "chacha20-poly1305":
		m.Cipher = cipherChaCha20
	default:
		return nil, refuse("cipher %q is not supported: want aes-gcm or chacha20-poly1305", o.Cipher)
	}
	return m, nil
}

// payloadCipher returns the cipher of the segments.
func (m *manifest) payloadCipher(fileKey []byte) (cipher.AEAD, error) {
	key, err := derive(fileKey, m.NoncePrefix, "payload")
	if err != nil {
		return nil, err
	}
	if m.Cipher == cipherChaCha20 {
		return chacha20poly1305.New(key)
	}
	b, err := aes.NewCipher(key)
	if err != nil {
		return nil, fault.Wrap(err, fault.Internal, "make the cipher")
	}
	return cipher.NewGCM(b)
}
