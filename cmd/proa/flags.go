package main

import (
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/engine"
	"github.com/proa-io/proa/runtime"
	"github.com/proa-io/proa/telemetry"
)

// sidecarFlags are daprd's flags, and the few that are ours.
type sidecarFlags struct {
	cfg runtime.Config

	forwards                               []string
	locality                               string
	resources, resourcesAlias, configs     []string
	listenAddresses                        string
	internalPort, httpPort, grpcPort       string
	publicPort, profilePort, metricsPort   string
	maxBodySize, readBufferSize            string
	maxBodyMB, readBufferKB                int
	graceSeconds                           int
	blockShutdown                          time.Duration
	profiling                              bool
	metrics                                bool
	disableInit                            string
	probeInterval, probeTimeout, threshold int
	appSSL, mtls                           bool
	logLevel                               string
	logJSON                                bool
	logAPI                                 bool
	engineURL, home, durability            string
	defaultComponents                      bool
	ignored                                []string
}

// register adds the flags. Those of daprd keep its names and defaults; what
// has no meaning here is accepted, hidden, and said in the log.
func (f *sidecarFlags) register(fs *pflag.FlagSet) {
	c := &f.cfg
	fs.StringVar(&c.AppID, "app-id", "", "id of the application")
	fs.IntVar(&c.AppPort, "app-port", 0, "port the application listens on")
	fs.StringVar(&c.AppProtocol, "app-protocol", "http", "protocol of the application: http, https, h2c, grpc, grpcs")
	fs.StringVar(&c.AppAddress, "app-channel-address", "127.0.0.1", "host of the application")
	fs.IntVar(&c.AppMaxConcurrency, "app-max-concurrency", -1, "requests to the application at once; no bound unless positive")
	fs.StringVar(&f.httpPort, "dapr-http-port", "3500", "port of the HTTP API; 0 for any")
	fs.StringVar(&f.grpcPort, "dapr-grpc-port", "50001", "port of the gRPC API; 0 for any")
	fs.StringVar(&f.internalPort, "dapr-internal-grpc-port", "0", "port for other sidecars; 0 for any")
	fs.StringVar(&f.listenAddresses, "dapr-listen-addresses", "", "addresses of the API ports, separated by commas; loopback by default")
	fs.StringVar(&c.InternalListenAddress, "dapr-internal-grpc-listen-address", "", "address for other sidecars")
	fs.StringVar(&f.publicPort, "dapr-public-port", "", "port that serves only health and metadata")
	fs.StringVar(&c.PublicListenAddress, "dapr-public-listen-address", "", "address of the public port")
	fs.StringVar(&c.UnixDomainSocket, "unix-domain-socket", "", "folder for API sockets instead of ports")
	fs.StringSliceVar(&f.resources, "resources-path", nil, "file or folder of resources; may repeat")
	fs.StringSliceVar(&f.resourcesAlias, "components-path", nil, "older name of --resources-path")
	fs.StringSliceVar(&f.configs, "config", nil, "file of kind Configuration; may repeat")
	fs.StringVar(&f.maxBodySize, "max-body-size", "4Mi", "largest body of an API request")
	fs.StringVar(&f.readBufferSize, "read-buffer-size", "4Ki", "largest head of an API request")
	fs.IntVar(&f.maxBodyMB, "dapr-http-max-request-size", 0, "older form of --max-body-size, in MB")
	fs.IntVar(&f.readBufferKB, "dapr-http-read-buffer-size", 0, "older form of --read-buffer-size, in KB")
	fs.IntVar(&f.graceSeconds, "dapr-graceful-shutdown-seconds", 5, "seconds to stop within")
	fs.DurationVar(&f.blockShutdown, "dapr-block-shutdown-duration", 0, "keep going for so long after the order to stop")
	fs.BoolVar(&f.logAPI, "enable-api-logging", false, "log every API request; when it is not given, a Configuration says so")
	fs.StringVar(&c.AllowedOrigins, "allowed-origins", "", "origins that browsers may call from")
	fs.BoolVar(&c.AppHealth.Enabled, "enable-app-health-check", false, "check the application's health")
	fs.StringVar(&c.AppHealth.Path, "app-health-check-path", "/healthz", "path of the health check")
	fs.IntVar(&f.probeInterval, "app-health-probe-interval", 5, "seconds between health checks")
	fs.IntVar(&f.probeTimeout, "app-health-probe-timeout", 500, "milliseconds a health check may take")
	fs.IntVar(&f.threshold, "app-health-threshold", 3, "failed checks in a row until the application is unhealthy")
	fs.DurationVar(&c.BindingProbeTimeout, "app-binding-options-timeout", 3*time.Second, "bound of the question whether the application takes a binding's events")
	fs.StringVar(&f.disableInit, "disable-init-endpoints", "", `what is not asked of the application at the start: "config", "subscribe"`)
	fs.BoolVar(&f.profiling, "enable-profiling", false, "serve profiles on --profile-port")
	fs.StringVar(&f.profilePort, "profile-port", "7777", "port of profiles")
	fs.BoolVar(&f.metrics, "enable-metrics", true, "serve metrics on --metrics-port")
	fs.StringVar(&f.metricsPort, "metrics-port", "9090", "port of metrics; 0 for any")
	fs.StringVar(&c.MetricsListenAddress, "metrics-listen-address", "127.0.0.1", "address of metrics")
	fs.DurationVar(&c.ReloadReconcile, "hot-reload-reconcile-interval", time.Minute, "how often resources are read again whether or not a change was noticed")
	fs.DurationVar(&c.SecretReread, "secret-reread-interval", time.Minute, "how often secrets that components refer to are read again, where their store cannot tell of changes; negative for never")
	fs.StringVar(&f.logLevel, "log-level", "info", "debug, info, warn or error")
	fs.BoolVar(&f.logJSON, "log-as-json", false, "log in JSON")
	fs.StringVar(&c.AccessLog, "access-log", "", "where each request is written down, a line of JSON each: off, stdout, or a file that is appended to; off by default, unless the Configuration says otherwise")
	fs.StringVar(&c.Mode, "mode", "standalone", "standalone")
	fs.BoolVar(&f.appSSL, "app-ssl", false, "older form of --app-protocol https or grpcs")

	fs.StringArrayVar(&f.forwards, "tcp-forward", nil, "local TCP port that leads to a port of another application, 127.0.0.1:5432=orders or 5432=orders:6432; may be given more than once")

	fs.StringVar(&f.locality, "locality", os.Getenv("PROA_LOCALITY"), "where this instance is, region/zone/subzone, for callers that prefer what is near; $PROA_LOCALITY by default")
	fs.StringToStringVar(&c.Labels, "instance-label", nil, "what this instance is, version=v2, for callers that choose by that; may be given more than once")
	fs.StringVar(&c.MTLS, "mtls", "", "mutual TLS between sidecars: off, permissive (plain text too, for the time of a change) or strict; off by default, unless the Configuration enables it")
	fs.StringVar(&c.Identity.Certificate, "identity-cert", "", "certificate (an X.509-SVID) and chain of this sidecar, in PEM; by default an authority in the home folder issues it")
	fs.StringVar(&c.Identity.Key, "identity-key", "", "private key of --identity-cert, in PEM")
	fs.StringVar(&c.Identity.Roots, "identity-roots", "", "authorities to trust, in PEM")
	fs.StringVar(&c.Identity.Endpoint, "spiffe-endpoint", "", "SPIFFE Workload API to get the identity from, unix:///run/agent.sock; $SPIFFE_ENDPOINT_SOCKET by default")

	fs.StringVar(&f.engineURL, "engine", os.Getenv("PROA_ENGINE"), "NATS server or cluster to use as the engine, nats://host:4222; embedded by default")
	fs.StringVar(&f.home, "home", "", "folder of the embedded engine; $PROA_HOME or ~/.local/share/proa by default")
	fs.StringVar(&f.durability, "durability", "", "when the embedded engine acknowledges: relaxed (survives a crash of the process) or strict (of the machine)")
	fs.BoolVar(&f.defaultComponents, "default-components", true, "have statestore, pubsub, lockstore, configstore and secretstore without declaring them")
	f.registerIgnored(fs)
}

// registerIgnored adds the flags of daprd that configure what does not exist
// here, such as a control plane.
func (f *sidecarFlags) registerIgnored(fs *pflag.FlagSet) {
	for _, name := range []string{
		"control-plane-address", "sentry-address", "control-plane-trust-domain", "control-plane-namespace",
		"sentry-request-jwt-audiences", "placement-host-address", "scheduler-host-address", "scheduler-job-streams",
		"actors-disseminate-timeout", "reminders-service", "actors-service",
	} {
		fs.String(name, "", "accepted for compatibility; has no effect")
		_ = fs.MarkHidden(name)
		f.ignored = append(f.ignored, name)
	}
	const k8s = "disable-builtin-k8s-secret-store"
	fs.Bool(k8s, false, "accepted for compatibility; has no effect")
	fs.BoolVar(&f.mtls, "enable-mtls", false, "older form of --mtls strict")
	f.ignored = append(f.ignored, k8s)
	for _, name := range []string{k8s, "enable-mtls"} {
		_ = fs.MarkHidden(name)
	}
	for _, name := range []string{"components-path", "dapr-http-max-request-size", "dapr-http-read-buffer-size", "app-ssl", "mode"} {
		_ = fs.MarkHidden(name)
	}
}

// config turns the flags into a Config. log is where the sidecar logs to.
func (f *sidecarFlags) config(cmd *cobra.Command, logTo interface{ Write([]byte) (int, error) }) (runtime.Config, error) {
	c := f.cfg
	log, err := telemetry.NewLogger(telemetry.LogOptions{Level: f.logLevel, JSON: f.logJSON, AppID: c.AppID, Version: version, Writer: logTo})
	if err != nil {
		return c, err
	}
	c.Log, c.Version = log, version
	if cmd.Flags().Changed("enable-api-logging") {
		c.LogAPI = &f.logAPI
	}
	for _, p := range []struct {
		flag, text string
		to         *int
	}{
		{"dapr-http-port", f.httpPort, &c.HTTPPort}, {"dapr-grpc-port", f.grpcPort, &c.GRPCPort},
		{"dapr-internal-grpc-port", f.internalPort, &c.InternalPort}, {"dapr-public-port", f.publicPort, &c.PublicPort},
		{"profile-port", f.profilePort, &c.ProfilePort}, {"metrics-port", f.metricsPort, &c.MetricsPort},
	} {
		if *p.to, err = parsePort(p.flag, p.text); err != nil {
			return c, err
		}
	}
	if !f.profiling {
		c.ProfilePort = 0
	}
	if !f.metrics {
		c.MetricsPort = -1
	}
	if c.MaxBodySize, err = size("max-body-size", f.maxBodySize, int64(f.maxBodyMB)<<20); err != nil {
		return c, err
	}
	if c.ReadBufferSize, err = size("read-buffer-size", f.readBufferSize, int64(f.readBufferKB)<<10); err != nil {
		return c, err
	}
	if f.appSSL {
		if c.AppProtocol, err = overTLS(c.AppProtocol); err != nil {
			return c, err
		}
	}
	if f.mtls && c.MTLS == "" {
		c.MTLS = runtime.MTLSStrict
	}
	c.Locality = runtime.ParseLocality(f.locality)
	for _, text := range f.forwards {
		forward, err := runtime.ParseForward(text)
		if err != nil {
			return c, fmt.Errorf("--tcp-forward %w", err)
		}
		c.Forwards = append(c.Forwards, forward)
	}
	c.ListenAddresses = list(f.listenAddresses)
	c.DisableInitEndpoints = list(f.disableInit)
	c.ResourcesPaths = append(f.resources, f.resourcesAlias...)
	c.ConfigPaths = f.configs
	c.Grace, c.BlockShutdown = time.Duration(f.graceSeconds)*time.Second, f.blockShutdown
	c.AppHealth.Interval = time.Duration(f.probeInterval) * time.Second
	c.AppHealth.Timeout = time.Duration(f.probeTimeout) * time.Millisecond
	c.AppHealth.Threshold = f.threshold
	c.NoDefaultComponents = !f.defaultComponents
	c.APIToken = component.NewSecret(os.Getenv("DAPR_API_TOKEN"))
	c.AppAPIToken = component.NewSecret(os.Getenv("APP_API_TOKEN"))
	c.HostAddress = os.Getenv("DAPR_HOST_IP")
	c.Namespace = os.Getenv("NAMESPACE")
	c.Engine = engine.Options{Dir: f.home, URL: f.engineURL, Durability: engine.Durability(f.durability)}
	for _, name := range f.ignored {
		if fl := cmd.Flags().Lookup(name); fl != nil && fl.Changed {
			log.Info("a flag has no effect here", "flag", "--"+name)
		}
	}
	return c, nil
}

// overTLS returns the protocol that --app-ssl makes of another one.
func overTLS(protocol string) (string, error) {
	switch protocol {
	case "http", "https":
		return "https", nil
	case "grpc", "grpcs":
		return "grpcs", nil
	}
	return "", fmt.Errorf("--app-ssl does not go with --app-protocol %s; give --app-protocol https or grpcs instead of both", protocol)
}

func parsePort(flag, text string) (int, error) {
	if text == "" {
		return 0, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 || n > 65535 {
		return 0, fmt.Errorf("--%s %q is no port; ports are 1 to 65535, or 0 for any", flag, text)
	}
	return n, nil
}

func size(flag, text string, older int64) (int64, error) {
	if older > 0 {
		return older, nil
	}
	if text == "-1" {
		return -1, nil
	}
	n, err := component.ParseSize(text)
	if err != nil {
		return 0, fmt.Errorf("--%s %w, not %q", flag, err, text)
	}
	return n, nil
}

func list(text string) []string {
	var out []string
	for part := range strings.SplitSeq(text, ",") {
		if p := strings.TrimSpace(part); p != "" {
			out = append(out, strings.Trim(p, "[]"))
		}
	}
	return out
}

// freePort returns port if nobody listens on it, and 0 otherwise.
func freePort(port int) int {
	l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err != nil {
		return 0
	}
	_ = l.Close()
	return port
}
