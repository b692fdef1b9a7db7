package main

import (
	"fmt"
	"io"
	"net/url"
	"strings"

	"github.com/spf13/cobra"

	"github.com/proa-io/proa/mesh/route"
)

func explainCommand() *cobra.Command {
	cmd := group(&cobra.Command{Use: "explain", Short: "Say what a sidecar would do, and why"})
	cmd.AddCommand(explainRequestCommand())
	return cmd
}

func explainRequestCommand() *cobra.Command {
	var paths, headers []string
	var namespace string
	cmd := &cobra.Command{
		Use:   "request METHOD URL",
		Short: "Say which route a request would meet, and why no other",
		Long: `Reads resources as a sidecar would, and says which rule of which route a request
would meet, what that does with it, where it goes, and why other rules do not
count. Nothing is sent.

The URL is that of a method of an application, as the application sees it:
http://reviews/api/1 stands for /v1.0/invoke/reviews/method/api/1. A gRPC call is
a POST with the header "content-type: application/grpc".`,
		Example: `  proa explain request GET http://reviews/api/1 --resources-path resources/
  proa explain request GET http://reviews.prod/api -H 'x-version: v2' --resources-path canary.yaml
  proa explain request POST http://orders/shop.v1.Orders/Get -H 'content-type: application/grpc' --resources-path .`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, app, ns, err := explained(args[0], args[1], headers)
			if err != nil {
				return err
			}
			if ns == "" {
				ns = namespace
			}
			if len(paths) == 0 {
				return fmt.Errorf("give the files or folders of resources by --resources-path")
			}
			routes, err := readRoutes(paths, namespace)
			if err != nil {
				return problems(cmd, err)
			}
			explainRequest(cmd.OutOrStdout(), routes.Table(ns, app), app+"."+ns, r)
			return nil
		},
	}
	cmd.Flags().StringArrayVarP(&headers, "header", "H", nil, `header field of the request, "name: value"; may repeat`)
	cmd.Flags().StringSliceVar(&paths, "resources-path", nil, "file or folder of resources; may repeat")
	cmd.Flags().StringVar(&namespace, "namespace", defaultNamespace, "namespace of the sidecar, and of resources that name none")
	return cmd
}

// explained reads the request that is asked about.
func explained(method, target string, headers []string) (r *route.Request, app, namespace string, err error) {
	if !strings.Contains(target, "://") {
		target = "http://" + target
	}
	u, err := url.Parse(target)
	if err != nil || u.Hostname() == "" {
		return nil, "", "", fmt.Errorf("%q is no URL of an application, such as http://reviews/api/1", target)
	}
	app, namespace, _ = strings.Cut(u.Hostname(), ".")
	r = &route.Request{Host: strings.ToLower(app), Path: u.EscapedPath(), Query: u.RawQuery, Method: strings.ToUpper(method)}
	if r.Path == "" {
		r.Path = "/"
	}
	for _, h := range headers {
		name, value, ok := strings.Cut(h, ":")
		if !ok || strings.TrimSpace(name) == "" {
			return nil, "", "", fmt.Errorf("%q is no header field; write it as %q", h, "name: value")
		}
		r.Header.Add(strings.TrimSpace(name), strings.TrimSpace(value))
	}
	r.GRPC = strings.HasPrefix(r.Header.Get("content-type"), "application/grpc")
	return r, app, namespace, nil
}

func explainRequest(out io.Writer, table *route.Table, app string, r *route.Request) {
	fmt.Fprintf(out, "%s %s%s\n", r.Method, app, r.Path)
	if table == nil {
		fmt.Fprintf(out, "  meets no route: application %s has none, so it gets the request\n", app)
		return
	}
	e := table.Explain(r)
	if !e.OK {
		fmt.Fprintln(out, "  meets no rule: the answer is 404, of a gRPC call UNIMPLEMENTED")
	}
	for _, s := range e.Steps {
		if s.Taken {
			fmt.Fprintf(out, "  meets %s (%s)\n  since %s\n", s.Rule, s.Rule.Where, s.Condition)
		}
	}
	if e.OK {
		explainRule(out, e.Found.Rule)
	}
	explainOthers(out, e)
}

func explainRule(out io.Writer, r *route.Rule) {
	if names := r.Filters.Names(); len(names) > 0 {
		fmt.Fprintf(out, "  with %s\n", strings.Join(names, ", "))
	}
	if t := r.Filters.Timeouts; t != (route.Timeouts{}) {
		fmt.Fprintf(out, "  within %v, each try within %v (0s: no bound)\n", t.Request, t.Backend)
	}
	switch {
	case r.Filters.Redirect != nil || r.Filters.Direct != nil:
		fmt.Fprintln(out, "  and is answered without a backend")
		return
	case r.Total() == 0:
		fmt.Fprintln(out, "  and has no backend with a weight: the answer is 500")
		return
	}
	fmt.Fprintln(out, "  and goes to")
	for i := range r.Backends {
		b := &r.Backends[i]
		line := fmt.Sprintf("    %s %s", share(r, b), b)
		if names := b.Filters.Names(); len(names) > 0 {
			line += " with " + strings.Join(names, ", ")
		}
		if b.Problem != "" {
			line += " (answers 500: " + b.Problem + ")"
		}
		fmt.Fprintln(out, line)
	}
}

func explainOthers(out io.Writer, e route.Explanation) {
	if len(e.Steps) > 1 || !e.OK && len(e.Steps) > 0 {
		fmt.Fprintln(out, "  other rules, in their order:")
	}
	for _, s := range e.Steps {
		switch {
		case s.Taken:
		case s.Why == "":
			fmt.Fprintf(out, "    %s: %s: matches, but comes later\n", s.Rule, s.Condition)
		default:
			fmt.Fprintf(out, "    %s: %s: %s\n", s.Rule, s.Condition, s.Why)
		}
	}
}
