// Package consul finds applications in the catalog of HashiCorp Consul, and
// announces them there. It speaks the HTTP API of an agent itself: five requests,
// for which the official client would bring many packages.
package consul

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/mesh/discovery"
)

// Specs lists what this package offers.
func Specs() []component.Spec {
	return []component.Spec{
		discovery.Spec(component.Description{
			Name: "consul", Aliases: []string{"hashicorp.consul"},
			Summary: "Finds applications in Consul by blocking queries and, if selfRegister is on, announces this one there.",
		}, defaults(), Open),
	}
}

// Nanos is a duration that reads "10s", and a bare number as nanoseconds, as the
// settings of Dapr's component do.
type Nanos time.Duration

// UnmarshalText implements encoding.TextUnmarshaler.
func (n *Nanos) UnmarshalText(text []byte) error {
	if v, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64); err == nil {
		*n = Nanos(v)
		return nil
	}
	v, err := time.ParseDuration(strings.TrimSpace(string(text)))
	if err != nil {
		return errors.New(`wants a duration such as "10s"`)
	}
	*n = Nanos(v)
	return nil
}

// String formats n as time.Duration does.
func (n Nanos) String() string { return time.Duration(n).String() }

// Checks are checks of a service, as the HTTP API of Consul has them.
type Checks []map[string]any

// UnmarshalText implements encoding.TextUnmarshaler.
func (c *Checks) UnmarshalText(text []byte) error {
	if json.Unmarshal(text, (*[]map[string]any)(c)) != nil {
		return errors.New("wants a list of checks")
	}
	return nil
}

// Registration is a service, as the HTTP API of Consul has it.
type Registration map[string]any

// UnmarshalText implements encoding.TextUnmarshaler.
func (r *Registration) UnmarshalText(text []byte) error {
	if json.Unmarshal(text, (*map[string]any)(r)) != nil {
		return errors.New("wants the fields of a service")
	}
	return nil
}

func checkFields() []string {
	return []string{
		"Args", "CheckID", "Name", "DockerContainerID", "Shell", "Interval", "Timeout", "TTL", "HTTP", "Header", "Method", "Body", "TCP", "UDP", "Status",
		"Notes", "TLSSkipVerify", "TLSServerName", "GRPC", "GRPCUseTLS", "AliasNode", "AliasService", "SuccessBeforePassing",
		"FailuresBeforeCritical", "FailuresBeforeWarning", "DeregisterCriticalServiceAfter", "H2PING", "H2PingUseTLS",
	}
}

func serviceFields() []string {
	return []string{
		"Kind", "ID", "Name", "Tags", "Port", "Address", "TaggedAddresses", "EnableTagOverride", "Meta", "Weights", "Check", "Checks", "Proxy", "Connect",
		"SocketPath", "Namespace", "Partition",
	}
}

// known refuses a field that Consul does not have, and writes the others as it
// does: Consul, like Dapr, does not care for case.
func known(fields map[string]any, names []string) error {
	for name, value := range fields {
		i := slices.IndexFunc(names, func(n string) bool { return strings.EqualFold(n, name) })
		if i < 0 {
			problem := "has no field " + strconv.Quote(name)
			if near := component.Nearest(name, names); near != "" {
				problem += "; did you mean " + strconv.Quote(near) + "?"
			}
			return errors.New(problem)
		}
		if names[i] != name {
			delete(fields, name)
			fields[names[i]] = value
		}
	}
	return nil
}

// Config says how to reach Consul, what to ask and what to announce. Settings
// "client.*" and "queryOptions.*" stand in objects of these names; case does not
// count.
//
// The name of a service is the id of an application, and its metadata says under
// daprPortMetaKey where its sidecar takes calls; one without that is passed over.
// A service that is critical is not used; one that is in the state warning only
// if too few others are left. The other metadata of a service, and its tags,
// are labels: the tag "a=b" is the label a with the value b, any other tag is
// a label with the value "true".
type Config struct {
	// Address of the agent, "host:port" or "unix:///path". The environment
	// variable CONSUL_HTTP_ADDR, or else 127.0.0.1:8500, when empty.
	Address string `setting:"client.address,address"`
	// Scheme is http or https.
	Scheme string `setting:"client.scheme,scheme"`
	// Datacenter in which applications are announced and, unless
	// queryOptions.datacenter says otherwise, found; the agent's when empty.
	Datacenter string `setting:"client.datacenter,datacenter"`
	// Username for an HTTP proxy before the agent.
	Username string `setting:"client.httpAuth.username,username"`
	// Password of the user.
	Password component.Secret `setting:"client.httpAuth.password,password"`
	// WaitTime is how long a question may wait for news, unless
	// queryOptions.waitTime says otherwise.
	WaitTime Nanos `setting:"client.waitTime,waitTime"`
	// Token is the ACL token. The environment variable CONSUL_HTTP_TOKEN when
	// empty.
	Token component.Secret `setting:"client.token,token"`
	// TokenFile holds the ACL token, in place of Token.
	TokenFile string `setting:"client.tokenFile,tokenFile"`
	// TLSAddress is the name that the certificate of the agent is to have.
	TLSAddress string `setting:"client.tlsConfig.address,tlsAddress"`
	// CAFile holds the certificates (PEM) that may sign the agent's.
	CAFile string `setting:"client.tlsConfig.caFile,caFile"`
	// CAPath is a folder of such files.
	CAPath string `setting:"client.tlsConfig.caPath,caPath"`
	// CertFile is the certificate (PEM) to show.
	CertFile string `setting:"client.tlsConfig.certFile,certFile"`
	// KeyFile is the key (PEM) of CertFile.
	KeyFile string `setting:"client.tlsConfig.keyFile,keyFile"`
	// InsecureSkipVerify trusts any agent.
	InsecureSkipVerify bool `setting:"client.tlsConfig.insecureSkipVerify,insecureSkipVerify"`

	// SelfRegister announces this application. Without it somebody else does.
	SelfRegister bool `setting:"selfRegister"`
	// SelfDeregister set to false leaves the service in Consul when this sidecar
	// stops, where it becomes critical; otherwise it is withdrawn.
	SelfDeregister *bool `setting:"selfDeregister"`
	// DaprPortMetaKey is under which name the metadata of a service has the port
	// of its sidecar.
	DaprPortMetaKey string `setting:"daprPortMetaKey"`
	// Checks of the announced service, as the HTTP API has them. Without any,
	// the sidecar itself says every three seconds that it is there (a check of
	// type TTL).
	Checks Checks `setting:"checks"`
	// Tags of the announced service.
	Tags []string `setting:"tags"`
	// Meta is metadata of the announced service.
	Meta map[string]string `setting:"meta"`
	// AdvancedRegistration is the whole service to announce, as the HTTP API has
	// it; checks, tags, meta and selfRegister do not count then.
	AdvancedRegistration Registration `setting:"advancedRegistration"`
	// UseCache answers from the agent's cache.
	UseCache bool `setting:"useCache,queryOptions.useCache"`

	// QueryDatacenter is the datacenter in which applications are found.
	QueryDatacenter string `setting:"queryOptions.datacenter,queryDatacenter"`
	// QueryNamespace is the namespace of Consul Enterprise.
	QueryNamespace string `setting:"queryOptions.namespace,namespace"`
	// QueryPartition is the partition of Consul Enterprise.
	QueryPartition string `setting:"queryOptions.partition,partition"`
	// QueryToken is the ACL token of questions, if it is another one.
	QueryToken component.Secret `setting:"queryOptions.token,queryToken"`
	// QueryWaitTime is how long a question may wait for news.
	QueryWaitTime Nanos `setting:"queryOptions.waitTime,queryWaitTime"`
	// AllowStale lets any server answer, not the leader alone.
	AllowStale bool `setting:"queryOptions.allowStale,allowStale"`
	// RequireConsistent makes the leader make sure that it is one.
	RequireConsistent bool `setting:"queryOptions.requireConsistent,requireConsistent"`
	// Near sorts by distance from a node, which has no effect here but for the
	// agent's work.
	Near string `setting:"queryOptions.near"`
	// Filter is an expression that services must match.
	Filter string `setting:"queryOptions.filter"`
	// NodeMeta is metadata that nodes of services must have.
	NodeMeta map[string]string `setting:"queryOptions.nodeMeta"`
	// MaxAge is how old an answer from the agent's cache may be.
	MaxAge Nanos `setting:"queryOptions.maxAge"`
	// StaleIfError is how old such an answer may be while servers cannot be
	// reached.
	StaleIfError Nanos `setting:"queryOptions.staleIfError"`
	// Connect would ask for services of Consul's own mesh, which is not
	// supported.
	Connect bool `setting:"queryOptions.connect"`
	// LocalOnly would ask the agent alone, which is not supported.
	LocalOnly bool `setting:"queryOptions.localOnly"`
}

func defaults() Config {
	return Config{Scheme: "http", DaprPortMetaKey: "DAPR_PORT", WaitTime: Nanos(time.Minute)}
}

// Validate reports settings that can never work.
func (c Config) Validate() error {
	switch {
	case c.Scheme != "http" && c.Scheme != "https":
		return component.Invalid("client.scheme", "wants http or https, not %q", c.Scheme)
	case c.DaprPortMetaKey == "":
		return component.Invalid("daprPortMetaKey", "must not be empty")
	case c.AllowStale && c.RequireConsistent:
		return component.Invalid("queryOptions.requireConsistent", "is the opposite of allowStale")
	case c.Connect:
		return component.Invalid("queryOptions.connect", "is not supported: sidecars have their own mutual TLS")
	case c.LocalOnly:
		return component.Invalid("queryOptions.localOnly", "is not supported")
	case c.wait() < time.Second || c.wait() > 10*time.Minute:
		return component.Invalid("client.waitTime", "wants 1s to 10m, not %v (a bare number is one of nanoseconds)", c.wait())
	case (c.CertFile == "") != (c.KeyFile == ""):
		return component.Invalid("client.tlsConfig.certFile", "and keyFile must be given together")
	}
	for i, check := range c.Checks {
		if err := known(check, checkFields()); err != nil {
			return component.Invalid("checks", "check %d %v", i+1, err)
		}
	}
	if err := known(c.AdvancedRegistration, serviceFields()); err != nil {
		return component.Invalid("advancedRegistration", "%v", err)
	}
	return nil
}

func (c Config) wait() time.Duration {
	if c.QueryWaitTime > 0 {
		return time.Duration(c.QueryWaitTime)
	}
	return time.Duration(c.WaitTime)
}

// tls returns how to encrypt.
func (c Config) tls(env component.Env) (*tls.Config, error) {
	out := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: c.TLSAddress, InsecureSkipVerify: c.InsecureSkipVerify} //nolint:gosec // only if the user says so
	if c.TLSAddress != "" {
		if host, _, ok := strings.Cut(c.TLSAddress, ":"); ok {
			out.ServerName = host
		}
	}
	files := []string{}
	if c.CAFile != "" {
		files = append(files, env.Locate(c.CAFile))
	}
	if c.CAPath != "" {
		more, err := filepath.Glob(filepath.Join(env.Locate(c.CAPath), "*"))
		if err != nil || len(more) == 0 {
			return nil, component.Invalid("client.tlsConfig.caPath", "has no files")
		}
		files = append(files, more...)
	}
	for _, file := range files {
		pem, err := os.ReadFile(file)
		if err != nil {
			return nil, component.Invalid("client.tlsConfig.caFile", "cannot be read: %v", err)
		}
		if out.RootCAs == nil {
			out.RootCAs = x509.NewCertPool()
		}
		if !out.RootCAs.AppendCertsFromPEM(pem) {
			return nil, component.Invalid("client.tlsConfig.caFile", "%s has no certificate in PEM", file)
		}
	}
	if c.CertFile != "" {
		cert, err := tls.LoadX509KeyPair(env.Locate(c.CertFile), env.Locate(c.KeyFile))
		if err != nil {
			return nil, component.Invalid("client.tlsConfig.certFile", "cannot be used: %v", err)
		}
		out.Certificates = []tls.Certificate{cert}
	}
	return out, nil
}
