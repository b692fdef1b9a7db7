package smtp

import (
	"bufio"
	"crypto/hmac"
	"crypto/md5" //nolint:gosec // as CRAM-MD5 has it
	"crypto/tls"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
)

// A sent mail is what the server has taken.
type sent struct {
	from string
	to   []string
	text string
	user string // who signed in
	tls  bool
}

// A server takes mail. It knows one user, "ada" with the password "sesame".
type server struct {
	auth      string // ways to sign in
	starttls  bool
	encrypted bool // from the start
	refuse    map[string]string
	cert      *tls.Config
	listener  net.Listener

	mu    sync.Mutex
	mails []sent
}

// start makes the server listen until the test ends.
func (s *server) start(t testing.TB) *server {
	t.Helper()
	// The certificate is the one that tests of HTTP have.
	web := httptest.NewUnstartedServer(nil)
	web.StartTLS()
	s.cert = &tls.Config{Certificates: web.TLS.Certificates, MinVersion: tls.VersionTLS12}
	web.Close()
	var err error
	if s.listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := s.listener.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { s.serve(conn) })
		}
	})
	t.Cleanup(func() {
		_ = s.listener.Close()
		wg.Wait()
	})
	return s
}

func (s *server) taken() []sent {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]sent(nil), s.mails...)
}

// A session is one connection to the server.
type session struct {
	*server
	conn net.Conn
	in   *bufio.Scanner
	mail sent
}

func (s *server) serve(conn net.Conn) {
	defer conn.Close()
	if s.encrypted {
		conn = tls.Server(conn, s.cert)
	}
	c := &session{server: s, conn: conn, in: bufio.NewScanner(conn)}
	c.mail.tls = s.encrypted
	c.say("220 mail.test ready")
	for c.in.Scan() {
		line := c.in.Text()
		verb := strings.ToUpper(strings.TrimSpace(line[:min(4, len(line))]))
		if reply := s.refuse[verb]; reply != "" && (verb != "RCPT" || strings.Contains(line, "nobody")) {
			c.say(reply)
			continue
		}
		if !c.answer(verb, line) {
			return
		}
	}
}

func (c *session) say(line string) { _, _ = fmt.Fprintf(c.conn, "%s\r\n", line) }

// ask sends a challenge and returns the answer to it.
func (c *session) ask(challenge string) string {
	c.say("334 " + base64.StdEncoding.EncodeToString([]byte(challenge)))
	c.in.Scan()
	text, _ := base64.StdEncoding.DecodeString(c.in.Text())
	return string(text)
}

// answer answers one command, and reports whether the session goes on.
func (c *session) answer(verb, line string) bool {
	switch verb {
	case "EHLO":
		c.say("250-mail.test")
		if c.starttls && !c.mail.tls {
			c.say("250-STARTTLS")
		}
		if c.auth != "" {
			c.say("250-AUTH " + c.auth)
		}
		c.say("250 8BITMIME")
	case "STAR":
		c.say("220 go on")
		conn := tls.Server(c.conn, c.cert)
		if conn.Handshake() != nil {
			return false
		}
		c.conn, c.in, c.mail.tls = conn, bufio.NewScanner(conn), true
	case "AUTH":
		c.signIn(strings.Fields(line))
	case "MAIL":
		c.mail.from, c.mail.to = line, nil
		c.say("250 ok")
	case "RCPT":
		c.mail.to = append(c.mail.to, line)
		c.say("250 ok")
	case "DATA":
		c.say("354 go on")
		var text strings.Builder
		for c.in.Scan() && c.in.Text() != "." {
			text.WriteString(strings.TrimPrefix(c.in.Text(), ".") + "\n")
		}
		c.mail.text = text.String()
		c.mu.Lock()
		c.mails = append(c.mails, c.mail)
		c.mu.Unlock()
		c.say("250 taken")
	case "QUIT":
		c.say("221 bye")
		return false
	default:
		c.say("502 what?")
	}
	return true
}

func (c *session) signIn(words []string) {
	user, password := "", ""
	switch words[1] {
	case "PLAIN":
		text, _ := base64.StdEncoding.DecodeString(words[2])
		parts := strings.Split(string(text), "\x00")
		user, password = parts[1], parts[2]
	case "LOGIN":
		user, password = c.ask("Username:"), c.ask("Password:")
	case "CRAM-MD5":
		got, sum, _ := strings.Cut(c.ask("<once>"), " ")
		mac := hmac.New(md5.New, []byte("sesame"))
		mac.Write([]byte("<once>"))
		if user = got; sum == hex.EncodeToString(mac.Sum(nil)) {
			password = "sesame"
		}
	}
	if user != "ada" || password != "sesame" {
		c.say("535 no")
		return
	}
	c.mail.user = user
	c.say("235 welcome")
}
