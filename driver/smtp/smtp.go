// Package smtp is an output binding that sends mail.
package smtp

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net"
	"net/mail"
	"strconv"
	"strings"

	"github.com/proa-io/proa/block/binding"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
)

// Specs lists what this package offers to the building blocks.
func Specs() []component.Spec {
	return []component.Spec{
		binding.OutputSpec(component.Description{
			Name:    "smtp",
			Summary: "Sends mail through a server that speaks SMTP (RFC 5321).",
		}, Config{Priority: defaultPriority}, Open),
	}
}

// Config configures an output binding that sends mail.
//
// The connection is encrypted from the start on port 465, and elsewhere as soon
// as the server offers it. The metadata of a request go over the settings
// emailFrom, emailTo, emailCC, emailBCC, subject and priority.
type Config struct {
	// Host is the name or address of the server.
	Host string `setting:"host,required"`
	// Port of the server: 587 and 465 for mail from users, 25 between servers.
	Port int `setting:"port,required"`
	// User signs in, if it is set. That is not done without encryption, but
	// to a server on this machine or by CRAM-MD5.
	User string `setting:"user"`
	// Password of User.
	Password component.Secret `setting:"password"`
	// SkipTLSVerify does not verify the server. For tests only.
	SkipTLSVerify bool `setting:"skipTLSVerify"`
	// EmailFrom is who sends: "ada@example.com" or "Ada <ada@example.com>".
	EmailFrom string `setting:"emailFrom"`
	// EmailTo is who receives, several separated by semicolons.
	EmailTo string `setting:"emailTo"`
	// EmailCC is who receives a copy, several separated by semicolons.
	EmailCC string `setting:"emailCC"`
	// EmailBCC is who receives a copy that others do not see, several separated
	// by semicolons.
	EmailBCC string `setting:"emailBCC"`
	// Subject of the mail.
	Subject string `setting:"subject"`
	// Priority of the mail, from 1, the highest, to 5.
	Priority int `setting:"priority"`
}

const (
	defaultPriority = 3
	lowestPriority  = 5
	// submissions is the port on which connections are encrypted from the
	// start (RFC 8314, section 3.3).
	submissions = 465
	// maxRecipients bounds those of one mail.
	maxRecipients = 1000
)

// Validate reports settings that can never work.
func (c Config) Validate() error {
	switch {
	case c.Host == "":
		return component.Invalid("host", "wants the name or the address of a server")
	case c.Port < 1 || c.Port > 65535:
		return component.Invalid("port", "wants a number from 1 to 65535")
	case (c.User == "") != !c.Password.IsSet():
		return component.Invalid("user", "user and password go together")
	case c.Priority < 1 || c.Priority > lowestPriority:
		return component.Invalid("priority", "wants a number from 1, the highest, to %d", lowestPriority)
	}
	for _, l := range []struct{ setting, text string }{
		{"emailFrom", c.EmailFrom}, {"emailTo", c.EmailTo}, {"emailCC", c.EmailCC}, {"emailBCC", c.EmailBCC},
	} {
		if _, err := addresses(l.text); err != nil {
			return component.Invalid(l.setting, "%v", err)
		}
	}
	return nil
}

// Binding is a binding.Output that sends mail: the data of a request, HTML, with
// the operation "create". A mail goes to all its recipients or to none.
type Binding struct {
	cfg Config
	// encrypted is whether connections are from the start.
	encrypted bool
}

// Open makes a binding. Connections are made for each mail.
func Open(_ context.Context, cfg Config, _ component.Env) (*Binding, error) {
	return &Binding{cfg: cfg, encrypted: cfg.Port == submissions}, nil
}

// Operations implements binding.Output.
func (b *Binding) Operations() []string { return []string{"create"} }

// Close implements io.Closer.
func (b *Binding) Close() error { return nil }

// Invoke implements binding.Output.
func (b *Binding) Invoke(ctx context.Context, r binding.Request) (binding.Response, error) {
	if err := ctx.Err(); err != nil {
		return binding.Response{}, err
	}
	if r.Operation != "create" {
		return binding.Response{}, fault.New(fault.InvalidArgument, "there is no operation %q: there is create", r.Operation)
	}
	m, err := b.message(r)
	if err != nil {
		return binding.Response{}, err
	}
	return binding.Response{}, classify(ctx, b.send(ctx, m))
}

// message makes a mail of a request and the settings.
func (b *Binding) message(r binding.Request) (*message, error) {
	given := func(name, setting string) string {
		if value := r.Metadata[name]; value != "" {
			return value
		}
		return setting
	}
	m := &message{subject: given("subject", b.cfg.Subject), priority: b.cfg.Priority, body: unquote(r.Data)}
	if text := r.Metadata["priority"]; text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > lowestPriority {
			return nil, fault.New(fault.InvalidArgument, `the metadata "priority" wants a number from 1, the highest, to %d, not %q`, lowestPriority, text)
		}
		m.priority = n
	}
	var from []*mail.Address
	for _, l := range []struct {
		name, setting string
		into          *[]*mail.Address
	}{
		{"emailFrom", b.cfg.EmailFrom, &from}, {"emailTo", b.cfg.EmailTo, &m.to}, {"emailCC", b.cfg.EmailCC, &m.cc}, {"emailBCC", b.cfg.EmailBCC, &m.bcc},
	} {
		list, err := addresses(given(l.name, l.setting))
		if err != nil {
			return nil, fault.New(fault.InvalidArgument, "the metadata %q: %v", l.name, err)
		}
		*l.into = list
	}
	missing := "neither the settings nor the metadata of the request have %q"
	switch {
	case len(from) == 0:
		return nil, fault.New(fault.InvalidArgument, missing, "emailFrom")
	case len(from) > 1:
		return nil, fault.New(fault.InvalidArgument, `"emailFrom" names %d senders, a mail has one`, len(from))
	case len(m.to) == 0:
		return nil, fault.New(fault.InvalidArgument, missing, "emailTo")
	case m.subject == "":
		return nil, fault.New(fault.InvalidArgument, missing, "subject")
	case len(m.to)+len(m.cc)+len(m.bcc) > maxRecipients:
		return nil, fault.New(fault.InvalidArgument, "a mail to more than %d recipients is refused", maxRecipients)
	}
	m.from = from[0]
	return m, nil
}

// addresses reads addresses that semicolons separate.
func addresses(text string) ([]*mail.Address, error) {
	var out []*mail.Address
	for part := range strings.SplitSeq(text, ";") {
		if part = strings.TrimSpace(part); part == "" {
			continue
		}
		a, err := mail.ParseAddress(part)
		if err != nil || strings.ContainsAny(a.Address, "\r\n") {
			return nil, fmt.Errorf(`%q is no address of the form "ada@example.com" or "Ada <ada@example.com>"`, part)
		}
		out = append(out, a)
	}
	return out, nil
}

// unquote returns what data stand for: a string of JSON, which comes over HTTP,
// stands for its text.
func unquote(data []byte) []byte {
	var text string
	if data = bytes.TrimSpace(data); len(data) > 0 && data[0] == '"' && json.Unmarshal(data, &text) == nil {
		return []byte(text)
	}
	return data
}

func (b *Binding) tls() *tls.Config {
	return &tls.Config{ServerName: b.cfg.Host, MinVersion: tls.VersionTLS12, InsecureSkipVerify: b.cfg.SkipTLSVerify} //nolint:gosec // only if the user says so
}

func (b *Binding) address() string { return net.JoinHostPort(b.cfg.Host, strconv.Itoa(b.cfg.Port)) }
