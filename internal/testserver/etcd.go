package testserver

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"

	"github.com/proa-io/proa/internal/fastloop"
)

// EtcdServer is a running etcd, a cluster of one. What it has acknowledged
// survives Kill.
type EtcdServer struct{ *Process }

// Etcd starts an etcd for the test, with further arguments such as
// "--max-txn-ops=4".
func Etcd(tb TB, args ...string) *EtcdServer {
	tb.Helper()
	fastloop.Skip(tb, "starts a server")
	program, err := lookPath("etcd")
	if err != nil {
		missing(tb, "etcd", "not found")
	}
	return &EtcdServer{start(tb, spec{
		program: program,
		args: func(dir string, port int) ([]string, error) {
			// Peers would meet on a Unix socket: there are none.
			const peers = "unix://peers:1"
			name, client := filepath.Base(dir), fmt.Sprintf("http://127.0.0.1:%d", port)
			return append([]string{
				"--name=" + name, "--data-dir=" + filepath.Join(dir, "data"),
				"--listen-client-urls=" + client, "--advertise-client-urls=" + client,
				"--listen-peer-urls=" + peers, "--initial-advertise-peer-urls=" + peers, "--initial-cluster=" + name + "=" + peers,
				// Nothing needs to survive the machine, only the process.
				"--unsafe-no-fsync", "--log-level=error", "--logger=zap",
			}, args...), nil
		},
		probe: probeEtcd,
	})}
}

// probeEtcd wants a cluster that has elected its leader, whose member has the
// name that was given to the process.
func probeEtcd(p *Process) (string, error) {
	client := http.Client{Timeout: probeWithin, Transport: &http.Transport{DisableKeepAlives: true}}
	ask := func(method, path, body string, into any) error {
		req, err := http.NewRequest(method, "http://"+p.Addr()+path, strings.NewReader(body)) //nolint:noctx // the client has a timeout
		if err != nil {
			return err
		}
		res, err := client.Do(req)
		if err != nil {
			return err
		}
		defer res.Body.Close()
		if res.StatusCode != http.StatusOK {
			return fmt.Errorf("etcd answers %s with status %d", path, res.StatusCode)
		}
		return json.NewDecoder(res.Body).Decode(into)
	}
	var cluster struct{ Members []struct{ Name string } }
	// Linearizable, and so answered only once there is a leader.
	if err := ask(http.MethodPost, "/v3/kv/range", `{"key":"AA=="}`, &struct{}{}); err != nil {
		return "", err
	}
	if err := ask(http.MethodPost, "/v3/cluster/member/list", "{}", &cluster); err != nil {
		return "", err
	}
	if len(cluster.Members) != 1 || cluster.Members[0].Name != filepath.Base(p.Dir()) {
		return "", errors.New(p.Addr() + " is served by another etcd")
	}
	var version struct{ Etcdserver string }
	return version.Etcdserver, ask(http.MethodGet, "/version", "", &version)
}
