// Package jsoncolumn tells which values a database keeps in a column of JSON,
// and writes those it does not as JSON strings.
package jsoncolumn

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"unicode/utf8"
)

const (
	// maxDepth is how deep MySQL lets JSON be nested; PostgreSQL allows more.
	maxDepth = 100
	// maxDigits and maxExponent bound numbers: by what a double-precision
	// number can hold, which is how MySQL keeps them.
	maxDigits   = 300
	maxExponent = 300
)

// Fits reports whether value is JSON that PostgreSQL and MySQL take: in UTF-8,
// without the character NUL or halves of characters in its strings, not too
// deeply nested, and with numbers of a bearable size.
func Fits(value []byte) bool {
	if !utf8.Valid(value) || !json.Valid(value) {
		return false
	}
	depth := 0
	for i := 0; i < len(value); i++ {
		switch c := value[i]; c {
		case '{', '[':
			if depth++; depth > maxDepth {
				return false
			}
		case '}', ']':
			depth--
		case '"':
			n, ok := stringFits(value[i:])
			if !ok {
				return false
			}
			i += n - 1
		case '-', '0', '1', '2', '3', '4', '5', '6', '7', '8', '9':
			n, ok := numberFits(value[i:])
			if !ok {
				return false
			}
			i += n - 1
		}
	}
	return true
}

// stringFits returns the length of the JSON string that b begins with, quotes
// included.
func stringFits(b []byte) (n int, ok bool) {
	for i := 1; ; i++ {
		switch b[i] {
		case '"':
			return i + 1, true
		case '\\':
			i++
			if b[i] != 'u' {
				continue
			}
			r := hex4(b[i+1:])
			i += 4
			switch {
			case r == 0 || r >= 0xdc00 && r <= 0xdfff:
				return 0, false
			case r >= 0xd800 && r <= 0xdbff:
				if b[i+1] != '\\' || b[i+2] != 'u' {
					return 0, false
				}
				if low := hex4(b[i+3:]); low < 0xdc00 || low > 0xdfff {
					return 0, false
				}
				i += 6
			}
		}
	}
}

// hex4 returns the number of the four hexadecimal digits that b begins with.
func hex4(b []byte) uint64 {
	n, _ := strconv.ParseUint(string(b[:4]), 16, 16)
	return n
}

// numberFits returns the length of the JSON number that b begins with.
func numberFits(b []byte) (n int, ok bool) {
	exponent := -1
loop:
	for n < len(b) {
		switch c := b[n]; {
		case c == 'e' || c == 'E':
			exponent = n + 1
		case c != '-' && c != '+' && c != '.' && (c < '0' || c > '9'):
			break loop
		}
		n++
	}
	if n > maxDigits {
		return 0, false
	}
	if exponent < 0 {
		return n, true
	}
	e, err := strconv.Atoi(string(b[exponent:n]))
	return n, err == nil && e >= -maxExponent && e+exponent-2 <= maxExponent
}

// Same reports whether two texts of JSON mean the same: the order of members
// and how numbers are written do not count.
func Same(a, b []byte) bool {
	x, okX := decode(a)
	y, okY := decode(b)
	return okX && okY && same(x, y)
}

func decode(text []byte) (v any, ok bool) {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	ok = d.Decode(&v) == nil
	return v, ok
}

func same(x, y any) bool {
	switch x := x.(type) {
	case json.Number:
		y, ok := y.(json.Number)
		if !ok || x == y {
			return ok
		}
		if i, err := x.Int64(); err == nil {
			if j, err := y.Int64(); err == nil {
				return i == j
			}
		}
		f, errF := x.Float64()
		g, errG := y.Float64()
		return errF == nil && errG == nil && f == g
	case []any:
		y, ok := y.([]any)
		return ok && slices.EqualFunc(x, y, same)
	case map[string]any:
		y, ok := y.(map[string]any)
		return ok && maps.EqualFunc(x, y, same)
	}
	return x == y
}

// Quote returns value as Dapr writes it when it is not JSON: in base64, as a
// JSON string.
func Quote(value []byte) []byte {
	out := make([]byte, 0, base64.StdEncoding.EncodedLen(len(value))+2)
	out = append(out, '"')
	out = base64.StdEncoding.AppendEncode(out, value)
	return append(out, '"')
}

// Unquote returns what Quote was given. The error does not show the text.
func Unquote(text []byte) ([]byte, error) {
	var s string
	if err := json.Unmarshal(text, &s); err != nil {
		return nil, fmt.Errorf("a value that is not JSON should be a string of base64 and is not: %T", err)
	}
	value, err := base64.StdEncoding.DecodeString(s)
	if err != nil {
		return nil, fmt.Errorf("a value that is not JSON should be base64 and is not: %w", err)
	}
	return value, nil
}
