package dapr

import "crypto/subtle"

// TokenHeader is the header field, and the gRPC metadata entry, that carries
// the API token, both of calls to this process and of calls to the application.
const TokenHeader = "dapr-api-token"

// InvalidToken is what a caller is told whose token is missing or wrong.
const InvalidToken = "invalid api token"

// Token is the secret that callers of the API must show; the zero value lets
// everybody in. It never appears in logs.
type Token struct{ value string }

// NewToken returns a Token. An empty value lets everybody in.
func NewToken(value string) Token { return Token{value} }

// Required reports whether callers must show a token at all.
func (t Token) Required() bool { return t.value != "" }

// Admits reports whether a caller that shows the given token may enter. The
// time it takes tells nothing but the length of the token.
func (t Token) Admits(shown string) bool {
	if t.value == "" {
		return true
	}
	if len(shown) != len(t.value) {
		return false
	}
	var differ byte
	for i := range len(shown) {
		differ |= shown[i] ^ t.value[i]
	}
	return subtle.ConstantTimeByteEq(differ, 0) == 1
}

// String returns a placeholder, so that a Token can be printed.
func (t Token) String() string {
	if t.value == "" {
		return ""
	}
	return "[redacted]"
}

// GoString keeps %#v from printing the value.
func (t Token) GoString() string { return t.String() }
