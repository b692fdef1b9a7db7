package e2e_test

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/proa-io/proa/internal/freeport"
)

// TestTheAPIAnswersWhileAComponentCannotConnect shows how long it takes from
// the start of the process to the first answer. It is meant to be 100 ms at the
// most; what a busy machine makes of it is printed and not judged.
func TestTheAPIAnswersWhileAComponentCannotConnect(t *testing.T) {
	long(t)
	program, dir := proa(t), t.TempDir()
	nobody, err := freeport.Pick()
	if err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf("apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata:\n  name: cache\nspec:\n  type: state.redis\n  version: v1\n"+
		"  metadata:\n  - name: redisHost\n    value: 127.0.0.1:%d\n", nobody)
	if err := os.WriteFile(filepath.Join(dir, "redis.yaml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	port, err := freeport.Pick()
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	p, err := start(launch{name: "shop", dir: dir, env: os.Environ(), args: []string{program, "sidecar", "--app-id", "shop", "--home", dir,
		"--resources-path", "redis.yaml", "--dapr-http-port", fmt.Sprint(port), "--dapr-grpc-port", "0", "--metrics-port", "0"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.kill)
	s := &sidecar{process: p, http: port}
	if err := eventually(func() error {
		status, answer, err := s.call("GET", "/v1.0/metadata", nil)
		if err != nil || status != http.StatusOK {
			return fmt.Errorf("%d %s %w", status, answer, err)
		}
		return nil
	}); err != nil {
		t.Fatalf("%v\n%s", err, p.output())
	}
	t.Logf("the API answered %v after the start", time.Since(began).Round(time.Millisecond))
	if err := s.stop(); err != nil {
		t.Error(err)
	}
}
