// Package http is the output binding that calls an HTTP endpoint.
package http

import (
	"context"
	"crypto/tls"
	"net"
	nethttp "net/http"
	"net/url"
	"time"

	"github.com/proa-io/proa/block/binding"
	"github.com/proa-io/proa/component"
)

// Specs lists what this package offers to the building blocks.
func Specs() []component.Spec {
	return []component.Spec{
		binding.OutputSpec(component.Description{
			Name:    "http",
			Summary: "Calls an HTTP endpoint.",
		}, Config{MaxResponseBodySize: 100 << 20, ErrorIfNot2XX: true}, Open),
	}
}

// Config configures calls of an HTTP endpoint.
//
// The operation is the method in lower case; "create" means post. The metadata
// of a call may have "path", which is appended to URL, "errorIfNot2XX", and
// request headers: every name that begins with a capital letter is one. The
// metadata of the response are its headers, "statusCode" and "status".
type Config struct {
	// URL is the base URL, "https://host:port/path".
	URL string `setting:"url,required"`
	// ResponseTimeout bounds a call, from connecting until the body has been
	// read. There is no bound but the caller's when it is 0.
	ResponseTimeout component.Duration `setting:"responseTimeout"`
	// MaxResponseBodySize bounds the body of a response, as "100Mi" or a
	// number of bytes. A call whose response is larger fails. There is no
	// bound when it is 0 or negative.
	MaxResponseBodySize Limit `setting:"maxResponseBodySize"`
	// ErrorIfNot2XX makes a call fail when the status is not 2xx.
	ErrorIfNot2XX bool `setting:"errorIfNot2XX"`
	// SecurityToken is sent in the header SecurityTokenHeader.
	SecurityToken component.Secret `setting:"securityToken"`
	// SecurityTokenHeader names the header that carries SecurityToken.
	SecurityTokenHeader string `setting:"securityTokenHeader"`
	// MTLSRootCA holds the certificates of the authorities that may sign the
	// server's certificate, in PEM form, or the path of a file with them. The
	// system's authorities when empty.
	MTLSRootCA string `setting:"MTLSRootCA"`
	// MTLSClientCert is the client's certificate in PEM form, or the path of
	// a file with it.
	MTLSClientCert string `setting:"MTLSClientCert"`
	// MTLSClientKey is the key of MTLSClientCert in PEM form, or the path of
	// a file with it.
	MTLSClientKey component.Secret `setting:"MTLSClientKey"`
	// MTLSRenegotiation allows a server to ask for TLS renegotiation:
	// RenegotiateNever (the default), RenegotiateOnceAsClient or
	// RenegotiateFreelyAsClient.
	MTLSRenegotiation string `setting:"MTLSRenegotiation"`
}

// Limit is a component.Size for which a negative number means none.
type Limit int64

// UnmarshalText implements encoding.TextUnmarshaler.
func (l *Limit) UnmarshalText(text []byte) error {
	if len(text) > 0 && text[0] == '-' {
		text = text[1:]
		if _, err := component.ParseSize(string(text)); err != nil {
			return err
		}
		*l = 0
		return nil
	}
	n, err := component.ParseSize(string(text))
	*l = Limit(n)
	return err
}

// Validate reports settings that can never work.
func (c Config) Validate() error {
	if _, err := parseURL(c.URL); err != nil {
		return err
	}
	switch {
	case c.ResponseTimeout < 0:
		return component.Invalid("responseTimeout", "must not be negative")
	case c.SecurityToken.IsSet() && c.SecurityTokenHeader == "":
		return component.Invalid("securityToken", "needs securityTokenHeader, the header to send it in")
	case !validHeader(c.SecurityTokenHeader, c.SecurityToken.Reveal()):
		return component.Invalid("securityTokenHeader", "names no header that can carry the token")
	case (c.MTLSClientCert == "") != !c.MTLSClientKey.IsSet():
		return component.Invalid("MTLSClientCert", "and MTLSClientKey must be given together")
	}
	if _, ok := renegotiation(c.MTLSRenegotiation); !ok {
		return component.Invalid("MTLSRenegotiation",
			`wants "RenegotiateNever", "RenegotiateOnceAsClient" or "RenegotiateFreelyAsClient", not %q`, c.MTLSRenegotiation)
	}
	return nil
}

func parseURL(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, component.Invalid("url", `wants a URL such as "https://host:port/path"`)
	}
	return u, nil
}

func renegotiation(name string) (tls.RenegotiationSupport, bool) {
	switch name {
	case "", "RenegotiateNever":
		return tls.RenegotiateNever, true
	case "RenegotiateOnceAsClient":
		return tls.RenegotiateOnceAsClient, true
	case "RenegotiateFreelyAsClient":
		return tls.RenegotiateFreelyAsClient, true
	}
	return 0, false
}

// Binding is a binding.Output.
type Binding struct {
	cfg    Config
	base   *url.URL
	client *nethttp.Client
}

// Open returns a Binding. It reads certificates from files and connects to
// nothing.
func Open(_ context.Context, cfg Config, _ component.Env) (*Binding, error) {
	base, err := parseURL(cfg.URL)
	if err != nil {
		return nil, err
	}
	tlsConfig, err := cfg.tlsConfig()
	if err != nil {
		return nil, err
	}
	b := &Binding{cfg: cfg, base: base}
	b.client = &nethttp.Client{
		Transport: &nethttp.Transport{
			Proxy:                  nethttp.ProxyFromEnvironment,
			DialContext:            (&net.Dialer{Timeout: 15 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
			TLSClientConfig:        tlsConfig,
			TLSHandshakeTimeout:    15 * time.Second,
			MaxIdleConns:           256,
			MaxIdleConnsPerHost:    64,
			IdleConnTimeout:        90 * time.Second,
			MaxResponseHeaderBytes: 1 << 20,
			ForceAttemptHTTP2:      true,
		},
		CheckRedirect: b.checkRedirect,
	}
	return b, nil
}

// checkRedirect follows ten redirects at most, and keeps the security token
// from every host but the configured one.
func (b *Binding) checkRedirect(r *nethttp.Request, via []*nethttp.Request) error {
	if len(via) >= 10 {
		return errTooManyRedirects
	}
	if b.cfg.SecurityTokenHeader != "" && (r.URL.Host != b.base.Host || r.URL.Scheme != b.base.Scheme) {
		r.Header.Del(b.cfg.SecurityTokenHeader)
	}
	return nil
}

// Close implements io.Closer.
func (b *Binding) Close() error {
	b.client.CloseIdleConnections()
	return nil
}
