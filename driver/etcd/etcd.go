// Package etcd keeps the promises of the building blocks on etcd, version 3.4
// and newer.
package etcd

import (
	"crypto/tls"
	"crypto/x509"
	"strings"

	"github.com/proa-io/proa/block/lock"
	"github.com/proa-io/proa/block/state"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/mesh/discovery"
)

// Specs lists what this package offers to the building blocks.
func Specs() []component.Spec {
	return []component.Spec{
		state.Spec(component.Description{
			Name:    "etcd",
			Summary: "Keeps items in etcd as they are, in the format of version v1 of Dapr's component of the same name.",
		}, stateDefaults(), OpenStateV1),
		state.Spec(component.Description{
			Name: "etcd", Version: "v2",
			Summary: "Keeps items in etcd with the time they were written, in the format of version v2 of Dapr's component of the same name.",
		}, stateDefaults(), OpenStateV2),
		lock.Spec(component.Description{
			Name:    "etcd",
			Summary: "Keeps locks in etcd, each with a lease.",
		}, LockConfig{}, OpenLock),
		discovery.Spec(component.Description{
			Name:    "etcd",
			Summary: "Finds applications in etcd, and announces this one there with a lease.",
		}, namesDefaults(), OpenNames),
	}
}

// Config says how to reach etcd. It is the same for all blocks.
type Config struct {
	// Endpoints are the members of the cluster, or some of them,
	// "host:port" or "https://host:port", separated by commas.
	Endpoints []string `setting:"endpoints,required"`
	// KeyPrefixPath is put before every key, with a slash behind it.
	KeyPrefixPath string `setting:"keyPrefixPath"`
	// TLSEnable encrypts the connections and verifies the server.
	TLSEnable bool `setting:"tlsEnable"`
	// CA holds the certificates (PEM) of the authorities that may sign the
	// server's; the system's when empty.
	CA string `setting:"ca"`
	// Cert is the certificate (PEM) that the client shows.
	Cert string `setting:"cert"`
	// Key is the key (PEM) of Cert.
	Key component.Secret `setting:"key"`
	// Username is the user of a cluster with authentication. Dapr's component
	// has no such setting.
	Username string `setting:"username"`
	// Password of the user.
	Password component.Secret `setting:"password"`
}

// Validate reports settings that can never work.
func (c Config) Validate() error {
	if len(c.Endpoints) == 0 {
		return component.Invalid("endpoints", "wants host:port of at least one member of the cluster")
	}
	for _, e := range c.Endpoints {
		scheme, host, ok := strings.Cut(e, "://")
		if !ok {
			scheme, host = "", e
		}
		switch {
		case scheme != "" && scheme != "http" && scheme != "https":
			return component.Invalid("endpoints", "wants host:port, http://host:port or https://host:port, not %s://", scheme)
		case host == "" || strings.ContainsAny(host, "/ "):
			return component.Invalid("endpoints", "wants host:port, http://host:port or https://host:port")
		case scheme == "http" && c.TLSEnable:
			return component.Invalid("endpoints", "must not begin with http:// when tlsEnable is on: that would be in clear")
		}
	}
	switch {
	case (c.CA != "" || c.Cert != "" || c.Key.IsSet()) && !c.TLSEnable:
		return component.Invalid("tlsEnable", "must be on for ca, cert and key to count")
	case (c.Cert == "") != !c.Key.IsSet():
		return component.Invalid("cert", "and key must be given together")
	case (c.Username == "") != !c.Password.IsSet():
		return component.Invalid("username", "and password must be given together")
	}
	_, err := c.tls()
	return err
}

// tls returns how to encrypt, or nil.
func (c Config) tls() (*tls.Config, error) {
	if !c.TLSEnable {
		return nil, nil
	}
	cfg := &tls.Config{MinVersion: tls.VersionTLS12}
	if c.CA != "" {
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM([]byte(c.CA)) {
			return nil, component.Invalid("ca", "has no certificate in PEM")
		}
	}
	if c.Cert != "" {
		cert, err := tls.X509KeyPair([]byte(c.Cert), []byte(c.Key.Reveal()))
		if err != nil {
			return nil, component.Invalid("cert", "cert and key are not a PEM certificate and its key")
		}
		cfg.Certificates = []tls.Certificate{cert}
	}
	return cfg, nil
}

// path returns what comes before every key.
func (c Config) path() string { return c.KeyPrefixPath + "/" }
