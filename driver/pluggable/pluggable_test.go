package pluggable_test

import (
	"bufio"
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/proa-io/proa/block/binding"
	"github.com/proa-io/proa/block/binding/bindingtest"
	"github.com/proa-io/proa/block/pubsub"
	"github.com/proa-io/proa/block/pubsub/pubsubtest"
	"github.com/proa-io/proa/block/secret"
	"github.com/proa-io/proa/block/secret/secrettest"
	"github.com/proa-io/proa/block/state"
	"github.com/proa-io/proa/block/state/statetest"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/driver/pluggable"
	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/internal/fastloop"
	"github.com/proa-io/proa/internal/faultnet"
)

// The test program is the component too, when it is started with these.
const (
	variableKind   = "PLUGGABLE_TEST_KIND"
	variableSocket = "PLUGGABLE_TEST_SOCKET"
)

func TestMain(m *testing.M) {
	if kind := os.Getenv(variableKind); kind != "" {
		err := serve(kind, os.Getenv(variableSocket), func(addr string) { fmt.Println(addr) })
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// running is a process of a component.
type running struct {
	cmd  *exec.Cmd
	addr string // its port
}

// start runs a component behind a socket until the test ends.
func start(t testing.TB, kind, socket string) *running {
	t.Helper()
	fastloop.Skip(t, "starts a program")
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), variableKind+"="+kind, variableSocket+"="+socket)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	r := &running{cmd: cmd}
	t.Cleanup(r.kill)
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("the component has not said where it is: %v", err)
	}
	r.addr = strings.TrimSpace(line)
	return r
}

// kill ends the process at once. What it listened on stays behind.
func (r *running) kill() {
	if r.cmd.ProcessState == nil {
		_ = r.cmd.Process.Kill()
		_ = r.cmd.Wait()
	}
}

// folder returns a new folder for sockets, which Discover looks at. Its path is
// short, for that of a socket may have no more than a hundred bytes or so.
func folder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "sockets")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	t.Setenv(pluggable.FolderVariable, dir)
	return dir
}

// lookup returns the spec of a type that no listed driver has.
func lookup(t *testing.T, typ string) component.Spec {
	t.Helper()
	c, err := component.NewCatalog()
	if err != nil {
		t.Fatal(err)
	}
	spec, err := c.WithDiscoverer(pluggable.Discover).Lookup(typ, "v1")
	if err != nil {
		t.Fatal(err)
	}
	return spec
}

// open opens a component of a type as the runtime does.
func open[D any](t testing.TB, spec component.Spec, name string, settings component.Settings) D {
	t.Helper()
	d, err := spec.Open(t.Context(), settings, component.Env{Name: name, AppID: "app"})
	if err != nil {
		t.Fatal(err)
	}
	out, ok := d.(D)
	if !ok {
		t.Fatalf("it is a %T", d)
	}
	return out
}

func TestState(t *testing.T) {
	dir := folder(t)
	for _, kind := range []string{"all", plain} {
		t.Run(kind, func(t *testing.T) {
			start(t, kind, filepath.Join(dir, kind+".sock"))
			spec := lookup(t, "state."+kind)
			statetest.Run(t, func(t *testing.T) state.Driver { return open[state.Driver](t, spec, rand.Text(), nil) })
		})
	}
}

func TestStateOverABadNetwork(t *testing.T) {
	p := start(t, "all", filepath.Join(folder(t), "x.sock"))
	statetest.RunBadNetwork(t, p.addr, func(ctx context.Context, t *testing.T, addr string) (state.Driver, error) {
		return pluggable.OpenStateAt(ctx, addr, component.Env{Name: t.Name()})
	})
}

func TestPubSub(t *testing.T) {
	dir := folder(t)
	p := start(t, "all", filepath.Join(dir, "bus.sock"))
	spec := lookup(t, "pubsub.bus")
	pubsubtest.Run(t, pubsubtest.Broker{
		Open: func(t *testing.T) pubsub.Driver { return open[pubsub.Driver](t, spec, "bus", nil) },
		OpenDoomed: func(t *testing.T) (pubsub.Driver, func()) {
			net := faultnet.New(t, p.addr)
			d, err := pluggable.OpenPubSubAt(t.Context(), net.Addr(), component.Env{Name: "bus"})
			if err != nil {
				t.Fatal(err)
			}
			return d, net.Reset
		},
	})
}

func TestPubSubOverABadNetwork(t *testing.T) {
	p := start(t, "all", filepath.Join(folder(t), "x.sock"))
	pubsubtest.RunBadNetwork(t, p.addr, func(ctx context.Context, _ *testing.T, addr string) (pubsub.Driver, error) {
		return pluggable.OpenPubSubAt(ctx, addr, component.Env{Name: "bus", AppID: "app"})
	})
}

func TestBinding(t *testing.T) {
	dir := folder(t)
	p := start(t, "all", filepath.Join(dir, "echo.sock"))
	spec := lookup(t, "bindings.echo")
	bindingtest.RunOutput(t, bindingtest.Output{
		Open:    func(t testing.TB) binding.Output { return opened[binding.Output](t, spec, rand.Text()) },
		Request: binding.Request{Operation: "create", Data: []byte("x"), Metadata: map[string]string{"a": "b"}},
	})
	bindingtest.RunInput(t, bindingtest.Input{
		Open: func(t testing.TB) binding.Input { return opened[binding.Input](t, spec, t.Name()) },
		Trigger: func(t testing.TB) {
			out := opened[binding.Output](t, spec, t.Name())
			if _, err := out.Invoke(t.Context(), binding.Request{Operation: "create", Data: []byte("event")}); err != nil {
				t.Fatal(err)
			}
		},
	})
	bindingtest.RunNetwork(t, bindingtest.Network{
		Open: func(t testing.TB) (binding.Output, *faultnet.Proxy) {
			net := faultnet.New(t, p.addr)
			d, err := pluggable.OpenBindingAt(t.Context(), net.Addr(), component.Env{Name: t.Name()})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = d.Close() })
			return d.(binding.Output), net
		},
		Request: binding.Request{Operation: "inits"},
	})
}

// opened is open for a test that does not close what it opens.
func opened[D interface{ Close() error }](t testing.TB, spec component.Spec, name string) D {
	d := open[D](t, spec, name, nil)
	t.Cleanup(func() { _ = d.Close() })
	return d
}

func settingsOf(secrets map[string]map[string]string) (out component.Settings) {
	for name, values := range secrets {
		for key, value := range values {
			out = append(out, component.Setting{Name: name + "/" + key, Value: value})
		}
	}
	return out
}

func TestSecrets(t *testing.T) {
	dir := folder(t)
	p := start(t, "all", filepath.Join(dir, "safe.sock"))
	spec := lookup(t, "secretstores.safe")
	secrettest.Run(t, secrettest.Harness{MultiValued: true, Open: func(t testing.TB, secrets map[string]map[string]string) secret.Driver {
		d := open[secret.Driver](t, spec, rand.Text(), settingsOf(secrets))
		t.Cleanup(func() { _ = d.Close() })
		return d
	}})
	secrettest.RunNetwork(t, func(t testing.TB) (secret.Driver, *faultnet.Proxy) {
		net := faultnet.New(t, p.addr)
		cfg := pluggable.Config{Properties: map[string]string{"S/S": "v"}}
		d, err := pluggable.OpenSecretsAt(t.Context(), net.Addr(), cfg, component.Env{Name: t.Name()})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = d.Close() })
		return d, net
	})
}

func TestWhatAComponentCanDoIsWhatItSays(t *testing.T) {
	dir := folder(t)
	start(t, "all", filepath.Join(dir, "Mixed.sock"))
	start(t, plain, filepath.Join(dir, "plain.sock"))
	for typ, want := range map[string][]string{
		"state.mixed": {"ETAG", "TRANSACTIONAL", "QUERY_API", "TTL"}, "state.plain": {},
		"pubsub.MIXED": {"BULK_PUBSUB"}, "bindings.mixed": {binding.CapabilityInput, binding.CapabilityOutput},
		"secretstores.mixed": {"MULTIPLE_KEY_VALUES_PER_SECRET"},
	} {
		d := open[component.Capable](t, lookup(t, typ), "c", nil)
		if got := d.Capabilities(); !slices.Equal(got, want) {
			t.Errorf("%s can %q, want %q", typ, got, want)
		}
	}
	if _, ok := open[state.Driver](t, lookup(t, "state.plain"), "c", nil).(state.Transactor); ok {
		t.Error("a store without transactions is a state.Transactor")
	}
	if tx := open[state.Transactor](t, lookup(t, "state.mixed"), "c", nil); tx.MaxTransaction() != 5000 {
		t.Errorf("a transaction has %d operations at most, want 5000", tx.MaxTransaction())
	}
}

func TestAComponentMayComeLaterAndComeAgain(t *testing.T) {
	dir := folder(t)
	socket := filepath.Join(dir, "late.sock")
	spec := lookup(t, "bindings.late")
	open := func(ctx context.Context) (binding.Output, error) {
		return component.Opener[binding.Output](spec, nil, component.Env{Name: "late"})(ctx)
	}
	_, err := open(t.Context())
	if !fault.Is(err, fault.Unavailable) || !strings.Contains(err.Error(), "there is no socket") {
		t.Fatalf("before there is a socket: %v", err)
	}
	first := start(t, "all", socket)
	d, err := open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	invoke := func() error {
		_, err := d.Invoke(t.Context(), binding.Request{Operation: "create", Data: []byte("x")})
		return err
	}
	for range 3 {
		if err := invoke(); err != nil {
			t.Fatal(err)
		}
		first.kill()
		if err := invoke(); !fault.Is(err, fault.Unavailable) {
			t.Fatalf("without the process: %v", err)
		}
		if err := os.Remove(socket); err != nil {
			t.Fatal(err)
		}
		first = start(t, "all", socket)
	}
	// The settings were handed over again, or the process would refuse.
	if err := invoke(); err != nil {
		t.Errorf("after the process has come again: %v", err)
	}
	r, err := d.Invoke(t.Context(), binding.Request{Operation: "inits"})
	if err != nil || string(r.Data) != "2" { // as an input and as an output
		t.Errorf("Init was called %s times, error %v", r.Data, err)
	}
}

func TestAStreamThatEndsIsSaidToHaveEnded(t *testing.T) {
	dir := folder(t)
	p := start(t, "all", filepath.Join(dir, "x.sock"))
	spec := lookup(t, "bindings.x")
	d := opened[interface {
		binding.Input
		binding.Output
	}](t, spec, "x")
	listen := func() chan error {
		ended, heard := make(chan error, 1), make(chan struct{}, 100)
		go func() {
			ended <- d.Listen(t.Context(), func(context.Context, binding.Event) error { heard <- struct{}{}; return nil })
		}()
		if _, err := d.Invoke(t.Context(), binding.Request{Operation: "create", Data: []byte("hello")}); err != nil {
			t.Fatal(err)
		}
		<-heard
		return ended
	}
	ended := listen()
	if _, err := d.Invoke(t.Context(), binding.Request{Operation: "create", Data: []byte("end the stream")}); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; !fault.Is(err, fault.Unavailable) {
		t.Errorf("Listen on a stream that was ended: %v", err)
	}
	ended = listen()
	p.kill()
	if err := <-ended; !fault.Is(err, fault.Unavailable) {
		t.Errorf("Listen on a process that died: %v", err)
	}
}

func TestWhatAComponentAnswersIsPassedOn(t *testing.T) {
	dir := folder(t)
	start(t, "all", filepath.Join(dir, "x.sock"))
	d := opened[binding.Output](t, lookup(t, "bindings.x"), "x")
	_, err := d.Invoke(t.Context(), binding.Request{Operation: "fail"})
	if !fault.Is(err, fault.PermissionDenied) || !strings.Contains(fault.Message(err), "not today") {
		t.Errorf("error %v, message %q", err, fault.Message(err))
	}
	_, err = lookup(t, "state.x").Open(t.Context(), component.Settings{{Name: "refuse", Value: "1"}}, component.Env{Name: "y"})
	if !fault.Is(err, fault.InvalidArgument) || !strings.Contains(err.Error(), "refuse must not be set") {
		t.Errorf("error %v", err)
	}
}

func TestWhatIsWrongWithATypeIsSaid(t *testing.T) {
	dir := folder(t)
	start(t, plain, filepath.Join(dir, "store.sock"))
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for typ, want := range map[string]string{
		"state.stroe":  "there is no socket " + filepath.Join(dir, "stroe") + ".sock of such a component yet; in " + dir + " there is store.sock (state.store)",
		"pubsub.store": "the process is no component of the kind pubsub: it serves dapr.proto.components.v1.StateStore, not dapr.proto.components.v1.PubSub",
	} {
		_, err := lookup(t, typ).Open(ctx, nil, component.Env{Name: "c"})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v\nwant %s", typ, err, want)
		}
	}
	c, err := component.NewCatalog()
	if err != nil {
		t.Fatal(err)
	}
	c = c.WithDiscoverer(pluggable.Discover)
	for _, test := range []struct{ typ, version, want string }{
		{"state.store", "v2", "in " + dir + " there is store.sock (state.store)"},
		{"lock.store", "v1", `no driver for type "lock.store"`},
	} {
		if _, err := c.Lookup(test.typ, test.version); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s/%s: %v, want %s", test.typ, test.version, err, test.want)
		}
	}
}

func TestSettingsForTheSidecarItselfAreKeptFromAComponent(t *testing.T) {
	settings := component.Settings{
		{Name: "url", Value: "x"}, {Name: "keyPrefix", Value: "none"}, {Name: "primaryEncryptionKey", Value: strings.Repeat("00", 16)},
	}
	var cfg pluggable.Config
	var own state.Config
	if err := settings.Decode(&cfg, &own); err != nil {
		t.Fatal(err)
	}
	if _, there := cfg.Properties["primaryEncryptionKey"]; there || cfg.Properties["url"] != "x" || cfg.Properties["keyPrefix"] != "none" {
		t.Errorf("a component is given %q", cfg.Properties)
	}
}
