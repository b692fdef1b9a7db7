package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/proa-io/proa/mesh/route"
	"github.com/proa-io/proa/resource"
	"github.com/proa-io/proa/runtime"
)

func routesCommand() *cobra.Command {
	var app, namespace string
	cmd := &cobra.Command{
		Use:   "routes PATH...",
		Short: "List the routes of applications, in the order in which they count",
		Long: `Reads files and folders of resources as a sidecar would, and lists the rules of
their routes: for each application the one that counts first comes first.

See "proa explain request" for what one request would meet.`,
		Example: `  proa routes resources/
  proa routes --app reviews resources/canary.yaml`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			routes, err := readRoutes(args, namespace)
			if err != nil {
				return problems(cmd, err)
			}
			return listRoutes(cmd.OutOrStdout(), routes, app)
		},
	}
	cmd.Flags().StringVar(&app, "app", "", "list the routes of this application only")
	cmd.Flags().StringVar(&namespace, "namespace", defaultNamespace, "namespace of the sidecar, and of resources that name none")
	return cmd
}

// defaultNamespace is that of sidecars that are not told another.
const defaultNamespace = "default"

func readRoutes(paths []string, namespace string) (*runtime.Routes, error) {
	set, err := resource.Load(resource.Options{Paths: paths})
	if err != nil {
		return nil, err
	}
	return runtime.CompileRoutes(set, namespace)
}

func listRoutes(out io.Writer, routes *runtime.Routes, app string) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "APPLICATION\tROUTE\tRULE\tWHEN\tBACKENDS\tFILTERS")
	found := false
	for _, of := range routes.List() {
		if app != "" && app != of.AppID && app != of.String() {
			continue
		}
		found = true
		for _, r := range of.Rules {
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", &of, r.Route, r.Label(), conditions(r), shares(r), orDash(strings.Join(r.Filters.Names(), ", ")))
		}
		if r := of.Connections; r != nil {
			fmt.Fprintf(w, "%s\t%s\t%s\traw connections\t%s\t-\n", &of, r.Route, r.Label(), shares(r))
		}
	}
	if !found {
		_, err := fmt.Fprintln(out, "there are no routes: requests go to the applications that they name")
		return err
	}
	return w.Flush()
}

func conditions(r *route.Rule) string {
	var out []string
	for i := range r.Matches {
		out = append(out, r.Matches[i].String())
	}
	return strings.Join(out, "; or ")
}

func orDash(text string) string {
	if text == "" {
		return "-"
	}
	return text
}

// shares lists the backends of a rule with the percentage that each gets.
func shares(r *route.Rule) string {
	var out []string
	for i := range r.Backends {
		out = append(out, share(r, &r.Backends[i])+" "+r.Backends[i].String())
	}
	return orDash(strings.Join(out, ", "))
}

func share(r *route.Rule, b *route.Backend) string {
	if r.Total() == 0 {
		return "0%"
	}
	return fmt.Sprintf("%.4g%%", 100*float64(b.Weight)/float64(r.Total()))
}
