package interop_test

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/proa-io/proa/internal/fastloop"
	"github.com/proa-io/proa/test/interop/harness"
)

// An sdk is how the applications of one language run.
type sdk struct {
	// name is that of the language, in lower case.
	name string
	// env is what they need in the environment.
	env []string
	// flags are for the sidecar of main.
	flags []string
	// subscription declares what the peer receives, on a route as the SDK has
	// them.
	subscription string
	// app returns the command of an application.
	app func(role, protocol string) []string
}

func javascript(t *testing.T) sdk {
	folder := jssdk.Get(t)
	return sdk{
		name:         "javascript",
		env:          []string{"NODE_PATH=" + filepath.Join(folder, "node_modules")},
		subscription: "testdata/subscriptions/javascript.yaml",
		app: func(role, protocol string) []string {
			return []string{"node", filepath.Join(harness.Repository(t), "test/interop/js/app.js"), role, protocol}
		},
	}
}

func golang(t *testing.T) sdk {
	program := gosdk.Get(t)
	return sdk{
		name:         "go",
		flags:        []string{"--enable-app-health-check", "--app-health-probe-interval", "1"},
		subscription: "testdata/subscriptions/go.yaml",
		app:          func(role, protocol string) []string { return []string{program, role, protocol} },
	}
}

func python(t *testing.T) sdk {
	folder := pysdk.Get(t)
	return sdk{
		name:         "python",
		env:          []string{"PYTHONUNBUFFERED=1", "PYTHONDONTWRITEBYTECODE=1"},
		flags:        []string{"--enable-app-health-check", "--app-health-probe-interval", "1"},
		subscription: "testdata/subscriptions/python.yaml",
		app: func(role, protocol string) []string {
			return []string{
				filepath.Join(folder, "bin/python"), filepath.Join(harness.Repository(t), "test/interop/python/app.py"), role, protocol,
			}
		},
	}
}

func java(t *testing.T) sdk {
	classPath := javasdk.Get(t)
	return sdk{
		name:         "java",
		flags:        []string{"--enable-app-health-check", "--app-health-probe-interval", "1"},
		subscription: "testdata/subscriptions/java.yaml",
		app: func(role, protocol string) []string {
			// What makes a short program start soon.
			return []string{"java", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xshare:auto", "-cp", classPath, "interop.Main", role, protocol}
		},
	}
}

func TestPython(t *testing.T) { matrix(t, python, engineAndServers()) }

func TestGo(t *testing.T) {
	matrix(t, golang, append(engineAndServers(), suite{"grpc on Redis alone", onRedis}, suite{"http on the engine and RabbitMQ", onRabbitMQ}))
}

func TestJava(t *testing.T) { matrix(t, java, engineAndServers()) }

func TestJavaScript(t *testing.T) { matrix(t, javascript, engineAndServers()) }

// A suite is all checks of an SDK over one protocol, on one set of stores and
// brokers.
type suite struct {
	name string // begins with the protocol
	open func(t *testing.T, home string) backend
}

func engineAndServers() []suite {
	return []suite{
		{"http on the embedded engine", embedded}, {"grpc on the embedded engine", embedded},
		{"http on PostgreSQL and Redis, with tokens", onServers}, {"grpc on PostgreSQL and Redis, with tokens", onServers},
	}
}

// matrix runs the suites of one SDK.
func matrix(t *testing.T, language func(*testing.T) sdk, suites []suite) {
	fastloop.Skip(t, "runs other programs")
	t.Parallel()
	for _, one := range suites {
		t.Run(one.name, func(t *testing.T) {
			t.Parallel()
			protocol, _, _ := strings.Cut(one.name, " ")
			home := harness.TempDir(t)
			checks(t, language(t), protocol, home, one.open(t, home))
		})
	}
}

// keys returns a folder with the keys of a vault: "aes", a symmetric one, and
// "rsa.pem".
func keys(t *testing.T) string {
	folder := harness.TempDir(t)
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	symmetric := make([]byte, 32)
	_, _ = rand.Read(symmetric)
	for name, content := range map[string][]byte{
		"rsa.pem": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}),
		"aes":     symmetric,
	} {
		if err := os.WriteFile(filepath.Join(folder, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return folder
}

// checks runs two applications, each with its sidecar. The one called main makes
// all checks, with the other as the one it talks to, and shuts its sidecar down.
func checks(t *testing.T, s sdk, protocol, home string, b backend) {
	p := proa.Get(t)
	components, err := json.Marshal(b.components)
	if err != nil {
		t.Fatal(err)
	}
	o := harness.Options{
		Home:        home,
		AppProtocol: protocol,
		Resources:   append([]string{"testdata/resources", s.subscription}, b.resources...),
		Env: append(append([]string{
			"INTEROP_FILES=" + harness.TempDir(t),
			"INTEROP_KEYS=" + keys(t),
			"INTEROP_SECRET=from the environment",
			"INTEROP_VALUE_KEY=" + strings.Repeat("5b", 32), // in hexadecimal
			"INTEROP_COMPONENTS=" + string(components),
			"INTEROP_PEER=peer",
		}, b.env...), s.env...),
	}
	c := newControl(t)
	o.Env = append(o.Env, "INTEROP_CONTROL="+c.url, "INTEROP_MODEL="+c.url+"/v1")
	if b.recorded {
		o.Calls = harness.NewCalls()
	}

	peer := o
	peer.AppID, peer.App = "peer", s.app("peer", protocol)
	peer.Flags = []string{"--disable-init-endpoints", "subscribe"}
	other := p.Run(t, peer)
	other.WaitReady()
	c.store = b.configuration(t)

	results := harness.NewResults()
	o.Flags = s.flags
	o.AppID, o.App, o.OnLine = "main", s.app("main", protocol), results.Line
	main := p.Run(t, o)
	began := time.Now()
	made := results.Checks(t, main.Program)
	t.Logf("%d checks in %v", made, time.Since(began).Round(time.Millisecond))
	t.Run("the sidecar shuts down when it is told to, and stops the application", func(t *testing.T) {
		if code := main.Wait(20 * time.Second); code != 0 {
			t.Errorf("exit code %d, want 0", code)
		}
	})
	t.Run("the other sidecar stops on a signal", func(t *testing.T) {
		if code := other.Stop(); code != 0 {
			t.Errorf("exit code %d, want 0", code)
		}
	})
	if b.recorded {
		t.Run("the record says which parts of the API are used", func(t *testing.T) {
			o.Calls.Check(t, "testdata/calls/"+s.name+"-"+protocol+".txt")
		})
	}
}
