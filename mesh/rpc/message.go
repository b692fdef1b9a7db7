package rpc

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"io"
	"strings"
	"sync"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// DefaultMaxMessage is the largest message that is read unless an option says
// otherwise: 4 MiB, as gRPC implementations have it.
const DefaultMaxMessage = 4 << 20

// prefixLen is the length of a Length-Prefixed-Message's prefix: one byte that
// tells whether the message is compressed, four bytes of length.
const prefixLen = 5

// buffers are reused between messages, up to a size that is worth keeping.
type buffer struct{ b []byte }

const (
	firstBuffer = 2 << 10
	keepBuffer  = 256 << 10
)

// pools hold what one server or connection uses again.
type pools struct {
	buffers  sync.Pool
	gunzips  sync.Pool
	decoders sync.Pool
}

// decoder is what a generated handler gets to read its message with: one value
// for many calls, where a closure would be one for each. A handler does not use
// it any more once it has returned.
type decoder struct {
	call    *call
	message []byte
	run     func(any) error
}

func (p *pools) decoder() *decoder {
	if d, ok := p.decoders.Get().(*decoder); ok {
		return d
	}
	d := &decoder{}
	d.run = func(v any) error { return d.call.decode(d.message, v) }
	return d
}

func (p *pools) putDecoder(d *decoder) {
	d.call, d.message = nil, nil
	p.decoders.Put(d)
}

func (p *pools) get() *buffer {
	if b, ok := p.buffers.Get().(*buffer); ok {
		b.b = b.b[:0]
		return b
	}
	return &buffer{b: make([]byte, 0, firstBuffer)}
}

func (p *pools) put(b *buffer) {
	if b != nil && cap(b.b) <= keepBuffer {
		p.buffers.Put(b)
	}
}

// appendMessage appends m with its prefix to dst.
func appendMessage(dst []byte, m any) ([]byte, error) {
	pm, ok := m.(proto.Message)
	if !ok {
		return dst, status.Errorf(codes.Internal, "cannot encode a %T", m)
	}
	start := len(dst)
	out, err := proto.MarshalOptions{}.MarshalAppend(append(dst, 0, 0, 0, 0, 0), pm)
	if err != nil {
		return dst, status.Errorf(codes.Internal, "the message cannot be encoded: %v", err)
	}
	n := len(out) - start - prefixLen
	if uint64(n) > 1<<32-1 {
		return dst, status.Errorf(codes.ResourceExhausted, "the message of %d bytes is larger than gRPC can carry", n)
	}
	binary.BigEndian.PutUint32(out[start+1:], uint32(n)) //nolint:gosec // checked above
	return out, nil
}

// messageReader reads Length-Prefixed-Messages from a body. What it has read
// beyond a message stays in its buffer, so that a small message takes one Read.
type messageReader struct {
	body     io.Reader // nil for no content
	encoding string    // grpc-encoding: "", "identity" or "gzip"
	max      int
	pools    *pools
	received int // bytes of messages, as they came

	buf *buffer // nil until the first read; what has been read and not used is buf.b[off:]
	off int
	// err is why there is nothing more: io.EOF itself at the end of the body;
	// an error that wraps it, as of a broken connection, is another thing.
	err error
}

// release gives the buffer back. What next returned is not valid any more.
func (r *messageReader) release() {
	r.pools.put(r.buf)
	r.buf, r.off = nil, 0
	if r.err == nil {
		r.err = io.ErrClosedPipe
	}
}

// next returns the next message, valid until the next call. It returns io.EOF
// at the end of the body, between two messages; a status error for what is
// malformed or too large; and otherwise what the body returned.
func (r *messageReader) next() ([]byte, error) {
	if err := r.fill(prefixLen); err != nil {
		return nil, err
	}
	prefix := r.buf.b[r.off:]
	flag, n := prefix[0], binary.BigEndian.Uint32(prefix[1:])
	if uint64(n) > uint64(r.max) {
		return nil, status.Errorf(codes.ResourceExhausted, "received a message of %d bytes, more than the %d allowed", n, r.max)
	}
	if flag > 1 {
		return nil, status.Errorf(codes.Internal, "received a message whose compressed flag is %d, neither 0 nor 1", flag)
	}
	if err := r.fill(prefixLen + int(n)); err != nil {
		return nil, err
	}
	message := r.buf.b[r.off+prefixLen : r.off+prefixLen+int(n)]
	r.off += prefixLen + int(n)
	r.received += int(n)
	if flag == 1 {
		return r.inflate(message)
	}
	return message, nil
}

// fill reads until n bytes are in the buffer. Memory is taken as content
// arrives, not as a prefix promises it.
func (r *messageReader) fill(n int) error {
	if r.buf == nil {
		if r.err != nil {
			return r.err
		}
		r.buf = r.pools.get()
	}
	for len(r.buf.b)-r.off < n {
		if r.err == nil && r.body == nil {
			r.err = io.EOF
		}
		if r.err != nil {
			return r.short()
		}
		r.makeRoom(n)
		b := r.buf.b
		got, err := r.body.Read(b[len(b):cap(b)])
		r.buf.b, r.err = b[:len(b)+got], err
	}
	return nil
}

// short is the error when less is there than a message needs.
func (r *messageReader) short() error {
	if r.err == io.EOF && len(r.buf.b) > r.off {
		return status.Error(codes.Internal, "the stream ended within a message")
	}
	return r.err
}

// makeRoom moves what is unused to the front of the buffer, and enlarges the
// buffer when it is full and not yet large enough for n bytes.
func (r *messageReader) makeRoom(n int) {
	b, unused := r.buf.b, r.buf.b[r.off:]
	switch {
	case len(unused) == 0 && cap(b) > keepBuffer && n <= prefixLen:
		r.buf = r.pools.get() // a large message does not cost for the rest of the stream
	case r.off > 0 && len(unused)+firstBuffer/2 <= cap(b):
		r.buf.b = b[:copy(b, unused)]
	case len(b) < cap(b):
		return
	default:
		larger := make([]byte, len(unused), max(min(4*cap(b), n+firstBuffer), firstBuffer))
		copy(larger, unused)
		r.buf.b = larger
	}
	r.off = 0
}

// end returns nil if the body is over, and otherwise reads on to find out.
func (r *messageReader) end() error {
	if r.buf != nil && len(r.buf.b) > r.off {
		return errMoreMessages
	}
	var scratch [1]byte
	for r.err == nil && r.body != nil {
		n, err := r.body.Read(scratch[:])
		if n > 0 {
			return errMoreMessages
		}
		r.err = err
	}
	if r.err == nil || r.err == io.EOF {
		return nil
	}
	return r.err
}

var errMoreMessages = status.Error(codes.Internal, "received more than the one message that belongs here")

// inflate returns the message that a compressed one holds.
func (r *messageReader) inflate(message []byte) ([]byte, error) {
	if r.encoding != "gzip" {
		return nil, status.Errorf(codes.Internal, "received a compressed message, but grpc-encoding is %q", r.encoding)
	}
	z, ok := r.pools.gunzips.Get().(*gzip.Reader)
	if !ok {
		z = &gzip.Reader{}
	}
	defer r.pools.gunzips.Put(z)
	err := z.Reset(bytes.NewReader(message))
	var plain bytes.Buffer
	if err == nil {
		_, err = plain.ReadFrom(io.LimitReader(z, int64(r.max)+1))
	}
	if err != nil {
		return nil, status.Errorf(codes.Internal, "received a message that is not gzip: %v", err)
	}
	if plain.Len() > r.max {
		return nil, status.Errorf(codes.ResourceExhausted, "received a message that inflates to more than the %d bytes allowed", r.max)
	}
	return plain.Bytes(), nil
}

// knownEncoding reports whether messages with the grpc-encoding can be read.
func knownEncoding(encoding string) bool {
	return encoding == "" || encoding == "identity" || encoding == "gzip"
}

// acceptEncoding is the grpc-accept-encoding of both sides.
const acceptEncoding = "identity,gzip"

// protoSubtype reports whether messages of the content type are Protocol
// Buffers: "application/grpc", or the same with "+proto".
func protoSubtype(contentType string) bool {
	rest := contentType[min(len(contentType), len(grpcType)):]
	rest, _, _ = strings.Cut(rest, ";")
	rest = strings.TrimSpace(rest)
	return rest == "" || strings.EqualFold(rest, "+proto")
}

// unmarshal decodes the message of a request.
func unmarshal(b []byte, m any, o proto.UnmarshalOptions) error {
	pm, ok := m.(proto.Message)
	if !ok {
		return status.Errorf(codes.Internal, "cannot decode into a %T", m)
	}
	if err := o.Unmarshal(b, pm); err != nil {
		return status.Errorf(codes.InvalidArgument, "the request is not a valid %s: %v", pm.ProtoReflect().Descriptor().FullName(), err)
	}
	return nil
}
