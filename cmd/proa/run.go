package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/proa-io/proa/engine"
	"github.com/proa-io/proa/resource"
	"github.com/proa-io/proa/runtime"
)

func runCommand() *cobra.Command {
	var f sidecarFlags
	var file string
	cmd := &cobra.Command{
		Use:   "run [flags] -- command [arguments]",
		Short: "Run an application with its sidecar",
		Long: `Starts a sidecar and an application, and stops both in good order: first no more
events, then the application, then the sidecar. The output of both appears with
their names in front.

The application finds its sidecar by the environment: DAPR_HTTP_PORT and
DAPR_GRPC_PORT, as every Dapr SDK expects. Ports 3500 and 50001 are used when
they are free.

With -f it starts all applications of a multi-app run file.`,
		Example: `  proa run --app-id shop --app-port 8080 -- node app.js
  proa run --app-id job --resources-path ./components -- ./job
  proa run -f proa.yaml`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if file != "" {
				return runFile(cmd, file, &f)
			}
			if cmd.ArgsLenAtDash() > 0 {
				return fmt.Errorf("unexpected arguments before --: %s", strings.Join(args[:cmd.ArgsLenAtDash()], " "))
			}
			return runOne(cmd, &f, args)
		},
	}
	f.register(cmd.Flags())
	cmd.Flags().StringVarP(&file, "run-file", "f", "", "multi-app run file")
	return cmd
}

// laptopDefaults chooses ports that are free, and the durability that suits
// work on an application.
func laptopDefaults(cmd *cobra.Command, f *sidecarFlags) {
	for flag, to := range map[string]*string{"dapr-http-port": &f.httpPort, "dapr-grpc-port": &f.grpcPort, "metrics-port": &f.metricsPort} {
		if cmd != nil && cmd.Flags().Changed(flag) {
			continue
		}
		if n, err := strconv.Atoi(*to); err == nil {
			*to = strconv.Itoa(freePort(n))
		}
	}
	if f.durability == "" {
		f.durability = string(engine.Relaxed)
	}
}

func runOne(cmd *cobra.Command, f *sidecarFlags, args []string) error {
	if f.cfg.AppID == "" {
		dir, err := os.Getwd()
		if err != nil {
			return err
		}
		f.cfg.AppID = strings.NewReplacer(".", "-", " ", "-").Replace(filepath.Base(dir))
	}
	laptopDefaults(cmd, f)
	s := newScreen(os.Stdout)
	return launch(cmd.Context(), cmd, launchOptions{
		flags: f, command: args, app: s.writer(f.cfg.AppID, false), sidecar: s.writer("proa", true),
		portTaken: func() { laptopDefaults(cmd, f) },
	})
}

// launchOptions say how to start one application with its sidecar.
type launchOptions struct {
	flags        *sidecarFlags
	command      []string
	dir          string
	env          []string
	app, sidecar *lines
	// portTaken, if set, chooses other ports when somebody else was faster.
	portTaken func()
}

// launch runs one application and its sidecar until either ends or ctx does.
// The application's own exit code becomes the program's.
func launch(ctx context.Context, cmd *cobra.Command, o launchOptions) error {
	defer o.app.flush()
	defer o.sidecar.flush()
	rt, err := prepare(ctx, cmd, &o)
	if o.portTaken != nil && errors.Is(err, syscall.EADDRINUSE) {
		o.portTaken()
		rt, err = prepare(ctx, cmd, &o)
	}
	if err != nil {
		return err
	}
	id := o.flags.cfg.AppID
	err = serve(ctx, rt)
	var exit exitError
	switch {
	case errors.As(err, &exit):
		fmt.Fprintf(o.sidecar, "%s ended with exit code %d\n", id, exit.code)
		return exit
	case errors.Is(err, errExited):
		fmt.Fprintf(o.sidecar, "%s ended\n", id)
		return nil
	}
	return err
}

// prepare builds the sidecar and binds its ports.
func prepare(ctx context.Context, cmd *cobra.Command, o *launchOptions) (*runtime.Runtime, error) {
	cfg, err := o.flags.config(cmd, o.sidecar)
	if err != nil {
		return nil, err
	}
	return runtime.New(ctx, withProcess(cfg, o))
}

// withProcess adds the application, and what is said when all is up.
func withProcess(cfg runtime.Config, o *launchOptions) runtime.Config {
	var addresses runtime.Addresses
	cfg.OnListening = func(a runtime.Addresses) {
		addresses = a
		announce(o.sidecar, cfg, a)
	}
	if len(o.command) == 0 {
		return cfg
	}
	cfg.Process = func(ctx context.Context) error {
		p := &process{
			command: o.command, dir: o.dir, out: o.app,
			env: append(environment(cfg, addresses), o.env...),
		}
		return p.run(ctx)
	}
	return cfg
}

// environment is how an application finds its sidecar.
func environment(cfg runtime.Config, a runtime.Addresses) []string {
	env := []string{"APP_ID=" + cfg.AppID, "APP_PROTOCOL=" + cfg.AppProtocol}
	if dir := cfg.UnixDomainSocket; dir != "" {
		socket := runtime.SocketPath(dir, cfg.AppID, "grpc")
		if abs, err := filepath.Abs(socket); err == nil {
			socket = abs
		}
		env = append(env, "DAPR_GRPC_ENDPOINT=unix:"+socket)
	} else {
		env = append(env, "DAPR_HTTP_PORT="+strconv.Itoa(a.HTTPPort), "DAPR_GRPC_PORT="+strconv.Itoa(a.GRPCPort))
	}
	if cfg.AppPort > 0 {
		env = append(env, "APP_PORT="+strconv.Itoa(cfg.AppPort))
	}
	if a.MetricsPort > 0 {
		env = append(env, "DAPR_METRICS_PORT="+strconv.Itoa(a.MetricsPort))
	}
	if cfg.APIToken.IsSet() {
		env = append(env, "DAPR_API_TOKEN="+cfg.APIToken.Reveal())
	}
	return env
}

// announce says what is where.
func announce(w io.Writer, cfg runtime.Config, a runtime.Addresses) {
	fmt.Fprintf(w, "sidecar of %s is up\n", cfg.AppID)
	if a.HTTPPort > 0 {
		fmt.Fprintf(w, "  HTTP API    http://127.0.0.1:%d\n  gRPC API    127.0.0.1:%d\n", a.HTTPPort, a.GRPCPort)
	} else {
		fmt.Fprintf(w, "  API         sockets in %s\n", cfg.UnixDomainSocket)
	}
	if a.MetricsPort > 0 {
		fmt.Fprintf(w, "  metrics     http://127.0.0.1:%d/metrics\n", a.MetricsPort)
	}
	if cfg.AppPort > 0 {
		fmt.Fprintf(w, "  application %s on port %d\n", cfg.AppProtocol, cfg.AppPort)
	}
	fmt.Fprintf(w, "  engine      %s\n  components  %s\n", a.Engine, strings.Join(a.Components, ", "))
}

// runFile starts all applications of a file and waits for all to end.
func runFile(cmd *cobra.Command, path string, common *sidecarFlags) error {
	rf, err := resource.LoadRunFile(path)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(cmd.Context())
	defer cancel()
	s := newScreen(os.Stdout)
	var wg sync.WaitGroup
	errs := make([]error, len(rf.Apps))
	for i := range rf.Apps {
		o, closeLog, err := fromRunFile(&rf.Apps[i], common, s)
		if err != nil {
			cancel()
			wg.Wait()
			return err
		}
		wg.Go(func() {
			defer closeLog()
			errs[i] = launch(ctx, cmd, o)
		})
	}
	wg.Wait()
	for i, err := range errs {
		var exit exitError
		if err != nil && !errors.As(err, &exit) {
			errs[i] = fmt.Errorf("%s: %w", rf.Apps[i].ID(), err)
		}
	}
	return errors.Join(errs...)
}

// fromRunFile turns an entry of a run file into the flags it stands for.
func fromRunFile(app *resource.RunApp, common *sidecarFlags, s *screen) (launchOptions, func(), error) {
	f := *common
	c := &f.cfg
	c.AppID, c.AppPort = app.ID(), app.AppPort
	set(&c.AppProtocol, app.AppProtocol)
	set(&c.AppAddress, app.AppChannelAddress)
	set(&f.listenAddresses, app.DaprListenAddresses)
	set(&c.InternalListenAddress, app.DaprInternalListenAddresses)
	set(&c.UnixDomainSocket, app.UnixDomainSocket)
	set(&f.logLevel, app.LogLevel)
	set(&c.AppHealth.Path, app.AppHealthCheckPath)
	set(&f.probeInterval, app.AppHealthProbeInterval)
	set(&f.probeTimeout, app.AppHealthProbeTimeout)
	set(&f.threshold, app.AppHealthThreshold)
	set(&f.maxBodySize, app.DaprMaxBodySize.Text)
	set(&f.readBufferSize, app.DaprReadBufferSize.Text)
	for _, b := range []struct {
		to   *bool
		from *bool
	}{{&f.appSSL, app.AppSSL}, {&c.AppHealth.Enabled, app.EnableAppHealthCheck}, {&f.profiling, app.EnableProfiling}} {
		if b.from != nil {
			*b.to = *b.from
		}
	}
	if app.AppMaxConcurrency != nil {
		c.AppMaxConcurrency = *app.AppMaxConcurrency
	}
	if app.EnableAPILogging != nil {
		c.LogAPI = app.EnableAPILogging
	}
	// Several sidecars share a host: what is not given is any free port.
	f.httpPort, f.grpcPort, f.metricsPort = strconv.Itoa(app.DaprHTTPPort), strconv.Itoa(app.DaprGRPCPort), strconv.Itoa(app.MetricsPort)
	f.internalPort, f.profilePort = strconv.Itoa(app.DaprInternalGRPCPort), strconv.Itoa(app.ProfilePort)
	f.resources = append(f.resources[:len(f.resources):len(f.resources)], app.ResourcesPaths...)
	if app.ConfigFilePath != "" {
		f.configs = append(f.configs[:len(f.configs):len(f.configs)], app.ConfigFilePath)
	}
	if f.durability == "" {
		f.durability = string(engine.Relaxed)
	}
	o := launchOptions{flags: &f, command: app.Command, dir: app.AppDirPath, app: s.writer(c.AppID, false), sidecar: s.writer(c.AppID+"/proa", true)}
	for k, v := range app.Env {
		o.env = append(o.env, k+"="+v)
	}
	closeLogs, err := logFiles(app, &o)
	return o, closeLogs, err
}

func set[T comparable](to *T, v T) {
	var zero T
	if v != zero {
		*to = v
	}
}

// logFiles opens the files that a run file sends output to, in .dapr/logs of
// the application's folder.
func logFiles(app *resource.RunApp, o *launchOptions) (func(), error) {
	var files []*os.File
	closeAll := func() {
		for _, f := range files {
			_ = f.Close()
		}
	}
	for _, l := range []struct {
		dest, name string
		to         *lines
	}{{app.AppLogDestination, "app", o.app}, {app.DaprdLogDestination, "daprd", o.sidecar}} {
		if l.dest != "file" && l.dest != "fileAndConsole" {
			continue
		}
		dir := filepath.Join(app.AppDirPath, ".dapr", "logs")
		if err := os.MkdirAll(dir, 0o755); err != nil {
			closeAll()
			return nil, err
		}
		f, err := os.Create(filepath.Join(dir, app.ID()+"_"+l.name+"_"+time.Now().Format("20060102150405")+".log"))
		if err != nil {
			closeAll()
			return nil, err
		}
		files = append(files, f)
		l.to.also = f
		l.to.quiet = l.dest == "file"
	}
	return closeAll, nil
}
