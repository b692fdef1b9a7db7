package http1

import (
	"bytes"
	"crypto/rand"
	"crypto/sha1"
	"encoding/base64"
	"strconv"

	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/mesh/proxy"
)

const crlf = "\r\n"

// appendFields appends the fields of h that are not for the engine alone, one
// line each, and reports whether there was a Date. Fields that could not be
// read as they are meant are fault.InvalidArgument, and dst is returned as it
// was.
func appendFields(dst []byte, h proxy.Header) (out []byte, dated bool, err error) {
	start, lines := len(dst), 0
	for i := range h {
		name := h[i].Name
		if kind := kindOf(name); kind != fieldOther {
			if kind.isConnectionField() || kind == fieldTE && h[i].Value != "trailers" {
				continue
			}
			dated = dated || kind == fieldDate
		}
		if !isToken(name) {
			return dst[:start], false, fault.New(fault.InvalidArgument, "the field name %s is not a token", quote(name))
		}
		dst = append(dst, name...)
		dst = append(dst, ": "...)
		dst = append(dst, h[i].Value...)
		dst = append(dst, crlf...)
		lines++
	}
	// One look at the whole instead of one at each value: there must be as many
	// line ends as there are lines.
	added := dst[start:]
	if bytes.Count(added, []byte("\n")) != lines || bytes.Count(added, []byte("\r")) != lines ||
		bytes.IndexByte(added, 0) >= 0 {
		return dst[:start], false, fault.New(fault.InvalidArgument, "a field value holds a line break or NUL")
	}
	return dst, dated, nil
}

// appendRequestHead appends the head of a request, and reports whether it had to
// make a Sec-WebSocket-Key. The request line must have been checked.
func appendRequestHead(dst []byte, r *proxy.Request) (out []byte, wsKey bool, err error) {
	out = append(dst, r.Method...)
	out = append(out, ' ')
	out = append(out, r.Target...)
	out = append(out, " HTTP/1.1\r\nHost: "...)
	out = append(out, r.Authority...)
	out = append(out, crlf...)
	switch {
	case r.Body == nil && (r.Method == "POST" || r.Method == "PUT" || r.Method == "PATCH"),
		r.Body != nil && r.ContentLength >= 0:
		out = append(out, "Content-Length: "...)
		out = strconv.AppendInt(out, max(r.ContentLength, 0), 10)
		out = append(out, crlf...)
	case r.Body != nil:
		out = append(out, "Transfer-Encoding: chunked\r\n"...)
	}
	switch {
	case r.Upgrade != "":
		out = append(out, "Connection: Upgrade\r\nUpgrade: "...)
		out = append(out, r.Upgrade...)
		out = append(out, crlf...)
		if wsKey = r.Upgrade == "websocket" && !r.Header.Has("Sec-WebSocket-Key"); wsKey {
			out = appendWebSocketKey(out)
		}
	case r.Header.Has("TE"):
		out = append(out, "Connection: TE\r\n"...)
	}
	if out, _, err = appendFields(out, r.Header); err != nil {
		return dst, false, err
	}
	return append(out, crlf...), wsKey, nil
}

// appendWebSocketKey appends a Sec-WebSocket-Key (RFC 6455, section 4.1).
func appendWebSocketKey(dst []byte) []byte {
	var key [16]byte
	_, _ = rand.Read(key[:]) // never fails
	dst = append(dst, "Sec-WebSocket-Key: "...)
	dst = base64.StdEncoding.AppendEncode(dst, key[:])
	return append(dst, crlf...)
}

// appendChunkSize appends the line before the data of a chunk.
func appendChunkSize(dst []byte, n int) []byte {
	dst = strconv.AppendUint(dst, uint64(n), 16)
	return append(dst, crlf...)
}

// chunkOverhead is more than the framing of a chunk takes.
const chunkOverhead = 20

// lastChunk ends a chunked body without trailers.
const lastChunk = "0\r\n\r\n"

// appendTrailer appends the last chunk and the trailer section.
func appendTrailer(dst []byte, h proxy.Header) ([]byte, error) {
	start := len(dst)
	dst = append(dst, "0\r\n"...)
	dst, _, err := appendFields(dst, h)
	if err != nil {
		return dst[:start], err
	}
	return append(dst, crlf...), nil
}

// appendStatusLine appends the status line of a response.
func appendStatusLine(dst []byte, status int) []byte {
	dst = append(dst, "HTTP/1.1 "...)
	dst = strconv.AppendInt(dst, int64(status), 10)
	dst = append(dst, ' ')
	dst = append(dst, reason(status)...)
	return append(dst, crlf...)
}

// reason returns the reason phrase of a status code (RFC 9110, section 15), or
// "" for one without.
func reason(status int) string {
	switch status / 100 {
	case 1, 2, 3:
		return successReason(status)
	}
	switch status {
	case 400:
		return "Bad Request"
	case 401:
		return "Unauthorized"
	case 402:
		return "Payment Required"
	case 403:
		return "Forbidden"
	case 404:
		return "Not Found"
	case 405:
		return "Method Not Allowed"
	case 406:
		return "Not Acceptable"
	case 407:
		return "Proxy Authentication Required"
	case 408:
		return "Request Timeout"
	case 409:
		return "Conflict"
	case 410:
		return "Gone"
	case 411:
		return "Length Required"
	case 412:
		return "Precondition Failed"
	case 413:
		return "Content Too Large"
	case 414:
		return "URI Too Long"
	case 415:
		return "Unsupported Media Type"
	case 416:
		return "Range Not Satisfiable"
	case 417:
		return "Expectation Failed"
	case 421:
		return "Misdirected Request"
	case 422:
		return "Unprocessable Content"
	case 425:
		return "Too Early"
	case 426:
		return "Upgrade Required"
	case 428:
		return "Precondition Required"
	case 429:
		return "Too Many Requests"
	case 431:
		return "Request Header Fields Too Large"
	case 500:
		return "Internal Server Error"
	case 501:
		return "Not Implemented"
	case 502:
		return "Bad Gateway"
	case 503:
		return "Service Unavailable"
	case 504:
		return "Gateway Timeout"
	case 505:
		return "HTTP Version Not Supported"
	}
	return ""
}

func successReason(status int) string {
	switch status {
	case 100:
		return "Continue"
	case 101:
		return "Switching Protocols"
	case 103:
		return "Early Hints"
	case 200:
		return "OK"
	case 201:
		return "Created"
	case 202:
		return "Accepted"
	case 203:
		return "Non-Authoritative Information"
	case 204:
		return "No Content"
	case 205:
		return "Reset Content"
	case 206:
		return "Partial Content"
	case 207:
		return "Multi-Status"
	case 300:
		return "Multiple Choices"
	case 301:
		return "Moved Permanently"
	case 302:
		return "Found"
	case 303:
		return "See Other"
	case 304:
		return "Not Modified"
	case 307:
		return "Temporary Redirect"
	case 308:
		return "Permanent Redirect"
	}
	return ""
}

// webSocketAccept answers a Sec-WebSocket-Key (RFC 6455, section 4.2.2).
func webSocketAccept(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}
