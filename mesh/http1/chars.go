package http1

import "strings"

// The characters of a token (RFC 9110, section 5.6.2), as bit sets of the
// lower and the upper half of ASCII.
const (
	tokenLow = 1<<'!' | 1<<'#' | 1<<'$' | 1<<'%' | 1<<'&' | 1<<'\'' | 1<<'*' | 1<<'+' |
		1<<'-' | 1<<'.' | 0x3ff<<'0'
	tokenHigh = 0x3ffffff<<('A'-64) | 0x3ffffff<<('a'-64) |
		1<<('^'-64) | 1<<('_'-64) | 1<<('`'-64) | 1<<('|'-64) | 1<<('~'-64)
	// What may stand in a host and port (RFC 3986, section 3.2) beside
	// letters, digits and what is listed here by hand.
	hostLow = 1<<'!' | 1<<'$' | 1<<'%' | 1<<'&' | 1<<'\'' | 1<<'(' | 1<<')' | 1<<'*' |
		1<<'+' | 1<<',' | 1<<'-' | 1<<'.' | 0x3ff<<'0' | 1<<':' | 1<<';' | 1<<'='
	hostHigh = 0x3ffffff<<('A'-64) | 0x3ffffff<<('a'-64) |
		1<<('['-64) | 1<<(']'-64) | 1<<('_'-64) | 1<<('~'-64)
)

func isTokenChar(c byte) bool {
	if c < 64 {
		return uint64(tokenLow)>>c&1 != 0
	}
	return c < 128 && uint64(tokenHigh)>>(c-64)&1 != 0
}

func isToken(s string) bool {
	for i := range len(s) {
		if !isTokenChar(s[i]) {
			return false
		}
	}
	return len(s) > 0
}

// isHost reports whether s may be a Host value: a host and an optional port.
// An empty value is one (RFC 9110, section 7.2).
func isHost(s string) bool {
	for i := range len(s) {
		c := s[i]
		if c < 64 && uint64(hostLow)>>c&1 != 0 || c >= 64 && c < 128 && uint64(hostHigh)>>(c-64)&1 != 0 {
			continue
		}
		return false
	}
	return true
}

// isFieldValue reports whether s holds only what a field value may: visible
// characters, spaces, tabs and bytes above ASCII.
func isFieldValue(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}

// isTarget reports whether s may be a request target: no control character, no
// space and no fragment.
func isTarget(s string) bool {
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c == 0x7f || c == '#' {
			return false
		}
	}
	return len(s) > 0
}

// trimSpace removes spaces and tabs from both ends.
func trimSpace(s string) string {
	for len(s) > 0 && (s[0] == ' ' || s[0] == '\t') {
		s = s[1:]
	}
	for len(s) > 0 && (s[len(s)-1] == ' ' || s[len(s)-1] == '\t') {
		s = s[:len(s)-1]
	}
	return s
}

// fieldKind tells the fields that mean something to the engine from all others.
type fieldKind uint8

const (
	fieldOther fieldKind = iota
	fieldConnection
	fieldContentLength
	fieldDate
	fieldExpect
	fieldHost
	fieldKeepAlive
	fieldProxyConnection
	fieldTE
	fieldTransferEncoding
	fieldUpgrade
)

// kindOf returns the kind of the field with the name, in any case.
func kindOf(name string) fieldKind {
	switch len(name) {
	case 2:
		return kindIf(name, "te", fieldTE)
	case 4:
		if name[0]|0x20 == 'h' {
			return kindIf(name, "host", fieldHost)
		}
		return kindIf(name, "date", fieldDate)
	case 6:
		return kindIf(name, "expect", fieldExpect)
	case 7:
		return kindIf(name, "upgrade", fieldUpgrade)
	case 10:
		if name[0]|0x20 == 'c' {
			return kindIf(name, "connection", fieldConnection)
		}
		return kindIf(name, "keep-alive", fieldKeepAlive)
	case 14:
		return kindIf(name, "content-length", fieldContentLength)
	case 16:
		return kindIf(name, "proxy-connection", fieldProxyConnection)
	case 17:
		return kindIf(name, "transfer-encoding", fieldTransferEncoding)
	}
	return fieldOther
}

func kindIf(name, want string, kind fieldKind) fieldKind {
	if name[0]|0x20 == want[0] && strings.EqualFold(name, want) {
		return kind
	}
	return fieldOther
}

// isConnectionField reports whether a field of the kind belongs to the
// connection or the framing, so that only the engine may write it.
func (k fieldKind) isConnectionField() bool {
	switch k {
	case fieldConnection, fieldContentLength, fieldHost, fieldKeepAlive,
		fieldProxyConnection, fieldTransferEncoding, fieldUpgrade:
		return true
	}
	return false
}
