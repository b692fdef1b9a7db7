package rpc

import (
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
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

const keepBuffer = 256 << 10

type bufferPool struct{ pool sync.Pool }

func (p *bufferPool) get() *buffer {
	if b, ok := p.pool.Get().(*buffer); ok {
		b.b = b.b[:0]
		return b
	}
	return &buffer{b: make([]byte, 0, 2<<10)}
}

func (p *bufferPool) put(b *buffer) {
	if cap(b.b) <= keepBuffer {
		p.pool.Put(b)
	}
}

// appendMessage appends m with its prefix to dst.
func appendMessage(dst []byte, m proto.Message) ([]byte, error) {
	start := len(dst)
	dst = append(dst, 0, 0, 0, 0, 0)
	out, err := proto.MarshalOptions{}.MarshalAppend(dst, m)
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

// messageReader reads Length-Prefixed-Messages from a body.
type messageReader struct {
	body     io.Reader
	encoding string // grpc-encoding: "", "identity" or "gzip"
	max      int
	prefix   [prefixLen]byte
}

// read reads one message into buf.b. It returns io.EOF at the end of the
// body, between two messages, and a status error otherwise.
func (r *messageReader) read(buf *buffer) error {
	if r.body == nil {
		return io.EOF
	}
	if _, err := io.ReadFull(r.body, r.prefix[:]); err != nil {
		if errors.Is(err, io.EOF) {
			return io.EOF
		}
		return readError(err)
	}
	n := binary.BigEndian.Uint32(r.prefix[1:])
	if uint64(n) > uint64(r.max) {
		return status.Errorf(codes.ResourceExhausted, "received a message of %d bytes, more than the %d allowed", n, r.max)
	}
	if cap(buf.b) < int(n) {
		buf.b = make([]byte, n)
	}
	buf.b = buf.b[:n]
	if _, err := io.ReadFull(r.body, buf.b); err != nil {
		return readError(err)
	}
	switch r.prefix[0] {
	case 0:
		return nil
	case 1:
		return r.inflate(buf)
	}
	return status.Errorf(codes.Internal, "received a message whose compressed flag is %d, neither 0 nor 1", r.prefix[0])
}

func (r *messageReader) inflate(buf *buffer) error {
	if r.encoding != "gzip" {
		return status.Errorf(codes.Internal, "received a compressed message, but grpc-encoding is %q", r.encoding)
	}
	z, err := gzip.NewReader(newByteReader(buf.b))
	if err != nil {
		return status.Errorf(codes.Internal, "received a message that is not gzip: %v", err)
	}
	plain, err := io.ReadAll(io.LimitReader(z, int64(r.max)+1))
	if err != nil {
		return status.Errorf(codes.Internal, "received a message that is not gzip: %v", err)
	}
	if len(plain) > r.max {
		return status.Errorf(codes.ResourceExhausted, "received a message that inflates to more than the %d bytes allowed", r.max)
	}
	buf.b = plain
	return nil
}

func readError(err error) error {
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		return status.Error(codes.Internal, "the stream ended within a message")
	}
	return status.Error(codes.Canceled, fmt.Sprintf("the stream broke: %v", err))
}

// byteReader is a bytes.Reader without what is not needed.
type byteReader struct{ b []byte }

func newByteReader(b []byte) *byteReader { return &byteReader{b} }

func (r *byteReader) Read(p []byte) (int, error) {
	if len(r.b) == 0 {
		return 0, io.EOF
	}
	n := copy(p, r.b)
	r.b = r.b[n:]
	return n, nil
}

func unmarshal(b []byte, m any) error {
	pm, ok := m.(proto.Message)
	if !ok {
		return status.Errorf(codes.Internal, "cannot decode into a %T", m)
	}
	if err := proto.Unmarshal(b, pm); err != nil {
		return status.Errorf(codes.InvalidArgument, "the request is not a valid %s: %v", pm.ProtoReflect().Descriptor().FullName(), err)
	}
	return nil
}
