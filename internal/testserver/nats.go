package testserver

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/proa-io/proa/internal/fastloop"
)

// NATSOptions configure a NATS server. The zero value is an open server with
// JetStream, in the version of go.mod.
type NATSOptions struct {
	// NoJetStream leaves JetStream off.
	NoJetStream bool
	// User and Password, when set, are required of every connection.
	User, Password string
	// Installed runs the nats-server that is installed on the machine, which
	// is as old as the distribution, in place of the version in go.mod.
	Installed bool
	// Config holds further lines of the server's configuration file, such as
	// "max_payload: 64KB".
	Config []string
}

// NATSServer is a running nats-server. With JetStream, what is stored survives
// Kill and Restart.
type NATSServer struct {
	*Process
	options NATSOptions
}

// NATS starts a nats-server for the test. The first test on a machine builds it
// from the module cache.
func NATS(tb TB, o NATSOptions) *NATSServer {
	tb.Helper()
	fastloop.Skip(tb, "starts a server")
	find := builtNATS
	if o.Installed {
		find = func() (string, error) { return lookPath("nats-server") }
	}
	program, err := find()
	if err != nil {
		missing(tb, "nats-server", err.Error())
	}
	s := &NATSServer{options: o}
	s.Process = start(tb, spec{program: program, args: s.configure, probe: s.probe})
	return s
}

// URL returns "nats://127.0.0.1:port", with user and password if there are any.
func (s *NATSServer) URL() string {
	u := url.URL{Scheme: "nats", Host: s.Addr()}
	if s.options.User != "" {
		u.User = url.UserPassword(s.options.User, s.options.Password)
	}
	return u.String()
}

// serverName is how a server shows in its INFO that it is the one asked for.
func serverName(dir string) string { return filepath.Base(dir) }

func (s *NATSServer) configure(dir string, port int) ([]string, error) {
	lines := []string{
		"listen: 127.0.0.1:" + strconv.Itoa(port),
		"server_name: " + strconv.Quote(serverName(dir)),
	}
	if !s.options.NoJetStream {
		lines = append(lines, fmt.Sprintf("jetstream { store_dir: %q }", filepath.Join(dir, "jetstream")))
	}
	if s.options.User != "" {
		lines = append(lines, fmt.Sprintf("authorization { user: %q, password: %q }", s.options.User, s.options.Password))
	}
	lines = append(lines, s.options.Config...)
	file := filepath.Join(dir, "nats.conf")
	return []string{"-c", file}, os.WriteFile(file, []byte(strings.Join(lines, "\n")+"\n"), 0o600)
}

// probe reads the INFO line, which every connection begins with. It comes after
// JetStream has recovered its streams.
func (s *NATSServer) probe(p *Process) (string, error) {
	return p.ask(func(conn net.Conn) (version string, err error) {
		line, err := bufio.NewReader(conn).ReadString('\n')
		if err != nil {
			return "", err
		}
		text, ok := strings.CutPrefix(line, "INFO ")
		var info struct {
			Name      string `json:"server_name"`
			Version   string `json:"version"`
			JetStream bool   `json:"jetstream"`
		}
		if !ok || json.Unmarshal([]byte(text), &info) != nil {
			return "", fmt.Errorf("nats-server begins with %q", line)
		}
		switch {
		case info.Name != serverName(p.Dir()):
			return "", fmt.Errorf("%s is served by %q", p.Addr(), info.Name)
		case !info.JetStream && !s.options.NoJetStream:
			return "", errors.New("JetStream is not up")
		}
		return info.Version, nil
	})
}

const (
	natsModule = "github.com/nats-io/nats-server/v2"
	ownModule  = "github.com/proa-io/proa"
)

// builtNATS returns the nats-server of the version in go.mod, building it when
// this user's cache does not have it. Several test binaries may do so at once.
func builtNATS() (string, error) {
	root, err := moduleRoot()
	if err != nil {
		return "", err
	}
	version, err := goTool(root, "list", "-m", "-f", "{{.Version}}", natsModule)
	if err != nil {
		return "", err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = os.TempDir()
	}
	dir := filepath.Join(cache, "proa-test")
	program := filepath.Join(dir, "nats-server-"+version)
	if _, err := exec.LookPath(program); err == nil {
		return program, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	scratch, err := os.MkdirTemp(dir, "build-*")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(scratch)
	fresh := filepath.Join(scratch, "nats-server")
	if _, err := goTool(root, "build", "-o", fresh, natsModule); err != nil {
		return "", err
	}
	return program, os.Rename(fresh, program)
}

// moduleRoot returns the folder of our go.mod, at or above the working
// directory.
func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for ; ; dir = filepath.Dir(dir) {
		text, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && bytes.HasPrefix(text, []byte("module "+ownModule+"\n")) {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("no go.mod of %s at or above the working directory", ownModule)
		}
	}
}

func goTool(dir string, args ...string) (string, error) {
	cmd := exec.Command("go", args...)
	cmd.Dir = dir
	var out, problems bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &problems
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, &problems)
	}
	return strings.TrimSpace(out.String()), nil
}
