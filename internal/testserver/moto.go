package testserver

import (
	"encoding/json"
	"fmt"
	"net/http"
	"path/filepath"
	"strconv"

	"github.com/proa-io/proa/internal/fastloop"
)

// MotoServer is a running moto, which stands in for Amazon Web Services: it
// answers as DynamoDB, SQS, SNS, Secrets Manager and the Parameter Store do, on
// one port, whatever the credentials. It forgets all when it ends.
type MotoServer struct{ *Process }

// Moto starts a server for the test. That takes some seconds: share it.
func Moto(tb TB) *MotoServer {
	tb.Helper()
	fastloop.Skip(tb, "starts a server")
	root, err := moduleRoot()
	if err != nil {
		tb.Fatalf("testserver: %v", err)
	}
	scripts := filepath.Join(root, "test", "moto")
	folder, err := installedBy(filepath.Join(scripts, "deps.sh"))
	if err != nil {
		missing(tb, "moto", err.Error())
	}
	return &MotoServer{start(tb, spec{
		program: filepath.Join(folder, "bin", "python"),
		args: func(_ string, port int) ([]string, error) {
			return []string{filepath.Join(scripts, "server.py"), strconv.Itoa(port)}, nil
		},
		probe: func(p *Process) (string, error) {
			client := http.Client{Timeout: probeWithin, Transport: &http.Transport{DisableKeepAlives: true}}
			res, err := client.Get("http://" + p.Addr() + "/moto-api/data.json") //nolint:noctx // the client has a timeout
			if err != nil {
				return "", err
			}
			defer res.Body.Close()
			if res.StatusCode != http.StatusOK {
				return "", fmt.Errorf("moto answers with status %d", res.StatusCode)
			}
			return "", json.NewDecoder(res.Body).Decode(new(map[string]any))
		},
	})}
}

// URL returns the endpoint of all services.
func (s *MotoServer) URL() string { return "http://" + s.Addr() }
