package memcached

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strconv"

	"github.com/proa-io/proa/fault"
)

// Limits of the protocol.
const (
	// maxKey is the longest key as it is written on the wire.
	maxKey = 250
	// maxBinaryKey is the longest key whose base64 form fits into maxKey.
	maxBinaryKey = 186
	// maxReplyValue bounds a value that a server claims to send. A server can
	// be configured to keep items of up to 1 GiB; nobody should.
	maxReplyValue = 128 << 20
)

// A token is a key as it is written on the wire.
type token struct {
	text   string
	binary bool // text is base64; the server keeps what it decodes to
}

// newToken returns the token of a key. The server keeps every key of up to
// maxBinaryKey bytes, and every longer one that its text protocol allows, as it
// is; so data that a client of the text protocol wrote are found. Of the rest
// it keeps the SHA-256.
func newToken(key string) token {
	switch {
	case plain(key):
		return token{text: key}
	case len(key) <= maxBinaryKey:
		return token{base64.StdEncoding.EncodeToString([]byte(key)), true}
	}
	sum := sha256.Sum256([]byte(key))
	return token{text: "proa-sha256-" + hex.EncodeToString(sum[:])}
}

// plain reports whether the text protocol allows the key.
func plain(key string) bool {
	if len(key) > maxKey {
		return false
	}
	for i := range len(key) {
		if key[i] <= ' ' || key[i] == 0x7f {
			return false
		}
	}
	return true
}

// begin writes the command and the key of a request.
func begin(w *bufio.Writer, command string, t token) {
	_, _ = w.WriteString(command) // errors stick to w until it is flushed
	_ = w.WriteByte(' ')
	_, _ = w.WriteString(t.text)
}

// end writes the flags and the end of a request's first line.
func end(w *bufio.Writer, t token, flags string) {
	if t.binary {
		_, _ = w.WriteString(" b")
	}
	_, _ = w.WriteString(flags)
	_, _ = w.WriteString("\r\n")
}

// writeGet asks for value, CAS and time to live of a key.
func writeGet(w *bufio.Writer, t token) {
	begin(w, "mg", t)
	end(w, t, " v c t")
}

// writeSet stores a value under flags.
func writeSet(w *bufio.Writer, t token, value []byte, flags string) {
	begin(w, "ms", t)
	_ = w.WriteByte(' ')
	_, _ = w.Write(strconv.AppendInt(w.AvailableBuffer(), int64(len(value)), 10))
	end(w, t, flags)
	_, _ = w.Write(value)
	_, _ = w.WriteString("\r\n")
}

// writeDelete removes a key under flags.
func writeDelete(w *bufio.Writer, t token, flags string) {
	begin(w, "md", t)
	end(w, t, flags)
}

// A status is the first word of a reply.
type status string

// The statuses of the meta protocol that we meet.
const (
	statusDone      status = "HD"
	statusValue     status = "VA"
	statusMiss      status = "EN"
	statusNotStored status = "NS"
	statusExists    status = "EX"
	statusNotFound  status = "NF"
	statusNoop      status = "MN"
)

// A reply is what a server answered to one request.
type reply struct {
	status status
	value  []byte
	cas    string // "" when the server did not say
	ttl    int64  // seconds left; -1 for ever
	err    error  // the server could not do it; the connection is all right
}

// errProtocol is a reply that makes no sense. What follows on the connection
// cannot be trusted.
var errProtocol = errors.New("memcached sent something that is no reply")

// readReply reads one reply. The error tells that the connection is of no more
// use.
func readReply(r *bufio.Reader) (reply, error) {
	line, err := r.ReadSlice('\n')
	if err != nil {
		if errors.Is(err, bufio.ErrBufferFull) {
			return reply{}, errProtocol
		}
		return reply{}, err
	}
	line, ok := bytes.CutSuffix(line, []byte("\r\n"))
	if !ok {
		return reply{}, errProtocol
	}
	word, rest, _ := bytes.Cut(line, []byte(" "))
	out := reply{ttl: -1}
	switch s := string(word); s {
	case "HD", "EN", "NS", "EX", "NF", "MN":
		out.status = status(s)
		return out, out.readFlags(rest)
	case "VA":
		out.status = statusValue
		size, flags, _ := bytes.Cut(rest, []byte(" "))
		n, err := strconv.ParseUint(string(size), 10, 63)
		if err != nil || n > maxReplyValue {
			return reply{}, errProtocol
		}
		if err := out.readFlags(flags); err != nil {
			return reply{}, err
		}
		out.value, err = readValue(r, int(n))
		return out, err
	case "SERVER_ERROR", "CLIENT_ERROR", "ERROR":
		out.err = serverError(string(line))
		if !recoverable(string(rest)) {
			return out, errProtocol
		}
		return out, nil
	}
	return reply{}, errProtocol
}

// readFlags reads the flags that we ask for and passes over others.
func (r *reply) readFlags(flags []byte) error {
	for flag := range bytes.FieldsSeq(flags) {
		switch flag[0] {
		case 'c':
			r.cas = string(flag[1:])
		case 't':
			ttl, err := strconv.ParseInt(string(flag[1:]), 10, 64)
			if err != nil || ttl < -1 {
				return errProtocol
			}
			r.ttl = ttl
		}
	}
	return nil
}

// readValue reads n bytes and the end of line after them. It takes memory as
// the bytes come, not as the server claims.
func readValue(r *bufio.Reader, n int) ([]byte, error) {
	const step = 1 << 20
	value := make([]byte, min(n, step))
	for have := 0; ; {
		if _, err := io.ReadFull(r, value[have:]); err != nil {
			return nil, err
		}
		if have = len(value); have == n {
			break
		}
		value = append(value, make([]byte, min(n-have, have))...)
	}
	var end [2]byte
	if _, err := io.ReadFull(r, end[:]); err != nil {
		return nil, err
	}
	if end != [2]byte{'\r', '\n'} {
		return nil, errProtocol
	}
	return value, nil
}

// Errors that servers send in words.
const (
	tooLarge    = "object too large for cache"
	outOfMemory = "out of memory"
)

// recoverable reports whether after an error in these words the next thing on
// the connection is the next reply: what was refused has been read to its end.
func recoverable(text string) bool {
	return text == tooLarge || bytes.HasPrefix([]byte(text), []byte(outOfMemory))
}

func serverError(line string) error {
	cause := fmt.Errorf("memcached: %.200q", line)
	switch {
	case line == "SERVER_ERROR "+tooLarge:
		return fault.Wrap(cause, fault.InvalidArgument, "the value is larger than this memcached takes (its option -I)")
	case bytes.HasPrefix([]byte(line), []byte("SERVER_ERROR "+outOfMemory)):
		return fault.Wrap(cause, fault.ResourceExhausted, "memcached is out of memory")
	case line == "ERROR":
		return fault.Wrap(cause, fault.Unimplemented, "this memcached is too old: want version 1.6 or newer")
	case bytes.HasPrefix([]byte(line), []byte("SERVER_ERROR")):
		return fault.Wrap(cause, fault.Unavailable, "memcached does not serve this at present")
	}
	return fault.Wrap(cause, fault.Internal, "memcached refused a request")
}
