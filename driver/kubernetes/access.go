package kubernetes

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
)

// surroundings is where the process runs: what the tests replace.
type surroundings struct {
	getenv func(string) string
	// account is the folder of the service account that Kubernetes mounts.
	account string
	home    string
}

func here() surroundings {
	home, _ := os.UserHomeDir() // without one there is no file in it
	return surroundings{os.Getenv, "/var/run/secrets/kubernetes.io/serviceaccount", home}
}

// access says how to reach an API server.
type access struct {
	server    string // a URL without a slash at the end
	tls       *tls.Config
	namespace string // of the pod or the context; may be empty
	// authorize adds who is asking to a request.
	authorize func(*http.Request) error
}

// access returns how to reach the API server: that of the kubeconfig if there is
// a path, or else that of the pod, or else that of the user's own kubeconfig.
func (s surroundings) access(cfg Config, env component.Env) (access, error) {
	if cfg.KubeconfigPath != "" {
		return fromKubeconfig(env.Locate(cfg.KubeconfigPath))
	}
	host, port := s.getenv("KUBERNETES_SERVICE_HOST"), s.getenv("KUBERNETES_SERVICE_PORT")
	if host != "" && port != "" {
		return s.inCluster(net.JoinHostPort(host, port))
	}
	for path := range strings.SplitSeq(s.getenv("KUBECONFIG"), string(filepath.ListSeparator)) {
		if path != "" {
			return fromKubeconfig(path)
		}
	}
	if s.home != "" {
		path := filepath.Join(s.home, ".kube", "config")
		if _, err := os.Stat(path); err == nil {
			return fromKubeconfig(path)
		}
	}
	return access{}, fault.New(fault.FailedPrecondition,
		"this process does not run in a pod of Kubernetes, and there is no kubeconfig: set kubeconfigPath, or KUBECONFIG in the environment")
}

func (s surroundings) inCluster(addr string) (access, error) {
	a := access{server: "https://" + addr, tls: &tls.Config{MinVersion: tls.VersionTLS12}}
	ca, err := os.ReadFile(filepath.Join(s.account, "ca.crt"))
	if err != nil {
		return access{}, fileError("the service account", err)
	}
	if a.tls.RootCAs, err = pool(ca); err != nil {
		return access{}, err
	}
	token := filepath.Join(s.account, "token")
	if _, err := readToken(token); err != nil {
		return access{}, err
	}
	a.authorize = bearerFile(token)
	if name, err := os.ReadFile(filepath.Join(s.account, "namespace")); err == nil {
		a.namespace = strings.TrimSpace(string(name))
	}
	return a, nil
}

func pool(pem []byte) (*x509.CertPool, error) {
	p := x509.NewCertPool()
	if !p.AppendCertsFromPEM(pem) {
		return nil, fault.New(fault.InvalidArgument, "the authority of the API server's certificate is not given in PEM")
	}
	return p, nil
}

// fileError says why a file cannot be read; the cause names the file.
func fileError(what string, err error) error {
	code := fault.FailedPrecondition
	switch {
	case errors.Is(err, fs.ErrNotExist):
		code = fault.NotFound
	case errors.Is(err, fs.ErrPermission):
		code = fault.PermissionDenied
	}
	return fault.New(code, "%s: %v", what, err)
}

func readToken(path string) (string, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return "", fileError("the token for the API server", err)
	}
	token := strings.TrimSpace(string(text))
	if token == "" || strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
		return "", fault.New(fault.FailedPrecondition, "%s holds no token", path)
	}
	return token, nil
}

// bearerFile sends the token in a file, which is replaced from time to time.
func bearerFile(path string) func(*http.Request) error {
	return func(r *http.Request) error {
		token, err := readToken(path)
		r.Header.Set("Authorization", "Bearer "+token)
		return err
	}
}

// kubeconfig is what counts of a file of kind Config, version v1.
type kubeconfig struct {
	CurrentContext string `yaml:"current-context"`
	Contexts       []struct {
		Name    string `yaml:"name"`
		Context struct {
			Cluster   string `yaml:"cluster"`
			User      string `yaml:"user"`
			Namespace string `yaml:"namespace"`
		} `yaml:"context"`
	} `yaml:"contexts"`
	Clusters []struct {
		Name    string  `yaml:"name"`
		Cluster cluster `yaml:"cluster"`
	} `yaml:"clusters"`
	Users []struct {
		Name string `yaml:"name"`
		User user   `yaml:"user"`
	} `yaml:"users"`
}

type cluster struct {
	Server        string `yaml:"server"`
	CA            string `yaml:"certificate-authority"`
	CAData        string `yaml:"certificate-authority-data"`
	SkipVerify    bool   `yaml:"insecure-skip-tls-verify"`
	TLSServerName string `yaml:"tls-server-name"`
	ProxyURL      string `yaml:"proxy-url"`
}

type user struct {
	Cert         string `yaml:"client-certificate"`
	CertData     string `yaml:"client-certificate-data"`
	Key          string `yaml:"client-key"`
	KeyData      string `yaml:"client-key-data"`
	Token        string `yaml:"token"`
	TokenFile    string `yaml:"tokenFile"`
	Username     string `yaml:"username"`
	Password     string `yaml:"password"`
	As           string `yaml:"as"`
	Exec         any    `yaml:"exec"`
	AuthProvider any    `yaml:"auth-provider"`
}

// maxKubeconfig bounds the file, in bytes.
const maxKubeconfig = 4 << 20

// fromKubeconfig reads how to reach the API server of the present context. Its
// errors never quote the file, which holds credentials.
func fromKubeconfig(path string) (access, error) {
	info, err := os.Stat(path)
	if err != nil {
		return access{}, fileError("kubeconfig", err)
	}
	bad := func(format string, args ...any) error {
		return fault.New(fault.InvalidArgument, "kubeconfig %s: %s", path, fmt.Sprintf(format, args...))
	}
	if info.Size() > maxKubeconfig {
		return access{}, bad("is larger than %d MiB", maxKubeconfig>>20)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return access{}, fileError("kubeconfig", err)
	}
	var k kubeconfig
	if yaml.Unmarshal(text, &k) != nil {
		return access{}, bad("is not YAML, or not of kind Config")
	}
	for _, context := range k.Contexts {
		if context.Name != k.CurrentContext {
			continue
		}
		var c *cluster
		for i := range k.Clusters {
			if k.Clusters[i].Name == context.Context.Cluster {
				c = &k.Clusters[i].Cluster
			}
		}
		if c == nil {
			return access{}, bad("has no cluster %q, which the context %q names", context.Context.Cluster, context.Name)
		}
		var u user
		for i := range k.Users {
			if k.Users[i].Name == context.Context.User {
				u = k.Users[i].User
			}
		}
		a, err := describe(filepath.Dir(path), *c, u)
		a.namespace = context.Context.Namespace
		if err != nil {
			return access{}, fault.Wrap(err, fault.CodeOf(err), "kubeconfig %s", path)
		}
		return a, nil
	}
	return access{}, bad("has no context %q, which current-context names", k.CurrentContext)
}

// describe turns a cluster and a user of a kubeconfig in the folder dir into
// access.
func describe(dir string, c cluster, u user) (access, error) {
	switch {
	case u.Exec != nil, u.AuthProvider != nil:
		return access{}, fault.New(fault.Unimplemented,
			"the user's credentials come from a program (exec or auth-provider), which is not run here: use a token, a tokenFile or a client certificate")
	case u.As != "":
		return access{}, fault.New(fault.Unimplemented, "the user acts as another one (as), which is not supported here")
	case c.ProxyURL != "":
		return access{}, fault.New(fault.Unimplemented, "proxy-url is not supported here: set HTTPS_PROXY in the environment")
	}
	server, err := url.Parse(c.Server)
	if err != nil || server.Host == "" || server.Scheme != "https" && server.Scheme != "http" {
		return access{}, fault.New(fault.InvalidArgument, `server wants a URL such as "https://host:6443"`)
	}
	a := access{
		server: strings.TrimRight(c.Server, "/"),
		tls:    &tls.Config{MinVersion: tls.VersionTLS12, ServerName: c.TLSServerName, InsecureSkipVerify: c.SkipVerify}, //nolint:gosec // only if the user says so
	}
	ca, err := inlineOrFile(dir, "certificate-authority", c.CAData, c.CA)
	if err != nil {
		return access{}, err
	}
	if ca != nil {
		if a.tls.RootCAs, err = pool(ca); err != nil {
			return access{}, err
		}
	}
	if a.tls.Certificates, err = u.certificates(dir); err != nil {
		return access{}, err
	}
	a.authorize = u.authorize(dir)
	return a, nil
}

func (u user) certificates(dir string) ([]tls.Certificate, error) {
	cert, err := inlineOrFile(dir, "client-certificate", u.CertData, u.Cert)
	if err != nil {
		return nil, err
	}
	key, err := inlineOrFile(dir, "client-key", u.KeyData, u.Key)
	if err != nil || cert == nil && key == nil {
		return nil, err
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, fault.New(fault.InvalidArgument, "client-certificate and client-key are not a PEM certificate and its key")
	}
	return []tls.Certificate{pair}, nil
}

func (u user) authorize(dir string) func(*http.Request) error {
	switch {
	case u.TokenFile != "":
		return bearerFile(beside(dir, u.TokenFile))
	case u.Token != "":
		return func(r *http.Request) error {
			r.Header.Set("Authorization", "Bearer "+u.Token)
			return nil
		}
	case u.Username != "":
		return func(r *http.Request) error {
			r.SetBasicAuth(u.Username, u.Password)
			return nil
		}
	}
	return func(*http.Request) error { return nil }
}

// inlineOrFile returns what is given in base64, or in a file; nil for neither.
func inlineOrFile(dir, name, inline, path string) ([]byte, error) {
	switch {
	case inline != "":
		data, err := base64.StdEncoding.DecodeString(inline)
		if err != nil {
			return nil, fault.New(fault.InvalidArgument, "%s-data is not base64", name)
		}
		return data, nil
	case path != "":
		data, err := os.ReadFile(beside(dir, path))
		if err != nil {
			return nil, fileError(name, err)
		}
		return data, nil
	}
	return nil, nil
}

// beside returns a path that is relative to a folder.
func beside(dir, path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(dir, path)
}
