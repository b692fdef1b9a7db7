package http1

import (
	"fmt"
	"strings"
	"time"

	"github.com/proa-io/proa/mesh/proxy"
)

// headError refuses a request with a status and a reason for its sender.
type headError struct {
	status int
	reason string
}

func (e *headError) Error() string { return e.reason }

func refuse(status int, format string, args ...any) *headError {
	return &headError{status, fmt.Sprintf(format, args...)}
}

// fields is what the fields of a head say to the engine.
type fields struct {
	contentLength    int64 // -1: none
	host             string
	upgrade          string
	connection       connectionOptions
	hosts            uint8
	chunked          bool
	transferEncoding bool // there was such a field, understood or not
	expectContinue   bool
	expectOther      bool
	keepFor          uint32 // milliseconds, by Keep-Alive; 0: it does not say
}

// connectionOptions are the options of the Connection fields. Options that name
// other fields are kept in named.
type connectionOptions struct {
	close, keepAlive, upgrade bool
	named                     []string
}

// parseFields parses lines that end in CRLF into h and f. Fields that only the
// engine needs go to f alone. lenient accepts what a proxy must mend in a
// response. At most max fields are accepted.
func parseFields(lines string, h *proxy.Header, f *fields, max int, lenient bool) error {
	f.contentLength = -1
	for n := 0; len(lines) > 0; n++ {
		if n == max {
			return refuse(431, "more than %d fields", max)
		}
		end := strings.IndexByte(lines, '\n')
		if end < 1 || lines[end-1] != '\r' {
			return errBareLF
		}
		line := lines[:end-1]
		lines = lines[end+1:]
		name, value, err := splitField(line, lenient)
		if err != nil {
			return err
		}
		if kind := kindOf(name); kind != fieldOther {
			keep, err := f.note(kind, value)
			if err != nil {
				return err
			}
			if !keep {
				continue
			}
			if kind == fieldTE {
				value = "trailers"
			}
		}
		*h = append(*h, proxy.Field{Name: name, Value: value})
	}
	for _, name := range f.connection.named {
		h.Del(name)
	}
	return nil
}

func splitField(line string, lenient bool) (name, value string, err error) {
	colon := strings.IndexByte(line, ':')
	if line == "" || line[0] == ' ' || line[0] == '\t' {
		return "", "", malformed("a field is folded over several lines")
	}
	if colon < 0 {
		return "", "", malformed("a field has no colon: " + quote(line))
	}
	name, value = line[:colon], trimSpace(line[colon+1:])
	if lenient {
		name = strings.TrimRight(name, " \t")
	}
	if !isToken(name) {
		return "", "", malformed("a field name is not a token: " + quote(name))
	}
	if !isFieldValue(value) {
		return "", "", malformed("the value of field " + name + " holds a control character")
	}
	return name, value, nil
}

// quote quotes a part of a message for an error, and no more than is useful.
func quote(s string) string {
	if len(s) > 40 {
		return fmt.Sprintf("%q...", s[:40])
	}
	return fmt.Sprintf("%q", s)
}

// note takes in a field that the engine knows and reports whether it is for
// the Header, too.
func (f *fields) note(kind fieldKind, value string) (keep bool, err error) {
	switch kind {
	case fieldContentLength:
		n, ok := parseLength(value)
		if !ok {
			return false, malformed("Content-Length is not a number: " + quote(value))
		}
		if f.contentLength >= 0 && f.contentLength != n {
			return false, malformed("several Content-Lengths that differ")
		}
		f.contentLength = n
	case fieldTransferEncoding:
		if f.transferEncoding {
			return false, malformed("several Transfer-Encodings")
		}
		f.transferEncoding = true
		f.chunked = strings.EqualFold(value, "chunked")
	case fieldHost:
		f.hosts = min(f.hosts+1, 2)
		f.host = value
	case fieldConnection:
		return false, f.connection.add(value)
	case fieldUpgrade:
		if f.upgrade == "" {
			f.upgrade = value
		}
	case fieldTE:
		// Only "trailers" means anything beyond this connection.
		return hasToken(value, "trailers"), nil
	case fieldExpect:
		if strings.EqualFold(value, "100-continue") {
			f.expectContinue = true
		} else {
			f.expectOther = true
		}
		return true, nil
	case fieldKeepAlive:
		f.keepFor = uint32(parseKeepAlive(value).Milliseconds())
	case fieldDate:
		return true, nil
	}
	return false, nil
}

// parseKeepAlive returns for how long a connection may be used that a server
// keeps idle for as long as the parameter "timeout" says, in seconds: somewhat
// less. It returns 0 if there is none that makes sense.
func parseKeepAlive(value string) time.Duration {
	for part := range strings.SplitSeq(value, ",") {
		name, seconds, _ := strings.Cut(part, "=")
		if !strings.EqualFold(trimSpace(name), "timeout") {
			continue
		}
		if n, ok := parseLength(trimSpace(seconds)); ok && n > 0 && n <= maxKeepAlive {
			d := time.Duration(n) * time.Second
			return d - min(d/2, time.Second)
		}
	}
	return 0
}

// maxKeepAlive bounds, in seconds, what is believed of a Keep-Alive field.
const maxKeepAlive = 24 * 60 * 60

// maxNamed bounds how many other fields Connection may name.
const maxNamed = 16

func (o *connectionOptions) add(value string) error {
	for option := range strings.SplitSeq(value, ",") {
		option = trimSpace(option)
		switch {
		case option == "":
		case strings.EqualFold(option, "close"):
			o.close = true
		case strings.EqualFold(option, "keep-alive"):
			o.keepAlive = true
		case strings.EqualFold(option, "upgrade"):
			o.upgrade = true
		case strings.EqualFold(option, "te"):
			// TE is dealt with by its value.
		case len(o.named) < maxNamed:
			o.named = append(o.named, option)
		default:
			return malformed("Connection has too many options")
		}
	}
	return nil
}

// hasToken reports whether a comma-separated list has an element that is the
// token, in any case, whatever parameters follow it.
func hasToken(list, token string) bool {
	for element := range strings.SplitSeq(list, ",") {
		element, _, _ = strings.Cut(element, ";")
		if strings.EqualFold(trimSpace(element), token) {
			return true
		}
	}
	return false
}

// parseLength parses a Content-Length: up to 18 digits and nothing else.
func parseLength(s string) (int64, bool) {
	if len(s) == 0 || len(s) > 18 {
		return 0, false
	}
	var n int64
	for i := range len(s) {
		c := s[i]
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + int64(c-'0')
	}
	return n, true
}

// requestHead is what a parsed request line and its fields say to the engine,
// beside the proxy.Request that they fill.
type requestHead struct {
	fields
	old bool // HTTP/1.0
}

// keepAlive reports whether the client wants to use the connection again.
func (h *requestHead) keepAlive() bool {
	if h.old {
		return h.connection.keepAlive && !h.connection.close
	}
	return !h.connection.close
}

// parseRequest parses a head into r and h. r.Header is appended to; r.Scheme
// and r.Body are left alone.
func parseRequest(head string, r *proxy.Request, h *requestHead, maxTarget, maxFields int) error {
	end := strings.IndexByte(head, '\n')
	if end < 1 || head[end-1] != '\r' {
		return errBareLF
	}
	version, err := parseRequestLine(head[:end-1], r, maxTarget)
	if err != nil {
		return err
	}
	h.old = version == '0'
	if err := parseFields(head[end+1:], &r.Header, &h.fields, maxFields, false); err != nil {
		return err
	}
	if err := h.checkHost(); err != nil {
		return err
	}
	if err := resolveTarget(r, h.host); err != nil {
		return err
	}
	if h.expectOther && !h.old {
		return refuse(417, "an expectation other than 100-continue")
	}
	if err := h.frame(r); err != nil {
		return err
	}
	r.Upgrade = ""
	if h.upgrade != "" && h.connection.upgrade && !h.old && r.ContentLength == 0 {
		if protocol := strings.ToLower(h.upgrade); protocol != "h2c" {
			r.Upgrade = protocol
		}
	}
	return nil
}

// parseRequestLine parses the request line and returns the digit of the minor
// version.
func parseRequestLine(line string, r *proxy.Request, maxTarget int) (minor byte, err error) {
	method, rest, ok := strings.Cut(line, " ")
	if !ok || !isToken(method) {
		return 0, malformed("the request line does not begin with a method and a space: " + quote(line))
	}
	target, version, ok := strings.Cut(rest, " ")
	if len(target) > maxTarget {
		return 0, refuse(414, "the request target is longer than %d bytes", maxTarget)
	}
	if !ok || !isTarget(target) {
		return 0, malformed("the request target is not valid: " + quote(target))
	}
	if len(version) != len("HTTP/1.1") || version[:5] != "HTTP/" || version[6] != '.' ||
		!isDigit(version[5]) || !isDigit(version[7]) {
		return 0, malformed("the request line does not end with a version: " + quote(version))
	}
	if version[5] != '1' {
		return 0, refuse(505, "%s is not spoken here", version)
	}
	r.Method, r.Target = method, target
	return version[7], nil
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

// checkHost holds the Host fields against RFC 9112, section 3.2.
func (h *requestHead) checkHost() error {
	switch {
	case h.hosts == 0 && !h.old:
		return malformed("there is no Host field")
	case h.hosts > 1:
		return malformed("there are several Host fields")
	case !isHost(h.host):
		return malformed("the Host field is not a host and port: " + quote(h.host))
	}
	return nil
}

// resolveTarget brings the four forms of a request target (RFC 9112, section
// 3.2) into the one that a proxy.Request has, and sets the Authority.
func resolveTarget(r *proxy.Request, host string) error {
	r.Authority = host
	switch {
	case r.Method == "CONNECT":
		if !strings.Contains(r.Target, ":") || !isHost(r.Target) {
			return malformed("the target of CONNECT is not a host and port: " + quote(r.Target))
		}
		r.Authority = r.Target
		return nil
	case r.Target[0] == '/':
		return nil
	case r.Target == "*" && r.Method == "OPTIONS":
		return nil
	}
	scheme, rest, ok := strings.Cut(r.Target, "://")
	if !ok || !strings.EqualFold(scheme, "http") && !strings.EqualFold(scheme, "https") {
		return malformed("the request target is neither a path nor a URL: " + quote(r.Target))
	}
	end := strings.IndexAny(rest, "/?")
	if end < 0 {
		end = len(rest)
	}
	if end == 0 || !isHost(rest[:end]) {
		return malformed("the host of the request target is not valid: " + quote(r.Target))
	}
	r.Authority, r.Target = rest[:end], rest[end:]
	switch {
	case r.Target == "" && r.Method == "OPTIONS":
		r.Target = "*"
	case r.Target == "" || r.Target[0] == '?':
		r.Target = "/" + r.Target
	}
	return nil
}

// frame decides how the content of a request is delimited (RFC 9112, section
// 6.3) and sets r.ContentLength.
func (h *requestHead) frame(r *proxy.Request) error {
	switch {
	case h.transferEncoding && h.contentLength >= 0:
		return malformed("both Transfer-Encoding and Content-Length")
	case h.transferEncoding && h.old:
		return malformed("Transfer-Encoding in HTTP/1.0")
	case h.transferEncoding && !h.chunked:
		return refuse(501, "a Transfer-Encoding other than chunked")
	case h.transferEncoding:
		r.ContentLength = proxy.UnknownLength
	default:
		r.ContentLength = max(h.contentLength, 0)
	}
	if r.Method == "CONNECT" && r.ContentLength != 0 {
		return malformed("CONNECT with content")
	}
	return nil
}

// responseHead is what a parsed status line and its fields say to the engine.
type responseHead struct {
	fields
	status int
	old    bool // HTTP/1.0
}

// keepAlive reports whether the server keeps the connection, as far as its head
// says.
func (h *responseHead) keepAlive() bool {
	if h.old {
		return h.connection.keepAlive && !h.connection.close
	}
	return !h.connection.close
}

// parseResponse parses a head into header, which is appended to, and h.
func parseResponse(head string, header *proxy.Header, h *responseHead, maxFields int) error {
	end := strings.IndexByte(head, '\n')
	if end < 1 || head[end-1] != '\r' {
		return errBareLF
	}
	line := head[:end-1]
	const least = len("HTTP/1.1 200")
	if len(line) < least || line[:7] != "HTTP/1." || !isDigit(line[7]) || line[8] != ' ' ||
		len(line) > least && line[least] != ' ' {
		return malformed("the status line is not valid: " + quote(line))
	}
	status, ok := parseLength(line[9:12])
	if !ok || status < 100 || !isFieldValue(line[12:]) {
		return malformed("the status line is not valid: " + quote(line))
	}
	h.status, h.old = int(status), line[7] == '0'
	return parseFields(head[end+1:], header, &h.fields, maxFields, true)
}

// parseTrailer parses a trailer section into h and leaves out the fields that
// may not be there (RFC 9110, section 6.5.1).
func parseTrailer(lines string, h *proxy.Header, maxFields int, lenient bool) error {
	var f fields
	return parseFields(lines, h, &f, maxFields, lenient)
}
