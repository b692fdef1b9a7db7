package testserver

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/proa-io/proa/internal/fastloop"
	"github.com/proa-io/proa/internal/freeport"
)

// RabbitMQOptions configure a RabbitMQ server. The zero value is a server whose
// user guest has the password guest and may do everything.
type RabbitMQOptions struct {
	// Plugins are enabled, such as "rabbitmq_consistent_hash_exchange".
	Plugins []string
	// Config holds further lines of rabbitmq.conf, such as
	// "max_message_size = 1000000".
	Config []string
}

// RabbitMQServer is a running RabbitMQ server. Persistent messages in durable
// queues survive Kill once they are confirmed. It takes some seconds to start:
// share it.
type RabbitMQServer struct {
	*Process
	options RabbitMQOptions
	names   *Process // the port mapper that Erlang nodes need
	dist    int      // the port that nodes speak to each other on
}

// RabbitMQ starts a RabbitMQ server for the test, with an Erlang port mapper of
// its own: nothing outlives it.
func RabbitMQ(tb TB, o RabbitMQOptions) *RabbitMQServer {
	tb.Helper()
	fastloop.Skip(tb, "starts a server")
	program, err := lookRabbitMQ("rabbitmq-server")
	if err != nil {
		missing(tb, "rabbitmq-server", "not found")
	}
	epmd, err := lookPath("epmd")
	if err != nil {
		missing(tb, "epmd", "not found; it comes with rabbitmq-server")
	}
	s := &RabbitMQServer{options: o}
	s.names = start(tb, spec{program: epmd, probe: probeEPMD, args: func(_ string, port int) ([]string, error) {
		return []string{"-port", strconv.Itoa(port), "-address", "127.0.0.1"}, nil
	}})
	s.Process = start(tb, spec{program: program, args: s.configure, env: s.env, probe: s.probe})
	return s
}

// lookRabbitMQ finds a program of RabbitMQ. What Debian has in PATH changes to
// the user and the folders of the system's own server; the programs behind do
// not.
func lookRabbitMQ(program string) (string, error) {
	if path, err := exec.LookPath(filepath.Join("/usr/lib/rabbitmq/bin", program)); err == nil {
		return path, nil
	}
	return lookPath(program)
}

// URL returns "amqp://guest:guest@127.0.0.1:port/".
func (s *RabbitMQServer) URL() string { return s.URLAt(s.Addr()) }

// URLAt is URL for a server that is reached at another address.
func (s *RabbitMQServer) URLAt(addr string) string {
	u := url.URL{Scheme: "amqp", User: url.UserPassword("guest", "guest"), Host: addr, Path: "/"}
	return u.String()
}

// Control runs rabbitmqctl on the server and returns what it prints. It takes
// seconds.
func (s *RabbitMQServer) Control(args ...string) (string, error) {
	program, err := lookRabbitMQ("rabbitmqctl")
	if err != nil {
		return "", err
	}
	cmd := exec.Command(program, append([]string{"--quiet", "--node", s.node(s.Port())}, args...)...)
	cmd.Dir, cmd.Env = s.Dir(), append(os.Environ(), s.env(s.Dir(), s.Port())...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("rabbitmqctl %s: %w: %s", args[0], err, out)
	}
	return string(out), nil
}

// node returns the name of the Erlang node. It differs between servers that
// run at a time, which is how a server shows that it is the one asked for.
func (s *RabbitMQServer) node(port int) string { return fmt.Sprintf("proa-%d@localhost", port) }

func (s *RabbitMQServer) configure(dir string, port int) ([]string, error) {
	var err error
	if s.dist, err = freeport.Pick(); err != nil {
		return nil, err
	}
	lines := append([]string{
		"listeners.tcp.1 = 127.0.0.1:" + strconv.Itoa(port),
		"loopback_users = none",
		"cluster_name = " + s.node(port),
		"log.console = true",
		"log.console.level = warning",
		"log.file = false",
		"disk_free_limit.absolute = 1MB",
	}, s.options.Config...)
	for name, text := range map[string]string{
		"rabbitmq.conf":   strings.Join(lines, "\n") + "\n",
		"enabled_plugins": "[" + strings.Join(s.options.Plugins, ",") + "].\n",
		"rabbitmq-env":    "",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

// env is the environment of the server and of the programs that control it. It
// keeps everything in dir, and the server from being a child of a shell.
func (s *RabbitMQServer) env(dir string, port int) []string {
	in := func(name string) string { return filepath.Join(dir, name) }
	return []string{
		"HOME=" + dir, // of the cookie
		"ERL_EPMD_PORT=" + strconv.Itoa(s.names.Port()),
		"ERL_EPMD_ADDRESS=127.0.0.1",
		"RABBITMQ_NODENAME=" + s.node(port),
		"RABBITMQ_DIST_PORT=" + strconv.Itoa(s.dist),
		"RABBITMQ_CONF_ENV_FILE=" + in("rabbitmq-env"),
		"RABBITMQ_CONFIG_FILE=" + in("rabbitmq.conf"),
		"RABBITMQ_ENABLED_PLUGINS_FILE=" + in("enabled_plugins"),
		"RABBITMQ_MNESIA_BASE=" + in("mnesia"),
		"RABBITMQ_LOG_BASE=" + in("log"),
		"RABBITMQ_PID_FILE=" + in("pid"),
		"RABBITMQ_LOGS=-",
		"RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS=-kernel inet_dist_use_interface {127,0,0,1} +sbwt none +sbwtdcpu none +sbwtdio none",
		"RUNNING_UNDER_SYSTEMD=true",
	}
}

// probe connects and wants the server to be called what it was told.
func (s *RabbitMQServer) probe(p *Process) (string, error) {
	conn, err := amqp.DialConfig(s.URLAt(p.Addr()), amqp.Config{Dial: amqp.DefaultDial(probeWithin)})
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if name := conn.Properties["cluster_name"]; name != s.node(p.Port()) {
		return "", fmt.Errorf("%s is served by %v", p.Addr(), name)
	}
	version, ok := conn.Properties["version"].(string)
	if !ok {
		return "", errors.New("the server does not tell its version")
	}
	return version, nil
}

// probeEPMD asks a port mapper for the names it knows: the answer begins with
// its own port.
func probeEPMD(p *Process) (string, error) {
	return p.ask(func(conn net.Conn) (string, error) {
		if _, err := conn.Write([]byte{0, 1, 'n'}); err != nil {
			return "", err
		}
		answer, err := io.ReadAll(conn)
		if err != nil {
			return "", err
		}
		var port uint32
		if err := binary.Read(bytes.NewReader(answer), binary.BigEndian, &port); err != nil || int(port) != p.Port() {
			return "", fmt.Errorf("epmd answers %q", answer)
		}
		return "", nil
	})
}
