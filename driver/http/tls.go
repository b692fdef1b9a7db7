package http

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io/fs"
	"os"

	"github.com/proa-io/proa/fault"
)

func (c Config) tlsConfig() (*tls.Config, error) {
	out := &tls.Config{MinVersion: tls.VersionTLS12}
	out.Renegotiation, _ = renegotiation(c.MTLSRenegotiation)
	if c.MTLSRootCA != "" {
		text, err := pemOrFile("MTLSRootCA", c.MTLSRootCA)
		if err != nil {
			return nil, err
		}
		out.RootCAs = x509.NewCertPool()
		if !out.RootCAs.AppendCertsFromPEM(text) {
			return nil, fault.New(fault.InvalidArgument, "MTLSRootCA holds no certificate")
		}
	}
	if c.MTLSClientCert != "" {
		cert, err := pemOrFile("MTLSClientCert", c.MTLSClientCert)
		if err != nil {
			return nil, err
		}
		key, err := pemOrFile("MTLSClientKey", c.MTLSClientKey.Reveal())
		if err != nil {
			return nil, err
		}
		pair, err := tls.X509KeyPair(cert, key)
		if err != nil {
			return nil, fault.New(fault.InvalidArgument, "MTLSClientCert and MTLSClientKey do not belong together: %v", err)
		}
		out.Certificates = []tls.Certificate{pair}
	}
	return out, nil
}

// pemOrFile returns value if it is in PEM form, and what the file of that name
// holds otherwise. Its errors do not quote value, which may be a broken key.
func pemOrFile(setting, value string) ([]byte, error) {
	if block, _ := pem.Decode([]byte(value)); block != nil {
		return []byte(value), nil
	}
	text, err := os.ReadFile(value)
	if err == nil {
		return text, nil
	}
	why := "which cannot be read"
	switch {
	case errors.Is(err, fs.ErrNotExist):
		why = "which does not exist"
	case errors.Is(err, fs.ErrPermission):
		why = "which this process may not read"
	}
	return nil, fault.New(fault.FailedPrecondition, "%s holds no PEM and so must be the path of a file, %s", setting, why)
}
