package smtp

import (
	"fmt"
	"io"
	"mime"
	"mime/quotedprintable"
	"net"
	"net/mail"
	"net/smtp"
	"strconv"
	"strings"
	"testing"

	"github.com/proa-io/proa/block/binding"
	"github.com/proa-io/proa/block/binding/bindingtest"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/internal/faultnet"
)

func configOf(t testing.TB, address string) Config {
	t.Helper()
	host, text, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	port, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return Config{Host: host, Port: port, Priority: defaultPriority, EmailFrom: "Ada <ada@example.com>", EmailTo: "bob@example.com", Subject: "a test"}
}

func open(t testing.TB, cfg Config) *Binding {
	t.Helper()
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	b, err := Open(t.Context(), cfg, component.Env{})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// send sends a mail. Metadata come in pairs.
func send(t testing.TB, b *Binding, data string, metadata ...string) error {
	t.Helper()
	r := binding.Request{Operation: "create", Data: []byte(data), Metadata: map[string]string{}}
	for i := 0; i < len(metadata); i += 2 {
		r.Metadata[metadata[i]] = metadata[i+1]
	}
	out, err := b.Invoke(t.Context(), r)
	if len(out.Data)+len(out.Metadata) != 0 {
		t.Errorf("Invoke answers %v", out)
	}
	return err
}

func TestBinding(t *testing.T) {
	t.Parallel()
	s := (&server{}).start(t)
	request := binding.Request{Operation: "create", Data: []byte("x")}
	bindingtest.RunOutput(t, bindingtest.Output{
		Open:    func(t testing.TB) binding.Output { return open(t, configOf(t, s.listener.Addr().String())) },
		Request: request,
	})
	t.Run("OnABadNetwork", func(t *testing.T) {
		t.Parallel()
		bindingtest.RunNetwork(t, bindingtest.Network{
			Open: func(t testing.TB) (binding.Output, *faultnet.Proxy) {
				proxy := faultnet.New(t, s.listener.Addr().String())
				return open(t, configOf(t, proxy.Addr())), proxy
			},
			Request: request,
		})
	})
}

func TestAMailIsWhatTheRequestSays(t *testing.T) {
	t.Parallel()
	s := (&server{}).start(t)
	b := open(t, configOf(t, s.listener.Addr().String()))
	html := "<p>" + strings.Repeat("long ", 300) + "= ⛵</p>\n.\n..\nend"
	if err := send(t, b, html,
		"emailFrom", "Zoë <zoe@example.com>", "emailTo", "bob@example.com;  Carl <carl@example.com>", "emailCC", "dora@example.com",
		"emailBCC", "eve@example.com", "subject", "naïve: "+strings.Repeat("⛵ ", 50)+"\r\nBcc: x@example.com", "priority", "1"); err != nil {
		t.Fatal(err)
	}
	if err := send(t, b, `"<b>as \"JSON\"</b>"`); err != nil {
		t.Fatal(err)
	}
	mails := s.taken()
	if len(mails) != 2 {
		t.Fatalf("%d mails have arrived", len(mails))
	}
	first := mails[0]
	if !strings.HasPrefix(first.from, "MAIL FROM:<zoe@example.com>") ||
		fmt.Sprint(first.to) != "[RCPT TO:<bob@example.com> RCPT TO:<carl@example.com> RCPT TO:<dora@example.com> RCPT TO:<eve@example.com>]" {
		t.Errorf("the envelope is %s, %s", first.from, first.to)
	}
	for line := range strings.Lines(first.text) {
		if len(line) > 90 {
			t.Errorf("a line of %d characters: %q", len(line), line)
		}
	}
	m, err := mail.ReadMessage(strings.NewReader(first.text))
	if err != nil {
		t.Fatal(err)
	}
	subject, err := new(mime.WordDecoder).DecodeHeader(m.Header.Get("Subject"))
	if want := "naïve: " + strings.Repeat("⛵ ", 50) + "\r\nBcc: x@example.com"; err != nil || subject != want {
		t.Errorf("subject %q, %v; want %q", subject, err, want)
	}
	if from, err := m.Header.AddressList("From"); err != nil || from[0].Name != "Zoë" || from[0].Address != "zoe@example.com" {
		t.Errorf("from %v, %v", from, err)
	}
	if to, err := m.Header.AddressList("To"); err != nil || len(to) != 2 || to[1].Name != "Carl" {
		t.Errorf("to %v, %v", to, err)
	}
	for name, want := range map[string]string{"Cc": "<dora@example.com>", "Bcc": "", "X-Priority": "1", "Content-Type": "text/html; charset=UTF-8"} {
		if got := m.Header.Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	if _, err := m.Header.Date(); err != nil || !strings.HasSuffix(m.Header.Get("Message-Id"), "@example.com>") {
		t.Errorf("date %v, id %q", err, m.Header.Get("Message-Id"))
	}
	body, err := io.ReadAll(quotedprintable.NewReader(m.Body))
	if err != nil || strings.TrimRight(string(body), "\n") != html {
		t.Errorf("the body is %q, %v; want %q", body, err, html)
	}
	if second := mails[1]; !strings.Contains(second.text, `<b>as "JSON"</b>`) || !strings.Contains(second.text, "Subject: a test\n") || !strings.Contains(second.text, "X-Priority: 3\n") {
		t.Errorf("the second mail is %s", second.text)
	}
}

func TestSigningInAndEncryption(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		server   *server
		password string
		host     string // in place of 127.0.0.1
		verify   bool
		want     fault.Code
		text     string
	}{
		"PLAIN":                      {server: &server{auth: "LOGIN PLAIN", starttls: true}, password: "sesame"},
		"LOGIN":                      {server: &server{auth: "LOGIN"}, password: "sesame"},
		"CRAM-MD5":                   {server: &server{auth: "PLAIN CRAM-MD5"}, password: "sesame"},
		"encrypted from the start":   {server: &server{auth: "PLAIN", encrypted: true}, password: "sesame"},
		"nobody":                     {server: &server{auth: "PLAIN"}},
		"a wrong password":           {server: &server{auth: "PLAIN"}, password: "wrong-secret", want: fault.Unauthenticated, text: "refused the credentials"},
		"nowhere to sign in":         {server: &server{}, password: "sesame", want: fault.FailedPrecondition, text: "leave user and password out"},
		"an unknown way":             {server: &server{auth: "GSSAPI"}, password: "sesame", want: fault.Unimplemented, text: "GSSAPI"},
		"a certificate of nobody":    {server: &server{starttls: true}, verify: true, want: fault.Unavailable, text: "cannot be verified"},
		"a password that would show": {server: &server{auth: "PLAIN"}, password: "sesame", host: "127.0.0.2", want: fault.FailedPrecondition, text: "does not encrypt"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := tc.server.start(t)
			cfg := configOf(t, s.listener.Addr().String())
			cfg.SkipTLSVerify = !tc.verify
			if tc.password != "" {
				cfg.User, cfg.Password = "ada", component.NewSecret(tc.password)
			}
			b := open(t, cfg)
			b.encrypted = tc.server.encrypted
			var err error
			if tc.host == "" {
				err = send(t, b, "x")
			} else {
				_, _, err = safely{&login{}}.Start(&smtp.ServerInfo{Name: tc.host})
			}
			if tc.want == 0 && err != nil || tc.want != 0 && (!fault.Is(err, tc.want) || !strings.Contains(fault.Message(err), tc.text)) {
				t.Fatalf("%v, want %v and %q", err, tc.want, tc.text)
			}
			if err != nil {
				if strings.Contains(err.Error(), "wrong-secret") || len(s.taken()) != 0 {
					t.Errorf("%v, with %d mails", err, len(s.taken()))
				}
				return
			}
			got := s.taken()[0]
			if got.tls != (tc.server.starttls || tc.server.encrypted) || (got.user == "ada") != (tc.password != "") {
				t.Errorf("the mail came encrypted: %v, from user %q", got.tls, got.user)
			}
		})
	}
}

func TestRepliesAreNamed(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		verb, reply string
		want        fault.Code
		text        string
	}{
		{"EHLO", "421 closing", fault.Unavailable, "421 closing"},
		{"MAIL", "530 sign in first", fault.Unauthenticated, "wants some"},
		{"MAIL", "452 no room", fault.ResourceExhausted, "no room"},
		{"RCPT", "550 no such user", fault.InvalidArgument, `recipient "nobody@example.com": the mail server answers: 550 no such user`},
		{"RCPT", "451 later", fault.Unavailable, `recipient "nobody@example.com"`},
		{"DATA", "554 no", fault.FailedPrecondition, "554 no"},
	} {
		s := (&server{refuse: map[string]string{tc.verb: tc.reply, "HELO": tc.reply}}).start(t)
		err := send(t, open(t, configOf(t, s.listener.Addr().String())), "x", "emailTo", "bob@example.com;nobody@example.com")
		if !fault.Is(err, tc.want) || !strings.Contains(fault.Message(err), tc.text) || len(s.taken()) != 0 {
			t.Errorf("%s answered %q: %v, %d mails; want %v and %q", tc.verb, tc.reply, err, len(s.taken()), tc.want, tc.text)
		}
	}
}

func TestRequestsThatCannotBeCarriedOut(t *testing.T) {
	t.Parallel()
	cfg := configOf(t, "127.0.0.1:1")
	empty := cfg
	empty.EmailFrom, empty.EmailTo, empty.Subject = "", "", ""
	for _, tc := range []struct {
		cfg      Config
		metadata []string
		want     string
	}{
		{empty, nil, `"emailFrom"`},
		{empty, []string{"emailFrom", "a@b"}, `"emailTo"`},
		{empty, []string{"emailFrom", "a@b", "emailTo", "c@d"}, `"subject"`},
		{cfg, []string{"emailFrom", "a@b;c@d"}, "2 senders"},
		{cfg, []string{"emailTo", "nobody"}, `"nobody" is no address`},
		{cfg, []string{"emailCC", "a@b\r\nX: y"}, "is no address"},
		{cfg, []string{"priority", "9"}, `not "9"`},
		{cfg, []string{"emailBCC", strings.Repeat("a@b;", 1001)}, "more than 1000"},
	} {
		if err := send(t, open(t, tc.cfg), "x", tc.metadata...); !fault.Is(err, fault.InvalidArgument) || !strings.Contains(fault.Message(err), tc.want) {
			t.Errorf("%v: %v, want %q", tc.metadata, err, tc.want)
		}
	}
}

func TestSettingsThatCanNeverWork(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"port=25":                               `"host": is required`,
		"host=mail":                             `"port": is required`,
		"host=mail port=0":                      `"port": wants a number`,
		"host=mail port=25 user=ada":            `"user": user and password go together`,
		"host=mail port=25 password=hunter2":    `"user": user and password go together`,
		"host=mail port=25 priority=6":          `"priority": wants a number from 1, the highest, to 5`,
		"host=mail port=25 emailTo=a@b;nowhere": `"emailTo": "nowhere" is no address`,
	} {
		var settings component.Settings
		for pair := range strings.FieldsSeq(text) {
			name, value, _ := strings.Cut(pair, "=")
			settings = append(settings, component.Setting{Name: name, Value: value})
		}
		cfg := Config{Priority: defaultPriority}
		if err := settings.Decode(&cfg); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}
