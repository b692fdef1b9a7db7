package runtime

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/proa-io/proa/internal/testserver"
)

// fileStore is a secret store on the file secrets.json beside it.
func fileStore() string {
	return componentYAML("vault", "secretstores.local.file", "secretsFile=secrets.json")
}

// withSecret adds a setting that refers to a secret of the store "vault".
func withSecret(yaml, setting, name string) string {
	if !strings.Contains(yaml, "  metadata:\n  -") {
		yaml += "  metadata:\n"
	}
	return yaml + fmt.Sprintf("  - name: %s\n    secretKeyRef:\n      name: %s\n      key: %s\n", setting, name, name) +
		"auth:\n  secretStore: vault\n"
}

// secrets puts the file of the secret store in place.
func (r *rig) secrets(values map[string]string) {
	r.t.Helper()
	r.write("secrets.json", secretsJSON(r.t, values))
}

func secretsJSON(t *testing.T, values map[string]string) string {
	t.Helper()
	text, err := json.Marshal(values)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// rotated waits until components were opened anew.
func (r *rig) rotated(want ...string) {
	r.t.Helper()
	if got := r.applied(); !slices.Equal(got.Rotated, want) {
		r.t.Fatalf("opened anew were %q, want %q: %s", got.Rotated, want, &got)
	}
}

// keyed is an output binding that sends a secret as the header X-Key.
func keyed(url string) string {
	return withSecret(componentYAML("out", "bindings.http", "url="+url, "securityTokenHeader=X-Key"), "securityToken", "token")
}

// sends wants the binding to send the value of the secret.
func (r *rig) sends(want string) {
	r.t.Helper()
	if got := r.must("POST", "/v1.0/bindings/out", `{"operation":"get"}`, 200); got != "a "+want {
		r.t.Fatalf("the server got %q, want the key %q", got, want)
	}
}

func TestChangedSecretsAreTakenIntoUseUnderLoad(t *testing.T) {
	t.Parallel()
	a := newServer(t, "a")
	r := newRig(t, map[string]string{
		"vault.yaml": fileStore(), "secrets.json": secretsJSON(t, map[string]string{"token": "0", "other": "0"}), "out.yaml": keyed(a.URL),
		"plain.yaml": componentYAML("plain", "state.in-memory"),
	}, nil)
	stop := hammer(t, func(_, _ int) error {
		status, answer, err := r.call("POST", "/v1.0/bindings/out", `{"operation":"get"}`)
		if err != nil || status != 200 || !strings.HasPrefix(answer, "a ") {
			return fmt.Errorf("%d %s %w", status, answer, err)
		}
		return nil
	})
	r.sends("0")
	plain := r.table.Load().unit("state", "plain")
	for n := range 3 {
		value := fmt.Sprint(n + 1)
		r.secrets(map[string]string{"token": value, "other": "x" + value})
		r.rotated("Component out")
		r.sends(value)
		if got := r.must("GET", "/v1.0/secrets/vault/token", "", 200); got != `{"token":"`+value+`"}` {
			t.Errorf("GetSecret: %s", got)
		}
	}
	stop()
	if r.table.Load().unit("state", "plain") != plain {
		t.Error("a component without secrets was opened anew")
	}
	// Nobody refers to the other one.
	r.secrets(map[string]string{"token": "3", "other": "changed"})
	r.secrets(map[string]string{"token": "4", "other": "changed"})
	r.rotated("Component out")
	r.sends("4")
}

func TestPasswordOfAServerIsRotated(t *testing.T) {
	t.Parallel()
	server := testserver.Redis(t, testserver.RedisOptions{Config: []string{"user app on ~* &* +@all >first"}})
	r := newRig(t, map[string]string{
		"vault.yaml":   fileStore(),
		"secrets.json": secretsJSON(t, map[string]string{"password": "first"}),
		"items.yaml":   withSecret(componentYAML("items", "state.redis", "redisHost="+server.Addr(), "redisUsername=app"), "redisPassword", "password"),
	}, nil)
	r.must("POST", "/v1.0/state/items", `[{"key":"k","value":"v"}]`, 204)
	stop := hammer(t, func(_, _ int) error {
		status, answer, err := r.call("GET", "/v1.0/state/items/k", "")
		if err != nil || status != 200 || answer != `"v"` {
			return fmt.Errorf("%d %s %w", status, answer, err)
		}
		return nil
	})
	// A password that the server does not take yet keeps the former one in use.
	r.secrets(map[string]string{"password": "second"})
	pending := r.next()
	if len(pending.Pending) != 1 || !strings.Contains(pending.Pending[0], "Component items") {
		t.Fatalf("with a password that the server does not take: %+v", pending)
	}
	redisACL(t, server, ">second")
	if later := r.applied(); later.Generation != pending.Generation+1 {
		t.Fatalf("with a password that the server takes: %+v", later)
	}
	stop()
	redisACL(t, server, "<first")
	r.must("GET", "/v1.0/state/items/k", "", 200)
}

// redisACL changes what the user "app" may log in with.
func redisACL(t *testing.T, server *testserver.RedisServer, rule string) {
	t.Helper()
	conn, err := net.Dial("tcp", server.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := fmt.Fprintf(conn, "ACL SETUSER app %s\r\n", rule); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(conn).ReadString('\n'); err != nil || line != "+OK\r\n" {
		t.Fatalf("ACL SETUSER: %q, %v", line, err)
	}
}

func TestSecretsOfKubernetesAreWatched(t *testing.T) {
	t.Parallel()
	k := testserver.Kubernetes(t, "the-token")
	k.Set("shop", "token", map[string]string{"token": "1"})
	a := newServer(t, "a")
	kubeconfig := filepath.Join(t.TempDir(), "config")
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: k.CA()})
	text := fmt.Sprintf(`{"current-context":"c","contexts":[{"name":"c","context":{"cluster":"c","user":"u","namespace":"shop"}}],
		"clusters":[{"name":"c","cluster":{"server":%q,"certificate-authority-data":%q}}],"users":[{"name":"u","user":{"token":"the-token"}}]}`,
		k.URL(), base64.StdEncoding.EncodeToString(ca))
	if err := os.WriteFile(kubeconfig, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	r := newRig(t, map[string]string{
		"vault.yaml": componentYAML("vault", "secretstores.kubernetes", "kubeconfigPath="+kubeconfig), "out.yaml": keyed(a.URL),
	}, func(c *Config) { c.SecretReread = time.Hour })
	eventually(t, func() error {
		if r.table.Load().unit("bindings", "out").refs.used.Load() == nil {
			return fmt.Errorf("not open")
		}
		return nil
	})
	r.sends("1")
	k.Set("shop", "token", map[string]string{"token": "2"})
	r.rotated("Component out")
	r.sends("2")
	// One that is gone stays in use; the next one is noticed.
	k.Delete("shop", "token")
	eventually(t, func() error {
		if !strings.Contains(r.log.String(), "secrets cannot be read again") {
			return fmt.Errorf("the deletion is not noticed")
		}
		return nil
	})
	r.sends("2")
	k.Set("shop", "token", map[string]string{"token": "3"})
	r.rotated("Component out")
	r.sends("3")
}

func TestSecretsOfVaultAreReadAtIntervals(t *testing.T) {
	t.Parallel()
	v := testserver.Vault(t, "root", testserver.VaultOptions{})
	v.Write("dapr/token", map[string]string{"token": "1"})
	a := newServer(t, "a")
	r := newRig(t, map[string]string{
		"vault.yaml": componentYAML("vault", "secretstores.hashicorp.vault", "vaultAddr="+v.URL(), "vaultToken=root"), "out.yaml": keyed(a.URL),
	}, func(c *Config) { c.SecretReread = 100 * time.Millisecond })
	r.sends("1")
	v.Write("dapr/token", map[string]string{"token": "2"})
	r.rotated("Component out")
	r.sends("2")
}

func TestSecretsOfEndpointsAreRotated(t *testing.T) {
	t.Parallel()
	a := newServer(t, "a")
	r := newRig(t, map[string]string{
		"vault.yaml": fileStore(), "secrets.json": secretsJSON(t, map[string]string{"token": "1"}),
		"api.yaml": "apiVersion: dapr.io/v1alpha1\nkind: HTTPEndpoint\nmetadata:\n  name: api\nspec:\n  baseUrl: " + a.URL +
			"\n  headers:\n  - name: X-Key\n    secretKeyRef:\n      name: token\n      key: token\nauth:\n  secretStore: vault\n",
	}, nil)
	get := func(want string) {
		t.Helper()
		if got := r.must("GET", "/v1.0/invoke/api/method/x", "", 200); got != "a "+want {
			t.Fatalf("the server got %q, want the key %q", got, want)
		}
	}
	get("1")
	r.secrets(map[string]string{"token": "2"})
	r.rotated("HTTPEndpoint api")
	get("2")
}

func TestSecretStoresWithSecretsAreRotatedWithWhatUsesThem(t *testing.T) {
	t.Parallel()
	v := testserver.Vault(t, "first", testserver.VaultOptions{})
	v.Grant("second")
	v.Write("dapr/token", map[string]string{"token": "1"})
	a := newServer(t, "a")
	inner := strings.Replace(withSecret(componentYAML("vault", "secretstores.hashicorp.vault", "vaultAddr="+v.URL()), "vaultToken", "root"),
		"secretStore: vault", "secretStore: files", 1)
	r := newRig(t, map[string]string{
		"files.yaml":   componentYAML("files", "secretstores.local.file", "secretsFile=secrets.json"),
		"secrets.json": secretsJSON(t, map[string]string{"root": "first"}), "vault.yaml": inner, "out.yaml": keyed(a.URL),
	}, func(c *Config) { c.SecretReread = time.Hour })
	r.sends("1")
	v.Write("dapr/token", map[string]string{"token": "2"})
	r.secrets(map[string]string{"root": "second"})
	r.rotated("Component out", "Component vault")
	r.sends("2")
}

func TestRotationCanBeTurnedOff(t *testing.T) {
	t.Parallel()
	a := newServer(t, "a")
	r := newRig(t, map[string]string{
		"vault.yaml": fileStore(), "secrets.json": secretsJSON(t, map[string]string{"token": "1"}), "out.yaml": keyed(a.URL),
	}, func(c *Config) { c.SecretReread = -1 })
	r.sends("1")
	if n := len(r.reloader.secrets.followers); n != 0 {
		t.Errorf("%d stores are followed", n)
	}
}
