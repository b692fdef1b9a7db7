package testserver

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"

	"github.com/proa-io/proa/internal/freeport"
)

// consulVersion is the last one whose modules can be had, all of them, from the
// proxy of Go modules, and whose licence is free. test/consul/deps.sh builds it.
const consulVersion = "v1.12.9"

// ConsulServer is a running Consul: a server and agent in one, which keeps
// everything in memory. What it knew is gone after Kill.
type ConsulServer struct{ *Process }

// Consul starts a Consul for the test.
func Consul(tb TB) *ConsulServer {
	tb.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = os.TempDir()
	}
	program := filepath.Join(cache, "proa-test", "consul-"+consulVersion)
	if _, err := exec.LookPath(program); err != nil {
		missing(tb, "consul", "not found")
	}
	return &ConsulServer{start(tb, spec{
		program: program,
		args: func(dir string, port int) ([]string, error) {
			args := []string{
				"agent", "-dev", "-node=" + filepath.Base(dir), "-bind=127.0.0.1", "-client=127.0.0.1", "-log-level=warn",
				"-http-port=" + strconv.Itoa(port), "-grpc-port=-1", "-dns-port=-1", "-serf-wan-port=-1",
				"-hcl", `disable_update_check = true, limits { http_max_conns_per_client = 10000 }`,
			}
			for _, name := range []string{"-server-port=", "-serf-lan-port="} {
				other, err := freeport.Pick()
				if err != nil {
					return nil, err
				}
				args = append(args, name+strconv.Itoa(other))
			}
			return args, nil
		},
		probe: probeConsul,
	})}
}

// probeConsul wants a server that has a leader, and is the one that was started.
func probeConsul(p *Process) (string, error) {
	client := http.Client{Timeout: probeWithin, Transport: &http.Transport{DisableKeepAlives: true}}
	ask := func(path string, into any) error {
		res, err := client.Get("http://" + p.Addr() + path) //nolint:noctx // the client has a timeout
		if err != nil {
			return err
		}
		defer res.Body.Close()
		if res.StatusCode != http.StatusOK {
			return fmt.Errorf("consul answers %s with status %d", path, res.StatusCode)
		}
		return json.NewDecoder(res.Body).Decode(into)
	}
	var leader string
	if err := ask("/v1/status/leader", &leader); err != nil {
		return "", err
	}
	if leader == "" {
		return "", errors.New("consul has no leader yet")
	}
	var self struct {
		Config struct{ NodeName, Version string }
	}
	if err := ask("/v1/agent/self", &self); err != nil {
		return "", err
	}
	if self.Config.NodeName != filepath.Base(p.Dir()) {
		return "", errors.New(p.Addr() + " is served by another consul")
	}
	return self.Config.Version, nil
}
