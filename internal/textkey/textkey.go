// Package textkey maps keys of any bytes to text that a database can keep in a
// column of characters, and ranges of such keys to ranges of such text.
//
// A key that is UTF-8 without NUL stays as it is, so that other programs read
// it. Any other is written as [Marker] and its bytes in hexadecimal. Within
// each of the two kinds, the order of the texts by bytes is that of the keys.
package textkey

import (
	"encoding/hex"
	"fmt"
	"sort"
	"strings"
	"unicode/utf8"
)

// Marker begins the text of a key that cannot stay as it is. A key that itself
// begins with it is one of those.
const Marker = "~hex:"

// Encode returns the text of a key.
func Encode(key string) string {
	if plain(key) && !strings.HasPrefix(key, Marker) {
		return key
	}
	return Marker + hex.EncodeToString([]byte(key))
}

// Decode returns the key of a text. It fails for what Encode never returns.
func Decode(text string) (string, error) {
	digits, marked := strings.CutPrefix(text, Marker)
	if !marked {
		return text, nil
	}
	key, err := hex.DecodeString(digits)
	if err != nil {
		return "", fmt.Errorf("a key that begins with %q is not followed by hexadecimal digits", Marker)
	}
	return string(key), nil
}

func plain(s string) bool { return utf8.ValidString(s) && strings.IndexByte(s, 0) < 0 }

// A Range is the texts from First on that are before End, by bytes. An End of
// "" is the end of all texts.
type Range struct {
	First, End string
	// Empty says that there is no text in the range, whatever the bounds are.
	Empty bool
}

// Ranges returns where the texts are of the keys that begin with prefix and
// come after the key after: those that are as they are, and those that begin
// with Marker. The first range may include [Marked], where no such text is.
func Ranges(prefix, after string) (plain, marked Range) {
	first := prefix
	if after != "" {
		first = max(prefix, after+"\x00")
	}
	end, bounded := Successor(prefix)
	if bounded && first >= end {
		return Range{Empty: true}, Range{Empty: true}
	}
	text, ok := ceiling(first)
	plain.First, plain.Empty = text, !ok
	marked = Marked()
	marked.First += hex.EncodeToString([]byte(first))
	if bounded {
		plain.End, _ = ceiling(end)
		marked.End = Marker + hex.EncodeToString([]byte(end))
	}
	return plain, marked
}

// Marked returns where all texts are that begin with Marker.
func Marked() Range {
	end, _ := Successor(Marker)
	return Range{First: Marker, End: end}
}

// Successor returns the first string that comes after all that begin with
// prefix; ok is false when there is none.
func Successor(prefix string) (s string, ok bool) {
	b := []byte(prefix)
	for n := len(b) - 1; n >= 0; n-- {
		if b[n] < 0xff {
			b[n]++
			return string(b[:n+1]), true
		}
	}
	return "", false
}

// ceiling returns the first text, which is UTF-8 without NUL, that does not come
// before s by bytes; ok is false when there is none.
func ceiling(s string) (text string, ok bool) {
	n := 0 // s[:n] is text
	for n < len(s) {
		r, size := utf8.DecodeRuneInString(s[n:])
		if r == 0 || r == utf8.RuneError && size == 1 {
			break
		}
		n += size
	}
	if n == len(s) {
		return s, true
	}
	for rest := s[n:]; ; {
		// The order of characters is that of their encodings.
		if i := sort.Search(characters, func(i int) bool { return character(i) >= rest }); i < characters {
			return s[:n] + character(i), true
		}
		// Nothing in this place is large enough: the character before it has
		// to be, and nothing follows then.
		if n == 0 {
			return "", false
		}
		_, size := utf8.DecodeLastRuneInString(s[:n])
		n -= size
		rest = s[n:n+size] + "\xff"
	}
}

// surrogates is how many code points are not characters, and where they begin.
const (
	firstSurrogate = 0xd800
	surrogates     = 0x800
)

// characters is how many characters there are but NUL.
const characters = utf8.MaxRune - surrogates

// character returns the i-th character, counted from 0; NUL is none.
func character(i int) string {
	r := rune(i + 1)
	if r >= firstSurrogate {
		r += surrogates
	}
	return string(r)
}
