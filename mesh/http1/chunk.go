package http1

import (
	"bytes"
	"io"
)

// chunkState is the place within a chunked body.
type chunkState uint8

const (
	inSize    chunkState = iota // before the line that holds a chunk's size
	inData                      // within a chunk's data
	afterData                   // before the CRLF that ends a chunk's data
	inTrailer                   // after the last chunk
)

const (
	// maxChunkLine bounds the line that holds the size of a chunk, with its
	// extensions; maxChunkWaste bounds by how much the extensions of a body may
	// exceed its content.
	maxChunkLine  = 256
	maxChunkWaste = 16 << 10
	// maxTrailer and maxTrailerFields bound the trailer section.
	maxTrailer       = 16 << 10
	maxTrailerFields = 100
)

// lookAhead takes framing from the buffer until there is content, or no more.
func (b *body) lookAhead() {
	for again := true; again && b.ahead == nil && b.state != inData; {
		again, b.ahead = b.frame()
	}
}

func (b *body) readChunked(p []byte) (int, error) {
	total := 0
	for {
		b.lookAhead()
		switch {
		case b.state == inData && (total == 0 || total < len(p) && b.rd.buffered() > 0):
			n, err := b.readData(p[total:min(int64(len(p)), int64(total)+b.left)])
			total += n
			if b.left -= int64(n); b.left == 0 {
				b.state = afterData
			}
			if err != nil {
				return total, noEOF(err)
			}
		case b.ahead != nil:
			return total, b.ahead
		case total > 0:
			return total, nil
		default:
			if err := b.wait(b.owner.beforeRead); err != nil {
				return 0, err
			}
			if err := b.rd.fill(maxTrailer); err != nil {
				return 0, noEOF(err)
			}
		}
	}
}

// frame takes one element of the chunked framing from the buffer, without
// waiting. It reports whether there was one, and returns io.EOF after the last.
func (b *body) frame() (again bool, err error) {
	win := b.rd.window()
	switch b.state {
	case afterData:
		if len(win) >= 1 && win[0] != '\r' || len(win) >= 2 && win[1] != '\n' {
			return false, malformed("the data of a chunk does not end with CRLF")
		}
		if len(win) < 2 {
			return false, nil
		}
		b.rd.skip(2)
		b.state = inSize
		return true, nil
	case inSize:
		return b.frameSize(win)
	case inTrailer:
		return b.frameTrailer(win)
	}
	return false, nil
}

func (b *body) frameSize(win []byte) (again bool, err error) {
	end := bytes.IndexByte(win, '\n')
	if end > maxChunkLine || end < 0 && len(win) > maxChunkLine {
		return false, malformed("the line with the size of a chunk is too long")
	}
	if end < 0 {
		return false, nil
	}
	size, digits, err := parseChunkSize(win[:end])
	if err != nil {
		return false, err
	}
	if b.waste = max(0, b.waste+int64(end-digits)-size); b.waste > maxChunkWaste {
		return false, malformed("too many chunk extensions")
	}
	b.rd.skip(end + 1)
	if size == 0 {
		b.state = inTrailer
		return true, nil
	}
	if b.allowed >= 0 {
		if size > b.allowed {
			return false, errBodyTooLarge
		}
		b.allowed -= size
	}
	b.left, b.state = size, inData
	return true, nil
}

// errBodyTooLarge says that a chunked body went beyond its limit.
const errBodyTooLarge = malformed("the body is too large")

// parseChunkSize parses a chunk's line without its LF: hexadecimal digits and
// extensions, which are skipped. It returns how many bytes the size takes, with
// the CR.
func parseChunkSize(line []byte) (size int64, digits int, err error) {
	if len(line) == 0 || line[len(line)-1] != '\r' {
		return 0, 0, errBareLF
	}
	line = line[:len(line)-1]
	for digits < len(line) {
		d, ok := hexDigit(line[digits])
		if !ok {
			break
		}
		if digits == 15 {
			return 0, 0, malformed("the size of a chunk is too large")
		}
		size = size<<4 | int64(d)
		digits++
	}
	if digits == 0 {
		return 0, 0, malformed("the size of a chunk is not a number: " + quote(string(line)))
	}
	extension := string(line[digits:])
	if extension != "" && extension[0] != ';' || !isFieldValue(extension) {
		return 0, 0, malformed("the size of a chunk is followed by something else: " + quote(string(line)))
	}
	return size, digits + 1, nil
}

func hexDigit(c byte) (byte, bool) {
	switch {
	case '0' <= c && c <= '9':
		return c - '0', true
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10, true
	case 'A' <= c && c <= 'F':
		return c - 'A' + 10, true
	}
	return 0, false
}

func (b *body) frameTrailer(win []byte) (again bool, err error) {
	if len(win) >= 2 && win[0] == '\r' && win[1] == '\n' {
		b.rd.skip(2)
		return false, io.EOF
	}
	end := bytes.Index(win, endOfHead)
	if end < 0 {
		if len(win) >= maxTrailer {
			return false, malformed("the trailer section is too long")
		}
		if len(win) == 0 {
			return false, nil
		}
		return false, checkPartialHead(win, 0)
	}
	lines := string(win[:end+2])
	b.rd.skip(end + len(endOfHead))
	if err := parseTrailer(lines, &b.trailer, maxTrailerFields, b.lenient); err != nil {
		return false, err
	}
	return false, io.EOF
}
