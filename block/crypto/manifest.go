package crypto

import (
	"bufio"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"

	"github.com/proa-io/proa/fault"
)

const (
	schemeName      = "dapr.io/enc/v1"
	fileKeySize     = 32
	noncePrefixSize = 7
	// maxHeader bounds the header of a stream, as the scheme does.
	maxHeader = 64 << 10
)

// wrapAlgorithm is how the key of a stream is wrapped, by its number.
type wrapAlgorithm uint8

const (
	wrapA256KW wrapAlgorithm = iota + 1
	wrapA128CBC
	wrapA192CBC
	wrapA256CBC
	wrapRSAOAEP256
)

// wrapAlgorithms lists those that a stream can be encrypted with.
const wrapAlgorithms = "A256KW (or AES) or RSA-OAEP-256 (or RSA)"

func (a wrapAlgorithm) String() string {
	switch a {
	case wrapA256KW:
		return "A256KW"
	case wrapA128CBC:
		return "A128CBC-NOPAD"
	case wrapA192CBC:
		return "A192CBC-NOPAD"
	case wrapA256CBC:
		return "A256CBC-NOPAD"
	case wrapRSAOAEP256:
		return "RSA-OAEP-256"
	}
	return ""
}

// streamCipher is what encrypts the segments, by its number.
type streamCipher uint8

const (
	cipherAESGCM streamCipher = iota + 1
	cipherChaCha20
)

// manifest is the second line of a header.
type manifest struct {
	Key         string        `json:"k,omitempty"`
	KeyWrap     wrapAlgorithm `json:"kw"`
	WrappedKey  []byte        `json:"wfk"`
	Cipher      streamCipher  `json:"cph"`
	NoncePrefix []byte        `json:"np"`
}

// header returns the three lines before the segments.
func (m *manifest) header(fileKey []byte) ([]byte, error) {
	line, err := json.Marshal(m)
	if err != nil {
		return nil, fault.Wrap(err, fault.Internal, "write the manifest")
	}
	out := append(append([]byte(schemeName+"\n"), line...), '\n')
	mac, err := headerMAC(fileKey, out)
	if err != nil {
		return nil, err
	}
	out = base64.StdEncoding.AppendEncode(out, mac)
	return append(out, '\n'), nil
}

func headerMAC(fileKey, lines []byte) ([]byte, error) {
	key, err := derive(fileKey, nil, "header")
	if err != nil {
		return nil, err
	}
	m := hmac.New(sha256.New, key)
	m.Write(lines)
	return m.Sum(nil), nil
}

// derive returns a key of 32 bytes for a purpose.
func derive(fileKey, salt []byte, purpose string) ([]byte, error) {
	key, err := hkdf.Key(sha256.New, fileKey, salt, purpose, 32)
	if err != nil {
		return nil, fault.Wrap(err, fault.Internal, "derive a key")
	}
	return key, nil
}

// header is that of a stream, as read.
type header struct {
	manifest manifest
	signed   []byte // the lines that mac is over
	mac      []byte
}

// readHeader reads the header of a stream and returns what follows it.
func readHeader(in io.Reader) (*header, io.Reader, error) {
	r := bufio.NewReaderSize(in, maxHeader)
	h := &header{}
	name, err := headerLine(r, h)
	if err != nil {
		return nil, nil, err
	}
	if string(name) != schemeName {
		return nil, nil, errFormat("it does not begin with the line %q", schemeName)
	}
	text, err := headerLine(r, h)
	if err != nil {
		return nil, nil, err
	}
	if err := json.Unmarshal(text, &h.manifest); err != nil {
		return nil, nil, errFormat("its manifest cannot be read")
	}
	if err := h.manifest.check(); err != nil {
		return nil, nil, err
	}
	signed := len(h.signed)
	if text, err = headerLine(r, h); err != nil {
		return nil, nil, err
	}
	h.signed = h.signed[:signed]
	h.mac, err = base64.StdEncoding.DecodeString(string(text))
	if err != nil || len(h.mac) != sha256.Size {
		return nil, nil, errFormat("its authentication code cannot be read")
	}
	return h, r, nil
}

// headerLine returns the next line, without its end, and appends all of it to
// h.signed.
func headerLine(r *bufio.Reader, h *header) ([]byte, error) {
	line, err := r.ReadSlice('\n')
	switch {
	case errors.Is(err, bufio.ErrBufferFull):
		return nil, errFormat("its header is longer than %d bytes", maxHeader)
	case errors.Is(err, io.EOF):
		return nil, errFormat("it ends within its header")
	case err != nil:
		return nil, err
	}
	start := len(h.signed)
	h.signed = append(h.signed, line...)
	return h.signed[start : len(h.signed)-1], nil
}

func (m *manifest) check() error {
	switch {
	case m.KeyWrap.String() == "":
		return errFormat("its manifest has the unknown key wrap algorithm %d", m.KeyWrap)
	case m.Cipher != cipherAESGCM && m.Cipher != cipherChaCha20:
		return errFormat("its manifest has the unknown cipher %d", m.Cipher)
	case len(m.WrappedKey) == 0:
		return errFormat("its manifest has no wrapped key")
	case len(m.NoncePrefix) != noncePrefixSize:
		return errFormat("its manifest has a nonce prefix of %d bytes; want %d", len(m.NoncePrefix), noncePrefixSize)
	}
	return nil
}

// verify checks that the header is as it was written.
func (h *header) verify(fileKey []byte) error {
	mac, err := headerMAC(fileKey, h.signed)
	if err != nil {
		return err
	}
	if !hmac.Equal(mac, h.mac) {
		return fault.New(fault.InvalidArgument, "failed to validate the document's signature").WithReason(ReasonDecrypt)
	}
	return nil
}

func errFormat(format string, args ...any) error {
	return fault.New(fault.InvalidArgument, "the message is not one of the scheme "+schemeName+": "+format, args...).WithReason(ReasonFormat)
}
