package rpc

import (
	"encoding/base64"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/proa-io/proa/mesh/proxy"
)

// IsGRPC reports whether a request with these header fields is a gRPC call.
func IsGRPC(h proxy.Header) bool {
	ct := h.Get("content-type")
	if !strings.HasPrefix(ct, "application/grpc") {
		return false
	}
	rest := ct[len("application/grpc"):]
	return rest == "" || rest[0] == '+' || rest[0] == ';'
}

// EncodeTimeout writes a duration as a grpc-timeout, rounded up, with at most
// eight digits.
func EncodeTimeout(d time.Duration) string {
	if d <= 0 {
		return "0n"
	}
	for _, u := range []struct {
		unit time.Duration
		name string
	}{{time.Nanosecond, "n"}, {time.Microsecond, "u"}, {time.Millisecond, "m"}, {time.Second, "S"}, {time.Minute, "M"}} {
		if n := (d + u.unit - 1) / u.unit; n < 1e8 {
			return strconv.FormatInt(int64(n), 10) + u.name
		}
	}
	return strconv.FormatInt(int64((d+time.Hour-1)/time.Hour), 10) + "H"
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
	case "content-type", "te", "user-agent", "grpc-timeout", "grpc-encoding", "grpc-accept-encoding",
		"grpc-status", "grpc-message", "grpc-status-details-bin", "grpc-message-type":
		return true
	}
	return strings.HasPrefix(name, ":")
}

// AppendMetadata appends metadata as header fields, binary values in base64.
func AppendMetadata(h proxy.Header, md metadata.MD) proxy.Header {
	for name, values := range md {
		if reserved(name) {
			continue
		}
		for _, v := range values {
			if strings.HasSuffix(name, "-bin") {
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
		if reserved(name) && name != "user-agent" && name != "content-type" {
			continue
		}
		if !strings.HasSuffix(name, "-bin") {
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

// StatusFields returns the trailer fields that carry st.
func StatusFields(st *status.Status) proxy.Header {
	h := proxy.Header{{Name: "grpc-status", Value: strconv.Itoa(int(st.Code()))}}
	if st.Message() != "" {
		h = append(h, proxy.Field{Name: "grpc-message", Value: EncodeMessage(st.Message())})
	}
	if p := st.Proto(); len(p.GetDetails()) > 0 {
		if b, err := proto.Marshal(p); err == nil {
			h = append(h, proxy.Field{Name: "grpc-status-details-bin", Value: base64.RawStdEncoding.EncodeToString(b)})
		}
	}
	return h
}

// StatusOf reads the status that trailer fields carry; ok is false when there
// is none.
func StatusOf(h proxy.Header) (st *status.Status, ok bool) {
	text := h.Get("grpc-status")
	if text == "" {
		return nil, false
	}
	code, err := strconv.ParseUint(text, 10, 32)
	if err != nil {
		return status.Newf(codes.Unknown, "the grpc-status %q is not a number", text), true
	}
	st = status.New(codes.Code(code), DecodeMessage(h.Get("grpc-message")))
	if details := h.Get("grpc-status-details-bin"); details != "" {
		if b, err := decodeBinary(details); err == nil {
			p := st.Proto()
			p.Details = nil
			if proto.Unmarshal(b, p) == nil && codes.Code(p.GetCode()) == st.Code() { //nolint:gosec // compared
				st = status.FromProto(p)
			}
		}
	}
	return st, true
}
