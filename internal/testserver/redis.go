package testserver

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/proa-io/proa/internal/fastloop"
)

// RedisOptions configure a Redis server. The zero value is an open server that
// keeps everything in memory.
type RedisOptions struct {
	// Password, when set, is required of every connection.
	Password string
	// AppendOnly makes the server write and sync each change before it
	// answers, so that data survive Kill. Without it a restart comes up empty.
	AppendOnly bool
	// UnixSocket makes the server listen on a Unix socket too.
	UnixSocket bool
	// Sentinel runs a sentinel in place of a server, with what it watches in
	// Config: "sentinel monitor name 127.0.0.1 port 1".
	Sentinel bool
	// Config holds further lines of redis.conf, such as
	// "notify-keyspace-events KEA" or "maxmemory 1mb".
	Config []string
}

// RedisServer is a running redis-server.
type RedisServer struct {
	*Process
	options RedisOptions
}

// RedisDatabases is how many databases a server has, from 0 on.
const RedisDatabases = 1024

// Redis starts a redis-server for the test.
func Redis(tb TB, o RedisOptions) *RedisServer {
	tb.Helper()
	fastloop.Skip(tb, "starts a server")
	program, err := lookPath("redis-server")
	if err != nil {
		missing(tb, "redis-server", "not found")
	}
	s := &RedisServer{options: o}
	s.Process = start(tb, spec{program: program, args: s.configure, probe: s.probe})
	return s
}

// Password returns the password that connections need, or "".
func (s *RedisServer) Password() string { return s.options.Password }

// Socket returns the path of the Unix socket, or "" without one.
func (s *RedisServer) Socket() string {
	if !s.options.UnixSocket {
		return ""
	}
	return filepath.Join(s.Dir(), "redis.sock")
}

// URL returns "redis://:password@127.0.0.1:port/0".
func (s *RedisServer) URL() string {
	u := url.URL{Scheme: "redis", Host: s.Addr(), Path: "/0"}
	if s.options.Password != "" {
		u.User = url.UserPassword("", s.options.Password)
	}
	return u.String()
}

func (s *RedisServer) configure(dir string, port int) ([]string, error) {
	lines := []string{
		"bind 127.0.0.1",
		"port " + strconv.Itoa(port),
		"dir " + strconv.Quote(dir),
		"daemonize no",
		`save ""`,
		"databases " + strconv.Itoa(RedisDatabases), // one for each test that wants one
	}
	if s.options.AppendOnly {
		lines = append(lines, "appendonly yes", "appendfsync always")
	}
	if s.options.Password != "" {
		lines = append(lines, "requirepass "+strconv.Quote(s.options.Password))
	}
	if s.options.UnixSocket {
		lines = append(lines, "unixsocket "+strconv.Quote(filepath.Join(dir, "redis.sock")))
	}
	lines = append(lines, s.options.Config...)
	file := filepath.Join(dir, "redis.conf")
	args := []string{file}
	if s.options.Sentinel {
		args = append(args, "--sentinel")
	}
	return args, os.WriteFile(file, []byte(strings.Join(lines, "\n")+"\n"), 0o600)
}

// probe wants PONG, which a server still loading its data does not say, and
// the process id.
func (s *RedisServer) probe(p *Process) (string, error) {
	return p.ask(func(conn net.Conn) (version string, err error) {
		r := bufio.NewReader(conn)
		if s.options.Password != "" {
			if _, err := redisCommand(conn, r, "AUTH", s.options.Password); err != nil {
				return "", err
			}
		}
		if _, err := redisCommand(conn, r, "PING"); err != nil {
			return "", err
		}
		info, err := redisCommand(conn, r, "INFO", "server")
		if err != nil {
			return "", err
		}
		for line := range strings.Lines(info) {
			switch name, value, _ := strings.Cut(strings.TrimSpace(line), ":"); name {
			case "redis_version":
				version = value
			case "process_id":
				if value != strconv.Itoa(p.Pid()) {
					return "", fmt.Errorf("%s is served by process %s", p.Addr(), value)
				}
			}
		}
		return version, nil
	})
}

// redisCommand sends one command and returns its reply, which must be a simple
// or a bulk string.
func redisCommand(w io.Writer, r *bufio.Reader, args ...string) (string, error) {
	var b strings.Builder
	fmt.Fprintf(&b, "*%d\r\n", len(args))
	for _, a := range args {
		fmt.Fprintf(&b, "$%d\r\n%s\r\n", len(a), a)
	}
	if _, err := io.WriteString(w, b.String()); err != nil {
		return "", err
	}
	line, err := r.ReadString('\n')
	if err != nil {
		return "", err
	}
	head := strings.TrimSuffix(line, "\r\n")
	size, bulk := strings.CutPrefix(head, "$")
	if !bulk {
		text, simple := strings.CutPrefix(head, "+")
		if !simple {
			return "", fmt.Errorf("redis answers %s with %q", args[0], head)
		}
		return text, nil
	}
	n, err := strconv.Atoi(size)
	if err != nil || n < 0 {
		return "", fmt.Errorf("redis answers %s with %q", args[0], head)
	}
	body := make([]byte, n+len("\r\n"))
	_, err = io.ReadFull(r, body)
	return string(body[:n]), err
}
