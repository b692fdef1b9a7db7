// Package redis keeps the promises of the building blocks on Redis, Valkey and
// other servers that speak its protocol: a single node, a cluster, or a primary
// watched by sentinels.
package redis

import (
	"crypto/tls"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/proa-io/proa/block/binding"
	"github.com/proa-io/proa/block/config"
	"github.com/proa-io/proa/block/lock"
	"github.com/proa-io/proa/block/pubsub"
	"github.com/proa-io/proa/block/ratelimit"
	"github.com/proa-io/proa/block/state"
	"github.com/proa-io/proa/component"
)

// Specs lists what this package offers to the building blocks.
func Specs() []component.Spec {
	return []component.Spec{
		binding.OutputSpec(component.Description{
			Name:    "redis",
			Summary: "Sets, reads, deletes and counts up strings in Redis.",
		}, BindingConfig{Config: defaults()}, OpenBinding),
		state.Spec(component.Description{
			Name:    "redis",
			Summary: "Keeps items in Redis hashes, in the format that Dapr's component of the same name reads and writes.",
		}, StateConfig{Config: defaults()}, OpenState),
		lock.Spec(component.Description{
			Name:    "redis",
			Summary: "Keeps locks on a Redis server, in the format that Dapr's component of the same name reads and writes.",
		}, LockConfig{Config: defaults()}, OpenLock),
		config.Spec(component.Description{
			Name:    "redis",
			Summary: "Reads configuration items from Redis strings, in the format that Dapr's component of the same name reads.",
		}, ConfigConfig{Config: defaults(), PollInterval: defaultPollInterval}, OpenConfig),
		ratelimit.Spec(component.Description{
			Name:    "redis",
			Summary: "Keeps the token buckets of rate limits on Redis, for all sidecars that use the same.",
		}, RateLimitConfig{Config: defaults(), KeyPrefix: "ratelimit||"}, OpenRateLimit),
		pubsub.Spec(component.Description{
			Name:    "redis",
			Summary: "Keeps messages in Redis streams with consumer groups, in the format that Dapr's component of the same name reads and writes.",
		}, pubSubDefaults(), OpenPubSub),
	}
}

// Config says how to reach Redis. It is the same for all blocks.
type Config struct {
	// Host is "host:port" of the server, "redis.example:6379". For a cluster
	// it may be a list of some of its nodes, and with failover the list of the
	// sentinels, separated by commas. The port is 6379 unless given.
	Host string `setting:"redisHost,required"`
	// Port is the port of every host that has none.
	Port int `setting:"redisPort"`
	// Username is the ACL user; empty for the default one.
	Username string `setting:"redisUsername"`
	// Password of the user.
	Password component.Secret `setting:"redisPassword"`
	// DB is the number of the database. A cluster has only 0.
	DB int `setting:"redisDB"`
	// Type is "node" for one server or "cluster".
	Type string `setting:"redisType"`

	// Failover makes redisHost the sentinels, which are asked for the primary
	// called sentinelMasterName.
	Failover bool `setting:"failover"`
	// SentinelMasterName is what the sentinels call the primary.
	SentinelMasterName string `setting:"sentinelMasterName"`
	// SentinelUsername is the ACL user on the sentinels.
	SentinelUsername string `setting:"sentinelUsername"`
	// SentinelPassword of that user.
	SentinelPassword component.Secret `setting:"sentinelPassword"`

	// EnableTLS encrypts the connections and verifies the server.
	EnableTLS bool `setting:"enableTLS"`
	// InsecureSkipTLSVerify does not verify the server. For tests only.
	InsecureSkipTLSVerify bool `setting:"insecureSkipTLSVerify"`
	// ClientCert is the certificate (PEM) that the client shows.
	ClientCert component.Secret `setting:"clientCert"`
	// ClientKey is the key (PEM) of ClientCert.
	ClientKey component.Secret `setting:"clientKey"`

	// DialTimeout bounds connecting, the handshake included.
	DialTimeout component.Millis `setting:"dialTimeout"`
	// ReadTimeout is how long a connection may owe an answer before it counts
	// as broken. How long a single call waits is for its caller to say.
	ReadTimeout component.Millis `setting:"readTimeout"`

	NotOffered
	Ignored
}

// NotOffered are settings that are known and refused.
type NotOffered struct {
	// UseEntraID is refused: give a user and a password.
	UseEntraID bool `setting:"useEntraID,useAzureAD"`
	// UseOIDC is refused, like useEntraID.
	UseOIDC bool `setting:"useOIDC"`
}

// Validate refuses what is not offered.
func (c NotOffered) Validate() error {
	switch {
	case c.UseEntraID:
		return component.Invalid("useEntraID", "is not supported: give redisUsername and redisPassword")
	case c.UseOIDC:
		return component.Invalid("useOIDC", "is not supported: give redisUsername and redisPassword")
	}
	return nil
}

// Ignored are settings accepted for compatibility.
type Ignored struct {
	// MaxRetries has no effect because drivers do not retry: Resiliency does.
	MaxRetries string `setting:"redisMaxRetries,maxRetries"`
	// MinRetryInterval has no effect, like redisMaxRetries.
	MinRetryInterval string `setting:"redisMinRetryInterval"`
	// MaxRetryInterval has no effect, like redisMaxRetries.
	MaxRetryInterval string `setting:"redisMaxRetryInterval,maxRetryBackoff"`
	// WriteTimeout has no effect because writes never wait for their turn:
	// readTimeout covers a server that takes nothing.
	WriteTimeout string `setting:"writeTimeout"`
	// PoolSize has no effect because all calls share a few connections.
	PoolSize string `setting:"poolSize"`
	// MinIdleConns has no effect, like poolSize.
	MinIdleConns string `setting:"minIdleConns"`
	// PoolTimeout has no effect, like poolSize.
	PoolTimeout string `setting:"poolTimeout"`
	// MaxConnAge has no effect, like poolSize.
	MaxConnAge string `setting:"maxConnAge"`
	// IdleTimeout has no effect, like poolSize.
	IdleTimeout string `setting:"idleTimeout"`
	// IdleCheckFrequency has no effect, like poolSize.
	IdleCheckFrequency string `setting:"idleCheckFrequency"`
}

// Redis kinds of Config.Type.
const (
	typeNode    = "node"
	typeCluster = "cluster"
)

const defaultPort = 6379

func defaults() Config {
	return Config{
		Type:        typeNode,
		DialTimeout: component.Millis(5 * time.Second),
		ReadTimeout: component.Millis(3 * time.Second),
	}
}

// Validate reports settings that can never work.
func (c Config) Validate() error {
	addrs := c.addresses()
	switch {
	case len(addrs) == 0:
		return component.Invalid("redisHost", "wants host:port of the server")
	case c.Type != typeNode && c.Type != typeCluster:
		return component.Invalid("redisType", "wants %q or %q", typeNode, typeCluster)
	case c.Failover && c.Type == typeCluster:
		return component.Invalid("failover", "is for a single node watched by sentinels, not for redisType %q", typeCluster)
	case c.Failover && c.SentinelMasterName == "":
		return component.Invalid("sentinelMasterName", "is required with failover: the name the sentinels give to the primary")
	case len(addrs) > 1 && c.Type == typeNode && !c.Failover:
		return component.Invalid("redisHost", "lists %d servers; that wants redisType %q, or failover for a list of sentinels", len(addrs), typeCluster)
	case c.Type == typeCluster && c.DB != 0:
		return component.Invalid("redisDB", "must be 0: a cluster has no other")
	case c.Port < 0 || c.Port > 65535:
		return component.Invalid("redisPort", "wants a number from 1 to 65535")
	case c.DB < 0:
		return component.Invalid("redisDB", "must not be negative")
	case c.ClientCert.IsSet() != c.ClientKey.IsSet():
		return component.Invalid("clientCert", "clientCert and clientKey go together")
	case c.ClientCert.IsSet() && !c.EnableTLS:
		return component.Invalid("clientCert", "wants enableTLS")
	}
	for _, a := range addrs {
		if _, port, err := net.SplitHostPort(a); err != nil || port == "" {
			return component.Invalid("redisHost", "wants host:port")
		}
	}
	if err := c.NotOffered.Validate(); err != nil {
		return err
	}
	_, err := c.tls()
	return err
}

// addresses returns the hosts, each with a port.
func (c Config) addresses() []string {
	port := c.Port
	if port == 0 {
		port = defaultPort
	}
	var out []string
	for part := range strings.SplitSeq(c.Host, ",") {
		a := strings.TrimSpace(part)
		if a == "" {
			continue
		}
		if _, _, err := net.SplitHostPort(a); err != nil {
			a = net.JoinHostPort(strings.Trim(a, "[]"), strconv.Itoa(port))
		}
		out = append(out, a)
	}
	return slices.Compact(out)
}

// tls returns how to encrypt, or nil.
func (c Config) tls() (*tls.Config, error) {
	if !c.EnableTLS {
		return nil, nil
	}
	cfg := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: c.InsecureSkipTLSVerify} //nolint:gosec // only if the user says so
	if c.ClientCert.IsSet() {
		cert, err := tls.X509KeyPair([]byte(c.ClientCert.Reveal()), []byte(c.ClientKey.Reveal()))
		if err != nil {
			return nil, component.Invalid("clientCert", "clientCert and clientKey are not a PEM certificate and its key")
		}
		cfg.Certificates = []tls.Certificate{cert}
	}
	return cfg, nil
}
