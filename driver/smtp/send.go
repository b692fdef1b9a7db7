package smtp

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/smtp"
	"net/textproto"
	"slices"
	"strings"
	"time"

	"github.com/proa-io/proa/fault"
)

// send connects and hands the mail over. The connection ends with ctx.
func (b *Binding) send(ctx context.Context, m *message) error {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", b.address())
	if err != nil {
		return err
	}
	defer conn.Close() //nolint:errcheck // the mail is sent by then, or there is a better error
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	if b.encrypted {
		conn = tls.Client(conn, b.tls())
	}
	c, err := smtp.NewClient(conn, b.cfg.Host)
	if err != nil {
		return err
	}
	if err := b.greet(c); err != nil {
		return err
	}
	if err := c.Mail(m.from.Address); err != nil {
		return err
	}
	for _, to := range m.recipients() {
		if err := c.Rcpt(to); err != nil {
			return explain(err, to)
		}
	}
	w, err := c.Data()
	if err != nil {
		return err
	}
	if _, err := w.Write(m.bytes(time.Now())); err != nil {
		return err
	}
	if err := w.Close(); err != nil { // with the server's word that it has the mail
		return err
	}
	_ = c.Quit()
	return nil
}

// greet encrypts the connection, if the server can, and signs in.
func (b *Binding) greet(c *smtp.Client) error {
	if ok, _ := c.Extension("STARTTLS"); ok && !b.encrypted {
		if err := c.StartTLS(b.tls()); err != nil {
			return err
		}
	}
	if b.cfg.User == "" {
		return nil
	}
	ok, offered := c.Extension("AUTH")
	if !ok {
		return fault.New(fault.FailedPrecondition, "the mail server does not let anyone sign in on this connection: leave user and password out, or use another port")
	}
	user, password := b.cfg.User, b.cfg.Password.Reveal()
	ways := strings.Fields(strings.ToUpper(offered))
	switch {
	case slices.Contains(ways, "CRAM-MD5"):
		return c.Auth(smtp.CRAMMD5Auth(user, password))
	case slices.Contains(ways, "PLAIN"):
		return c.Auth(safely{smtp.PlainAuth("", user, password, b.cfg.Host)})
	case slices.Contains(ways, "LOGIN"):
		return c.Auth(safely{&login{user: user, password: password}})
	}
	return fault.New(fault.Unimplemented, "the mail server wants to be signed in to by %s; there are PLAIN, LOGIN and CRAM-MD5", offered)
}

// safely lets a password out on encrypted connections only, and to this machine.
type safely struct{ smtp.Auth }

// Start implements smtp.Auth.
func (s safely) Start(server *smtp.ServerInfo) (string, []byte, error) {
	if !server.TLS && !slices.Contains([]string{"localhost", "127.0.0.1", "::1"}, server.Name) {
		return "", nil, fault.New(fault.FailedPrecondition, "the mail server does not encrypt, and the password is not sent like that")
	}
	return s.Auth.Start(server)
}

// login is the way to sign in that was never standardized, and that some servers
// have alone.
type login struct{ user, password string }

// Start implements smtp.Auth.
func (*login) Start(*smtp.ServerInfo) (string, []byte, error) { return "LOGIN", nil, nil }

// Next implements smtp.Auth.
func (l *login) Next(prompt []byte, more bool) ([]byte, error) {
	switch text := strings.ToLower(string(prompt)); {
	case !more:
		return nil, nil
	case strings.Contains(text, "user"):
		return []byte(l.user), nil
	case strings.Contains(text, "pass"):
		return []byte(l.password), nil
	}
	return nil, fault.New(fault.Unimplemented, "the mail server asks for something other than a user and a password")
}

// explain names the recipient that a server refused.
func explain(err error, to string) error {
	if te, ok := errors.AsType[*textproto.Error](err); ok {
		code, text := verdict(te)
		return fault.Wrap(err, code, "recipient %q: %s", to, text)
	}
	return err
}

// classify names an error of a call made with ctx. It returns nil for nil.
func classify(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	if _, named := errors.AsType[*fault.Error](err); named {
		return err
	}
	if te, ok := errors.AsType[*textproto.Error](err); ok {
		code, text := verdict(te)
		return fault.Wrap(err, code, "%s", text)
	}
	switch ctx.Err() {
	case context.Canceled:
		return context.Canceled
	case context.DeadlineExceeded:
		return fault.New(fault.DeadlineExceeded, "the mail server did not answer in time")
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return fault.Wrap(err, fault.Unavailable, "the mail server cannot be verified")
	}
	return fault.Wrap(err, fault.Unavailable, "the mail server cannot be reached, or the connection is lost")
}

// verdict says what a reply means (RFC 5321, section 4.2; RFC 4954, section 6).
func verdict(reply *textproto.Error) (fault.Code, string) {
	text := fmt.Sprintf("the mail server answers: %d %s", reply.Code, reply.Msg)
	switch reply.Code {
	case 530, 534, 535, 538:
		return fault.Unauthenticated, "the mail server refused the credentials, or wants some"
	case 452, 552:
		return fault.ResourceExhausted, text
	case 500, 502, 504:
		return fault.Unimplemented, text
	case 501, 550, 551, 553, 555:
		return fault.InvalidArgument, text
	}
	if reply.Code >= 400 && reply.Code < 500 {
		return fault.Unavailable, text
	}
	return fault.FailedPrecondition, text
}
