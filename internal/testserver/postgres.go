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
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/proa-io/proa/internal/fastloop"
)

// PostgresOptions configure a PostgreSQL server. The zero value is a server
// that lets everybody in.
type PostgresOptions struct {
	// Password, when set, is that of the user "postgres", and required of
	// every connection over TCP.
	Password string
	// Config holds further lines of postgresql.conf, such as
	// "max_connections = 10".
	Config []string
}

// PostgresServer is a running PostgreSQL server with the database "postgres".
// What it has committed survives Kill.
type PostgresServer struct {
	*Process
	options   PostgresOptions
	databases atomic.Int64 // how many Database has created
}

// Postgres starts a PostgreSQL server for the test.
func Postgres(tb TB, o PostgresOptions) *PostgresServer {
	tb.Helper()
	fastloop.Skip(tb, "starts a server")
	program, err := lookPostgres("postgres")
	if err != nil {
		missing(tb, "postgres", "not found")
	}
	s := &PostgresServer{options: o}
	s.Process = start(tb, spec{
		program: program, setUp: s.setUp, args: s.args, probe: s.probe,
		unprivileged: true, lingers: "is still in use",
	})
	return s
}

// lookPostgres finds a program of PostgreSQL, which distributions keep out of
// PATH, in a folder per version: the newest is taken.
func lookPostgres(program string) (string, error) {
	if path, err := lookPath(program); err == nil {
		return path, nil
	}
	folders, err := filepath.Glob("/usr/lib/postgresql/*/bin")
	if err != nil {
		return "", err
	}
	slices.SortFunc(folders, func(a, b string) int { return postgresVersion(b) - postgresVersion(a) })
	for _, dir := range folders {
		if path, err := exec.LookPath(filepath.Join(dir, program)); err == nil {
			return path, nil
		}
	}
	return "", exec.ErrNotFound
}

// postgresVersion returns 15 for "/usr/lib/postgresql/15/bin".
func postgresVersion(folder string) int {
	n, _ := strconv.Atoi(filepath.Base(filepath.Dir(folder)))
	return n
}

// Password returns the password of the user "postgres", or "".
func (s *PostgresServer) Password() string { return s.options.Password }

// URL returns "postgres://postgres:password@127.0.0.1:port/database".
func (s *PostgresServer) URL(database string) string { return s.URLAt(s.Addr(), database) }

// URLAt is URL for a server that is reached at another address.
func (s *PostgresServer) URLAt(addr, database string) string {
	u := url.URL{Scheme: "postgres", Host: addr, Path: "/" + database, RawQuery: "sslmode=disable", User: url.User("postgres")}
	if s.options.Password != "" {
		u.User = url.UserPassword("postgres", s.options.Password)
	}
	return u.String()
}

// Database creates a database for the test and returns its URL. The server keeps
// it until it stops.
func (s *PostgresServer) Database(tb TB) string {
	tb.Helper()
	createdb, err := lookPostgres("createdb")
	if err != nil {
		tb.Fatalf("testserver: createdb: %v", err)
	}
	name := fmt.Sprintf("test_%d", s.databases.Add(1))
	if err := s.runToEnd(createdb, "-h", s.Dir(), "-p", strconv.Itoa(s.Port()), "-U", "postgres", name); err != nil {
		tb.Fatalf("testserver: %v", err)
	}
	return s.URL(name)
}

func (s *PostgresServer) setUp(p *Process) error {
	initdb, err := lookPostgres("initdb")
	if err != nil {
		return err
	}
	data := filepath.Join(p.Dir(), "data")
	if err := p.runToEnd(initdb, "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync"); err != nil {
		return err
	}
	if s.options.Password == "" {
		return nil
	}
	// The socket in a directory that is ours alone stays open to the probe.
	rules := "local all all trust\nhost all all 127.0.0.1/32 scram-sha-256\n"
	if err := os.WriteFile(filepath.Join(data, "pg_hba.conf"), []byte(rules), 0o600); err != nil {
		return err
	}
	return p.feed("ALTER USER postgres PASSWORD '"+strings.ReplaceAll(s.options.Password, "'", "''")+"';\n",
		p.spec.program, "--single", "-D", data, "postgres")
}

func (s *PostgresServer) args(dir string, port int) ([]string, error) {
	// Nothing needs to survive the machine, only the process: no fsync.
	settings := append([]string{
		"listen_addresses = 127.0.0.1", "port = " + strconv.Itoa(port), "unix_socket_directories = " + dir,
		"fsync = off", "full_page_writes = off", "shared_buffers = 16MB", "max_wal_size = 128MB",
		"autovacuum_naptime = 10min", "logging_collector = off",
	}, s.options.Config...)
	args := []string{"-D", filepath.Join(dir, "data")}
	for _, line := range settings {
		name, value, ok := strings.Cut(line, "=")
		if !ok {
			return nil, fmt.Errorf("%q is no line of postgresql.conf", line)
		}
		args = append(args, "-c", strings.TrimSpace(name)+"="+strings.TrimSpace(value))
	}
	return args, nil
}

// probe says hello over the Unix socket. That it is the very process p runs
// shows in the pid file, which also says that it has the port.
func (s *PostgresServer) probe(p *Process) (string, error) {
	text, err := os.ReadFile(filepath.Join(p.Dir(), "data", "postmaster.pid"))
	if err != nil {
		return "", err
	}
	lines := strings.Split(string(text), "\n")
	if lines[0] != strconv.Itoa(p.Pid()) {
		return "", fmt.Errorf("the server is process %s", lines[0])
	}
	conn, err := net.DialTimeout("unix", filepath.Join(p.Dir(), ".s.PGSQL."+strconv.Itoa(p.Port())), probeWithin)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(probeWithin)); err != nil {
		return "", err
	}
	return postgresHello(conn)
}

// postgresHello begins a session and returns the version that the server
// reports when it is ready for queries.
func postgresHello(conn io.ReadWriter) (version string, err error) {
	const protocol = 3 << 16
	body := binary.BigEndian.AppendUint32(nil, protocol)
	body = append(body, "user\x00postgres\x00database\x00postgres\x00\x00"...)
	if _, err := conn.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(body)+4)), body...)); err != nil {
		return "", err
	}
	for {
		var head [5]byte
		if _, err := io.ReadFull(conn, head[:]); err != nil {
			return "", err
		}
		size := binary.BigEndian.Uint32(head[1:])
		if size < 4 || size > 1<<16 {
			return "", errors.New("postgres answers what is no message")
		}
		message := make([]byte, size-4)
		if _, err := io.ReadFull(conn, message); err != nil {
			return "", err
		}
		switch head[0] {
		case 'E':
			return "", fmt.Errorf("postgres refuses: %q", message)
		case 'S':
			if name, value, _ := bytes.Cut(message, []byte{0}); string(name) == "server_version" {
				version, _, _ = strings.Cut(strings.TrimRight(string(value), "\x00"), " ")
			}
		case 'Z':
			return version, nil
		}
	}
}
