package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/proa-io/proa/runtime"
)

// clientFlags say which sidecar a command talks to.
type clientFlags struct {
	appID, address, home string
	timeout              time.Duration
}

func (f *clientFlags) register(cmd *cobra.Command, appIDHelp string) {
	cmd.Flags().StringVar(&f.appID, "app-id", "", appIDHelp)
	cmd.Flags().StringVar(&f.address, "address", "", "HTTP API of the sidecar, http://host:port; found by itself for sidecars of this user")
	cmd.Flags().StringVar(&f.home, "home", "", "folder the sidecars share; $PROA_HOME or ~/.local/share/proa by default")
	cmd.Flags().DurationVar(&f.timeout, "timeout", 30*time.Second, "how long to wait for the answer")
}

// base returns the address of the HTTP API: the one given, that of the
// application's sidecar, or that of the only sidecar that runs.
func (f *clientFlags) base(wanted string) (string, error) {
	if f.address != "" {
		if !strings.Contains(f.address, "://") {
			return "http://" + f.address, nil
		}
		return strings.TrimSuffix(f.address, "/"), nil
	}
	home, err := runtime.Home(f.home)
	if err != nil {
		return "", err
	}
	running, err := runtime.Instances(home)
	if err != nil {
		return "", err
	}
	var ids []string
	for _, i := range running { // by application
		if len(ids) == 0 || ids[len(ids)-1] != i.AppID {
			ids = append(ids, i.AppID)
		}
	}
	for _, i := range running {
		if wanted == i.AppID || wanted == "" && len(ids) == 1 {
			return "http://127.0.0.1:" + strconv.Itoa(i.HTTPPort), nil
		}
	}
	if port := os.Getenv("DAPR_HTTP_PORT"); port != "" && wanted == "" {
		return "http://127.0.0.1:" + port, nil
	}
	switch {
	case len(ids) == 0:
		return "", errors.New("no sidecar is running; start one with `proa run`, or give --address")
	case wanted == "":
		return "", fmt.Errorf("several sidecars are running; say whose with --app-id: %s", strings.Join(ids, ", "))
	}
	return "", fmt.Errorf("no sidecar of %q is running; there is %s", wanted, strings.Join(ids, ", "))
}

// send makes a request and returns the answer. A status of 400 and more is an
// error with the text of the answer.
func (f *clientFlags) send(cmd *cobra.Command, method, address string, body []byte, contentType string) (*http.Response, []byte, error) {
	req, err := http.NewRequestWithContext(cmd.Context(), method, address, bytes.NewReader(body))
	if err != nil {
		return nil, nil, err
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	if token := os.Getenv("DAPR_API_TOKEN"); token != "" {
		req.Header.Set("dapr-api-token", token)
	}
	resp, err := (&http.Client{Timeout: f.timeout}).Do(req)
	if err != nil {
		var ue *url.Error
		if errors.As(err, &ue) {
			err = ue.Err
		}
		return nil, nil, fmt.Errorf("the sidecar does not answer: %w", err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, nil, fmt.Errorf("the answer broke off: %w", err)
	}
	if resp.StatusCode >= 400 {
		return resp, answer, fmt.Errorf("%s: %s", resp.Status, explain(answer))
	}
	return resp, answer, nil
}

// explain returns the message of an error document, or the answer as it is.
func explain(answer []byte) string {
	var doc struct {
		Code    string `json:"errorCode"`
		Message string `json:"message"`
	}
	if json.Unmarshal(answer, &doc) == nil && doc.Message != "" {
		if doc.Code == "" {
			return doc.Message
		}
		return doc.Message + " (" + doc.Code + ")"
	}
	return strings.TrimSpace(string(answer))
}

// data returns what --data stands for: the text, or with @ the content of a
// file, or with @- what comes in.
func data(cmd *cobra.Command, text string) ([]byte, error) {
	path, isFile := strings.CutPrefix(text, "@")
	switch {
	case !isFile:
		return []byte(text), nil
	case path == "-":
		return io.ReadAll(cmd.InOrStdin())
	}
	return os.ReadFile(path)
}

// contentTypeOf returns JSON for what is JSON and plain text otherwise.
func contentTypeOf(b []byte) string {
	if json.Valid(b) {
		return "application/json"
	}
	return "text/plain"
}

// metadataQuery turns key=value pairs into query parameters.
func metadataQuery(pairs []string) (string, error) {
	q := url.Values{}
	for _, p := range pairs {
		k, v, ok := strings.Cut(p, "=")
		if !ok {
			return "", fmt.Errorf("--metadata wants key=value, not %q", p)
		}
		q.Set("metadata."+k, v)
	}
	if len(q) == 0 {
		return "", nil
	}
	return "?" + q.Encode(), nil
}

func publishCommand() *cobra.Command {
	var f clientFlags
	var broker, topic, text, contentType string
	var metadata []string
	cmd := &cobra.Command{
		Use: "publish", Short: "Publish an event through a running sidecar", Args: cobra.NoArgs,
		Example: `  proa publish --topic orders --data '{"id": 1}'
  proa publish --topic reminders --data hello --metadata delayInSeconds=60
  proa publish --pubsub kafka --topic raw --data @event.bin --metadata rawPayload=true`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			base, err := f.base(f.appID)
			if err != nil {
				return err
			}
			body, err := data(cmd, text)
			if err != nil {
				return err
			}
			query, err := metadataQuery(metadata)
			if err != nil {
				return err
			}
			if contentType == "" {
				contentType = contentTypeOf(body)
			}
			if _, _, err := f.send(cmd, "POST", base+"/v1.0/publish/"+url.PathEscape(broker)+"/"+url.PathEscape(topic)+query, body, contentType); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "published to %s on %s\n", topic, broker)
			return nil
		},
	}
	f.register(cmd, "application whose sidecar publishes; the only one running by default")
	cmd.Flags().StringVarP(&broker, "pubsub", "p", "pubsub", "pub/sub component")
	cmd.Flags().StringVarP(&topic, "topic", "t", "", "topic")
	cmd.Flags().StringVarP(&text, "data", "d", "", "payload; @file for a file, @- for standard input")
	cmd.Flags().StringVar(&contentType, "content-type", "", "content type; JSON for what is JSON, else plain text")
	cmd.Flags().StringArrayVarP(&metadata, "metadata", "m", nil, "key=value; may repeat")
	_ = cmd.MarkFlagRequired("topic")
	return cmd
}

func invokeCommand() *cobra.Command {
	var f clientFlags
	var method, verb, text, contentType, from string
	cmd := &cobra.Command{
		Use: "invoke", Short: "Invoke an application through a running sidecar", Args: cobra.NoArgs,
		Example: `  proa invoke --app-id shop --method orders --verb GET
  proa invoke --app-id shop --method orders --data '{"id": 1}'`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			base, err := f.base(from)
			if err != nil && from == "" {
				base, err = f.base(f.appID) // its own sidecar can call it too
			}
			if err != nil {
				return err
			}
			body, err := data(cmd, text)
			if err != nil {
				return err
			}
			if contentType == "" && len(body) > 0 {
				contentType = contentTypeOf(body)
			}
			address := base + "/v1.0/invoke/" + url.PathEscape(f.appID) + "/method/" + strings.TrimPrefix(method, "/")
			_, answer, err := f.send(cmd, strings.ToUpper(verb), address, body, contentType)
			if err != nil {
				return err
			}
			return show(cmd, answer)
		},
	}
	f.register(cmd, "application to invoke")
	cmd.Flags().StringVar(&method, "method", "", "path at the application, with a query if need be")
	cmd.Flags().StringVarP(&verb, "verb", "v", "POST", "HTTP method")
	cmd.Flags().StringVarP(&text, "data", "d", "", "body; @file for a file, @- for standard input")
	cmd.Flags().StringVar(&contentType, "content-type", "", "content type; JSON for what is JSON, else plain text")
	cmd.Flags().StringVar(&from, "from", "", "application whose sidecar invokes; any by default")
	_ = cmd.MarkFlagRequired("app-id")
	_ = cmd.MarkFlagRequired("method")
	return cmd
}

// show prints an answer and ends the line.
func show(cmd *cobra.Command, b []byte) error {
	if len(b) > 0 && b[len(b)-1] != '\n' {
		b = append(b, '\n')
	}
	_, err := cmd.OutOrStdout().Write(b)
	return err
}

func stateCommand() *cobra.Command {
	cmd := group(&cobra.Command{Use: "state", Short: "Read and write state through a running sidecar"})
	cmd.AddCommand(stateGet(), stateSet(), stateDelete())
	return cmd
}

// storeFlags are common to the state commands.
type storeFlags struct {
	clientFlags
	store string
}

func (f *storeFlags) register(cmd *cobra.Command) {
	f.clientFlags.register(cmd, "application whose state it is; the only one running by default")
	cmd.Flags().StringVarP(&f.store, "store", "s", "statestore", "state component")
}

func (f *storeFlags) url(key string) (string, error) {
	base, err := f.base(f.appID)
	address := base + "/v1.0/state/" + url.PathEscape(f.store)
	if key != "" {
		address += "/" + url.PathEscape(key)
	}
	return address, err
}

func stateGet() *cobra.Command {
	var f storeFlags
	cmd := &cobra.Command{
		Use: "get KEY", Short: "Print a value", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			address, err := f.url(args[0])
			if err != nil {
				return err
			}
			resp, answer, err := f.send(cmd, "GET", address, nil, "")
			if err != nil {
				return err
			}
			if resp.StatusCode == http.StatusNoContent {
				return fmt.Errorf("there is nothing at %q in %s", args[0], f.store)
			}
			return show(cmd, answer)
		},
	}
	f.register(cmd)
	return cmd
}

func stateSet() *cobra.Command {
	var f storeFlags
	var ttl int
	cmd := &cobra.Command{
		Use: "set KEY VALUE", Short: "Store a value: JSON, or a text", Args: cobra.ExactArgs(2),
		Long: "Stores a value. What is JSON is stored as it is, everything else as a JSON text. @file stands for the content of a file.",
		RunE: func(cmd *cobra.Command, args []string) error {
			address, err := f.url("")
			if err != nil {
				return err
			}
			value, err := data(cmd, args[1])
			if err != nil {
				return err
			}
			item := map[string]any{"key": args[0], "value": string(value)}
			if json.Valid(value) {
				item["value"] = json.RawMessage(value)
			}
			if ttl > 0 {
				item["metadata"] = map[string]string{"ttlInSeconds": strconv.Itoa(ttl)}
			}
			body, err := json.Marshal([]any{item})
			if err != nil {
				return err
			}
			_, _, err = f.send(cmd, "POST", address, body, "application/json")
			return err
		},
	}
	f.register(cmd)
	cmd.Flags().IntVar(&ttl, "ttl", 0, "seconds until the value vanishes; never by default")
	return cmd
}

func stateDelete() *cobra.Command {
	var f storeFlags
	cmd := &cobra.Command{
		Use: "delete KEY", Short: "Remove a value", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			address, err := f.url(args[0])
			if err != nil {
				return err
			}
			_, _, err = f.send(cmd, "DELETE", address, nil, "")
			return err
		},
	}
	f.register(cmd)
	return cmd
}

func listCommand() *cobra.Command {
	var home string
	var asJSON bool
	cmd := &cobra.Command{
		Use: "list", Short: "List the sidecars of this user that run", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			dir, err := runtime.Home(home)
			if err != nil {
				return err
			}
			running, err := runtime.Instances(dir)
			if err != nil {
				return err
			}
			if asJSON {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(running)
			}
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 8, 2, ' ', 0)
			fmt.Fprintln(w, "APP ID\tHTTP PORT\tGRPC PORT\tAPP PORT\tPID\tSTARTED")
			for _, i := range running {
				fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%d\t%s\n", i.AppID, i.HTTPPort, i.GRPCPort, i.AppPort, i.PID, i.Started.Local().Format(time.DateTime))
			}
			return w.Flush()
		},
	}
	cmd.Flags().StringVar(&home, "home", "", "folder the sidecars share; $PROA_HOME or ~/.local/share/proa by default")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}
