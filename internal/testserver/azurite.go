package testserver

import (
	"fmt"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/proa-io/proa/internal/fastloop"
)

// AzuriteServer is a running Azurite, Microsoft's emulator of Azure Storage,
// with one account. It forgets all when it ends.
type AzuriteServer struct{ *Process }

// The account of every Azurite, as its documentation says.
const (
	AzuriteAccount = "devstoreaccount1"
	AzuriteKey     = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
)

// Azurite starts the emulator of blobs for the test. That takes some seconds:
// share it.
func Azurite(tb TB) *AzuriteServer {
	tb.Helper()
	return azurite(tb, "blob")
}

// AzuriteQueues starts the emulator of queues for the test. That takes some
// seconds: share it.
func AzuriteQueues(tb TB) *AzuriteServer {
	tb.Helper()
	return azurite(tb, "queue")
}

// azurite starts the emulator of a service.
func azurite(tb TB, service string) *AzuriteServer {
	tb.Helper()
	fastloop.Skip(tb, "starts a server")
	node, err := lookPath("node")
	if err != nil {
		missing(tb, "azurite", "node not found")
	}
	root, err := moduleRoot()
	if err != nil {
		tb.Fatalf("testserver: %v", err)
	}
	folder, err := installedBy(filepath.Join(root, "test", "azurite", "deps.sh"))
	if err != nil {
		missing(tb, "azurite", err.Error())
	}
	return &AzuriteServer{start(tb, spec{
		program: node,
		args: func(_ string, port int) ([]string, error) {
			return []string{
				filepath.Join(folder, "node_modules", "azurite", "dist", "src", service, "main.js"),
				"--" + service + "Host", "127.0.0.1", "--" + service + "Port", strconv.Itoa(port), "--inMemoryPersistence", "--silent", "--disableTelemetry",
			}, nil
		},
		probe: func(p *Process) (string, error) {
			client := http.Client{Timeout: probeWithin, Transport: &http.Transport{DisableKeepAlives: true}}
			res, err := client.Get("http://" + p.Addr() + "/" + AzuriteAccount) //nolint:noctx // the client has a timeout
			if err != nil {
				return "", err
			}
			defer res.Body.Close()
			if !strings.HasPrefix(res.Header.Get("Server"), "Azurite") {
				return "", fmt.Errorf("%s is served by another server", p.Addr())
			}
			return "", nil
		},
	})}
}
