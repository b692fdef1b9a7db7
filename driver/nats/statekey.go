package nats

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
)

// Keys of items can be any bytes, and mostly begin with the id of an
// application and "||". That becomes a dot, so that the items of one
// application are the subjects under its name, and so that the usual keys look
// as Dapr's component writes them. Each part in between is written by encodeKey,
// with its dots as =2E. A key whose subject would be too long is kept under its
// SHA-256, and stands in a header.

const (
	separator = "||"
	// maxStateKey bounds a written key: a subject has room for 3 KiB, which it
	// shares with the name of the bucket.
	maxStateKey = 2 << 10
	// keyHeader holds the key of an item that is kept under its hash, written
	// without a bound.
	keyHeader = "Proa-Key"
	// hashMark begins a hash. No written key has it: after "=" comes a
	// hexadecimal digit in upper case, a dot or the end.
	hashMark = "=h"
)

// encodeStateKey returns how a key is written, and whether that is a hash.
func encodeStateKey(key string) (written string, hashed bool) {
	written = spellStateKey(key)
	if len(written) <= maxStateKey {
		return written, false
	}
	sum := sha256.Sum256([]byte(key))
	hash := hashMark + hex.EncodeToString(sum[:])
	if first, _, more := strings.Cut(written, "."); more && len(first) <= maxStateKey/2 {
		return first + "." + hash, true
	}
	return hash, true
}

func spellStateKey(key string) string {
	parts := strings.Split(key, separator)
	for i, p := range parts {
		parts[i] = encodePart(p)
	}
	return strings.Join(parts, ".")
}

func encodePart(part string) string {
	return strings.ReplaceAll(encodeKey(part), ".", "=2E")
}

// decodeStateKey returns the key that is written so; header is what keyHeader
// holds, or "". ok is false for what encodeStateKey does not write.
func decodeStateKey(written, header string) (key string, ok bool) {
	if strings.Contains(written, hashMark) {
		key, ok = decodeStateKey(header, "")
		again, hashed := encodeStateKey(key)
		return key, ok && hashed && again == written
	}
	parts := strings.Split(written, ".")
	for i, p := range parts {
		if parts[i], ok = unescape(p); !ok || encodePart(parts[i]) != p {
			return "", false
		}
	}
	return strings.Join(parts, separator), true
}

// patternOf returns a pattern for the subjects of all keys that begin with
// prefix; others may match it too.
func patternOf(prefix string) string {
	first, _, more := strings.Cut(prefix, separator)
	if more && len(encodePart(first)) <= maxStateKey/2 {
		return encodePart(first) + ".>"
	}
	return ">"
}
