package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/proa-io/proa/engine"
	"github.com/proa-io/proa/runtime"
)

func sidecarCommand() *cobra.Command {
	var f sidecarFlags
	var wait, daprd, printVersion, buildInfo bool
	cmd := &cobra.Command{
		Use:   "sidecar",
		Short: "Run a sidecar alone, with daprd's flags",
		Long: `Runs a sidecar for an application that is started by somebody else. It takes the
flags of daprd; the program behaves the same way when it is called "daprd".

The embedded engine is strict here (an acknowledged write is on the disk) unless
--durability says otherwise.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if printVersion || buildInfo {
				fmt.Fprintln(cmd.OutOrStdout(), version)
				return nil
			}
			if wait {
				return waitUntilReady(cmd.Context(), &f)
			}
			if daprd && !cmd.Flags().Changed("default-components") {
				f.defaultComponents = false // exactly what is declared
			}
			if f.durability == "" {
				f.durability = string(engine.Strict)
			}
			cfg, err := f.config(cmd, os.Stderr)
			if err != nil {
				return err
			}
			rt, err := runtime.New(cmd.Context(), cfg)
			if err != nil {
				return err
			}
			return serve(cmd.Context(), rt)
		},
	}
	f.register(cmd.Flags())
	cmd.Flags().BoolVar(&wait, "wait", false, "wait until a running sidecar is ready, and exit")
	cmd.Flags().BoolVar(&printVersion, "version", false, "print the version")
	cmd.Flags().BoolVar(&buildInfo, "build-info", false, "print the version")
	cmd.Flags().BoolVar(&daprd, "daprd", false, "behave as daprd")
	_ = cmd.Flags().MarkHidden("daprd")
	return cmd
}

// waitFor bounds --wait.
const waitFor = time.Minute

// waitUntilReady asks a sidecar with these flags until it is ready for the
// application.
func waitUntilReady(ctx context.Context, f *sidecarFlags) error {
	ctx, cancel := context.WithTimeout(ctx, waitFor)
	defer cancel()
	client, url, where := f.probe()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		if resp, err := client.Do(req); err == nil {
			_ = resp.Body.Close()
			if resp.StatusCode < 300 {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the sidecar %s did not become ready", where)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// probe returns how to ask a sidecar with these flags whether it is ready, and
// where it is.
func (f *sidecarFlags) probe() (client *http.Client, url, where string) {
	const path = "/v1.0/healthz/outbound"
	client = &http.Client{Timeout: time.Second}
	if dir := f.cfg.UnixDomainSocket; dir != "" {
		socket := runtime.SocketPath(dir, f.cfg.AppID, "http")
		client.Transport = &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		}}
		return client, "http://sidecar" + path, "at " + socket
	}
	host := "127.0.0.1"
	if hosts := list(f.listenAddresses); len(hosts) > 0 {
		if ip := net.ParseIP(hosts[0]); ip == nil || !ip.IsUnspecified() {
			host = hosts[0]
		}
	}
	address := net.JoinHostPort(host, f.httpPort)
	return client, "http://" + address + path, "at " + address
}
