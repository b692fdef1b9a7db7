package main

import (
	"encoding/json"
	"fmt"
	"net/url"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
)

func jobsCommand() *cobra.Command {
	cmd := group(&cobra.Command{Use: "jobs", Short: "Look at and remove jobs through a running sidecar"})
	cmd.AddCommand(jobsList(), jobsGet(), jobsDelete())
	return cmd
}

// job is one as the list has it.
type job struct {
	Name      string    `json:"name"`
	Schedule  string    `json:"schedule"`
	Repeats   uint32    `json:"repeats"`
	Triggered uint32    `json:"triggered"`
	DueTime   time.Time `json:"dueTime"`
}

func jobsList() *cobra.Command {
	var f clientFlags
	var prefix string
	var asJSON bool
	cmd := &cobra.Command{
		Use: "list", Short: "List the jobs of an application and when they are due", Args: cobra.NoArgs,
		Example: "  proa jobs list --app-id shop --prefix report-",
		RunE: func(cmd *cobra.Command, _ []string) error {
			base, err := f.base(f.appID)
			if err != nil {
				return err
			}
			question, err := json.Marshal(map[string]string{"prefix": prefix})
			if err != nil {
				return err
			}
			_, answer, err := f.send(cmd, "POST", base+"/proa.v1.Jobs/List", question, "application/json")
			if err != nil {
				return err
			}
			if asJSON {
				return show(cmd, answer)
			}
			var list struct {
				Jobs []job `json:"jobs"`
			}
			if err := json.Unmarshal(answer, &list); err != nil {
				return fmt.Errorf("the answer is no list of jobs: %w", err)
			}
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 8, 2, ' ', 0)
			fmt.Fprintln(w, "NAME\tSCHEDULE\tDUE\tTRIGGERED")
			for _, j := range list.Jobs {
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", j.Name, j.recurs(), j.DueTime.Local().Format(time.DateTime), j.triggered())
			}
			return w.Flush()
		},
	}
	f.register(cmd, "application whose jobs they are; the only one running by default")
	cmd.Flags().StringVar(&prefix, "prefix", "", "only jobs whose names start with it")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func (j *job) recurs() string {
	if j.Schedule == "" {
		return "once"
	}
	return j.Schedule
}

func (j *job) triggered() string {
	if j.Repeats == 0 {
		return fmt.Sprint(j.Triggered)
	}
	return fmt.Sprintf("%d of %d", j.Triggered, j.Repeats)
}

// job returns the address of a job.
func (f *clientFlags) job(name string) (string, error) {
	base, err := f.base(f.appID)
	return base + "/v1.0/jobs/" + url.QueryEscape(name), err // where "+" is a space
}

func jobsGet() *cobra.Command {
	var f clientFlags
	cmd := &cobra.Command{
		Use: "get NAME", Short: "Print a job as JSON, with its data", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			address, err := f.job(args[0])
			if err != nil {
				return err
			}
			_, answer, err := f.send(cmd, "GET", address, nil, "")
			if err != nil {
				return err
			}
			return show(cmd, answer)
		},
	}
	f.register(cmd, "application whose job it is; the only one running by default")
	return cmd
}

func jobsDelete() *cobra.Command {
	var f clientFlags
	cmd := &cobra.Command{
		Use: "delete NAME", Short: "Remove a job", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			address, err := f.job(args[0])
			if err != nil {
				return err
			}
			_, _, err = f.send(cmd, "DELETE", address, nil, "")
			return err
		},
	}
	f.register(cmd, "application whose job it is; the only one running by default")
	return cmd
}
