// Package mqtt keeps the promises of the building blocks on brokers that speak
// MQTT 3.1.1, such as Mosquitto, EMQX, HiveMQ and VerneMQ.
package mqtt

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/url"

	"github.com/proa-io/proa/block/binding"
	"github.com/proa-io/proa/block/pubsub"
	"github.com/proa-io/proa/component"
)

// Specs lists what this package offers to the building blocks.
func Specs() []component.Spec {
	return []component.Spec{
		binding.OutputSpec(component.Description{
			Name: "mqtt3", Aliases: []string{"mqtt"},
			Summary: "Publishes to topics of a broker that speaks MQTT 3.1.1, and brings what is published there.",
		}, BindingConfig{}, OpenBinding),
		pubsub.Spec(component.Description{
			Name: "mqtt3", Aliases: []string{"mqtt"},
			Summary: "Passes messages through a broker that speaks MQTT 3.1.1.",
		}, pubSubDefaults(), OpenPubSub),
	}
}

// Server says how to reach a broker. It is the same for all blocks.
type Server struct {
	// URL names the broker: "tcp://user:password@host:1883", or
	// "ssl://host:8883" with TLS. mqtt is another word for tcp, and mqtts, tls
	// and tcps for ssl.
	URL component.Secret `setting:"url,required"`
	// CACert holds the certificates (PEM) that the broker's is verified with;
	// the system's when empty.
	CACert component.Secret `setting:"caCert"`
	// ClientCert is the certificate (PEM) that the client shows.
	ClientCert component.Secret `setting:"clientCert"`
	// ClientKey is the key (PEM) of clientCert.
	ClientKey component.Secret `setting:"clientKey"`
}

// target is a broker and how to present oneself to it.
type target struct {
	addr, user, password string
	tls                  *tls.Config // nil for none
}

// target returns the broker. Its errors do not quote the URL.
func (s Server) target() (target, error) {
	u, err := url.Parse(s.URL.Reveal())
	if err != nil || u.Hostname() == "" {
		return target{}, component.Invalid("url", "wants tcp://user:password@host:port, or ssl:// with TLS; "+
			"reserved characters of the user and the password are percent-encoded")
	}
	t := target{addr: u.Host, user: u.User.Username()}
	t.password, _ = u.User.Password()
	port := "1883"
	switch u.Scheme {
	case "tcp", "mqtt":
		if s.CACert.IsSet() || s.ClientCert.IsSet() {
			return target{}, component.Invalid("url", "must begin with ssl:// with caCert or clientCert")
		}
	case "ssl", "tls", "tcps", "mqtts":
		port = "8883"
		if t.tls, err = s.tls(u.Hostname()); err != nil {
			return target{}, err
		}
	case "ws", "wss":
		return target{}, component.Invalid("url", "wants tcp:// or ssl://: MQTT over WebSocket is not supported")
	default:
		return target{}, component.Invalid("url", "wants tcp:// or ssl://, not %s://", u.Scheme)
	}
	if u.Port() == "" {
		t.addr = net.JoinHostPort(u.Hostname(), port)
	}
	return t, nil
}

func (s Server) tls(host string) (*tls.Config, error) {
	if s.ClientCert.IsSet() != s.ClientKey.IsSet() {
		return nil, component.Invalid("clientCert", "clientCert and clientKey go together")
	}
	cfg := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: host}
	if s.CACert.IsSet() {
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM([]byte(s.CACert.Reveal())) {
			return nil, component.Invalid("caCert", "holds no certificate in PEM")
		}
	}
	if s.ClientCert.IsSet() {
		pair, err := tls.X509KeyPair([]byte(s.ClientCert.Reveal()), []byte(s.ClientKey.Reveal()))
		if err != nil {
			return nil, component.Invalid("clientCert", "clientCert and clientKey are not a PEM certificate and its key")
		}
		cfg.Certificates = []tls.Certificate{pair}
	}
	return cfg, nil
}
