// Proa is a cloud native application runtime: a sidecar that gives an
// application state, messaging, invocation, secrets, locks and configuration
// over one API, whatever stands behind.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	_ "time/tzdata" // time zones of schedules, on hosts that have none

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/proa-io/proa/component"
)

// version is set when the program is built for a release.
var version = "dev"

func main() {
	memory := tuneMemory()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	var tuning sync.WaitGroup
	tuning.Go(func() { memory.run(ctx) })
	root := rootCommand()
	root.SetArgs(arguments(os.Args))
	err := root.ExecuteContext(ctx)
	stop()
	tuning.Wait()
	var exit exitError
	switch {
	case errors.As(err, &exit):
		os.Exit(exit.code)
	case err != nil:
		fmt.Fprintln(os.Stderr, "proa:", err)
		os.Exit(1)
	}
}

// exitError ends the program with a code that has been explained already.
type exitError struct{ code int }

func (e exitError) Error() string { return fmt.Sprintf("exit code %d", e.code) }

// arguments makes `daprd …` mean `proa sidecar …`, with single dashes allowed
// as daprd's flags allow them.
func arguments(args []string) []string {
	if strings.TrimSuffix(filepath.Base(args[0]), ".exe") != "daprd" {
		return args[1:]
	}
	out := []string{"sidecar", "--daprd"}
	for _, a := range args[1:] {
		if len(a) > 2 && a[0] == '-' && a[1] != '-' {
			a = "-" + a
		}
		out = append(out, a)
	}
	return out
}

func rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "proa",
		Short: "A cloud native application runtime in one binary",
		Long: `Proa runs beside an application and gives it state, publish/subscribe, service
invocation, bindings, secrets, locks and configuration over one API: the Dapr v1
API, so that every Dapr SDK works. What stands behind is configuration.

Start an application with its sidecar, with nothing else installed:

  proa run --app-id shop --app-port 8080 -- node app.js

Then talk to it:

  proa invoke  --app-id shop --method orders
  proa publish --topic orders --data '{"id": 1}'
  proa state set greeting '"hello"'`,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.SetFlagErrorFunc(suggestFlag)
	root.AddCommand(runCommand(), sidecarCommand(), publishCommand(), dlqCommand(), invokeCommand(), stateCommand(), jobsCommand(), caCommand(),
		validateCommand(), componentsCommand(), routesCommand(), explainCommand(), listCommand(), versionCommand())
	return root
}

// suggestFlag names the flag that was probably meant.
func suggestFlag(cmd *cobra.Command, err error) error {
	unknown, ok := errors.AsType[*pflag.NotExistError](err)
	if !ok || len(unknown.GetSpecifiedName()) < 2 {
		return err
	}
	var names []string
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if !f.Hidden {
			names = append(names, f.Name)
		}
	})
	if near := component.Nearest(unknown.GetSpecifiedName(), names); near != "" {
		return fmt.Errorf("%w; did you mean --%s?", err, near)
	}
	return fmt.Errorf("%w; see %s --help", err, cmd.CommandPath())
}

// group makes a command that only holds others say so when it is given the name
// of one that does not exist.
func group(cmd *cobra.Command) *cobra.Command {
	cmd.Args = cobra.ArbitraryArgs
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return cmd.Help()
		}
		var names []string
		for _, c := range cmd.Commands() {
			names = append(names, c.Name())
		}
		hint := ""
		if near := component.Nearest(args[0], names); near != "" {
			hint = fmt.Sprintf("; did you mean %q?", near)
		}
		return fmt.Errorf("unknown command %q for %q%s", args[0], cmd.CommandPath(), hint)
	}
	return cmd
}

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			fmt.Fprintln(cmd.OutOrStdout(), version)
			return nil
		},
	}
}
