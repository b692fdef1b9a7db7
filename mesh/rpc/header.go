package rpc

import (
	"encoding/base64"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/mesh/proxy"
)

// The header and trailer fields of the protocol.
const (
	fieldContentType    = "content-type"
	fieldTE             = "te"
	fieldTimeout        = "grpc-timeout"
	fieldEncoding       = "grpc-encoding"
	fieldAcceptEncoding = "grpc-accept-encoding"
	fieldStatus         = "grpc-status"
	fieldMessage        = "grpc-message"
	fieldDetails        = "grpc-status-details-bin"
)

// grpcType is the content type of gRPC, before its subtype and parameters.
const grpcType = "application/grpc"

// IsGRPC reports whether a request with these header fields is a gRPC call.
func IsGRPC(h proxy.Header) bool {
	ct := h.Get("content-type")
	if len(ct) < len(grpcType) || !strings.EqualFold(ct[:len(grpcType)], grpcType) {
		return false
	}
	return len(ct) == len(grpcType) || strings.IndexByte("+; ", ct[len(grpcType)]) >= 0
}

// timeoutUnits are the units of a grpc-timeout, smallest first.
var timeoutUnits = [...]struct {
	unit time.Duration
	name string
}{{time.Nanosecond, "n"}, {time.Microsecond, "u"}, {time.Millisecond, "m"}, {time.Second, "S"}, {time.Minute, "M"}, {time.Hour, "H"}}

// EncodeTimeout writes a duration as a grpc-timeout, rounded up, with at most
// eight digits.
func EncodeTimeout(d time.Duration) string {
	d = max(d, 0)
	for _, u := range timeoutUnits {
		n := int64(d / u.unit)
		if d%u.unit > 0 {
			n++
		}
		if n < 1e8 {
			return strconv.FormatInt(n, 10) + u.name
		}
	}
	return "99999999H" // more than a Duration can hold
}

// DecodeTimeout reads a grpc-timeout.
func DecodeTimeout(s string) (time.Duration, bool) {
	if len(s) < 2 || len(s) > 9 {
		return 0, false
	}
	var unit time.Duration
	switch s[len(s)-1] {
	case 'H':
		unit = time.Hour
	case 'M':
		unit = time.Minute
	case 'S':
		unit = time.Second
	case 'm':
		unit = time.Millisecond
	case 'u':
		unit = time.Microsecond
	case 'n':
		unit = time.Nanosecond
	default:
		return 0, false
	}
	n, err := strconv.ParseUint(s[:len(s)-1], 10, 32)
	if err != nil {
		return 0, false
	}
	const longest = time.Duration(1<<63 - 1)
	if n > uint64(longest/unit) {
		return longest, true
	}
	return time.Duration(n) * unit, true
}

// EncodeMessage percent-encodes the text of a grpc-message: everything but
// printable ASCII, and the percent sign.
func EncodeMessage(s string) string {
	const digits = "0123456789ABCDEF"
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '%' {
			var b strings.Builder
			b.WriteString(s[:i])
			for ; i < len(s); i++ {
				if c := s[i]; c < ' ' || c > '~' || c == '%' {
					b.Write([]byte{'%', digits[c>>4], digits[c&15]})
				} else {
					b.WriteByte(c)
				}
			}
			return b.String()
		}
	}
	return s
}

// DecodeMessage undoes EncodeMessage; what is not a valid encoding stays as it
// is, as the protocol asks.
func DecodeMessage(s string) string {
	if !strings.Contains(s, "%") {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '%' && i+2 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+3], 16, 8); err == nil {
				b.WriteByte(byte(n))
				i += 2
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// reserved reports whether a field name belongs to the protocol and may not
// be set as metadata.
func reserved(name string) bool {
	switch name {
	case fieldContentType, fieldTE, "user-agent", fieldTimeout, fieldEncoding, fieldAcceptEncoding,
		fieldStatus, fieldMessage, fieldDetails, "grpc-message-type":
		return true
	}
	return strings.HasPrefix(name, ":")
}

// binarySuffix marks metadata whose values are any bytes.
const binarySuffix = "-bin"

// AppendMetadata appends metadata as header fields, binary values in base64.
// What belongs to the protocol is left out.
func AppendMetadata(h proxy.Header, md metadata.MD) proxy.Header {
	for name, values := range md {
		if reserved(name) {
			continue
		}
		for _, v := range values {
			if strings.HasSuffix(name, binarySuffix) {
				v = base64.RawStdEncoding.EncodeToString([]byte(v))
			}
			h = append(h, proxy.Field{Name: name, Value: v})
		}
	}
	return h
}

// Metadata returns the fields that are metadata, with binary values decoded.
func Metadata(h proxy.Header) metadata.MD {
	md := metadata.MD{}
	for _, f := range h {
		name := strings.ToLower(f.Name)
		if reserved(name) && name != "user-agent" && name != fieldContentType {
			continue
		}
		if !strings.HasSuffix(name, binarySuffix) {
			md[name] = append(md[name], f.Value)
			continue
		}
		for part := range strings.SplitSeq(f.Value, ",") {
			if b, err := decodeBinary(strings.TrimSpace(part)); err == nil {
				md[name] = append(md[name], string(b))
			}
		}
	}
	return md
}

// decodeBinary reads base64 with or without padding.
func decodeBinary(s string) ([]byte, error) {
	if len(s)%4 == 0 {
		return base64.StdEncoding.DecodeString(s)
	}
	return base64.RawStdEncoding.DecodeString(s)
}

// Bounds of the trailer fields of a status. Clients bound the fields they
// accept, often at 8 KiB, and show an error of their own instead of one that
// is longer.
const (
	maxMessageField = 2 << 10
	maxDetailsField = 5 << 10
)

// StatusFields returns the trailer fields that carry st. A text that is too
// long for them is cut, and details are left out.
func StatusFields(st *status.Status) proxy.Header {
	h := make(proxy.Header, 1, 3)
	h[0] = proxy.Field{Name: fieldStatus, Value: strconv.Itoa(int(st.Code()))}
	text := strings.ToValidUTF8(st.Message(), "\uFFFD")
	if text == "" && len(st.Proto().GetDetails()) == 0 {
		return h
	}
	encoded := EncodeMessage(text)
	for len(encoded) > maxMessageField {
		text = cut(text, maxMessageField*len(text)/len(encoded)-len(ellipsis))
		encoded = EncodeMessage(text)
	}
	if encoded != "" {
		h = append(h, proxy.Field{Name: fieldMessage, Value: encoded})
	}
	p := st.Proto() // a copy
	if len(p.GetDetails()) == 0 {
		return h
	}
	p.Message = text
	if b, err := proto.Marshal(p); err == nil && base64.RawStdEncoding.EncodedLen(len(b)) <= maxDetailsField {
		h = append(h, proxy.Field{Name: fieldDetails, Value: base64.RawStdEncoding.EncodeToString(b)})
	}
	return h
}

// ellipsis ends a text that was cut.
const ellipsis = " ..."

// cut returns the first n bytes of s, without a part of a rune at the end.
func cut(s string, n int) string {
	n = max(min(n, len(s)-1), 0)
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + ellipsis
}

// StatusFromError turns an error, never nil, into a status: the one it carries,
// or that of its fault code with the message that is for callers.
func StatusFromError(err error) *status.Status {
	if st, ok := status.FromError(err); ok {
		return st
	}
	return status.New(CodeOf(fault.CodeOf(err)), fault.Message(err))
}

// CodeOf returns the gRPC code for a fault code.
func CodeOf(c fault.Code) codes.Code {
	switch c {
	case fault.Canceled:
		return codes.Canceled
	case fault.InvalidArgument:
		return codes.InvalidArgument
	case fault.DeadlineExceeded:
		return codes.DeadlineExceeded
	case fault.NotFound:
		return codes.NotFound
	case fault.AlreadyExists:
		return codes.AlreadyExists
	case fault.PermissionDenied:
		return codes.PermissionDenied
	case fault.ResourceExhausted:
		return codes.ResourceExhausted
	case fault.FailedPrecondition:
		return codes.FailedPrecondition
	case fault.Aborted:
		return codes.Aborted
	case fault.Unimplemented:
		return codes.Unimplemented
	case fault.Internal:
		return codes.Internal
	case fault.Unavailable:
		return codes.Unavailable
	case fault.Unauthenticated:
		return codes.Unauthenticated
	}
	return codes.Unknown
}

// StatusOf reads the status that trailer fields carry; ok is false when there
// is none.
func StatusOf(h proxy.Header) (st *status.Status, ok bool) {
	text := h.Get(fieldStatus)
	if text == "" {
		return nil, false
	}
	code, err := strconv.ParseUint(text, 10, 32)
	if err != nil {
		return status.Newf(codes.Unknown, "the grpc-status %q is not a number", text), true
	}
	st = status.New(codes.Code(code), DecodeMessage(h.Get(fieldMessage)))
	details := h.Get(fieldDetails)
	if details == "" {
		return st, true
	}
	p := &spb.Status{}
	if b, err := decodeBinary(details); err == nil && proto.Unmarshal(b, p) == nil && uint64(uint32(p.GetCode())) == code { //nolint:gosec // compared
		st = status.FromProto(p)
	}
	return st, true
}
