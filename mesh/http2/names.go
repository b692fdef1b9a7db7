package http2

import "strings"

// Classes of the bytes of a field name.
const (
	nameBad   = iota
	nameLower // a token byte that HTTP/2 allows
	nameUpper // a token byte that must be written in lower case
)

// nameClass classifies bytes by RFC 9110, section 5.6.2, and RFC 9113, section
// 8.2.1.
var nameClass = func() (t [256]uint8) {
	for _, b := range []byte("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz") {
		t[b] = nameLower
	}
	for b := 'A'; b <= 'Z'; b++ {
		t[b] = nameUpper
	}
	return t
}()

// valueBad marks the bytes that a field value must not have (RFC 9110, section
// 5.5).
var valueBad = func() (t [256]bool) {
	for b := range 0x20 {
		t[b] = b != '\t'
	}
	t[0x7f] = true
	return t
}()

// validName reports whether name is a field name as HTTP/2 writes it.
func validName(name string) bool {
	for i := range len(name) {
		if nameClass[name[i]] != nameLower {
			return false
		}
	}
	return name != ""
}

// validToken reports whether s is a token, of whatever case.
func validToken(s string) bool {
	for i := range len(s) {
		if nameClass[s[i]] == nameBad {
			return false
		}
	}
	return s != ""
}

// validValue reports whether value has no byte that a field value must not
// have. White space around it is not looked at.
func validValue(value string) bool {
	for i := range len(value) {
		if valueBad[value[i]] {
			return false
		}
	}
	return true
}

func hasOuterSpace(v string) bool {
	return v != "" && (isSpace(v[0]) || isSpace(v[len(v)-1]))
}

func isSpace(b byte) bool { return b == ' ' || b == '\t' }

// validAuthority reports whether a may be the authority of a request: a host
// and port, without user information (RFC 9113, section 8.3.1).
func validAuthority(a string) bool {
	for i := range len(a) {
		switch b := a[i]; {
		case b <= ' ', b == 0x7f, b == '/', b == '?', b == '#', b == '@', b == '\\':
			return false
		}
	}
	return true
}

// validTarget reports whether p may be the :path of a request with the method.
func validTarget(p, method string) bool {
	if p == "" || p[0] != '/' {
		return p == "*" && method == "OPTIONS"
	}
	for i := range len(p) {
		switch b := p[i]; {
		case b <= ' ', b == 0x7f, b == '#':
			return false
		}
	}
	return true
}

func validScheme(s string) bool {
	if s == "http" || s == "https" {
		return true
	}
	for i := range len(s) {
		b := s[i]
		letter := b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z'
		if !letter && (i == 0 || !(b >= '0' && b <= '9' || b == '+' || b == '-' || b == '.')) {
			return false
		}
	}
	return s != ""
}

// lowerName returns name in lower case, and whether it is a token. It does not
// allocate for names that are in lower case, nor for common ones.
func lowerName(name string) (string, bool) {
	upper := false
	for i := range len(name) {
		switch nameClass[name[i]] {
		case nameBad:
			return "", false
		case nameUpper:
			upper = true
		}
	}
	if !upper {
		return name, name != ""
	}
	if lower, ok := commonNames[name]; ok {
		return lower, true
	}
	return strings.ToLower(name), true
}

// commonNames maps the usual HTTP/1.1 spelling of names to that of HTTP/2.
var commonNames = map[string]string{
	"Accept":                        "accept",
	"Accept-Charset":                "accept-charset",
	"Accept-Encoding":               "accept-encoding",
	"Accept-Language":               "accept-language",
	"Accept-Ranges":                 "accept-ranges",
	"Access-Control-Allow-Headers":  "access-control-allow-headers",
	"Access-Control-Allow-Methods":  "access-control-allow-methods",
	"Access-Control-Allow-Origin":   "access-control-allow-origin",
	"Access-Control-Expose-Headers": "access-control-expose-headers",
	"Age":                           "age",
	"Allow":                         "allow",
	"Authorization":                 "authorization",
	"Cache-Control":                 "cache-control",
	"Content-Disposition":           "content-disposition",
	"Content-Encoding":              "content-encoding",
	"Content-Language":              "content-language",
	"Content-Range":                 "content-range",
	"Content-Type":                  "content-type",
	"Cookie":                        "cookie",
	"Date":                          "date",
	"ETag":                          "etag",
	"Etag":                          "etag",
	"Expect":                        "expect",
	"Expires":                       "expires",
	"Forwarded":                     "forwarded",
	"If-Match":                      "if-match",
	"If-Modified-Since":             "if-modified-since",
	"If-None-Match":                 "if-none-match",
	"Last-Event-ID":                 "last-event-id",
	"Last-Modified":                 "last-modified",
	"Location":                      "location",
	"Origin":                        "origin",
	"Pragma":                        "pragma",
	"Range":                         "range",
	"Referer":                       "referer",
	"Retry-After":                   "retry-after",
	"Sec-Websocket-Extensions":      "sec-websocket-extensions",
	"Sec-WebSocket-Extensions":      "sec-websocket-extensions",
	"Sec-Websocket-Protocol":        "sec-websocket-protocol",
	"Sec-WebSocket-Protocol":        "sec-websocket-protocol",
	"Sec-Websocket-Version":         "sec-websocket-version",
	"Sec-WebSocket-Version":         "sec-websocket-version",
	"Server":                        "server",
	"Set-Cookie":                    "set-cookie",
	"TE":                            "te",
	"Te":                            "te",
	"Trailer":                       "trailer",
	"User-Agent":                    "user-agent",
	"Vary":                          "vary",
	"Via":                           "via",
	"WWW-Authenticate":              "www-authenticate",
	"Www-Authenticate":              "www-authenticate",
	"X-Forwarded-For":               "x-forwarded-for",
	"X-Forwarded-Host":              "x-forwarded-host",
	"X-Forwarded-Proto":             "x-forwarded-proto",
	"X-Request-Id":                  "x-request-id",
}
