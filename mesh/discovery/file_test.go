package discovery_test

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/mesh/discovery"
	"github.com/proa-io/proa/mesh/discovery/discoverytest"
)

// editor is a registrar that writes a file of endpoints, as somebody would who
// keeps one: a new file renamed over the old one.
type editor struct {
	t    *testing.T
	path string
	mu   *sync.Mutex
}

func (e editor) Register(ctx context.Context, a *discovery.Announcement) error {
	for {
		ep, changed := a.Endpoint()
		e.edit(a.Service.String(), ep.Address, map[string]any{
			"address": ep.Address, "id": ep.ID, "mtls": ep.MTLS, "protocol": ep.Protocol, "weight": ep.Weight, "locality": ep.Locality,
			"priority": ep.Priority, "labels": ep.Labels, "health": ep.Health,
		})
		select {
		case <-ctx.Done():
			e.edit(a.Service.String(), ep.Address, nil)
			return nil
		case <-changed:
		}
	}
}

func (e editor) edit(app, address string, ep map[string]any) {
	e.mu.Lock()
	defer e.mu.Unlock()
	var lists map[string][]map[string]any
	text, err := os.ReadFile(e.path)
	if err != nil || json.Unmarshal(text, &lists) != nil {
		e.t.Errorf("the file has become %q", text)
		return
	}
	var list []map[string]any
	for _, x := range lists[app] {
		if x["address"] != address {
			list = append(list, x)
		}
	}
	if ep != nil {
		list = append(list, ep)
	}
	lists[app] = list
	if text, err = json.Marshal(lists); err == nil {
		err = os.WriteFile(e.path+".new", text, 0o600)
	}
	if err == nil {
		err = os.Rename(e.path+".new", e.path)
	}
	if err != nil {
		e.t.Error(err)
	}
}

// openFile follows a file until the test ends.
func openFile(t *testing.T, path string, log *slog.Logger) *discovery.File {
	t.Helper()
	f, err := discovery.NewFile(t.Context(), path, 5*time.Millisecond, log)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

func TestAFileConforms(t *testing.T) {
	path := filepath.Join(t.TempDir(), "endpoints.json")
	if err := os.WriteFile(path, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	e := editor{t, path, &sync.Mutex{}}
	discoverytest.Run(t, discoverytest.Harness{
		Source:    func(t *testing.T) discovery.Source { return openFile(t, path, slog.New(slog.DiscardHandler)) },
		Registrar: func(*testing.T) discovery.Registrar { return e },
		Many:      200, // for each of which the whole file is written
		Stop: func(t *testing.T) {
			e.mu.Lock()
			if err := os.Rename(path, path+".away"); err != nil {
				t.Error(err)
			}
		},
		Start: func(t *testing.T) {
			if err := os.Rename(path+".away", path); err != nil {
				t.Error(err)
			}
			e.mu.Unlock()
		},
	})
}

func TestAFileThatIsWrongChangesNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "endpoints.yaml")
	write := func(text string) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("shop: 10.0.0.7:50002\n")
	var mu sync.Mutex
	var log bytes.Buffer
	f := openFile(t, path, slog.New(slog.NewTextHandler(locked{&mu, &log}, nil)))
	d := start(t, discovery.Options{Sources: []discovery.Source{f}})
	await := func(address string) {
		t.Helper()
		for limit := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
			eps, err := d.Lookup(t.Context(), shop)
			if err == nil && addresses(eps)[0] == address {
				return
			}
			if time.Now().After(limit) {
				t.Fatalf("Lookup = %v, %v, want %s", eps, err, address)
			}
		}
	}
	await("10.0.0.7:50002")
	write("shop:\n- adress: 10.0.0.8:50002\n")
	for limit := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		mu.Lock()
		said := log.String()
		mu.Unlock()
		if strings.Contains(said, "endpoints.yaml:2") && strings.Contains(said, `did you mean \"address\"?`) || strings.Contains(said, `did you mean \\\"address\\\"?`) {
			break
		}
		if time.Now().After(limit) {
			t.Fatalf("the log says %s", said)
		}
	}
	await("10.0.0.7:50002")
	write("shop: 10.0.0.9:50002\n")
	await("10.0.0.9:50002")
}

type locked struct {
	mu  *sync.Mutex
	out *bytes.Buffer
}

func (l locked) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.out.Write(p)
}

func specOf(t *testing.T, name string) component.Spec {
	t.Helper()
	for _, s := range discovery.Specs(nil) {
		if s.Name == name {
			return s
		}
	}
	t.Fatalf("there is no %s", name)
	panic("unreachable")
}

func TestStaticEndpointsMaySayAllThatEndpointsSay(t *testing.T) {
	d, err := specOf(t, "static").Open(t.Context(), component.Settings{
		{Name: "shop", Value: "10.0.0.7:50002,[::1]:50002"}, {Name: "Back", Value: "unix:/run/back.sock"}, {Name: "six", Value: "[::1]:50002"},
		{Name: "legacy", Value: `[{"address":"10.0.0.9:8080","protocol":"http/1.1","weight":3,"locality":{"zone":"a"},"labels":{"version":"v2"},"health":"draining"}]`},
	}, component.Env{})
	if err != nil {
		t.Fatal(err)
	}
	got := d.(discovery.Static)
	want := discovery.Endpoint{
		Address: "10.0.0.9:8080", Protocol: discovery.HTTP1, Weight: 3, Locality: discovery.Locality{Zone: "a"},
		Labels: map[string]string{"version": "v2"}, Health: discovery.Draining,
	}
	if len(got["shop"]) != 2 || got["shop"][1].Address != "[::1]:50002" || got["Back"][0].Address != "unix:/run/back.sock" ||
		got["six"][0].Address != "[::1]:50002" || !got["legacy"][0].Equal(want) {
		t.Errorf("static is %+v", got)
	}
}

func TestStaticEndpointsThatAreWrongAreRefused(t *testing.T) {
	for value, want := range map[string]string{
		"10.0.0.7":                          `wants an address such as "10.0.0.7:50002", not "10.0.0.7"`,
		"10.0.0.7:x7":                       `wants a port of 1 to 65535, not "x7"`,
		`[{"address":"a:1","wieght":2}]`:    `did you mean "weight"?`,
		`[{"address":"a:1","weight":"2x"}]`: `wants a whole number that is not negative, not "2x"`,
		`[{"address":"a:1","health":"ok"}]`: `wants healthy, unhealthy, draining, not "ok"`,
		`[{"weight":2}]`:                    "wants an address",
		`[{"address"`:                       "YAML",
	} {
		err := specOf(t, "static").Check(component.Settings{{Name: "shop", Value: value, Pos: component.Position{File: "c.yaml", Line: 7}}})
		if err == nil || !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), `c.yaml:7: "shop": `) {
			t.Errorf("%s: %v, want %s", value, err, want)
		}
	}
}
