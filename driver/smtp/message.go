package smtp

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"mime"
	"mime/quotedprintable"
	"net/mail"
	"strings"
	"time"
)

// A message is one mail (RFC 5322).
type message struct {
	from        *mail.Address
	to, cc, bcc []*mail.Address
	subject     string
	priority    int
	body        []byte
}

// recipients returns the addresses that the mail goes to.
func (m *message) recipients() []string {
	var out []string
	for _, list := range [][]*mail.Address{m.to, m.cc, m.bcc} {
		for _, a := range list {
			out = append(out, a.Address)
		}
	}
	return out
}

// bytes returns the mail as it is sent at a time. The hidden copies are not in
// it.
func (m *message) bytes(now time.Time) []byte {
	var out bytes.Buffer
	field := func(name, value string) { fmt.Fprintf(&out, "%s: %s\r\n", name, value) }
	field("From", m.from.String())
	field("To", join(m.to))
	if len(m.cc) > 0 {
		field("Cc", join(m.cc))
	}
	field("Subject", fold(mime.QEncoding.Encode("utf-8", m.subject)))
	field("Date", now.Format(time.RFC1123Z))
	_, domain, _ := strings.Cut(m.from.Address, "@")
	field("Message-ID", "<"+rand.Text()+"@"+domain+">")
	field("X-Priority", fmt.Sprint(m.priority))
	field("MIME-Version", "1.0")
	field("Content-Type", "text/html; charset=UTF-8")
	field("Content-Transfer-Encoding", "quoted-printable")
	out.WriteString("\r\n")
	body := quotedprintable.NewWriter(&out)
	_, _ = body.Write(m.body) // into memory, which takes it
	_ = body.Close()
	return out.Bytes()
}

// join writes addresses, one on a line.
func join(list []*mail.Address) string {
	parts := make([]string, len(list))
	for i, a := range list {
		parts[i] = a.String()
	}
	return strings.Join(parts, ",\r\n ")
}

// fold breaks a line between encoded words, and between words when it is long.
func fold(line string) string {
	line = strings.ReplaceAll(line, "?= =?", "?=\r\n =?")
	if strings.Contains(line, "\r\n") || len(line) <= maxLine {
		return line
	}
	var out strings.Builder
	width := 0
	for i, word := range strings.Split(line, " ") {
		if i > 0 {
			if width+len(word) > maxLine {
				out.WriteString("\r\n")
				width = 0
			}
			out.WriteByte(' ')
		}
		out.WriteString(word)
		width += len(word) + 1
	}
	return out.String()
}

// maxLine is how long a line of a header gets where it can be broken (RFC 5322,
// section 2.1.1, less the name of the field).
const maxLine = 68
