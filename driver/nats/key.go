package nats

import (
	"strings"

	"github.com/proa-io/proa/component"
)

// encodeKey writes a name of any kind as a key that NATS takes: letters,
// digits, - _ / and single dots between other characters stand for themselves,
// and all else is =XX, the byte in hexadecimal. So what people name in the
// usual way reads the same in the tools of NATS. The empty name is "=".
func encodeKey(name string) string {
	if name == "" {
		return "="
	}
	plain := true
	for i := 0; plain && i < len(name); i++ {
		plain = standsForItself(name, i)
	}
	if plain {
		return name
	}
	const digits = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(name) {
		if standsForItself(name, i) {
			b.WriteByte(name[i])
			continue
		}
		b.WriteByte('=')
		b.WriteByte(digits[name[i]>>4])
		b.WriteByte(digits[name[i]&15])
	}
	return b.String()
}

func standsForItself(name string, i int) bool {
	switch c := name[i]; {
	case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_', c == '/':
		return true
	case c == '.':
		return i > 0 && i < len(name)-1 && name[i-1] != '.'
	}
	return false
}

// decodeKey returns the name that encodeKey made key of, and false if there is
// none.
func decodeKey(key string) (string, bool) {
	name, ok := unescape(key)
	return name, ok && encodeKey(name) == key
}

// unescape undoes the =XX of encodeKey, and its "=" for nothing.
func unescape(key string) (string, bool) {
	if key == "=" {
		return "", true
	}
	if strings.IndexByte(key, '=') < 0 {
		return key, true
	}
	var b strings.Builder
	for i := 0; i < len(key); i++ {
		if key[i] != '=' {
			b.WriteByte(key[i])
			continue
		}
		if i+2 >= len(key) {
			return "", false
		}
		b.WriteByte(unhex(key[i+1])<<4 | unhex(key[i+2]))
		i += 2
	}
	return b.String(), true
}

// unhex returns the value of a digit; that of a character that is none does
// not matter, because it does not survive being encoded again.
func unhex(c byte) byte {
	switch {
	case '0' <= c && c <= '9':
		return c - '0'
	case 'A' <= c && c <= 'F':
		return c - 'A' + 10
	}
	return 0
}

// bucketName returns the name of the bucket for a block in a namespace.
func bucketName(block, namespace string) string {
	if namespace == "" {
		namespace = "default"
	}
	var b strings.Builder
	b.WriteString("proa_" + block + "_")
	for i := range len(namespace) {
		const digits = "0123456789ABCDEF"
		switch c := namespace[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-':
			b.WriteByte(c)
		default:
			b.WriteByte('_')
			b.WriteByte(digits[c>>4])
			b.WriteByte(digits[c&15])
		}
	}
	return b.String()
}

// checkBucket reports a name that no bucket can have. The empty name stands
// for the default.
func checkBucket(name string) error {
	ok := !strings.ContainsFunc(name, func(c rune) bool {
		return (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' && c != '_'
	})
	if !ok || len(name) > 128 {
		return component.Invalid("bucket", "wants letters, digits, _ and - only, 128 at most")
	}
	return nil
}
