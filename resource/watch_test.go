package resource_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/proa-io/proa/resource"
)

// watch starts a Watcher on the paths and returns its snapshots. Nothing but
// what the operating system tells makes it read.
func watch(t *testing.T, o resource.WatchOptions) (*resource.Watcher, <-chan resource.Snapshot) {
	t.Helper()
	known, err := resource.Load(o.Options)
	if err != nil {
		t.Fatal(err)
	}
	o.Known = known
	if o.Settle == 0 {
		o.Settle = 5 * time.Millisecond
	}
	if o.Reread == 0 {
		o.Reread = time.Hour
	}
	w := resource.NewWatcher(o)
	ctx, cancel := context.WithCancel(t.Context())
	snapshots, done, running := make(chan resource.Snapshot, 100), make(chan error, 1), make(chan struct{})
	go func() {
		done <- w.Run(ctx, func(_ context.Context, s resource.Snapshot) {
			select {
			case <-running:
				snapshots <- s
			default: // the first, which shows that it is watching
				close(running)
			}
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	w.Reread()
	<-running
	return w, snapshots
}

// next waits for a snapshot and returns the names and types of its components,
// or what is wrong.
func next(t *testing.T, snapshots <-chan resource.Snapshot) string {
	t.Helper()
	select {
	case s := <-snapshots:
		if s.Err != nil {
			return "error: " + s.Err.Error()
		}
		var out []string
		for _, c := range s.Set.Components {
			out = append(out, c.Name()+" "+c.Spec.Type)
		}
		return strings.Join(out, ", ")
	case <-time.After(30 * time.Second):
		t.Fatal("no change was noticed")
	}
	panic("unreachable")
}

// until waits for a snapshot that says what is wanted. Steps on the way to it
// may be seen or not.
func until(t *testing.T, snapshots <-chan resource.Snapshot, want string) {
	t.Helper()
	var seen []string
	for range 20 {
		got := next(t, snapshots)
		if got == want {
			return
		}
		seen = append(seen, got)
	}
	t.Fatalf("seen %q, want %q", seen, want)
}

func yamlOf(name, typ string) string {
	return fmt.Sprintf("apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata:\n  name: %s\nspec:\n  type: %s\n  version: v1\n", name, typ)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func put(t *testing.T, path, text string) {
	t.Helper()
	must(t, os.WriteFile(path, []byte(text), 0o600))
}

func TestEveryWayToChangeAFolderIsNoticed(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "a.yaml")
	put(t, file, yamlOf("a", "state.one"))
	_, snapshots := watch(t, resource.WatchOptions{Options: resource.Options{Paths: []string{dir}}})

	put(t, file, yamlOf("a", "state.two")) // in place
	until(t, snapshots, "a state.two")
	put(t, file+"~", yamlOf("a", "state.three")) // beside, and renamed over
	must(t, os.Rename(file+"~", file))
	until(t, snapshots, "a state.three")
	must(t, os.Rename(file, file+".bak")) // the old one kept, a new one made
	put(t, file, yamlOf("a", "state.four"))
	until(t, snapshots, "a state.four")
	put(t, filepath.Join(dir, "b.yml"), yamlOf("b", "state.one"))
	until(t, snapshots, "a state.four, b state.one")
	must(t, os.Remove(file))
	until(t, snapshots, "b state.one")
	put(t, filepath.Join(dir, "b.yml"), "kind: [")
	if got := next(t, snapshots); !strings.HasPrefix(got, "error: ") || !strings.Contains(got, "b.yml:1: is not valid YAML") {
		t.Fatalf("a broken file: %s", got)
	}
	put(t, filepath.Join(dir, "b.yml"), yamlOf("b", "state.one"))
	until(t, snapshots, "b state.one")
	must(t, os.RemoveAll(dir))
	for got := next(t, snapshots); !strings.Contains(got, "does not exist"); got = next(t, snapshots) {
		if got != "" { // the files go before the folder
			t.Fatalf("a folder that is gone: %s", got)
		}
	}
	must(t, os.Mkdir(dir, 0o700))
	put(t, file, yamlOf("a", "state.five"))
	until(t, snapshots, "a state.five")
	put(t, file, yamlOf("a", "state.six")) // in the new folder
	until(t, snapshots, "a state.six")
}

func TestWhatDoesNotChangeTheMeaningIsNoChange(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "a.yaml")
	put(t, file, yamlOf("a", "state.one"))
	w, snapshots := watch(t, resource.WatchOptions{Options: resource.Options{Paths: []string{dir}}, Settle: time.Second})
	put(t, file, "# a comment\n"+yamlOf("a", "state.one")+"scopes: []\n")
	put(t, filepath.Join(dir, "notes.txt"), "nothing")
	w.Reread()
	s := <-snapshots
	if !s.Forced || s.Set.Components[0].Position().Line != 2 {
		t.Errorf("the next snapshot is not the one asked for: %+v", s)
	}
}

// TestAFileThatIsBeingWrittenIsNoTrouble asks for the files while one of them
// is cut off, as it is between the two steps of writing it in place.
func TestAFileThatIsBeingWrittenIsNoTrouble(t *testing.T) {
	for name, half := range map[string]string{"empty": "", "a part": "apiVersion: dapr.io/v1alpha1\nkind: Comp"} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "a.yaml")
			put(t, file, yamlOf("a", "state.one"))
			w, snapshots := watch(t, resource.WatchOptions{Options: resource.Options{Paths: []string{file}}, Settle: time.Second})
			put(t, file, half)
			w.Reread()
			put(t, file, yamlOf("a", "state.two"))
			s := <-snapshots
			if s.Err != nil {
				t.Fatalf("a file that was being written: %v", s.Err)
			}
			for s.Set.Components[0].Spec.Type != "state.two" { // asked for before the file was cut off
				s = <-snapshots
			}
		})
	}
}

// TestAMountOfKubernetesIsFollowed changes a folder as the kubelet updates what
// it mounts of a ConfigMap: files are links through ..data, which is swapped.
func TestAMountOfKubernetesIsFollowed(t *testing.T) {
	mount := t.TempDir()
	version := func(n int, text string) string {
		dir := filepath.Join(mount, fmt.Sprintf("..2026_08_0%d", n))
		must(t, os.Mkdir(dir, 0o700))
		put(t, filepath.Join(dir, "a.yaml"), text)
		return filepath.Base(dir)
	}
	must(t, os.Symlink(version(1, yamlOf("a", "state.one")), filepath.Join(mount, "..data")))
	must(t, os.Symlink(filepath.Join("..data", "a.yaml"), filepath.Join(mount, "a.yaml")))
	for name, path := range map[string]string{"the folder": mount, "a file in it": filepath.Join(mount, "a.yaml")} {
		t.Run(name, func(t *testing.T) {
			_, snapshots := watch(t, resource.WatchOptions{Options: resource.Options{Paths: []string{path}}})
			for n, typ := range []string{"state.two", "state.three", "state.four"} {
				old, err := os.Readlink(filepath.Join(mount, "..data"))
				must(t, err)
				must(t, os.Symlink(version(n+2, yamlOf("a", typ)), filepath.Join(mount, "..data_tmp")))
				must(t, os.Rename(filepath.Join(mount, "..data_tmp"), filepath.Join(mount, "..data")))
				until(t, snapshots, "a "+typ)
				must(t, os.RemoveAll(filepath.Join(mount, old)))
			}
			must(t, os.RemoveAll(filepath.Join(mount, "..2026_08_02")))
			must(t, os.RemoveAll(filepath.Join(mount, "..2026_08_03")))
			must(t, os.Rename(filepath.Join(mount, "..2026_08_04"), filepath.Join(mount, "..2026_08_01")))
			must(t, os.Remove(filepath.Join(mount, "..data")))
			must(t, os.Symlink("..2026_08_01", filepath.Join(mount, "..data")))
		})
	}
}

func TestLinksToFilesAndFoldersElsewhereAreFollowed(t *testing.T) {
	root := t.TempDir()
	at := func(parts ...string) string { return filepath.Join(append([]string{root}, parts...)...) }
	for _, dir := range []string{"one", "two", "shared"} {
		must(t, os.Mkdir(at(dir), 0o700))
	}
	put(t, at("one", "a.yaml"), yamlOf("a", "state.one"))
	put(t, at("two", "a.yaml"), yamlOf("a", "state.two"))
	put(t, at("shared", "b"), yamlOf("b", "state.one"))
	must(t, os.Symlink(at("shared", "b"), at("one", "b.yaml")))
	must(t, os.Symlink("one", at("current")))
	_, snapshots := watch(t, resource.WatchOptions{Options: resource.Options{Paths: []string{at("current")}}})

	put(t, at("shared", "b"), yamlOf("b", "state.two")) // behind the link in the folder
	until(t, snapshots, "a state.one, b state.two")
	must(t, os.Symlink("two", at("next")))
	must(t, os.Rename(at("next"), at("current"))) // the folder itself
	until(t, snapshots, "a state.two")
	put(t, at("two", "a.yaml"), yamlOf("a", "state.three"))
	until(t, snapshots, "a state.three")
}

func TestASingleFileIsFollowedAlsoBeforeItExistsAgain(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "config.yaml")
	text := func(rate string) string {
		return "apiVersion: dapr.io/v1alpha1\nkind: Configuration\nmetadata:\n  name: c\nspec:\n  tracing:\n    samplingRate: \"" + rate + "\"\n"
	}
	put(t, file, text("0"))
	_, snapshots := watch(t, resource.WatchOptions{Options: resource.Options{ConfigPaths: []string{file}}})
	must(t, os.Remove(file))
	if got := next(t, snapshots); !strings.Contains(got, "does not exist") {
		t.Fatal(got)
	}
	put(t, file+".new", text("0.5"))
	must(t, os.Rename(file+".new", file))
	for s := range snapshots {
		if s.Err == nil && s.Set.Configuration.SamplingRate(0) == 0.5 {
			break
		}
	}
}

func TestWhatTheSystemDoesNotTellIsFoundInTime(t *testing.T) {
	dir := t.TempDir()
	put(t, filepath.Join(dir, "a.yaml"), yamlOf("a", "state.one"))
	w, snapshots := watch(t, resource.WatchOptions{Options: resource.Options{Paths: []string{dir}}, Passive: true})
	put(t, filepath.Join(dir, "a.yaml"), yamlOf("a", "state.two"))
	w.Reread()
	until(t, snapshots, "a state.two")

	// A rename of a folder further up is not told, and found by looking.
	root := t.TempDir()
	must(t, os.MkdirAll(filepath.Join(root, "x", "y", "z"), 0o700))
	must(t, os.MkdirAll(filepath.Join(root, "new", "y", "z"), 0o700))
	put(t, filepath.Join(root, "new", "y", "z", "a.yaml"), yamlOf("a", "state.three"))
	_, snapshots = watch(t, resource.WatchOptions{
		Options: resource.Options{Paths: []string{filepath.Join(root, "x", "y", "z")}}, Reread: 20 * time.Millisecond,
	})
	must(t, os.Rename(filepath.Join(root, "x"), filepath.Join(root, "old")))
	must(t, os.Rename(filepath.Join(root, "new"), filepath.Join(root, "x")))
	until(t, snapshots, "a state.three")
}

func TestDiffNamesWhatChanged(t *testing.T) {
	load := func(text string) *resource.Set {
		path := filepath.Join(t.TempDir(), "all.yaml")
		put(t, path, text)
		set, err := resource.Load(resource.Options{Paths: []string{path}})
		must(t, err)
		return set
	}
	conf := func(body string) string {
		return "---\napiVersion: dapr.io/v1alpha1\nkind: Configuration\nmetadata:\n  name: c\nspec:\n" + body
	}
	sub := "---\napiVersion: dapr.io/v2alpha1\nkind: Subscription\nmetadata:\n  name: s\nspec:\n  topic: t\n  pubsubname: bus\n  routes:\n    default: /t\n"
	before := load(yamlOf("a", "state.one") + "---\n" + yamlOf("b", "state.one") + sub + conf("  tracing:\n    samplingRate: \"0\"\n  mtls:\n    enabled: true\n"))
	now := load("# moved\n" + yamlOf("b", "state.two") + "---\n" + yamlOf("c", "state.one") + sub + conf("  tracing:\n    samplingRate: \"1\"\n  api:\n    denied:\n    - name: state\n"))
	got := resource.Diff(before, now)
	for name, c := range map[string]struct{ got, want []string }{
		"added":   {got.Added, []string{"Component c", "Configuration api"}},
		"changed": {got.Changed, []string{"Component b", "Configuration tracing"}},
		"removed": {got.Removed, []string{"Component a", "Configuration mtls"}},
	} {
		if !slices.Equal(c.got, c.want) {
			t.Errorf("%s: %q, want %q", name, c.got, c.want)
		}
	}
	if !resource.Diff(now, now).None() {
		t.Error("a set differs from itself")
	}
	now.Adopt(before)
	if now.Subscriptions[0].Position() != before.Subscriptions[0].Position() {
		t.Error("a subscription that says the same is another one")
	}
	now.Configuration.Keep("tracing", &before.Configuration)
	now.Configuration.Keep("mtls", &before.Configuration)
	if now.Configuration.SamplingRate(0.5) != 0 || now.Configuration.Spec.MTLS == nil || now.Configuration.Section("mtls") == "" {
		t.Errorf("what was to be kept is not: %+v", now.Configuration.Spec)
	}
}
