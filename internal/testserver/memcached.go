package testserver

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
)

// MemcachedServer is a running memcached. A restart comes up empty.
type MemcachedServer struct {
	*Process
	version string
}

// Memcached starts a memcached for the test, with further command line
// arguments such as "-I", "2m".
func Memcached(tb TB, args ...string) *MemcachedServer {
	tb.Helper()
	program, err := lookPath("memcached")
	if err != nil {
		missing(tb, "memcached", "not found")
	}
	s := &MemcachedServer{}
	s.Process = start(tb, spec{program: program, probe: s.probe, args: func(_ string, port int) ([]string, error) {
		own := []string{"-l", "127.0.0.1", "-p", strconv.Itoa(port), "-U", "0"}
		if os.Getuid() == 0 {
			own = append(own, "-u", "root") // it refuses to run as root unasked
		}
		return slices.Concat(own, args), nil
	}})
	return s
}

// Version returns what the server calls itself, "1.6.18".
func (s *MemcachedServer) Version() string { return s.version }

func (s *MemcachedServer) probe(p *Process) error {
	return p.ask(func(conn net.Conn) error {
		if _, err := io.WriteString(conn, "stats\r\n"); err != nil {
			return err
		}
		r := bufio.NewReader(conn)
		for {
			line, err := r.ReadString('\n')
			if err != nil {
				return err
			}
			fields := strings.Fields(line)
			switch {
			case len(fields) == 1 && fields[0] == "END":
				return nil
			case len(fields) < 3 || fields[0] != "STAT":
				return fmt.Errorf("memcached answers stats with %q", line)
			case fields[1] == "pid" && fields[2] != strconv.Itoa(p.Pid()):
				return fmt.Errorf("%s is served by process %s", p.Addr(), fields[2])
			case fields[1] == "version":
				s.version = fields[2]
			}
		}
	})
}
