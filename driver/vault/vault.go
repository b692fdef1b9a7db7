// Package vault reads secrets from HashiCorp Vault and from OpenBao, which
// speaks the same protocol: engines of type KV, version 2.
//
// It speaks HTTP itself. What it needs are three requests; the client library
// would bring fifteen packages with it.
package vault

import (
	"net/http"
	"net/url"
	"strings"

	"github.com/proa-io/proa/block/secret"
	"github.com/proa-io/proa/component"
)

// Specs lists what this package offers to the building blocks.
func Specs() []component.Spec {
	return []component.Spec{
		secret.Spec(component.Description{
			Name:    "hashicorp.vault",
			Summary: "Reads secrets from a KV engine, version 2, of HashiCorp Vault or OpenBao.",
		}, defaults(), Open),
	}
}

// Config configures a store of secrets in Vault.
//
// The secret "a/b" is what Vault has at the path ENGINE/PREFIX/a/b. The metadata
// of a read may have "version_id", the number of an older version.
type Config struct {
	// VaultAddr is the address of the server.
	VaultAddr string `setting:"vaultAddr"`
	// CAPem holds the certificates (PEM) of the authorities that may sign the
	// server's. It wins over caPath, and that over caCert; without any of them
	// they are the system's.
	CAPem string `setting:"caPem"`
	// CAPath is the path of a folder of files with such certificates.
	CAPath string `setting:"caPath"`
	// CACert is the path of a file with such certificates.
	CACert string `setting:"caCert"`
	// SkipVerify does not verify the server. For tests only.
	SkipVerify bool `setting:"skipVerify"`
	// TLSServerName is the name that the server's certificate must have, and
	// that is asked for; that of vaultAddr when empty.
	TLSServerName string `setting:"tlsServerName"`

	// VaultToken authenticates with the server. It, VaultTokenMountPath and
	// VaultKubernetesRole are three ways of which one must be used.
	VaultToken component.Secret `setting:"vaultToken"`
	// VaultTokenMountPath is the path of a file with the token, which is read
	// again when it changes.
	VaultTokenMountPath string `setting:"vaultTokenMountPath"`
	// VaultKubernetesRole is the role to log in to by the Kubernetes auth
	// method, with the token of the pod's service account.
	VaultKubernetesRole string `setting:"vaultKubernetesRole"`
	// VaultKubernetesMountPath is where that auth method is mounted.
	VaultKubernetesMountPath string `setting:"vaultKubernetesMountPath"`
	// VaultServiceAccountTokenPath is the path of the file with the token of the
	// service account.
	VaultServiceAccountTokenPath string `setting:"vaultServiceAccountTokenPath"`
	// VaultNamespace is the namespace of Vault Enterprise that the engine is
	// in; empty for the root namespace.
	VaultNamespace string `setting:"vaultNamespace"`

	// EnginePath is where the engine is mounted.
	EnginePath string `setting:"enginePath"`
	// VaultKVPrefix is the path under which the secrets are. The application
	// cannot leave it.
	VaultKVPrefix string `setting:"vaultKVPrefix"`
	// VaultKVUsePrefix puts vaultKVPrefix before the names of secrets.
	VaultKVUsePrefix bool `setting:"vaultKVUsePrefix"`
	// VaultValueType is what a secret is: "map", as many values as it has keys
	// in Vault, or "text", one value, the JSON text of all that Vault has,
	// whose key is the name of the secret.
	VaultValueType string `setting:"vaultValueType"`
}

// Kinds of Config.VaultValueType.
const (
	typeMap  = "map"
	typeText = "text"
)

func defaults() Config {
	return Config{
		VaultAddr: "https://127.0.0.1:8200", EnginePath: "secret", VaultKVPrefix: "dapr", VaultKVUsePrefix: true, VaultValueType: typeMap,
		VaultKubernetesMountPath:     "kubernetes",
		VaultServiceAccountTokenPath: "/var/run/secrets/kubernetes.io/serviceaccount/token",
	}
}

// Validate reports settings that can never work.
func (c Config) Validate() error {
	ways := 0
	for _, set := range []bool{c.VaultToken.IsSet(), c.VaultTokenMountPath != "", c.VaultKubernetesRole != ""} {
		if set {
			ways++
		}
	}
	u, err := url.Parse(c.VaultAddr)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https":
		return component.Invalid("vaultAddr", `wants a URL such as "https://host:8200"`)
	case u.RawQuery != "" || u.Fragment != "" || u.User != nil:
		return component.Invalid("vaultAddr", "must have no user, query or fragment")
	case ways != 1:
		return component.Invalid("vaultToken", "vaultToken, vaultTokenMountPath and vaultKubernetesRole are three ways to authenticate, of which exactly one must be used")
	case !validHeader(c.VaultToken.Reveal()):
		return component.Invalid("vaultToken", "holds characters that no token has, such as a line break")
	case c.VaultValueType != typeMap && c.VaultValueType != typeText:
		return component.Invalid("vaultValueType", "wants %q or %q", typeMap, typeText)
	case strings.Trim(c.EnginePath, "/") == "" || !validPath(strings.Trim(c.EnginePath, "/")):
		return component.Invalid("enginePath", `wants the path of a KV engine, such as "secret"`)
	case c.prefix() != "" && !validPath(c.prefix()):
		return component.Invalid("vaultKVPrefix", `wants a path such as "dapr" or "team/app"`)
	case !validHeader(c.VaultNamespace):
		return component.Invalid("vaultNamespace", "holds characters that no namespace has")
	}
	return nil
}

// prefix returns the path under which the secrets are, or "".
func (c Config) prefix() string {
	switch {
	case !c.VaultKVUsePrefix:
		return ""
	case c.VaultKVPrefix == "":
		return "dapr"
	}
	return strings.Trim(c.VaultKVPrefix, "/")
}

// validPath reports whether every part of a path can be the name of something in
// Vault.
func validPath(path string) bool {
	for part := range strings.SplitSeq(path, "/") {
		if part == "" || part == "." || part == ".." || strings.ContainsFunc(part, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			return false
		}
	}
	return true
}

func validHeader(value string) bool {
	return !strings.ContainsFunc(value, func(r rune) bool { return r < ' ' || r == 0x7f })
}

// escaped returns a path for a URL.
func escaped(path string) string {
	parts := strings.Split(path, "/")
	for i, part := range parts {
		parts[i] = url.PathEscape(part)
	}
	return strings.Join(parts, "/")
}

// Headers of Vault.
const (
	headerToken     = "X-Vault-Token"
	headerRequest   = "X-Vault-Request" // keeps agents from being used by web pages
	headerNamespace = "X-Vault-Namespace"
)

// methodList lists what is at a path.
const methodList = "LIST"

// redirect lets a request be sent on to another server of the cluster, but never
// in clear: the token goes with it.
func redirect(next *http.Request, past []*http.Request) error {
	if len(past) > 2 || past[0].URL.Scheme == "https" && next.URL.Scheme != "https" {
		return http.ErrUseLastResponse
	}
	return nil
}
