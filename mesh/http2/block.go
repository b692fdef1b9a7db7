package http2

import (
	"strconv"
	"strings"

	"golang.org/x/net/http2/hpack"

	"github.com/proa-io/proa/mesh/proxy"
)

// block is the field section that is being received: what a HEADERS frame and
// its CONTINUATIONs hold. The reading goroutine owns it.
type block struct {
	maxSize, maxFields int
	client             bool // we are the client: it is a response

	dec     *hpack.Decoder            // of the connection
	take    func(f hpack.HeaderField) // emit
	scratch proxy.Header              // client: memory for header

	id     uint32
	end    bool // the HEADERS frame had END_STREAM
	bytes  int  // compressed
	frames int
	open   bool // CONTINUATIONs are due

	header  proxy.Header // where regular fields go
	size    int
	count   int
	large   bool   // there is more than the bounds allow; decoded in part
	bad     string // why the message is malformed, "" when it is not
	regular bool   // a regular field was seen, no pseudo field may follow

	seen      pseudo
	method    string
	scheme    string
	authority string
	path      string
	protocol  string
	status    int

	length int64 // content-length, -1 when there is none
	host   string
	expect bool // expect: 100-continue
	cookie int  // index of the cookie field in header, -1 when there is none
}

// pseudo is a set of pseudo-header fields.
type pseudo uint8

const (
	seenMethod pseudo = 1 << iota
	seenScheme
	seenAuthority
	seenPath
	seenProtocol
	seenStatus
)

const seenRequest = seenMethod | seenScheme | seenAuthority | seenPath | seenProtocol

// ensureBlock sees to it that the connection has a block, and the decoder for
// it.
func (c *conn) ensureBlock() {
	if c.block != nil {
		return
	}
	b := c.mem.block()
	b.maxSize, b.maxFields, b.client = c.cfg.MaxHeaderBytes, c.cfg.MaxHeaderFields, c.client
	if c.dec == nil {
		c.dec = hpack.NewDecoder(dynamicTableSize, nil)
		// A string beyond this ends the connection, since the decoder gives
		// up; up to it, only the message is refused.
		c.dec.SetMaxStringLength(2 * c.cfg.MaxHeaderBytes)
	}
	c.dec.SetEmitFunc(b.take)
	b.dec, c.block = c.dec, b
}

func (m *memory) block() *block {
	m.count(1)
	if b, ok := m.blocks.Get().(*block); ok {
		return b
	}
	b := &block{}
	b.take = b.emit
	return b
}

func (m *memory) freeBlock(b *block) {
	m.count(-1)
	clear(b.scratch)
	*b = block{take: b.take, scratch: b.scratch[:0]}
	m.blocks.Put(b)
}

// dynamicTableSize is SETTINGS_HEADER_TABLE_SIZE, which is left at its default.
const dynamicTableSize = 4096

// begin starts the block of stream id, whose regular fields are appended to h.
func (b *block) begin(id uint32, end bool, h proxy.Header) {
	*b = block{
		maxSize: b.maxSize, maxFields: b.maxFields, client: b.client, dec: b.dec, take: b.take, scratch: b.scratch,
		id: id, end: end, header: h, length: -1, cookie: -1, open: true,
	}
	b.dec.SetEmitEnabled(true)
}

// maxContinuations bounds the frames of one block, beyond what its size needs.
const maxContinuations = 32

// add decodes a fragment of the block.
func (b *block) add(p []byte) error {
	b.bytes += len(p)
	b.frames++
	// Fields compress, they do not grow: what is twice as long as the bound
	// for what it decodes to is no accident.
	if b.bytes > 2*b.maxSize || b.frames > maxContinuations+b.maxSize/minFrame {
		return connErrorf(codeCalm, "the header block of stream %d takes more than %d bytes or too many CONTINUATION frames", b.id, 2*b.maxSize)
	}
	if _, err := b.dec.Write(p); err != nil {
		return connErrorf(codeCompression, "the header block of stream %d cannot be decompressed: %v", b.id, err)
	}
	return nil
}

// finish ends the block.
func (b *block) finish() error {
	b.open = false
	if err := b.dec.Close(); err != nil {
		return connErrorf(codeCompression, "the header block of stream %d cannot be decompressed: %v", b.id, err)
	}
	return nil
}

// malformed notes the first thing that is wrong. The rest is decoded for the
// sake of the decoder's state only.
func (b *block) malformed(reason string) {
	if b.bad == "" {
		b.bad = reason
	}
	b.dec.SetEmitEnabled(false)
}

func (b *block) emit(f hpack.HeaderField) {
	b.size += len(f.Name) + len(f.Value) + 32
	b.count++
	if b.size > b.maxSize || b.count > b.maxFields {
		b.large = true
		b.dec.SetEmitEnabled(false)
		return
	}
	if !validValue(f.Value) {
		b.malformed("the value of field " + quoteName(f.Name) + " holds a control character")
		return
	}
	if f.Name != "" && f.Name[0] == ':' {
		b.pseudo(f.Name, f.Value)
		return
	}
	b.regular = true
	if !validName(f.Name) {
		b.malformed("the field name " + quoteName(f.Name) + " is not a token in lower case")
		return
	}
	if hasOuterSpace(f.Value) {
		// Requests are held to the rule. gRPC servers put messages that end
		// in a space into grpc-message, and those are mended.
		if !b.client {
			b.malformed("the value of field " + quoteName(f.Name) + " begins or ends with white space")
			return
		}
		f.Value = strings.Trim(f.Value, " \t")
	}
	b.field(f.Name, f.Value)
}

// field takes in a regular field.
func (b *block) field(name, value string) {
	switch name {
	case "content-length":
		n, ok := parseLength(value)
		if !ok || b.length >= 0 && b.length != n {
			b.malformed("content-length is not one number")
			return
		}
		b.length = n
		return
	case "host":
		if b.host != "" && b.host != value {
			b.malformed("there are several host fields")
		}
		b.host = value
		return
	case "connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade":
		b.malformed("the field " + name + " belongs to a connection of HTTP/1.1")
		return
	case "te":
		if !strings.EqualFold(value, "trailers") {
			b.malformed(`te has another value than "trailers"`)
			return
		}
	case "expect":
		b.expect = strings.EqualFold(value, "100-continue")
	case "cookie":
		// Crumbs become one field again (RFC 9113, section 8.2.3).
		if b.cookie >= 0 {
			b.header[b.cookie].Value += "; " + value
			return
		}
		b.cookie = len(b.header)
	}
	b.header = append(b.header, proxy.Field{Name: name, Value: value})
}

func (b *block) pseudo(name, value string) {
	if b.regular {
		b.malformed("the pseudo-header field " + quoteName(name) + " comes after a regular one")
		return
	}
	var which pseudo
	switch name {
	case ":method":
		which, b.method = seenMethod, value
	case ":scheme":
		which, b.scheme = seenScheme, value
	case ":authority":
		which, b.authority = seenAuthority, value
	case ":path":
		which, b.path = seenPath, value
	case ":protocol":
		which, b.protocol = seenProtocol, value
	case ":status":
		which = seenStatus
		n, err := strconv.ParseUint(value, 10, 16)
		if err != nil || len(value) != 3 || n < 100 {
			b.malformed(":status is not a number of three digits")
			return
		}
		b.status = int(n)
	default:
		b.malformed("there is no pseudo-header field " + quoteName(name))
		return
	}
	if b.seen&which != 0 {
		b.malformed("the pseudo-header field " + name + " comes twice")
		return
	}
	b.seen |= which
}

// checkTrailers finds what is wrong with the block as trailers.
func (b *block) checkTrailers() {
	if b.bad == "" && b.seen != 0 {
		b.bad = "trailers hold a pseudo-header field"
	}
	if b.bad == "" && !b.end {
		b.bad = "trailers do not end the stream"
	}
}

// checkResponse finds what is wrong with the block as the head of a response.
func (b *block) checkResponse() {
	switch {
	case b.bad != "":
	case b.seen != seenStatus:
		b.bad = "a response must have :status and no other pseudo-header field"
	case b.status == 101:
		b.bad = "HTTP/2 has no status 101"
	case b.status < 200 && b.end:
		b.bad = "an interim response ends the stream"
	}
}

// checkRequest finds what is wrong with the block as the head of a request.
func (b *block) checkRequest() {
	if b.bad == "" {
		b.bad = b.requestFlaw()
	}
}

func (b *block) requestFlaw() string {
	switch {
	case b.seen&^seenRequest != 0:
		return "a request has :status"
	case b.seen&seenMethod == 0 || !validToken(b.method):
		return ":method is missing or not a token"
	case !validAuthority(b.authority) || !validAuthority(b.host):
		return ":authority or host is not a host and port"
	case b.seen&seenAuthority != 0 && b.host != "" && !strings.EqualFold(b.authority, b.host):
		return ":authority and host differ"
	case b.method == "CONNECT" && b.protocol == "":
		if b.seen != seenMethod|seenAuthority || b.authority == "" {
			return "a CONNECT must have :authority, and neither :scheme nor :path"
		}
		return ""
	case b.seen&seenProtocol != 0 && (b.method != "CONNECT" || !validToken(b.protocol)):
		return ":protocol is not a token or comes without the method CONNECT"
	case b.seen&seenScheme == 0 || !validScheme(b.scheme):
		return ":scheme is missing or malformed"
	case b.seen&seenPath == 0 || !validTarget(b.path, b.method):
		return ":path is missing or malformed"
	case b.seen&seenProtocol != 0 && b.authority == "":
		return "an extended CONNECT must have :authority"
	}
	return ""
}

// fill puts the head of a request into r, but for its Header and Body.
func (b *block) fill(r *proxy.Request) {
	r.Method, r.Scheme, r.Authority, r.Target = b.method, b.scheme, b.authority, b.path
	if b.seen&seenAuthority == 0 {
		r.Authority = b.host
	}
	r.ContentLength = b.length
	switch {
	case b.protocol != "":
		r.Method, r.Upgrade = "GET", strings.ToLower(b.protocol)
	case b.method == "CONNECT":
		r.Target = b.authority
	}
}

// parseLength parses the value of a content-length field.
func parseLength(s string) (int64, bool) {
	if s == "" || len(s) > 18 {
		return 0, false
	}
	var n int64
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return 0, false
		}
		n = n*10 + int64(s[i]-'0')
	}
	return n, true
}

// quoteName quotes a name that may be anything for an error text.
func quoteName(name string) string {
	if len(name) > 40 {
		name = name[:40] + "..."
	}
	return strconv.Quote(name)
}
