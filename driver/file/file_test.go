package file

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/proa-io/proa/block/secret"
	"github.com/proa-io/proa/block/secret/secrettest"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/internal/fastloop"
)

func TestSecret(t *testing.T) {
	secrettest.Run(t, secrettest.Harness{
		Open: func(t testing.TB, secrets map[string]map[string]string) secret.Driver {
			flat := map[string]string{}
			for name, values := range secrets {
				flat[name] = values[name]
			}
			return open(t, Config{SecretsFile: write(t, marshal(t, flat))})
		},
	})
}

func TestMultiValuedSecret(t *testing.T) {
	secrettest.Run(t, secrettest.Harness{
		MultiValued: true,
		Open: func(t testing.TB, secrets map[string]map[string]string) secret.Driver {
			return open(t, Config{SecretsFile: write(t, marshal(t, secrets)), MultiValued: true})
		},
	})
}

func TestWatch(t *testing.T) {
	fastloop.Skip(t, "waits for files to settle")
	secrettest.RunWatch(t, func(t testing.TB) (secret.Driver, secrettest.Change) {
		path, secrets := write(t, "{}"), map[string]string{}
		return open(t, Config{SecretsFile: path}), func(t testing.TB, name string, value *string) {
			if delete(secrets, name); value != nil {
				secrets[name] = *value
			}
			overwrite(t, path, marshal(t, secrets))
		}
	})
}

const nested = `{
	"redis": {"password": "r", "port": 6379, "tls": true, "note": null, "hosts": ["a", {"name": "b"}]},
	"plain": "p",
	"big": 12345678901234567890
}`

func TestNestedNamesAreJoined(t *testing.T) {
	want := map[string]string{
		"redis:password": "r", "redis:port": "6379", "redis:tls": "true", "redis:note": "",
		"redis:hosts:0": "a", "redis:hosts:1:name": "b", "plain": "p", "big": "12345678901234567890",
	}
	for _, sep := range []string{"", ":", "__"} {
		d := open(t, Config{SecretsFile: write(t, nested), NestedSeparator: sep})
		all, err := d.List(t.Context(), nil, func(string) bool { return true })
		if err != nil || len(all) != len(want) {
			t.Fatalf("List has %d secrets, error %v; want %d", len(all), err, len(want))
		}
		for name, value := range want {
			if sep != "" {
				name = strings.ReplaceAll(name, ":", sep)
			}
			if all[name][name] != value {
				t.Errorf("separator %q: %q = %q, want %q", sep, name, all[name][name], value)
			}
		}
	}
}

func TestMultiValuedKeepsTheTopLevelTogether(t *testing.T) {
	d := open(t, Config{SecretsFile: write(t, nested), MultiValued: true})
	got, err := d.Get(t.Context(), "redis", nil)
	want := map[string]string{"password": "r", "port": "6379", "tls": "true", "note": "", "hosts:0": "a", "hosts:1:name": "b"}
	if err != nil || !maps.Equal(got, want) {
		t.Errorf("redis = %v, %v; want %v", got, err, want)
	}
	got, err = d.Get(t.Context(), "plain", nil)
	if err != nil || !maps.Equal(got, map[string]string{"plain": "p"}) {
		t.Errorf("plain = %v, %v", got, err)
	}
}

func TestChangesOfTheFileAreTakenUp(t *testing.T) {
	path := write(t, `{"a": "1"}`)
	d := open(t, Config{SecretsFile: path})
	for _, step := range []struct {
		how  string
		edit func()
		want string
	}{
		{"as opened", func() {}, "1"},
		{"written over, same size, within one tick of the clock", func() { overwrite(t, path, `{"a": "2"}`) }, "2"},
		{"replaced by another file", func() {
			other := write(t, `{"a": "3"}`)
			if err := os.Rename(other, path); err != nil {
				t.Fatal(err)
			}
		}, "3"},
		{"old file that changes", func() {
			age(t, path, time.Hour)
			wantValue(t, d, "a", "3")
			overwrite(t, path, `{"a": "4"}`)
		}, "4"},
		{"removed", func() { _ = os.Remove(path) }, "4"},
		{"back again, but broken", func() { overwrite(t, path, `{"a": "5`) }, "4"},
		{"mended", func() { overwrite(t, path, `{"a": "6"}`) }, "6"},
	} {
		step.edit()
		t.Log(step.how)
		wantValue(t, d, "a", step.want)
	}
	overwrite(t, path, `{"b": "1"}`)
	if _, err := d.Get(t.Context(), "a", nil); !fault.Is(err, fault.NotFound) {
		t.Errorf("Get of a secret that was removed: %v, want not_found", err)
	}
}

func TestBrokenFilesAreRefusedWithTheirLine(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"", `:1: the JSON ends too early`},
		{"{\n\"a\": \"s3cret\",\n", `:3: the JSON ends too early`},
		{"{\n\"a\": \"s3cret\",\n}", `:3: is not JSON: `},
		{"{\n\"a\" \"s3cret\"}", `:2: is not JSON: `},
		{"{\n\"a\": s3cret}", `:2: is not JSON: `},
		{"{\n\n\"a\": \"s3\ncret\"}", `:3: is not JSON: `},
		{"{\"a\": 1}\n{\"b\": 2}", `:2: something follows the JSON object`},
		{"[\"s3cret\"]", `:1: must hold a JSON object of secrets, not an array`},
		{"\"s3cret\"", `:1: must hold a JSON object of secrets, not a string`},
		{"null", `:1: must hold a JSON object of secrets, not null`},
		{"{\"a\": 1,\n\"a\": 2}", `:2: "a" is given twice`},
		{"{\"a:b\": 1,\n\"a\": {\"b\": 2}}", `:2: "a:b" is given twice`},
		{strings.Repeat(`{"a":`, 100), `is nested more than 64 deep`},
		{"a: s3cret\nb: yaml\n", `:1: is not JSON: `},
	} {
		path := write(t, c.text)
		_, err := Open(t.Context(), Config{SecretsFile: path}, component.Env{})
		switch {
		case !fault.Is(err, fault.InvalidArgument):
			t.Errorf("%q: error %v, want invalid_argument", c.text, err)
		case !strings.HasPrefix(err.Error(), path+":") || !strings.Contains(err.Error(), c.want):
			t.Errorf("%q: error %q, want one with the path and %q", c.text, err, c.want)
		case strings.Contains(err.Error(), "s3") || strings.Contains(err.Error(), "'s'"):
			t.Errorf("%q: error %q holds a part of the secret", c.text, err)
		}
	}
}

func TestMissingFileIsNamed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "none.json")
	_, err := Open(t.Context(), Config{SecretsFile: path}, component.Env{})
	if !fault.Is(err, fault.NotFound) || !strings.Contains(err.Error(), path) {
		t.Errorf("error %v, want not_found with the path", err)
	}
}

func TestSettingsAreChecked(t *testing.T) {
	spec := Specs()[0]
	if err := spec.Check(nil); err == nil || !strings.Contains(err.Error(), `"secretsFile": is required`) {
		t.Errorf("without secretsFile: %v", err)
	}
	if err := spec.Check(component.Settings{{Name: "secretsFile"}}); err == nil || !strings.Contains(err.Error(), "wants the path") {
		t.Errorf("with an empty secretsFile: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	for _, text := range []string{nested, "{}", `{"a":[]}`, `{"a":{"b":{}}}`, "{", `{"a":1e999}`, "\xef\xbb\xbf{}", `{"a":"\ud800"}`} {
		f.Add(text, false)
		f.Add(text, true)
	}
	f.Fuzz(func(t *testing.T, text string, multi bool) {
		secrets, err := parse(Config{SecretsFile: "f", NestedSeparator: ":", MultiValued: multi}, []byte(text))
		if (err == nil) == (secrets == nil) {
			t.Fatalf("secrets %v, error %v", secrets, err)
		}
		if err == nil && !json.Valid([]byte(strings.TrimPrefix(text, "\xef\xbb\xbf"))) {
			t.Fatalf("accepted what is not JSON: %q", text)
		}
	})
}

func open(t testing.TB, cfg Config) *Store {
	t.Helper()
	s, err := Open(t.Context(), cfg, component.Env{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func write(t testing.TB, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "secrets.json")
	overwrite(t, path, text)
	return path
}

func overwrite(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func age(t testing.TB, path string, by time.Duration) {
	t.Helper()
	old := time.Now().Add(-by)
	if err := os.Chtimes(path, old, old); err != nil {
		t.Fatal(err)
	}
}

func marshal(t testing.TB, v any) string {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func wantValue(t *testing.T, d secret.Driver, name, want string) {
	t.Helper()
	got, err := d.Get(t.Context(), name, nil)
	if err != nil || got[name] != want {
		t.Fatalf("Get(%q) = %v, %v; want %q", name, got, err, want)
	}
}
