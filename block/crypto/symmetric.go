package crypto

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"encoding/binary"
	"hash"

	"golang.org/x/crypto/chacha20poly1305"

	"github.com/proa-io/proa/fault"
)

// family is a way to use a symmetric key.
type family uint8

const (
	familyCBC family = iota + 1
	familyCBCNoPadding
	familyKeyWrap
	familyAEAD
)

// A symmetric algorithm is a family and the size of its key in bytes; aead
// makes the cipher of familyAEAD.
type symmetric struct {
	family  family
	keySize int
	aead    func(key []byte) (cipher.AEAD, error)
}

// symmetricOf returns the algorithm of a name.
func symmetricOf(algorithm string) (symmetric, bool) {
	switch algorithm {
	case "A128CBC":
		return symmetric{familyCBC, 16, nil}, true
	case "A192CBC":
		return symmetric{familyCBC, 24, nil}, true
	case "A256CBC":
		return symmetric{familyCBC, 32, nil}, true
	case "A128CBC-NOPAD":
		return symmetric{familyCBCNoPadding, 16, nil}, true
	case "A192CBC-NOPAD":
		return symmetric{familyCBCNoPadding, 24, nil}, true
	case "A256CBC-NOPAD":
		return symmetric{familyCBCNoPadding, 32, nil}, true
	case "A128KW":
		return symmetric{familyKeyWrap, 16, nil}, true
	case "A192KW":
		return symmetric{familyKeyWrap, 24, nil}, true
	case "A256KW":
		return symmetric{familyKeyWrap, 32, nil}, true
	case "A128GCM", "A128GCMKW":
		return symmetric{familyAEAD, 16, newGCM}, true
	case "A192GCM", "A192GCMKW":
		return symmetric{familyAEAD, 24, newGCM}, true
	case "A256GCM", "A256GCMKW":
		return symmetric{familyAEAD, 32, newGCM}, true
	case "A128CBC-HS256":
		return symmetric{familyAEAD, 32, newCBCHMAC}, true
	case "A192CBC-HS384":
		return symmetric{familyAEAD, 48, newCBCHMAC}, true
	case "A256CBC-HS512":
		return symmetric{familyAEAD, 64, newCBCHMAC}, true
	case "C20P", "C20PKW":
		return symmetric{familyAEAD, chacha20poly1305.KeySize, chacha20poly1305.New}, true
	case "XC20P", "XC20PKW":
		return symmetric{familyAEAD, chacha20poly1305.KeySize, chacha20poly1305.NewX}, true
	}
	return symmetric{}, false
}

func newGCM(key []byte) (cipher.AEAD, error) {
	b, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(b)
}

// prepare returns the algorithm of a name, for a key.
func prepare(key []byte, algorithm string) (symmetric, error) {
	a, ok := symmetricOf(algorithm)
	if !ok {
		return a, (&LocalKey{secret: key}).errAlgorithm(algorithm)
	}
	if len(key) != a.keySize {
		return a, fault.New(fault.InvalidArgument, "the algorithm %s wants a key of %d bytes; this one has %d", algorithm, a.keySize, len(key)).
			WithReason(ReasonAlgorithm)
	}
	return a, nil
}

func sealSymmetric(key []byte, algorithm string, plaintext []byte, p Params) (ciphertext, tag []byte, err error) {
	a, err := prepare(key, algorithm)
	if err != nil {
		return nil, nil, err
	}
	if a.family == familyAEAD {
		aead, err := a.aead(key)
		if err != nil {
			return nil, nil, fault.Wrap(err, fault.Internal, "make the cipher %s", algorithm)
		}
		if err := checkNonce(p.Nonce, aead.NonceSize(), algorithm); err != nil {
			return nil, nil, err
		}
		out := aead.Seal(nil, p.Nonce, plaintext, p.AssociatedData)
		end := len(out) - tagSize(aead)
		return out[:end], out[end:], nil
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, nil, fault.Wrap(err, fault.Internal, "make the cipher %s", algorithm)
	}
	if a.family == familyKeyWrap {
		ciphertext, err = wrapAES(block, plaintext)
		return ciphertext, nil, err
	}
	if err := checkNonce(p.Nonce, aes.BlockSize, algorithm); err != nil {
		return nil, nil, err
	}
	if a.family == familyCBC {
		plaintext = pad(plaintext)
	} else if len(plaintext)%aes.BlockSize != 0 {
		return nil, nil, fault.New(fault.InvalidArgument, "the algorithm %s does not pad: it wants a multiple of %d bytes, not %d",
			algorithm, aes.BlockSize, len(plaintext))
	}
	ciphertext = make([]byte, len(plaintext))
	cipher.NewCBCEncrypter(block, p.Nonce).CryptBlocks(ciphertext, plaintext)
	return ciphertext, nil, nil
}

func openSymmetric(key []byte, algorithm string, ciphertext, tag []byte, p Params) ([]byte, error) {
	a, err := prepare(key, algorithm)
	if err != nil {
		return nil, err
	}
	if a.family == familyAEAD {
		aead, err := a.aead(key)
		if err != nil {
			return nil, fault.Wrap(err, fault.Internal, "make the cipher %s", algorithm)
		}
		if err := checkNonce(p.Nonce, aead.NonceSize(), algorithm); err != nil {
			return nil, err
		}
		if want := tagSize(aead); len(tag) != want {
			return nil, fault.New(fault.InvalidArgument, "the algorithm %s wants a tag of %d bytes, not %d", algorithm, want, len(tag))
		}
		whole := append(append(make([]byte, 0, len(ciphertext)+len(tag)), ciphertext...), tag...)
		plaintext, err := aead.Open(nil, p.Nonce, whole, p.AssociatedData)
		if err != nil {
			return nil, ErrDecrypt()
		}
		return plaintext, nil
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fault.Wrap(err, fault.Internal, "make the cipher %s", algorithm)
	}
	if a.family == familyKeyWrap {
		return unwrapAES(block, ciphertext)
	}
	if err := checkNonce(p.Nonce, aes.BlockSize, algorithm); err != nil {
		return nil, err
	}
	if len(ciphertext)%aes.BlockSize != 0 {
		return nil, ErrDecrypt()
	}
	plaintext := make([]byte, len(ciphertext))
	cipher.NewCBCDecrypter(block, p.Nonce).CryptBlocks(plaintext, ciphertext)
	if a.family == familyCBC {
		var ok bool
		if plaintext, ok = unpad(plaintext); !ok {
			return nil, ErrDecrypt()
		}
	}
	return plaintext, nil
}

func checkNonce(nonce []byte, want int, algorithm string) error {
	if len(nonce) != want {
		return fault.New(fault.InvalidArgument, "the algorithm %s wants a nonce of %d bytes, not %d", algorithm, want, len(nonce))
	}
	return nil
}

// pad appends padding as PKCS #7 has it (RFC 5652, section 6.3) to a copy of b.
func pad(b []byte) []byte {
	n := aes.BlockSize - len(b)%aes.BlockSize
	out := append(make([]byte, 0, len(b)+n), b...)
	for range n {
		out = append(out, byte(n))
	}
	return out
}

// unpad removes the padding. It takes the same time whatever is wrong with it.
func unpad(b []byte) ([]byte, bool) {
	if len(b) == 0 {
		return nil, false
	}
	last := b[len(b)-1]
	ok := subtle.ConstantTimeLessOrEq(1, int(last)) & subtle.ConstantTimeLessOrEq(int(last), aes.BlockSize)
	for i := range aes.BlockSize {
		in := subtle.ConstantTimeLessOrEq(i+1, int(last))
		same := subtle.ConstantTimeByteEq(b[len(b)-1-i], last)
		ok &= subtle.ConstantTimeSelect(in, same, 1)
	}
	if ok != 1 {
		return nil, false
	}
	return b[:len(b)-int(last)], true
}

// tagSize returns the size of an AEAD's tag.
func tagSize(a cipher.AEAD) int {
	if c, ok := a.(*cbcHMAC); ok {
		return len(c.macKey)
	}
	return a.Overhead()
}

// cbcHMAC is AES-CBC with HMAC-SHA-2 (RFC 7518, section 5.2): half of the key
// authenticates, the other half encrypts, and the tag is half a hash.
type cbcHMAC struct {
	macKey []byte
	block  cipher.Block
	hash   func() hash.Hash
}

func newCBCHMAC(key []byte) (cipher.AEAD, error) {
	half := len(key) / 2
	b, err := aes.NewCipher(key[half:])
	if err != nil {
		return nil, err
	}
	h := sha256.New
	switch half {
	case 24:
		h = sha512.New384
	case 32:
		h = sha512.New
	}
	return &cbcHMAC{macKey: key[:half], block: b, hash: h}, nil
}

func (c *cbcHMAC) NonceSize() int { return aes.BlockSize }

// Overhead returns the most that Seal adds: a tag and a block of padding.
func (c *cbcHMAC) Overhead() int { return len(c.macKey) + aes.BlockSize }

// Seal implements cipher.AEAD. dst and plaintext must not overlap.
func (c *cbcHMAC) Seal(dst, nonce, plaintext, additional []byte) []byte {
	padded := pad(plaintext)
	cipher.NewCBCEncrypter(c.block, nonce).CryptBlocks(padded, padded)
	return append(append(dst, padded...), c.tag(nonce, padded, additional)...)
}

// Open implements cipher.AEAD. dst and ciphertext must not overlap.
func (c *cbcHMAC) Open(dst, nonce, ciphertext, additional []byte) ([]byte, error) {
	end := len(ciphertext) - len(c.macKey)
	if end < aes.BlockSize || end%aes.BlockSize != 0 ||
		!hmac.Equal(c.tag(nonce, ciphertext[:end], additional), ciphertext[end:]) {
		return nil, ErrDecrypt()
	}
	plaintext := make([]byte, end)
	cipher.NewCBCDecrypter(c.block, nonce).CryptBlocks(plaintext, ciphertext[:end])
	plaintext, ok := unpad(plaintext)
	if !ok {
		return nil, ErrDecrypt()
	}
	return append(dst, plaintext...), nil
}

func (c *cbcHMAC) tag(nonce, ciphertext, additional []byte) []byte {
	m := hmac.New(c.hash, c.macKey)
	m.Write(additional)
	m.Write(nonce)
	m.Write(ciphertext)
	m.Write(binary.BigEndian.AppendUint64(nil, uint64(len(additional))*8))
	return m.Sum(nil)[:len(c.macKey)]
}

// wrapIV is the initial value of AES key wrap (RFC 3394, section 2.2.3.1).
const wrapIV = 0xA6A6A6A6A6A6A6A6

// wrapAES wraps a key (RFC 3394, section 2.2.1).
func wrapAES(block cipher.Block, key []byte) ([]byte, error) {
	if len(key) < 16 || len(key)%8 != 0 {
		return nil, fault.New(fault.InvalidArgument, "AES key wrap takes keys of 16 bytes or more, in steps of 8, not of %d", len(key))
	}
	n := len(key) / 8
	out := make([]byte, 8+len(key))
	copy(out[8:], key)
	var b [16]byte
	a := uint64(wrapIV)
	for j := range 6 {
		for i := 1; i <= n; i++ {
			binary.BigEndian.PutUint64(b[:8], a)
			copy(b[8:], out[8*i:])
			block.Encrypt(b[:], b[:])
			a = binary.BigEndian.Uint64(b[:8]) ^ uint64(n*j+i)
			copy(out[8*i:], b[8:])
		}
	}
	binary.BigEndian.PutUint64(out, a)
	return out, nil
}

// unwrapAES reverses wrapAES (RFC 3394, section 2.2.2).
func unwrapAES(block cipher.Block, wrapped []byte) ([]byte, error) {
	if len(wrapped) < 24 || len(wrapped)%8 != 0 {
		return nil, ErrDecrypt()
	}
	n := len(wrapped)/8 - 1
	out := make([]byte, 8*n)
	copy(out, wrapped[8:])
	a := binary.BigEndian.Uint64(wrapped)
	var b [16]byte
	for j := 5; j >= 0; j-- {
		for i := n; i >= 1; i-- {
			binary.BigEndian.PutUint64(b[:8], a^uint64(n*j+i))
			copy(b[8:], out[8*(i-1):])
			block.Decrypt(b[:], b[:])
			a = binary.BigEndian.Uint64(b[:8])
			copy(out[8*(i-1):], b[8:])
		}
	}
	if a != wrapIV {
		return nil, ErrDecrypt()
	}
	return out, nil
}
