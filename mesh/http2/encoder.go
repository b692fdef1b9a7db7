package http2

// encoder compresses the fields that a connection sends (RFC 7541). It does what
// that of golang.org/x/net does, but for Huffman coding, and is made for the
// fields that come again with each request: finding one among those sent before
// is cheap, and tells that it is well formed.
//
// Fields are given in lower case and have been checked. The mutex of the
// connection guards it.
type encoder struct {
	most    int  // the size that the table may have
	size    int  // that it has
	lowest  int  // the least that most has been since the last block
	resized bool // most has changed since the last block

	// ring holds the table: the field with number k at k&(len(ring)-1), for the
	// last n numbers below next. Its length is a power of two.
	ring    []tableField
	next    uint32
	n       int
	buckets [encoderBuckets]uint8 // the newest field with a hash: its place in ring, and one
}

// tableField is a field of the table.
type tableField struct {
	name, value string
	number      uint32
	hash        uint8
	older       uint8 // the next one with the hash: its place in ring, and one
}

const (
	encoderBuckets = 64
	// fieldOverhead is what a field counts beyond its bytes (RFC 7541, section
	// 4.1).
	fieldOverhead = 32
	// maxTableFields is how many fields fit into the table.
	maxTableFields = dynamicTableSize / fieldOverhead
	// staticFields is how many fields the static table has (appendix A).
	staticFields = 61
)

// resize changes the size that the table may have. The next block tells the peer.
func (e *encoder) resize(most int) {
	if !e.resized || most < e.lowest {
		e.lowest = most
	}
	e.most, e.resized = most, true
	e.shrink(most)
}

// begin begins a block of fields: with the changes of the table's size (RFC 7541,
// section 4.2).
func (e *encoder) begin(out []byte) []byte {
	if !e.resized {
		return out
	}
	e.resized = false
	if e.lowest < e.most {
		// It would be enough to say how small the table has been meanwhile, but
		// golang.org/x/net takes a second change for a table that is empty only.
		e.shrink(0)
		out = appendInt(out, 0x20, 5, 0)
	}
	return appendInt(out, 0x20, 5, e.most)
}

// find returns the index of a field; 0 when it is not in the table.
func (e *encoder) find(name, value string) int {
	for at := e.buckets[fieldHash(name, value)]; at > 0; {
		f := &e.ring[at-1]
		if f.value == value && f.name == name {
			return staticFields + int(e.next-f.number)
		}
		at = f.older
	}
	return 0
}

// knows reports whether a field of a message, not a pseudo-header field, is in the
// table, and so can be sent as it is.
func (e *encoder) knows(name, value string) bool {
	return e.n > 0 && name != "" && name[0] != ':' && e.find(name, value) > 0
}

// field appends a field, and puts it into the table when it is not there.
func (e *encoder) field(out []byte, name, value string) []byte {
	if i := e.find(name, value); i > 0 {
		return appendInt(out, 0x80, 7, i)
	}
	form := byte(literalPlain)
	bits := 4
	if len(name)+len(value)+fieldOverhead <= e.most {
		form, bits = literalIndexed, 6
		e.insert(name, value)
	}
	if i := staticName(name); i > 0 {
		out = appendInt(out, form, bits, i)
	} else {
		out = appendString(append(out, form), name)
	}
	return appendString(out, value)
}

// insert puts a field into the table, and the oldest ones out that it leaves no
// room for.
func (e *encoder) insert(name, value string) {
	e.shrink(e.most - len(name) - len(value) - fieldOverhead)
	if e.n == len(e.ring) {
		e.grow()
	}
	both := name + value // what they are parts of is not kept
	hash := fieldHash(name, value)
	at := e.next & uint32(len(e.ring)-1)
	e.ring[at] = tableField{both[:len(name)], both[len(name):], e.next, hash, e.buckets[hash]}
	e.buckets[hash] = uint8(at + 1)
	e.next++
	e.n++
	e.size += len(both) + fieldOverhead
}

// grow doubles the room of the ring.
func (e *encoder) grow() {
	old := e.ring
	e.ring = make([]tableField, min(max(16, 2*len(old)), maxTableFields))
	e.buckets = [encoderBuckets]uint8{}
	for k := e.next - uint32(e.n); k != e.next; k++ {
		f := old[k&uint32(len(old)-1)]
		at := k & uint32(len(e.ring)-1)
		f.older = e.buckets[f.hash]
		e.ring[at] = f
		e.buckets[f.hash] = uint8(at + 1)
	}
}

// shrink takes out the oldest fields until the table is no larger than most.
func (e *encoder) shrink(most int) {
	for e.n > 0 && e.size > most {
		at := (e.next - uint32(e.n)) & uint32(len(e.ring)-1)
		f := &e.ring[at]
		link := &e.buckets[f.hash]
		for int(*link) != int(at)+1 {
			link = &e.ring[*link-1].older
		}
		*link = 0 // it is the last one: those with its hash are newer
		e.size -= len(f.name) + len(f.value) + fieldOverhead
		e.n--
		*f = tableField{}
	}
}

// fieldHash tells most fields apart that are sent on one connection.
func fieldHash(name, value string) uint8 {
	h := uint64(len(name)) | uint64(len(value))<<8 | uint64(name[0])<<32 | uint64(name[len(name)-1])<<40
	switch n := len(value); {
	case n >= 8:
		h ^= load8(value, n-8)
	case n > 0:
		h ^= uint64(value[0])<<16 | uint64(value[n/2])<<24 | uint64(value[n-1])<<48
	}
	return uint8(h * 0x9e3779b97f4a7c15 >> 58)
}

// load8 returns 8 bytes of s.
func load8(s string, at int) uint64 {
	s = s[at : at+8]
	return uint64(s[0]) | uint64(s[1])<<8 | uint64(s[2])<<16 | uint64(s[3])<<24 |
		uint64(s[4])<<32 | uint64(s[5])<<40 | uint64(s[6])<<48 | uint64(s[7])<<56
}

// The first bytes of literal fields (RFC 7541, section 6.2).
const (
	literalIndexed = 0x40
	literalPlain   = 0x00
	literalNever   = 0x10
)

// appendInt appends a number with a prefix of some bits, behind form (RFC 7541,
// section 5.1).
func appendInt(p []byte, form byte, bits, n int) []byte {
	most := 1<<bits - 1
	if n < most {
		return append(p, form|byte(n))
	}
	p = append(p, form|byte(most))
	for n -= most; n >= 0x80; n >>= 7 {
		p = append(p, byte(n)|0x80)
	}
	return append(p, byte(n))
}

// appendString appends a string literal (RFC 7541, section 5.2), not Huffman
// coded: that saves less than it costs on the networks this engine is for.
func appendString(p []byte, s string) []byte { return append(appendInt(p, 0, 7, len(s)), s...) }

// The pseudo-header fields that the static table has with their values (RFC 7541,
// appendix A), each as a whole.
const (
	indexGET    = 0x80 | 2
	indexPOST   = 0x80 | 3
	indexHTTP   = 0x80 | 6
	indexHTTPS  = 0x80 | 7
	indexStatus = 0x80 | 8 // and those of 204, 206, 304, 400, 404 and 500 behind it
)

// staticName returns the index of a name in the static table (RFC 7541, appendix
// A); 0 when it is not there.
func staticName(name string) int {
	switch name {
	case ":authority":
		return 1
	case ":method":
		return 2
	case ":path":
		return 4
	case ":scheme":
		return 6
	case ":status":
		return 8
	}
	if i, ok := staticNames[name]; ok {
		return int(i)
	}
	return 0
}

// staticNames has the names of the static table, without pseudo-header fields.
var staticNames = func() map[string]uint8 {
	out := map[string]uint8{}
	for i := len(staticTable); i > 0; i-- {
		if name := staticTable[i-1].Name; name[0] != ':' {
			out[name] = uint8(i)
		}
	}
	return out
}()
