// Package rabbitmq keeps the promises of the building blocks on RabbitMQ, and
// on other servers that speak AMQP 0-9-1 with its extensions: publisher
// confirms, negative acknowledgements and quorum queues.
package rabbitmq

import (
	"crypto/tls"
	"crypto/x509"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/proa-io/proa/block/binding"
	"github.com/proa-io/proa/block/pubsub"
	"github.com/proa-io/proa/component"
)

// Specs lists what this package offers to the building blocks.
func Specs() []component.Spec {
	return []component.Spec{
		binding.OutputSpec(component.Description{
			Name:    "rabbitmq",
			Summary: "Sends messages to a queue of RabbitMQ, and brings those that are in it.",
		}, bindingDefaults(), OpenBinding),
		pubsub.Spec(component.Description{
			Name:    "rabbitmq",
			Summary: "Keeps messages in the queues of RabbitMQ, in exchanges and queues as Dapr's component of the same name declares them.",
		}, pubSubDefaults(), OpenPubSub),
	}
}

// certificates are the settings of an encrypted connection.
type certificates struct {
	ca, cert, key component.Secret
	external      bool // the server takes the user from the certificate
}

// tls returns how to encrypt, or nil for what the URI and the system say.
func (c certificates) tls() (*tls.Config, error) {
	if c.cert.IsSet() != c.key.IsSet() {
		return nil, component.Invalid("clientCert", "clientCert and clientKey go together")
	}
	if c.external && !c.cert.IsSet() {
		return nil, component.Invalid("saslExternal", "wants clientCert and clientKey: the server takes the user from the certificate")
	}
	if !c.ca.IsSet() && !c.cert.IsSet() {
		return nil, nil
	}
	cfg := &tls.Config{MinVersion: tls.VersionTLS12}
	if c.ca.IsSet() {
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM([]byte(c.ca.Reveal())) {
			return nil, component.Invalid("caCert", "holds no certificate in PEM")
		}
	}
	if c.cert.IsSet() {
		pair, err := tls.X509KeyPair([]byte(c.cert.Reveal()), []byte(c.key.Reveal()))
		if err != nil {
			return nil, component.Invalid("clientCert", "clientCert and clientKey are not a PEM certificate and its key")
		}
		cfg.Certificates = []tls.Certificate{pair}
	}
	return cfg, nil
}

// target is a server and how to present oneself to it.
type target struct {
	uri       component.Secret // holds the password
	tls       *tls.Config
	external  bool
	name      string // of the connection, for the server's operators
	heartbeat time.Duration
}

// parseURI checks a URI and returns it parsed. Its errors do not quote it.
func parseURI(setting string, uri component.Secret) (amqp.URI, error) {
	u, err := amqp.ParseURI(uri.Reveal())
	if err != nil {
		return u, component.Invalid(setting, "wants amqp://user:password@host:5672/vhost, or amqps:// with TLS; "+
			"reserved characters of the user and the password are percent-encoded")
	}
	return u, nil
}

// config returns the settings of the client library for one connection.
func (t target) config() amqp.Config {
	cfg := amqp.Config{
		Heartbeat: t.heartbeat, Locale: "en_US", TLSClientConfig: t.tls.Clone(),
		Properties: amqp.Table{"product": "Proa", "connection_name": t.name},
	}
	if t.external {
		cfg.SASL = []amqp.Authentication{&amqp.ExternalAuth{}}
	}
	return cfg
}
