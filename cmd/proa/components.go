package main

import (
	"errors"
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/proa-io/proa/docs"
	"github.com/proa-io/proa/driver/all"
	"github.com/proa-io/proa/runtime"
)

func componentsCommand() *cobra.Command {
	cmd := group(&cobra.Command{Use: "components", Short: "Show which components there are, and their settings"})
	cmd.AddCommand(
		&cobra.Command{
			Use: "list", Short: "List all components that are compiled in", Args: cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error {
				w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 8, 2, ' ', 0)
				fmt.Fprintln(w, "TYPE\tVERSION\tCAPABILITIES\tWHAT IT IS")
				for _, s := range all.Specs(all.Deps{}) {
					fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", s.Type(), s.VersionOrDefault(), strings.Join(s.Capabilities, ","), s.Summary)
				}
				return w.Flush()
			},
		},
		&cobra.Command{
			Use: "describe TYPE", Short: "Print the manual of a component, such as state.redis", Args: cobra.ExactArgs(1),
			ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
				var types []string
				for _, s := range all.Specs(all.Deps{}) {
					types = append(types, s.Type())
				}
				return types, cobra.ShellCompDirectiveNoFileComp
			},
			RunE: func(cmd *cobra.Command, args []string) error {
				catalog, err := all.Catalog(all.Deps{})
				if err != nil {
					return err
				}
				typ, version, _ := strings.Cut(args[0], "/")
				spec, err := catalog.Lookup(typ, version)
				if err != nil {
					return err
				}
				page, err := docs.Component(spec.Type(), spec.VersionOrDefault())
				if err != nil {
					return err
				}
				_, err = cmd.OutOrStdout().Write(page)
				return err
			},
		},
	)
	return cmd
}

func validateCommand() *cobra.Command {
	var appID string
	var configs []string
	cmd := &cobra.Command{
		Use:   "validate PATH...",
		Short: "Check resources without starting anything",
		Long: `Checks files and folders of resources as a sidecar would read them, and reports
every problem with file, line, field and what would be right.`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			report, err := runtime.Validate(args, configs, appID)
			for _, ig := range report.Ignored {
				fmt.Fprintf(cmd.OutOrStdout(), "%s: %s %s is passed over: %s is not a kind that Proa reads\n", ig.Pos, ig.Kind, ig.Name, ig.APIVersion)
			}
			if err != nil {
				return problems(cmd, err)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "valid: %d components, %d subscriptions, %d resiliency resources, %d HTTP endpoints, %d routes\n",
				report.Components, report.Subscriptions, report.Resiliencies, report.HTTPEndpoints, report.Routes)
			return nil
		},
	}
	cmd.Flags().StringVar(&appID, "app-id", "", "check for this application only")
	cmd.Flags().StringSliceVar(&configs, "config", nil, "file of kind Configuration; may repeat")
	return cmd
}

// problems prints one line for each problem and says how many there are.
func problems(cmd *cobra.Command, err error) error {
	all := flatten(err)
	for _, e := range all {
		fmt.Fprintln(cmd.ErrOrStderr(), e)
	}
	word := "problems"
	if len(all) == 1 {
		word = "problem"
	}
	return fmt.Errorf("%d %s", len(all), word)
}

// flatten takes joined errors apart.
func flatten(err error) []error {
	var joined interface{ Unwrap() []error }
	if !errors.As(err, &joined) || fmt.Sprint(joined) != err.Error() {
		return []error{err}
	}
	var out []error
	for _, e := range joined.Unwrap() {
		out = append(out, flatten(e)...)
	}
	return out
}
