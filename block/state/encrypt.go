package state

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"maps"
	"strings"

	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
)

// Encryption at rest. A value is encrypted before it reaches the driver and
// decrypted behind it, in one of two forms, both text:
//
//	base64(nonce ciphertext tag) "||" name
//	"proa1:" base64(nonce ciphertext tag) "||" name
//
// The cipher is AES-GCM with a random nonce of 12 bytes and a tag of 16, base64
// the standard one with padding, and name that of the encryption key. The first
// form is Dapr's. The second one, which Dapr cannot read, has the key of the
// item in the store as additional data, so that a value which is moved to
// another key is not taken for that one's. See docs/decisions/006.
const boundPrefix = "proa1:"

// keyring encrypts and decrypts values. A nil keyring leaves them alone. It is
// safe for concurrent use.
type keyring struct {
	keys []encryptionKey // the first one encrypts
	bind bool
}

type encryptionKey struct {
	name string
	aead cipher.AEAD
}

// encryptedDriver carries what encrypts the values of a driver through a Handle.
// Nobody calls it: Store takes the two apart, so that the optional interfaces of
// the driver are not hidden.
type encryptedDriver struct {
	Driver
	keys *keyring
}

// Encrypted returns d with the keys that cfg says to encrypt its values with, to
// be opened by a component's Handle in the place of d; or d itself when it says
// none. settings are what cfg was decoded from, with all secrets resolved: the
// encryption keys have the names of the secrets they came from.
func Encrypted(d Driver, cfg Config, settings component.Settings) (Driver, error) {
	ring := &keyring{bind: cfg.EncryptionBindKeys}
	for _, s := range []struct {
		name string
		key  component.Secret
	}{{primaryKey, cfg.PrimaryEncryptionKey}, {secondaryKey, cfg.SecondaryEncryptionKey}} {
		at, given := settings.Find(s.name)
		if !given {
			continue
		}
		raw, err := parseKey(s.key)
		if err != nil {
			return nil, &component.FieldError{Pos: at.Pos, Field: s.name, Problem: err.Error()}
		}
		key, err := newEncryptionKey(raw, at.SecretName)
		if err != nil {
			return nil, &component.FieldError{Pos: at.Pos, Field: s.name, Problem: err.Error()}
		}
		ring.keys = append(ring.keys, key)
	}
	if len(ring.keys) == 0 {
		return d, nil
	}
	return &encryptedDriver{d, ring}, nil
}

// The names of the settings that hold the keys.
const (
	primaryKey   = "primaryEncryptionKey"
	secondaryKey = "secondaryEncryptionKey"
)

// parseKey reads an encryption key.
func parseKey(s component.Secret) ([]byte, error) {
	raw, err := hex.DecodeString(strings.TrimSpace(s.Reveal()))
	switch {
	case err != nil:
		return nil, fmt.Errorf("wants a key in hexadecimal: 32, 48 or 64 digits for 16, 24 or 32 bytes")
	case len(raw) != 16 && len(raw) != 24 && len(raw) != 32:
		return nil, fmt.Errorf("wants a key of 16, 24 or 32 bytes (32, 48 or 64 hexadecimal digits), and has %d", len(raw))
	}
	return raw, nil
}

// newEncryptionKey returns the key called name. One without a name gets that of
// its hash, of which there is too little to learn anything from.
func newEncryptionKey(raw []byte, name string) (encryptionKey, error) {
	block, err := aes.NewCipher(raw)
	if err != nil {
		return encryptionKey{}, err
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return encryptionKey{}, err
	}
	if name == "" {
		sum := sha256.Sum256(raw)
		name = "sha256-" + hex.EncodeToString(sum[:8])
	}
	return encryptionKey{name, aead}, nil
}

// seal returns value, encrypted, for the item at key.
func (r *keyring) seal(key string, value []byte) ([]byte, error) {
	if r == nil {
		return value, nil
	}
	k := &r.keys[0]
	box := make([]byte, k.aead.NonceSize(), k.aead.NonceSize()+len(value)+k.aead.Overhead())
	if _, err := rand.Read(box); err != nil {
		return nil, fault.Wrap(err, fault.Internal, "there is no randomness to encrypt with")
	}
	prefix := ""
	if r.bind {
		prefix = boundPrefix
	}
	box = k.aead.Seal(box, box, value, r.associated(key, r.bind))
	out := make([]byte, 0, len(prefix)+base64.StdEncoding.EncodedLen(len(box))+len(separator)+len(k.name))
	out = base64.StdEncoding.AppendEncode(append(out, prefix...), box)
	return append(append(out, separator...), k.name...), nil
}

// associated returns what a value is bound to; nil for nothing.
func (r *keyring) associated(key string, bound bool) []byte {
	if !bound {
		return nil
	}
	return []byte(key)
}

// open returns what seal was given, or Dapr.
func (r *keyring) open(key string, stored []byte) ([]byte, error) {
	if r == nil {
		return stored, nil
	}
	rest, bound := bytes.CutPrefix(stored, []byte(boundPrefix))
	text, name, ok := bytes.Cut(rest, []byte(separator)) // base64 has no |
	if !ok {
		return nil, errNotEncrypted()
	}
	box := make([]byte, base64.StdEncoding.DecodedLen(len(text)))
	n, err := base64.StdEncoding.Decode(box, text)
	if err != nil {
		return nil, errNotEncrypted()
	}
	box = box[:n]
	data := r.associated(key, bound)
	named := false
	for pass := range 2 { // the key that is named, then the others: a secret may have got another name
		for i := range r.keys {
			k := &r.keys[i]
			if match := k.name == string(name); match != (pass == 0) {
				continue
			}
			named = named || pass == 0
			if len(box) < k.aead.NonceSize() {
				return nil, errNotEncrypted()
			}
			if value, err := k.aead.Open(nil, box[:k.aead.NonceSize()], box[k.aead.NonceSize():], data); err == nil {
				return value, nil
			}
		}
	}
	return nil, r.refusal(string(name), named, bound)
}

// refusal says why none of the keys decrypts a value.
func (r *keyring) refusal(name string, named, bound bool) error {
	names := make([]string, len(r.keys))
	for i, k := range r.keys {
		names[i] = k.name
	}
	have := strings.Join(names, " and ")
	switch {
	case !named:
		return undecipherable("the value was encrypted with the key %q, and this store has %s", brief(name), have)
	case bound:
		return undecipherable("the value does not decrypt with the key %q: it is another key of that name, "+
			"or the value was changed or moved in the store", brief(name))
	}
	return undecipherable("the value does not decrypt with the key %q: it is another key of that name, or the value was changed in the store",
		brief(name))
}

func errNotEncrypted() error {
	return undecipherable("the value is not encrypted: was it written before the store had a %s?", primaryKey)
}

func undecipherable(format string, args ...any) error {
	return fault.New(fault.FailedPrecondition, format, args...).WithReason(ReasonUndecipherable)
}

// brief shortens a name that may be anything.
func brief(name string) string {
	if len(name) > 64 {
		return strings.ToValidUTF8(name[:64], "") + "..."
	}
	return name
}

// put returns a write as the driver is to carry it out. What it stores is text
// whatever the value was, so a contentType is not passed on.
func (r *keyring) put(p PutOp) (PutOp, error) {
	if r == nil {
		return p, nil
	}
	var err error
	p.Value, err = r.seal(p.Key, p.Value)
	p.Metadata = withoutContentType(p.Metadata)
	return p, err
}

// puts is put for several.
func (r *keyring) puts(list []PutOp) ([]PutOp, error) {
	if r == nil {
		return list, nil
	}
	out := make([]PutOp, len(list))
	for i := range list {
		var err error
		if out[i], err = r.put(list[i]); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// ops returns the operations of a transaction as the driver is to carry them
// out.
func (r *keyring) ops(list []Op) ([]Op, error) {
	if r == nil {
		return list, nil
	}
	out := make([]Op, len(list))
	for i, op := range list {
		if op.Check == NoCheck && !op.Delete {
			var err error
			if op.Value, err = r.seal(op.Key, op.Value); err != nil {
				return nil, err
			}
		}
		op.Metadata = withoutContentType(op.Metadata)
		out[i] = op
	}
	return out, nil
}

// result decrypts what a driver has read at key.
func (r *keyring) result(key string, item *Item, found bool, err error) error {
	if r == nil || err != nil || !found {
		return err
	}
	item.Value, err = r.open(key, item.Value)
	return err
}

// metadataContentType is the name of the request metadata that says what a
// value is.
const metadataContentType = "contentType"

// withoutContentType returns metadata without that entry.
func withoutContentType(metadata map[string]string) map[string]string {
	if lookup(metadata, metadataContentType) == "" {
		return metadata
	}
	out := maps.Clone(metadata)
	maps.DeleteFunc(out, func(k, _ string) bool { return strings.EqualFold(k, metadataContentType) })
	return out
}
