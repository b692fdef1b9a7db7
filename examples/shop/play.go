package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// play tells the story.
func play(ctx context.Context) (err error) {
	o := parse()
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	s, err := open(ctx, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close(err != nil)) }()

	say("Three services, three sidecars, one embedded engine; nothing else is running.")
	if err := s.ready(ctx); err != nil {
		return err
	}
	if err := s.order(ctx, Order{ID: "1", Item: "tea", Quantity: 2}, "placed"); err != nil {
		return err
	}
	if err := s.order(ctx, Order{ID: "2", Item: "teapot", Quantity: 2}, "placed"); err != nil {
		return err
	}
	say("Routing rules sent the small order to the bicycle and the big one to the lorry:")
	if err := s.sent(ctx, parcel{Order: "1", Route: "bicycle"}, parcel{Order: "2", Route: "lorry"}); err != nil {
		return err
	}
	if err := s.order(ctx, Order{ID: "3", Item: "mirror", Quantity: 1}, "placed"); err != nil {
		return err
	}
	say("Mirrors always break: after three tries the event went to the dead letter topic, with the cause:")
	if err := s.sent(ctx, parcel{Order: "3", Route: "dead"}); err != nil {
		return err
	}
	if err := s.lastTeapots(ctx); err != nil {
		return err
	}
	var kept Order
	if err := s.request(ctx, "orders", "GET", "/v1.0/state/statestore/order-2", nil, &kept); err != nil {
		return err
	}
	say("Order 2 is in the state store, signed with a key from the secret store: total %d, signature %s.", kept.Total, kept.Signature)
	if kept.Total != 120 || kept.Signature == "" {
		return fmt.Errorf("the order kept is %+v", kept)
	}
	say("Done.")
	return nil
}

func say(format string, args ...any) { fmt.Printf("\n▶ "+format+"\n", args...) }

// story is the running shop.
type story struct {
	cmd  *exec.Cmd
	home string
	temp bool
	log  bytes.Buffer
	port map[string]int // HTTP API by service
}

// open writes a run file and starts all services with their sidecars.
func open(ctx context.Context, o options) (*story, error) {
	s := &story{home: o.home, port: map[string]int{}}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	folder, err := here()
	if err != nil {
		return nil, err
	}
	if s.home == "" {
		if s.home, err = os.MkdirTemp("", "shop-"); err != nil {
			return nil, err
		}
		s.temp = true
	}
	file := fmt.Sprintf("version: 1\ncommon:\n  resourcesPaths:\n  - %s\n", filepath.Join(folder, "resources"))
	if o.more != "" {
		more, err := filepath.Abs(o.more)
		if err != nil {
			return nil, err
		}
		file += "  - " + more + "\n"
	}
	file += "apps:\n"
	for _, name := range []string{"orders", "catalog", "shipping"} {
		app, api, err := freePorts()
		if err != nil {
			return nil, err
		}
		s.port[name] = api
		command, dir := []string{self, name}, folder
		if other := o.with[name]; other != "" {
			command = strings.Fields(other)
			if dir, err = os.Getwd(); err != nil {
				return nil, err
			}
		}
		line, err := json.Marshal(command)
		if err != nil {
			return nil, err
		}
		file += fmt.Sprintf("- appID: %s\n  appDirPath: %s\n  appPort: %d\n  daprHTTPPort: %d\n  logLevel: warn\n  command: %s\n", name, dir, app, api, line)
	}
	path := filepath.Join(s.home, "shop.yaml")
	if err := os.WriteFile(path, []byte(file), 0o600); err != nil {
		return nil, err
	}
	s.cmd = exec.CommandContext(ctx, o.proa, "run", "--home", s.home, "-f", path) //nolint:gosec // what the user asks for
	s.cmd.Cancel = func() error { return s.cmd.Process.Signal(syscall.SIGTERM) }
	s.cmd.WaitDelay = 15 * time.Second
	s.cmd.Stdout = io.MultiWriter(&s.log, indented{os.Stdout})
	s.cmd.Stderr = s.cmd.Stdout
	return s, s.cmd.Start()
}

// here returns the folder of this example, wherever the story is played from.
func here() (string, error) {
	for _, dir := range []string{"examples/shop", ".", filepath.Dir(os.Args[0])} {
		if _, err := os.Stat(filepath.Join(dir, "resources", "orders.yaml")); err == nil {
			return filepath.Abs(dir)
		}
	}
	return "", errors.New("run it from the root of the repository: the resources of the example are not here")
}

// freePorts returns two ports that nobody uses now.
func freePorts() (int, int, error) {
	var ports [2]int
	for i := range ports {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return 0, 0, err
		}
		defer l.Close()
		_, text, err := net.SplitHostPort(l.Addr().String())
		if err != nil {
			return 0, 0, err
		}
		if ports[i], err = strconv.Atoi(text); err != nil {
			return 0, 0, err
		}
	}
	return ports[0], ports[1], nil
}

// indented sets what the services print apart from the story.
type indented struct{ w io.Writer }

func (i indented) Write(p []byte) (int, error) {
	text := "    " + strings.ReplaceAll(strings.TrimSuffix(string(p), "\n"), "\n", "\n    ") + "\n"
	if _, err := io.WriteString(i.w, text); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (s *story) close(failed bool) error {
	var err error
	if serr := s.cmd.Process.Signal(syscall.SIGTERM); serr == nil {
		err = s.cmd.Wait()
	}
	if s.temp && !failed {
		err = errors.Join(err, os.RemoveAll(s.home))
	}
	return err
}

// request asks the sidecar of a service, as a customer's web server would.
func (s *story) request(ctx context.Context, service, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, fmt.Sprintf("http://127.0.0.1:%d%s", s.port[service], path), body)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode >= 300 {
		return fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, bytes.TrimSpace(answer))
	}
	if out == nil || len(answer) == 0 {
		return nil
	}
	return json.Unmarshal(answer, out)
}

// ready waits until every service answers.
func (s *story) ready(ctx context.Context) error {
	for name := range s.port {
		for {
			err := s.request(ctx, name, "GET", "/v1.0/healthz", nil, nil)
			if err == nil {
				break
			}
			if ctx.Err() != nil {
				return fmt.Errorf("%s did not get ready: %w", name, err)
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
	return nil
}

// order places an order and checks what became of it.
func (s *story) order(ctx context.Context, o Order, want string) error {
	say("A customer orders %d × %s.", o.Quantity, o.Item)
	var got Order
	if err := s.request(ctx, "shipping", "POST", "/v1.0/invoke/orders/method/orders", o, &got); err != nil {
		return err
	}
	fmt.Printf("    → %s, total %d\n", got.Status, got.Total)
	if got.Status != want {
		return fmt.Errorf("order %s is %q, want %q", o.ID, got.Status, want)
	}
	return nil
}

// sent waits until shipping has dealt with the parcels.
func (s *story) sent(ctx context.Context, want ...parcel) error {
	for {
		var got []parcel
		if err := s.request(ctx, "orders", "GET", "/v1.0/invoke/shipping/method/sent", nil, &got); err != nil {
			return err
		}
		found := 0
		for _, w := range want {
			for _, g := range got {
				if g.Order == w.Order && g.Route == w.Route {
					found++
				}
			}
		}
		if found >= len(want) {
			for _, g := range got {
				fmt.Printf("    → order %s: %s %s\n", g.Order, g.Route, g.Reason)
			}
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("shipping sent %v, want %v", got, want)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// lastTeapots lets four customers want a teapot at once when three are left.
func (s *story) lastTeapots(ctx context.Context) error {
	say("Three teapots are left and four customers want one at the same moment; a lock guards the stock.")
	results := make(chan string, 4)
	failed := make(chan error, 4)
	for i := range 4 {
		go func() {
			var got Order
			o := Order{ID: "rush-" + strconv.Itoa(i), Item: "teapot", Quantity: 1}
			err := s.request(ctx, "shipping", "POST", "/v1.0/invoke/orders/method/orders", o, &got)
			failed <- err
			results <- got.Status
		}()
	}
	count := map[string]int{}
	for range 4 {
		if err := <-failed; err != nil {
			return err
		}
		count[<-results]++
	}
	fmt.Printf("    → %d placed, %d sold out\n", count["placed"], count["sold out"])
	if count["placed"] != 3 || count["sold out"] != 1 {
		return fmt.Errorf("the stock was sold %v", count)
	}
	return nil
}
