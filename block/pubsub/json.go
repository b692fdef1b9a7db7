package pubsub

import (
	"encoding/base64"
	"encoding/json"
	"unicode/utf8"
)

// maxDepth bounds the nesting of JSON that is taken for JSON, as encoding/json
// does.
const maxDepth = 10000

// isJSON reports whether data is one JSON value of valid UTF-8, and nothing
// else.
func isJSON(data []byte) bool {
	end := skipValue(data, skipSpace(data, 0), 0)
	return end >= 0 && skipSpace(data, end) == len(data) && utf8.Valid(data)
}

// member is one name and value of a JSON object, as offsets into it. The
// name's exclude the quotes.
type member struct{ nameStart, nameEnd, start, end int32 }

// scanObject calls yield with each member of the JSON object that data is, in
// order, and reports whether data is one.
func scanObject(data []byte, yield func(member)) bool {
	i := skipSpace(data, 0)
	if i >= len(data) || data[i] != '{' || int64(len(data)) > 1<<31-1 {
		return false
	}
	i = skipSpace(data, i+1)
	if i < len(data) && data[i] == '}' {
		return skipSpace(data, i+1) == len(data)
	}
	for {
		m, next := scanMember(data, i, 1)
		if next < 0 {
			return false
		}
		yield(m)
		i = skipSpace(data, next)
		if i >= len(data) {
			return false
		}
		switch data[i] {
		case ',':
			i = skipSpace(data, i+1)
		case '}':
			return skipSpace(data, i+1) == len(data)
		default:
			return false
		}
	}
}

// scanMember reads `"name": value` at i and returns the index after it, or -1.
func scanMember(data []byte, i, depth int) (member, int) {
	nameEnd := skipString(data, i)
	if nameEnd < 0 {
		return member{}, -1
	}
	start := skipSpace(data, nameEnd)
	if start >= len(data) || data[start] != ':' {
		return member{}, -1
	}
	start = skipSpace(data, start+1)
	end := skipValue(data, start, depth)
	return member{int32(i + 1), int32(nameEnd - 1), int32(start), int32(end)}, end
}

func skipSpace(data []byte, i int) int {
	for i < len(data) && (data[i] == ' ' || data[i] == '\n' || data[i] == '\t' || data[i] == '\r') {
		i++
	}
	return i
}

// skipValue returns the index after the JSON value at i, or -1 if there is
// none.
func skipValue(data []byte, i, depth int) int {
	if i >= len(data) {
		return -1
	}
	switch c := data[i]; {
	case c == '"':
		return skipString(data, i)
	case c == '{' && depth < maxDepth:
		return skipObject(data, i, depth)
	case c == '[' && depth < maxDepth:
		return skipArray(data, i, depth)
	case c == 't':
		return skipWord(data, i, "true")
	case c == 'f':
		return skipWord(data, i, "false")
	case c == 'n':
		return skipWord(data, i, "null")
	case c == '-' || c >= '0' && c <= '9':
		return skipNumber(data, i)
	}
	return -1
}

func skipObject(data []byte, i, depth int) int {
	i = skipSpace(data, i+1)
	if i < len(data) && data[i] == '}' {
		return i + 1
	}
	for {
		var next int
		if _, next = scanMember(data, i, depth+1); next < 0 {
			return -1
		}
		i = skipSpace(data, next)
		switch {
		case i >= len(data):
			return -1
		case data[i] == '}':
			return i + 1
		case data[i] != ',':
			return -1
		}
		i = skipSpace(data, i+1)
	}
}

func skipArray(data []byte, i, depth int) int {
	i = skipSpace(data, i+1)
	if i < len(data) && data[i] == ']' {
		return i + 1
	}
	for {
		if i = skipValue(data, i, depth+1); i < 0 {
			return -1
		}
		i = skipSpace(data, i)
		switch {
		case i >= len(data):
			return -1
		case data[i] == ']':
			return i + 1
		case data[i] != ',':
			return -1
		}
		i = skipSpace(data, i+1)
	}
}

func skipWord(data []byte, i int, word string) int {
	if end := i + len(word); end <= len(data) && string(data[i:end]) == word {
		return end
	}
	return -1
}

func skipString(data []byte, i int) int {
	if i >= len(data) || data[i] != '"' {
		return -1
	}
	for i++; i < len(data); i++ {
		switch c := data[i]; {
		case c == '"':
			return i + 1
		case c < ' ':
			return -1
		case c == '\\':
			if i = skipEscape(data, i+1); i < 0 {
				return -1
			}
		}
	}
	return -1
}

// skipEscape returns the index of the last byte of the escape whose letter is
// at i, or -1.
func skipEscape(data []byte, i int) int {
	if i >= len(data) {
		return -1
	}
	switch data[i] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return i
	case 'u':
		if i+4 >= len(data) {
			return -1
		}
		for _, c := range data[i+1 : i+5] {
			if !(c >= '0' && c <= '9' || c|0x20 >= 'a' && c|0x20 <= 'f') {
				return -1
			}
		}
		return i + 4
	}
	return -1
}

func skipNumber(data []byte, i int) int {
	if data[i] == '-' {
		i++
	}
	switch {
	case i >= len(data):
		return -1
	case data[i] == '0':
		i++
	default:
		if i = skipDigits(data, i); i < 0 {
			return -1
		}
	}
	if i < len(data) && data[i] == '.' {
		if i = skipDigits(data, i+1); i < 0 {
			return -1
		}
	}
	if i < len(data) && data[i]|0x20 == 'e' {
		i++
		if i < len(data) && (data[i] == '+' || data[i] == '-') {
			i++
		}
		return skipDigits(data, i)
	}
	return i
}

// skipDigits returns the index after the digits at i, or -1 if there is none.
func skipDigits(data []byte, i int) int {
	start := i
	for i < len(data) && data[i] >= '0' && data[i] <= '9' {
		i++
	}
	if i == start {
		return -1
	}
	return i
}

// appendString appends s as a JSON string. Bytes that are not UTF-8 become
// U+FFFD.
func appendString(dst []byte, s string) []byte {
	dst = append(dst, '"')
	clean := 0 // s[:clean] is in dst
	for i := 0; i < len(s); {
		c := s[i]
		if c >= ' ' && c < utf8.RuneSelf && c != '"' && c != '\\' {
			i++
			continue
		}
		size := 1
		var esc string
		if c >= utf8.RuneSelf {
			var r rune
			if r, size = utf8.DecodeRuneInString(s[i:]); r != utf8.RuneError || size > 1 {
				i += size
				continue
			}
			esc = "\ufffd"
		} else {
			esc = escapeOf(c)
		}
		dst = append(dst, s[clean:i]...)
		dst = append(dst, esc...)
		i += size
		clean = i
	}
	dst = append(dst, s[clean:]...)
	return append(dst, '"')
}

// escapeOf returns the JSON escape of a control character, quote or backslash.
func escapeOf(c byte) string {
	switch c {
	case '"':
		return `\"`
	case '\\':
		return `\\`
	case '\n':
		return `\n`
	case '\r':
		return `\r`
	case '\t':
		return `\t`
	}
	const hex = "0123456789abcdef"
	return `\u00` + string(hex[c>>4]) + string(hex[c&15])
}

// appendBytes appends data as a JSON string in base64.
func appendBytes(dst, data []byte) []byte {
	dst = append(dst, '"')
	dst = base64.StdEncoding.AppendEncode(dst, data)
	return append(dst, '"')
}

// unquote returns the text of a JSON string that skipString has accepted, and
// false for any other value.
func unquote(value []byte) (string, bool) {
	if len(value) < 2 || value[0] != '"' {
		return "", false
	}
	body := value[1 : len(value)-1]
	for _, c := range body {
		if c == '\\' {
			var s string
			err := json.Unmarshal(value, &s)
			return s, err == nil
		}
	}
	return string(body), true
}
