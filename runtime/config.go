package runtime

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"time"

	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/engine"
	"github.com/proa-io/proa/mesh/discovery"
	"github.com/proa-io/proa/mesh/http1"
	"github.com/proa-io/proa/resource"
)

// Config is everything that a sidecar is told from outside of its resources.
type Config struct {
	// AppID identifies the application; required.
	AppID string
	// Namespace groups applications; "default" when empty.
	Namespace string
	// Mode is "standalone"; other modes are refused.
	Mode string

	// AppPort is where the application listens; 0 when it does not.
	AppPort int
	// AppProtocol is http, https, h2c, grpc or grpcs; http when empty.
	AppProtocol string
	// AppAddress is the host of the application; 127.0.0.1 when empty.
	AppAddress string
	// AppMaxConcurrency bounds the requests to the application at once; no
	// bound when not positive.
	AppMaxConcurrency int
	// AppHealth configures the health checks of the application.
	AppHealth AppHealth
	// BindingProbeTimeout bounds the question whether the application takes
	// the events of a binding; 3 s when zero.
	BindingProbeTimeout time.Duration
	// DisableInitEndpoints names what is not asked of the application at the
	// start: "config", "subscribe".
	DisableInitEndpoints []string

	// HTTPPort, GRPCPort and InternalPort are where the sidecar listens; 0 for
	// any free port.
	HTTPPort, GRPCPort, InternalPort int
	// Locality is where this process runs, as callers see who prefer what is
	// near, and as it sees others.
	Locality discovery.Locality
	// Labels say what this instance is, such as version: v2, for callers that
	// choose by that.
	Labels map[string]string
	// PublicPort serves only health and metadata, on all interfaces; 0 for
	// none.
	PublicPort int
	// ListenAddresses are the hosts of the API ports; loopback when empty.
	ListenAddresses []string
	// InternalListenAddress is the host that other sidecars call; loopback
	// when empty and the engine is embedded, else all interfaces.
	InternalListenAddress string
	// PublicListenAddress is the host of the public port; all when empty.
	PublicListenAddress string
	// UnixDomainSocket is a folder for sockets instead of API ports.
	UnixDomainSocket string
	// HostAddress is what other hosts reach this one by; found out when empty.
	HostAddress string

	// ResourcesPaths and ConfigPaths are files and folders of resources.
	ResourcesPaths, ConfigPaths []string

	// MaxBodySize bounds the content of an API request, in bytes; 4 MiB when
	// zero, no bound when negative. It does not apply to invocations.
	MaxBodySize int64
	// ReadBufferSize bounds the head of a request, to the API and from there
	// to other sidecars and the application, in bytes. Less than 64 KiB is
	// raised to that; the most is 16 MiB.
	ReadBufferSize int64
	// AllowedOrigins are the origins that browsers may call from; none when
	// empty.
	AllowedOrigins string
	// APIToken is what callers of the API must present; none when not set.
	APIToken component.Secret
	// AppAPIToken is presented to the application.
	AppAPIToken component.Secret

	// Forwards are local TCP ports that lead to ports of other applications.
	Forwards []Forward

	// MTLS is one of the MTLS modes; when empty, the Configuration decides, and
	// it is MTLSOff when that does not either. Identity says who this sidecar is.
	MTLS     string
	Identity Identity

	// Grace bounds the time from the order to stop to the end; 5 s when zero.
	// Events under way may take half of it where the application has to stop
	// too, and nearly all of it where that is somebody else's business.
	Grace time.Duration
	// NoDefaultComponents leaves out the components that exist without being
	// declared.
	NoDefaultComponents bool

	// BlockShutdown keeps everything going for so long after the order to
	// stop, or until the application is gone.
	BlockShutdown time.Duration

	// MetricsPort serves metrics; 0 for any free port, negative for none.
	MetricsPort          int
	MetricsListenAddress string
	// ProfilePort serves profiles on loopback; 0 for none.
	ProfilePort int
	// AccessLog is where every request to the API and from other sidecars is
	// written down: "stdout", "off" or the path of a file; a Configuration says so when it
	// is empty.
	AccessLog string
	// LogAPI says whether every API request is logged; a Configuration does
	// when it is nil.
	LogAPI *bool

	// Engine configures the engine. Its Name and Log are filled in.
	Engine engine.Options

	// Process, if set, is the application: it runs while the API is served,
	// is told to stop once it gets no more events, by StopBy at the latest,
	// and when it returns by itself everything stops.
	Process func(ctx context.Context) error
	// OnListening, if set, is called by Run before anything else.
	OnListening func(Addresses)
	// OnReload, if set, is told what came of each change of the resources. It
	// must not block.
	OnReload func(Reload)
	// ReloadReconcile is how often the resources are read again whether or not
	// a change was noticed; 60 s when zero. ReloadSettle is how long files must
	// stay as they are before a change is read; 100 ms when zero.
	ReloadReconcile, ReloadSettle time.Duration
	// SecretReread is how often the secrets that components refer to are read
	// again where their store cannot tell of changes; 60 s when zero. When it is
	// negative, changes are not looked for at all.
	SecretReread time.Duration

	// Version is what the sidecar says it is.
	Version string
	Log     *slog.Logger
}

// Addresses tells where a process can be reached, and what it stands on.
type Addresses struct {
	// HTTPPort and GRPCPort are those of the API; 0 when it has sockets.
	HTTPPort, GRPCPort int
	InternalPort       int
	MetricsPort        int // 0 for none
	// Forwards are the addresses of Config.Forwards.
	Forwards []string
	// Engine describes the engine; Components lists "name (type)".
	Engine     string
	Components []string
}

// AppHealth configures the health checks of the application.
type AppHealth struct {
	Enabled   bool
	Path      string        // "/healthz" when empty
	Interval  time.Duration // 5 s when zero
	Timeout   time.Duration // 500 ms when zero
	Threshold int           // failures in a row; 3 when zero
}

// withDefaults fills in what is empty and refuses what can never work.
func (c Config) withDefaults() (Config, error) {
	if err := checkAppID(c.AppID); err != nil {
		return c, err
	}
	if c.Mode != "" && c.Mode != "standalone" {
		return c, fmt.Errorf(`mode %q is not supported; there is "standalone"`, c.Mode)
	}
	switch c.AppProtocol {
	case "":
		c.AppProtocol = "http"
	case "http", "https", "h2c", "grpc", "grpcs":
	default:
		return c, fmt.Errorf("app protocol %q is not known; there is http, https, h2c, grpc, grpcs", c.AppProtocol)
	}
	for name, port := range map[string]int{
		"app": c.AppPort, "HTTP": c.HTTPPort, "gRPC": c.GRPCPort, "internal": c.InternalPort, "public": c.PublicPort, "profile": c.ProfilePort,
	} {
		if port < 0 || port > 65535 {
			return c, fmt.Errorf("%s port %d is none; ports are 1 to 65535", name, port)
		}
	}
	if c.ReadBufferSize > mostHead {
		return c, fmt.Errorf("the read buffer size of %d bytes is too large; the most is %d", c.ReadBufferSize, mostHead)
	}
	for _, name := range c.DisableInitEndpoints {
		if name != "config" && name != "subscribe" {
			return c, fmt.Errorf(`init endpoint %q is not known; there is "config" and "subscribe"`, name)
		}
	}
	defaulted(&c.Namespace, "default")
	defaulted(&c.AppAddress, "127.0.0.1")
	defaulted(&c.BindingProbeTimeout, 3*time.Second)
	defaulted(&c.MaxBodySize, 4<<20)
	defaulted(&c.Grace, 5*time.Second)
	defaulted(&c.AppHealth.Path, "/healthz")
	defaulted(&c.AppHealth.Interval, 5*time.Second)
	defaulted(&c.AppHealth.Timeout, 500*time.Millisecond)
	defaulted(&c.AppHealth.Threshold, 3)
	defaulted(&c.Version, "dev")
	if len(c.ListenAddresses) == 0 {
		c.ListenAddresses = []string{"127.0.0.1"}
	}
	if c.InternalListenAddress == "" {
		c.InternalListenAddress = "127.0.0.1"
		if c.Engine.URL != "" {
			c.InternalListenAddress = "0.0.0.0"
		}
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c, nil
}

// mostHead bounds Config.ReadBufferSize.
const mostHead = 16 << 20

// maxHead bounds the head of a request, in bytes.
func (c *Config) maxHead() int { return int(max(c.ReadBufferSize, http1.DefaultMaxHead)) }

func defaulted[T comparable](p *T, v T) {
	var zero T
	if *p == zero {
		*p = v
	}
}

// deliveryGrace is how long deliveries under way may go on after the order to
// stop.
func (c *Config) deliveryGrace() time.Duration {
	if c.Process != nil {
		return c.Grace / 2
	}
	return c.Grace - c.Grace/10
}

func checkAppID(id string) error {
	if id == "" {
		return fmt.Errorf("the application has no id: give --app-id")
	}
	if strings.ContainsAny(id, ".|/ \t\n") || len(id) > 128 {
		return fmt.Errorf("app id %q cannot be used: it has a dot, a slash, a bar or a blank, or more than 128 characters", id)
	}
	return nil
}

func (c *Config) identity() resource.Identity {
	return resource.Identity{AppID: c.AppID, Namespace: c.Namespace, PodName: os.Getenv("POD_NAME")}
}

// advertised returns the host by which other sidecars reach this one.
func (c *Config) advertised() string {
	if ip := net.ParseIP(c.InternalListenAddress); ip != nil && !ip.IsUnspecified() {
		return c.InternalListenAddress
	}
	if c.HostAddress != "" {
		return c.HostAddress
	}
	// The source address of the default route, without sending anything.
	if conn, err := net.Dial("udp", "192.0.2.1:9"); err == nil {
		defer conn.Close()
		if a, ok := conn.LocalAddr().(*net.UDPAddr); ok && !a.IP.IsUnspecified() {
			return a.IP.String()
		}
	}
	return "127.0.0.1"
}
