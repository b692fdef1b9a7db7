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

	"github.com/proa-io/proa/internal/fastloop"
)

// MemcachedServer is a running memcached. A restart comes up empty.
type MemcachedServer struct{ *Process }

// Memcached starts a memcached for the test, with further command line
// arguments such as "-I", "2m".
func Memcached(tb TB, args ...string) *MemcachedServer {
	tb.Helper()
	fastloop.Skip(tb, "starts a server")
	program, err := lookPath("memcached")
	if err != nil {
		missing(tb, "memcached", "not found")
	}
	return &MemcachedServer{start(tb, spec{program: program, probe: probeMemcached, args: func(_ string, port int) ([]string, error) {
		own := []string{"-l", "127.0.0.1", "-p", strconv.Itoa(port), "-U", "0"}
		if os.Getuid() == 0 {
			own = append(own, "-u", "root") // it refuses to run as root unasked
		}
		return slices.Concat(own, args), nil
	}})}
}

func probeMemcached(p *Process) (string, error) {
	return p.ask(func(conn net.Conn) (version string, err error) {
		if _, err := io.WriteString(conn, "stats\r\n"); err != nil {
			return "", err
		}
		r := bufio.NewReader(conn)
		for {
			line, err := r.ReadString('\n')
			if err != nil {
				return "", err
			}
			fields := strings.Fields(line)
			switch {
			case len(fields) == 1 && fields[0] == "END":
				return version, nil
			case len(fields) < 3 || fields[0] != "STAT":
				return "", fmt.Errorf("memcached answers stats with %q", line)
			case fields[1] == "pid" && fields[2] != strconv.Itoa(p.Pid()):
				return "", fmt.Errorf("%s is served by process %s", p.Addr(), fields[2])
			case fields[1] == "version":
				version = fields[2]
			}
		}
	})
}
