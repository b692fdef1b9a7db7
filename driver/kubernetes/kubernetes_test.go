package kubernetes

import (
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/proa-io/proa/block/secret"
	"github.com/proa-io/proa/block/secret/secrettest"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/internal/faultnet"
	"github.com/proa-io/proa/internal/leak"
	"github.com/proa-io/proa/internal/testserver"
)

const token = "token-of-the-account"

// pod is the surroundings of a process in a pod of the namespace "shop", which
// reaches the API server at addr.
func pod(t testing.TB, k *testserver.KubernetesStandIn, addr string) surroundings {
	t.Helper()
	host, port, _ := strings.Cut(addr, ":")
	s := surroundings{getenv: env("KUBERNETES_SERVICE_HOST", host, "KUBERNETES_SERVICE_PORT", port), account: t.TempDir()}
	write(t, filepath.Join(s.account, "ca.crt"), authority(k))
	write(t, filepath.Join(s.account, "token"), token+"\n")
	write(t, filepath.Join(s.account, "namespace"), "shop")
	return s
}

func env(pairs ...string) func(string) string {
	return func(name string) string {
		for i := 0; i < len(pairs); i += 2 {
			if pairs[i] == name {
				return pairs[i+1]
			}
		}
		return ""
	}
}

func authority(k *testserver.KubernetesStandIn) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: k.CA()}))
}

func write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func open(t testing.TB, s surroundings, cfg Config) *Store {
	t.Helper()
	store, err := s.open(t.Context(), cfg, component.Env{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	return store
}

func TestSecret(t *testing.T) {
	secrettest.Run(t, secrettest.Harness{
		MultiValued: true,
		Open: func(t testing.TB, secrets map[string]map[string]string) secret.Driver {
			k := testserver.Kubernetes(t, token)
			for name, values := range secrets {
				k.Set("shop", name, values)
				k.Set("elsewhere", name, map[string]string{"never": "this"})
			}
			return open(t, pod(t, k, k.Addr()), Config{})
		},
	})
}

func TestSecretOnABadNetwork(t *testing.T) {
	secrettest.RunNetwork(t, func(t testing.TB) (secret.Driver, *faultnet.Proxy) {
		k := testserver.Kubernetes(t, token)
		k.Set("shop", "S", map[string]string{"S": "v"})
		proxy := faultnet.New(t, k.Addr())
		return open(t, pod(t, k, proxy.Addr()), Config{}), proxy
	})
}

func TestWatch(t *testing.T) {
	secrettest.RunWatch(t, func(t testing.TB) (secret.Driver, secrettest.Change) {
		k := testserver.Kubernetes(t, token)
		return open(t, pod(t, k, k.Addr()), Config{}), func(_ testing.TB, name string, value *string) {
			if value == nil {
				k.Delete("shop", name)
				return
			}
			k.Set("shop", name, map[string]string{name: *value})
		}
	})
}

func TestWatchNeedsTheVerb(t *testing.T) {
	k := testserver.Kubernetes(t, token)
	k.Deny("watch", true)
	s := open(t, pod(t, k, k.Addr()), Config{})
	err := s.Watch(t.Context(), []string{"a", "b"}, func() { t.Error("the watch stands") })
	if !fault.Is(err, fault.PermissionDenied) {
		t.Errorf("Watch: %v, want permission_denied", err)
	}
}

func TestWatchThatIsEndedAtOnceGivesUp(t *testing.T) {
	k := testserver.Kubernetes(t, token)
	s := open(t, pod(t, k, k.Addr()), Config{})
	err := s.Watch(t.Context(), []string{"a"}, k.EndWatches)
	if !fault.Is(err, fault.Unavailable) {
		t.Errorf("Watch: %v, want unavailable", err)
	}
}

func wantSecret(t *testing.T, s *Store, metadata map[string]string, want string) {
	t.Helper()
	got, err := s.Get(t.Context(), "db", metadata)
	if err != nil || !maps.Equal(got, map[string]string{"at": want}) {
		t.Errorf("Get(%v) = %v, %v; want the one of %s", metadata, got, err, want)
	}
}

func TestNamespaceOfARead(t *testing.T) {
	k := testserver.Kubernetes(t, token)
	for _, ns := range []string{"shop", "settings", "environment", "asked"} {
		k.Set(ns, "db", map[string]string{"at": ns})
	}
	base := pod(t, k, k.Addr())
	withEnv := base
	withEnv.getenv = func(name string) string {
		if name == "NAMESPACE" {
			return "environment"
		}
		return base.getenv(name)
	}
	wantSecret(t, open(t, base, Config{}), nil, "shop")
	wantSecret(t, open(t, base, Config{DefaultNamespace: "settings"}), nil, "settings")
	s := open(t, withEnv, Config{DefaultNamespace: "settings"})
	wantSecret(t, s, nil, "environment")
	wantSecret(t, s, map[string]string{"namespace": ""}, "environment")
	wantSecret(t, s, map[string]string{"namespace": "asked"}, "asked")
	all, err := s.List(t.Context(), map[string]string{"namespace": "asked"}, func(string) bool { return true })
	if err != nil || len(all) != 1 || all["db"]["at"] != "asked" {
		t.Errorf("List = %v, %v", all, err)
	}
	for _, bad := range []string{"../default", "a/b", "Upper", "-a", "a-", strings.Repeat("a", 64)} {
		if _, err := s.Get(t.Context(), "db", map[string]string{"namespace": bad}); !fault.Is(err, fault.InvalidArgument) {
			t.Errorf("namespace %q: %v", bad, err)
		}
		if err := (Config{DefaultNamespace: bad}).Validate(); err == nil {
			t.Errorf("defaultNamespace %q is taken", bad)
		}
	}
}

func TestListReadsAllPages(t *testing.T) {
	k := testserver.Kubernetes(t, token)
	for i := range 2*pageSize + 1 {
		k.Set("shop", fmt.Sprintf("s%04d", i), map[string]string{"n": fmt.Sprint(i)})
	}
	all, err := open(t, pod(t, k, k.Addr()), Config{}).List(t.Context(), nil, func(name string) bool { return name != "s0000" })
	if err != nil || len(all) != 2*pageSize || all["s0400"]["n"] != "400" {
		t.Errorf("List has %d secrets, %v", len(all), err)
	}
}

func TestWhatTheServerRefusesIsNamed(t *testing.T) {
	k := testserver.Kubernetes(t, token)
	k.Set("shop", "db", map[string]string{"at": "the value"})
	s := open(t, pod(t, k, k.Addr()), Config{})
	list := func() error {
		_, err := s.List(t.Context(), nil, func(string) bool { return true })
		return err
	}
	get := func() error {
		_, err := s.Get(t.Context(), "db", nil)
		return err
	}
	k.Deny("list", true)
	if err := list(); !fault.Is(err, fault.PermissionDenied) || !strings.Contains(err.Error(), "list for a bulk read") {
		t.Errorf("List: %v", err)
	}
	k.Deny("get", true)
	if err := get(); !fault.Is(err, fault.PermissionDenied) {
		t.Errorf("Get: %v", err)
	}
	k.Deny("get", false)
	k.Replace("another")
	if err := get(); !fault.Is(err, fault.Unauthenticated) || strings.Contains(err.Error(), token) {
		t.Errorf("with a token that was replaced: %v", err)
	}
}

func TestTokenOfTheAccountIsReadAgain(t *testing.T) {
	k := testserver.Kubernetes(t, token)
	k.Set("shop", "db", map[string]string{"at": "shop"})
	p := pod(t, k, k.Addr())
	s := open(t, p, Config{})
	wantSecret(t, s, nil, "shop")
	k.Replace("next")
	write(t, filepath.Join(p.account, "token"), "next")
	wantSecret(t, s, nil, "shop")
}

func TestPodWithoutAnAccountIsTold(t *testing.T) {
	k := testserver.Kubernetes(t, token)
	for _, name := range []string{"token", "ca.crt"} {
		p := pod(t, k, k.Addr())
		path := filepath.Join(p.account, name)
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		if _, err := p.open(t.Context(), Config{}, component.Env{}); !fault.Is(err, fault.NotFound) || !strings.Contains(err.Error(), path) {
			t.Errorf("without %s: %v", name, err)
		}
	}
	_, err := surroundings{getenv: env()}.open(t.Context(), Config{}, component.Env{})
	if !fault.Is(err, fault.FailedPrecondition) || !strings.Contains(err.Error(), "set kubeconfigPath") {
		t.Errorf("nowhere: %v", err)
	}
}

// config returns the text of a kubeconfig.
func config(server, cluster, user string) string {
	return `apiVersion: v1
kind: Config
current-context: dev
contexts:
- name: other
  context: {cluster: gone, user: gone}
- name: dev
  context:
    cluster: c
    user: u
    namespace: team
clusters:
- name: c
  cluster:
    server: ` + server + "\n    " + cluster + `
users:
- name: u
  user:
    ` + user + "\n"
}

func TestKubeconfigs(t *testing.T) {
	k := testserver.Kubernetes(t, token)
	k.Set("team", "db", map[string]string{"at": "team"})
	dir := t.TempDir()
	path := filepath.Join(dir, "config")
	write(t, filepath.Join(dir, "ca.pem"), authority(k))
	write(t, filepath.Join(dir, "token"), token)
	data := base64.StdEncoding.EncodeToString([]byte(authority(k)))
	for _, c := range []struct {
		name, text string
		want       string // in the error; "" for success
	}{
		{"in the file", config(k.URL(), "certificate-authority-data: "+data, "token: "+token), ""},
		{"in files beside it", config(k.URL(), "certificate-authority: ca.pem", "tokenFile: token"), ""},
		{"a slash at the end", config(k.URL()+"/", "insecure-skip-tls-verify: true", "token: "+token), ""},
		{"another name", config(k.URL(), "certificate-authority: ca.pem\n    tls-server-name: example.com", "token: "+token), ""},
		{"no YAML", "a: [", "is not YAML"},
		{"no context", "current-context: x", `has no context "x"`},
		{"no cluster", strings.Replace(config(k.URL(), "", "token: t"), "cluster: c\n", "cluster: d\n", 1), `has no cluster "d"`},
		{"a plugin", config(k.URL(), "certificate-authority: ca.pem", "exec: {command: aws}"), "is not run here"},
		{"impersonation", config(k.URL(), "certificate-authority: ca.pem", "as: admin"), "not supported here"},
		{"a proxy", config(k.URL(), "proxy-url: http://p", "token: t"), "HTTPS_PROXY"},
		{"no server", config("host", "certificate-authority: ca.pem", "token: t"), "wants a URL"},
		{"no authority", config(k.URL(), "certificate-authority: none.pem", "token: t"), "none.pem"},
		{"bad base64", config(k.URL(), "certificate-authority-data: '!'", "token: t"), "is not base64"},
		{"bad key", config(k.URL(), "certificate-authority: ca.pem", "client-certificate: ca.pem"), "not a PEM certificate and its key"},
	} {
		write(t, path, c.text)
		s, err := surroundings{getenv: env()}.open(t.Context(), Config{KubeconfigPath: path}, component.Env{})
		if c.want != "" {
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s: error %v, want %q", c.name, err, c.want)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		wantSecret(t, s, nil, "team")
		_ = s.Close()
	}
}

func TestWhereAKubeconfigIsFound(t *testing.T) {
	k := testserver.Kubernetes(t, token)
	k.Set("team", "db", map[string]string{"at": "team"})
	dir := t.TempDir()
	text := config(k.URL(), "insecure-skip-tls-verify: true", "token: "+token)
	write(t, filepath.Join(dir, "config"), text)
	home := t.TempDir()
	if err := os.Mkdir(filepath.Join(home, ".kube"), 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(home, ".kube", "config"), text)
	for name, s := range map[string]surroundings{
		"environment": {getenv: env("KUBECONFIG", string(filepath.ListSeparator)+filepath.Join(dir, "config"))},
		"home":        {getenv: env(), home: home},
	} {
		t.Run(name, func(t *testing.T) { wantSecret(t, open(t, s, Config{}), nil, "team") })
	}
	wantSecret(t, open(t, pod(t, k, "127.0.0.1:1"), Config{KubeconfigPath: filepath.Join(dir, "config")}), nil, "team")
}

func TestCloseLeavesNothing(t *testing.T) {
	k := testserver.Kubernetes(t, token)
	k.Set("shop", "db", map[string]string{"at": "shop"})
	p := pod(t, k, k.Addr())
	leak.Check(t)
	wantSecret(t, open(t, p, Config{}), nil, "shop")
}
