package httpapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// maxDepth bounds how deeply JSON may be nested.
const maxDepth = 10_000

// A scanner reads JSON (RFC 8259) in place: what it is not asked to decode it
// checks and skips, so that values can be stored as they came, with numbers
// exact. The first error sticks; everything after it finds nothing.
//
// Text that is not UTF-8 is refused: it could not be sent back as JSON.
type scanner struct {
	b   []byte
	i   int
	err error
}

// jsonKind is the kind of a JSON value.
type jsonKind byte

// The kinds, by the byte that a value begins with; digits stand for '-'.
const (
	kindNone   jsonKind = 0
	kindObject jsonKind = '{'
	kindArray  jsonKind = '['
	kindString jsonKind = '"'
	kindNumber jsonKind = '-'
	kindTrue   jsonKind = 't'
	kindFalse  jsonKind = 'f'
	kindNull   jsonKind = 'n'
)

// String names the kind as an error text needs it.
func (k jsonKind) String() string {
	switch k {
	case kindObject:
		return "an object"
	case kindArray:
		return "an array"
	case kindString:
		return "a string"
	case kindNumber:
		return "a number"
	case kindTrue, kindFalse:
		return "a boolean"
	case kindNull:
		return "null"
	}
	return "nothing"
}

// kindOf returns the kind of a value that a scanner has returned.
func kindOf(raw []byte) jsonKind {
	switch {
	case len(raw) == 0:
		return kindNone
	case '0' <= raw[0] && raw[0] <= '9':
		return kindNumber
	}
	return jsonKind(raw[0])
}

// fail notes an error at offset at, unless there is one already.
func (s *scanner) fail(at int, format string, args ...any) {
	if s.err != nil {
		return
	}
	s.err = fmt.Errorf("%s, at %s", fmt.Sprintf(format, args...), position(s.b, at))
	s.i = len(s.b)
}

// position tells where in a body an offset is. Columns count characters.
func position(b []byte, at int) string {
	before := b[:min(at, len(b))]
	line := bytes.Count(before, []byte("\n")) + 1
	column := utf8.RuneCount(before[bytes.LastIndexByte(before, '\n')+1:]) + 1
	return fmt.Sprintf("line %d, column %d", line, column)
}

// unexpected notes that what comes next does not belong there.
func (s *scanner) unexpected(wanted string) {
	if s.i >= len(s.b) {
		s.fail(s.i, "unexpected end of JSON input, wanted %s", wanted)
		return
	}
	r, _ := utf8.DecodeRune(s.b[s.i:])
	s.fail(s.i, "invalid character %q, wanted %s", r, wanted)
}

func (s *scanner) space() {
	for s.i < len(s.b) {
		switch s.b[s.i] {
		case ' ', '\t', '\n', '\r':
			s.i++
		default:
			return
		}
	}
}

// peek returns the byte that the next value begins with, 0 at the end.
func (s *scanner) peek() byte {
	s.space()
	if s.i < len(s.b) && s.err == nil {
		return s.b[s.i]
	}
	return 0
}

// document checks that the input is UTF-8, for a start.
func (s *scanner) document() {
	if utf8.Valid(s.b) {
		return
	}
	for i := 0; i < len(s.b); {
		r, n := utf8.DecodeRune(s.b[i:])
		if r == utf8.RuneError && n == 1 {
			s.fail(i, "invalid UTF-8")
			return
		}
		i += n
	}
}

// end checks that nothing follows.
func (s *scanner) end() error {
	if s.peek() != 0 || s.err == nil && s.i < len(s.b) {
		s.unexpected("the end of the input")
	}
	return s.err
}

// open enters an array or object. It reports false for null, which stands for
// an empty one, and after an error. what names the value for the error.
func (s *scanner) open(kind jsonKind, what string) bool {
	switch c := s.peek(); {
	case c == byte(kind):
		s.i++
		return true
	case c == 'n':
		s.value()
		return false
	case s.err == nil:
		at := s.i
		if found := kindOf(s.value()); s.err == nil {
			s.fail(at, "%s wants %s, not %s", what, kind, found)
		}
	}
	return false
}

// more reports whether there is another element or member in the array or
// object that ends with closer, and steps to it. first is whether it would be
// the first one.
func (s *scanner) more(closer byte, first bool) bool {
	c := s.peek()
	switch {
	case s.err != nil:
		return false
	case c == closer:
		s.i++
		return false
	case first:
		return true
	case c == ',':
		s.i++
		if s.peek() == closer {
			s.unexpected("a value after the comma")
			return false
		}
		return s.err == nil
	}
	s.unexpected(`"," or "` + string(rune(closer)) + `"`)
	return false
}

// name reads the name of a member, with its quotes, and steps to the value.
func (s *scanner) name() []byte {
	if s.peek() != '"' {
		s.unexpected("the name of a member")
		return nil
	}
	start := s.i
	s.skipString()
	name := s.b[start:s.i]
	if s.peek() != ':' {
		s.unexpected(`":"`)
		return nil
	}
	s.i++
	return name
}

// value reads a value of any kind and returns it as it stands.
func (s *scanner) value() []byte {
	s.space()
	start := s.i
	s.skip(0)
	if s.err != nil {
		return nil
	}
	return s.b[start:s.i]
}

func (s *scanner) skip(depth int) {
	if depth > maxDepth {
		s.fail(s.i, "nested more than %d levels deep", maxDepth)
		return
	}
	switch c := s.peek(); {
	case c == '"':
		s.skipString()
	case c == '{':
		s.i++
		for first := true; s.more('}', first); first = false {
			s.name()
			s.skip(depth + 1)
		}
	case c == '[':
		s.i++
		for first := true; s.more(']', first); first = false {
			s.skip(depth + 1)
		}
	case c == '-' || '0' <= c && c <= '9':
		s.skipNumber()
	case c == 't':
		s.skipWord("true")
	case c == 'f':
		s.skipWord("false")
	case c == 'n':
		s.skipWord("null")
	default:
		s.unexpected("a value")
	}
}

func (s *scanner) skipWord(word string) {
	for i := range len(word) {
		if s.i >= len(s.b) || s.b[s.i] != word[i] {
			s.unexpected(word)
			return
		}
		s.i++
	}
}

func (s *scanner) skipString() {
	for s.i++; s.i < len(s.b); s.i++ {
		switch c := s.b[s.i]; {
		case c == '"':
			s.i++
			return
		case c == '\\':
			s.i++
			if !s.skipEscape() {
				return
			}
		case c < ' ':
			s.unexpected("it escaped, as inside a string")
			return
		}
	}
	s.unexpected(`"\""`)
}

// skipEscape stands behind the backslash and goes to the last character of the
// escape.
func (s *scanner) skipEscape() bool {
	if s.i < len(s.b) && s.b[s.i] == 'u' {
		for range 4 {
			s.i++
			if s.i >= len(s.b) || !isHex(s.b[s.i]) {
				s.unexpected("a hexadecimal digit")
				return false
			}
		}
		return true
	}
	if s.i >= len(s.b) || strings.IndexByte(`"\/bfnrt`, s.b[s.i]) < 0 {
		s.unexpected("an escape")
		return false
	}
	return true
}

func isHex(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F'
}

func (s *scanner) skipNumber() {
	if s.b[s.i] == '-' {
		s.i++
	}
	if s.i < len(s.b) && s.b[s.i] == '0' {
		s.i++
	} else if !s.skipDigits() {
		return
	}
	if s.i < len(s.b) && s.b[s.i] == '.' {
		s.i++
		if !s.skipDigits() {
			return
		}
	}
	if s.i < len(s.b) && (s.b[s.i] == 'e' || s.b[s.i] == 'E') {
		s.i++
		if s.i < len(s.b) && (s.b[s.i] == '+' || s.b[s.i] == '-') {
			s.i++
		}
		s.skipDigits()
	}
}

func (s *scanner) skipDigits() bool {
	start := s.i
	for s.i < len(s.b) && '0' <= s.b[s.i] && s.b[s.i] <= '9' {
		s.i++
	}
	if s.i == start {
		s.unexpected("a digit")
		return false
	}
	return true
}

// text reads a string; null is the empty one.
func (s *scanner) text(what string) string {
	s.space()
	at, raw := s.i, s.value()
	switch kind := kindOf(raw); kind {
	case kindString:
		return unquote(raw)
	case kindNull, kindNone:
	default:
		s.fail(at, "%s wants a string, not %s", what, kind)
	}
	return ""
}

// scalar reads a string, or a number or boolean as it is written; null is the
// empty string.
func (s *scanner) scalar(what string) string {
	s.space()
	at, raw := s.i, s.value()
	switch kind := kindOf(raw); kind {
	case kindString:
		return unquote(raw)
	case kindNumber, kindTrue, kindFalse:
		return string(raw)
	case kindNull, kindNone:
	default:
		s.fail(at, "%s wants a string, not %s", what, kind)
	}
	return ""
}

// stringMap reads an object whose values are scalars; nil for null.
func (s *scanner) stringMap(what string) map[string]string {
	if !s.open(kindObject, what) {
		return nil
	}
	out := map[string]string{}
	for first := true; s.more('}', first); first = false {
		name := unquote(s.name())
		out[name] = s.scalar(what)
	}
	return out
}

// unquote decodes a string that a scanner has checked.
func unquote(raw []byte) string {
	if len(raw) < 2 {
		return ""
	}
	if bytes.IndexByte(raw, '\\') < 0 {
		return string(raw[1 : len(raw)-1])
	}
	var out string
	_ = json.Unmarshal(raw, &out) // checked already
	return out
}

// isNamed reports whether the name of a member, with its quotes, is the given
// one, without regard to case, as Dapr reads names.
func isNamed(raw []byte, name string) bool {
	if len(raw) < 2 {
		return false
	}
	if bytes.IndexByte(raw, '\\') >= 0 {
		return strings.EqualFold(unquote(raw), name)
	}
	raw = raw[1 : len(raw)-1]
	if len(raw) != len(name) {
		return false
	}
	for i, c := range raw {
		if c != name[i] && lower(c) != lower(name[i]) {
			return false
		}
	}
	return true
}

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c + 'a' - 'A'
	}
	return c
}

// decode reads a body into v. Errors tell where in the body.
func decode(body []byte, v any) error {
	s := scanner{b: body}
	s.document()
	s.value()
	if err := s.end(); err != nil {
		return err
	}
	err := json.Unmarshal(body, v)
	if wrong, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		where := position(body, int(wrong.Offset))
		if wrong.Field == "" {
			return fmt.Errorf("a JSON %s cannot be the request, at %s", wrong.Value, where)
		}
		return fmt.Errorf("%q cannot be a JSON %s, at %s", wrong.Field, wrong.Value, where)
	}
	return err
}

// appendString appends a string as JSON.
func appendString(b []byte, s string) []byte {
	const hex = "0123456789abcdef"
	b = append(b, '"')
	for _, r := range s { // what is not UTF-8 becomes U+FFFD
		switch {
		case r == '"' || r == '\\':
			b = append(b, '\\', byte(r))
		case r == '\n':
			b = append(b, `\n`...)
		case r < ' ' || r == 0x7f:
			b = append(b, `\u00`...)
			b = append(b, hex[r>>4], hex[r&15])
		default:
			b = utf8.AppendRune(b, r)
		}
	}
	return append(b, '"')
}
