package http2

import (
	"encoding/binary"

	wire "golang.org/x/net/http2"
)

// InadequateSecurity is the code for a connection that lacks the security that
// is wanted (RFC 9113, section 7).
const InadequateSecurity = wire.ErrCodeInadequateSecurity

// Refusal returns what a server sends that will not serve a connection at all:
// SETTINGS, which must come first, and a GOAWAY with a code and a reason. A Client
// returns them as a ResetError.
func Refusal(code Code, reason string) []byte {
	reason = reason[:min(len(reason), maxDebug)]
	frames := make([]byte, 0, 2*frameHeader+8+len(reason))
	frames = append(frames, 0, 0, 0, byte(wire.FrameSettings), 0, 0, 0, 0, 0)
	n := 8 + len(reason)
	frames = append(frames, 0, byte(n>>8), byte(n), byte(wire.FrameGoAway), 0, 0, 0, 0, 0)
	frames = append(frames, 0, 0, 0, 0) // no stream was acted on
	frames = binary.BigEndian.AppendUint32(frames, uint32(code))
	return append(frames, reason...)
}
