package testserver

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/proa-io/proa/internal/fastloop"
)

// MariaDBOptions configure a MariaDB server.
type MariaDBOptions struct {
	// Args are further arguments of the server, such as "--max-connections=10".
	Args []string
}

// MariaDBServer is a running MariaDB server without databases of its own. What
// it has committed survives Kill.
type MariaDBServer struct {
	*Process
	options MariaDBOptions
}

// The user that may do everything.
const (
	mariadbUser     = "proa"
	mariadbPassword = "a secret"
)

// MariaDB starts a MariaDB server for the test.
func MariaDB(tb TB, o MariaDBOptions) *MariaDBServer {
	tb.Helper()
	fastloop.Skip(tb, "starts a server")
	program, err := lookPath("mariadbd")
	if err != nil {
		missing(tb, "mariadbd", "not found")
	}
	s := &MariaDBServer{options: o}
	s.Process = start(tb, spec{
		program: program, setUp: setUpMariaDB, args: s.args, probe: probeMariaDB,
		unprivileged: true, lingers: "Unable to lock",
	})
	return s
}

// User returns the name of a user that may do everything.
func (s *MariaDBServer) User() string { return mariadbUser }

// Password returns the password of that user.
func (s *MariaDBServer) Password() string { return mariadbPassword }

// DSN returns "user:password@tcp(127.0.0.1:port)/database".
func (s *MariaDBServer) DSN(database string) string { return s.DSNAt(s.Addr(), database) }

// DSNAt is DSN for a server that is reached at another address.
func (s *MariaDBServer) DSNAt(addr, database string) string {
	return fmt.Sprintf("%s:%s@tcp(%s)/%s", mariadbUser, mariadbPassword, addr, database)
}

func setUpMariaDB(p *Process) error {
	install, err := lookPath("mariadb-install-db")
	if err != nil {
		return err
	}
	init := fmt.Sprintf("CREATE USER IF NOT EXISTS '%s'@'%%' IDENTIFIED BY '%s';\nGRANT ALL ON *.* TO '%s'@'%%' WITH GRANT OPTION;\n",
		mariadbUser, mariadbPassword, mariadbUser)
	if err := os.WriteFile(filepath.Join(p.Dir(), "init.sql"), []byte(init), 0o644); err != nil {
		return err
	}
	return p.runToEnd(install, "--no-defaults", "--datadir="+filepath.Join(p.Dir(), "data"),
		"--auth-root-authentication-method=normal", "--skip-test-db", "--skip-name-resolve", "--innodb-log-file-size=4M")
}

func (s *MariaDBServer) args(dir string, port int) ([]string, error) {
	// Nothing needs to survive the machine, only the process: what a commit has
	// written need not be on the disk.
	return append([]string{
		"--no-defaults", "--datadir=" + filepath.Join(dir, "data"), "--bind-address=127.0.0.1", "--port=" + strconv.Itoa(port),
		"--socket=" + filepath.Join(dir, "mariadb.sock"), "--pid-file=" + filepath.Join(dir, "mariadb.pid"),
		"--init-file=" + filepath.Join(dir, "init.sql"), "--skip-name-resolve", "--skip-log-bin",
		"--innodb-flush-log-at-trx-commit=2", "--innodb-buffer-pool-size=32M", "--innodb-log-file-size=4M",
		"--performance-schema=OFF",
	}, s.options.Args...), nil
}

// probeMariaDB reads the greeting, which every connection begins with. That it
// is of the very process p runs shows in the pid file.
func probeMariaDB(p *Process) (string, error) {
	pid, err := os.ReadFile(filepath.Join(p.Dir(), "mariadb.pid"))
	if err != nil {
		return "", err
	}
	if strings.TrimSpace(string(pid)) != strconv.Itoa(p.Pid()) {
		return "", fmt.Errorf("the server is process %s", pid)
	}
	return p.ask(mariadbGreeting)
}

func mariadbGreeting(conn net.Conn) (version string, err error) {
	r := bufio.NewReader(conn)
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return "", err
	}
	head[3] = 0
	greeting := make([]byte, binary.LittleEndian.Uint32(head[:]))
	if _, err := io.ReadFull(r, greeting); err != nil {
		return "", err
	}
	if len(greeting) == 0 || greeting[0] != 10 {
		return "", errors.New("mariadb does not greet in version 10 of its protocol")
	}
	name, _, _ := strings.Cut(string(greeting[1:]), "\x00") // "5.5.5-10.11.14-MariaDB-..."
	version, _, _ = strings.Cut(strings.TrimPrefix(name, "5.5.5-"), "-")
	return version, nil
}
