package localstorage

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/proa-io/proa/block/binding"
	"github.com/proa-io/proa/block/binding/bindingtest"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
)

func TestOutput(t *testing.T) {
	bindingtest.RunOutput(t, bindingtest.Output{
		Open:    func(t testing.TB) binding.Output { return open(t, t.TempDir()) },
		Request: binding.Request{Operation: "create", Data: []byte("hello"), Metadata: map[string]string{"fileName": "f"}},
	})
}

func TestFilesAreCreatedReadListedAndDeleted(t *testing.T) {
	dir := t.TempDir()
	s := open(t, filepath.Join(dir, "new", "folder"))
	for _, name := range []string{"a.txt", "/b.txt", "sub/deep/c.txt", "./d.txt", "grüße 世界.txt", "sub/../e.txt", "..f"} {
		got := must(t, s, "create", name, "content of "+name)
		want, _ := json.Marshal(map[string]string{"fileName": strings.TrimPrefix(filepath.Clean("/"+name), "/")})
		if got != string(want) {
			t.Errorf("create %q = %s, want %s", name, got, want)
		}
		if got := must(t, s, "get", name, ""); got != "content of "+name {
			t.Errorf("get %q = %q", name, got)
		}
	}
	var listed []string
	if err := json.Unmarshal([]byte(must(t, s, "list", "", "")), &listed); err != nil {
		t.Fatal(err)
	}
	if len(listed) != 7 || !slices.Contains(listed, filepath.Join(s.path, "sub/deep/c.txt")) {
		t.Errorf("list = %q", listed)
	}
	if got, want := must(t, s, "list", "sub", ""), `["`+filepath.Join(s.path, "sub/deep/c.txt")+`"]`; got != want {
		t.Errorf("list of sub = %s, want %s", got, want)
	}
	if got := must(t, s, "delete", "sub/deep/c.txt", ""); got != "" {
		t.Errorf("delete = %q", got)
	}
	if got := must(t, s, "list", "sub", ""); got != "[]" {
		t.Errorf("list of sub = %s after delete", got)
	}
	wantCode(t, s, "get", "sub/deep/c.txt", fault.NotFound)
	wantCode(t, s, "delete", "sub/deep/c.txt", fault.NotFound)
}

func TestFileWithoutANameGetsOne(t *testing.T) {
	s := open(t, t.TempDir())
	var r struct{ FileName string }
	if err := json.Unmarshal([]byte(must(t, s, "create", "", "x")), &r); err != nil || len(r.FileName) != 36 {
		t.Fatalf("file name %q, %v", r.FileName, err)
	}
	if got := must(t, s, "get", r.FileName, ""); got != "x" {
		t.Errorf("get = %q", got)
	}
}

func TestDataAreDecoded(t *testing.T) {
	binary := "\x00\xff\x80binary"
	encoded := base64.StdEncoding.EncodeToString([]byte(binary))
	s, plain := open(t, t.TempDir()), open(t, t.TempDir())
	plain.cfg.DecodeBase64 = false
	for _, c := range []struct{ data, want, plain string }{
		{"text", "\xb5\xec\x6d", "text"}, // it happens to be valid
		{"some text", "some text", "some text"},
		{`"a JSON \"string\"\n"`, "a JSON \"string\"\n", "a JSON \"string\"\n"},
		{`"` + encoded + `"`, binary, encoded},
		{encoded, binary, encoded},
		{`{"json": true}`, `{"json": true}`, `{"json": true}`},
		{`"unfinished`, `"unfinished`, `"unfinished`},
		{binary, binary, binary},
		{"", "", ""},
	} {
		must(t, s, "create", "f", c.data)
		if got := must(t, s, "get", "f", ""); got != c.want {
			t.Errorf("create of %q stored %q, want %q", c.data, got, c.want)
		}
		must(t, plain, "create", "f", c.data)
		if got := must(t, plain, "get", "f", ""); got != c.plain {
			t.Errorf("create of %q without decoding stored %q, want %q", c.data, got, c.plain)
		}
	}
}

func TestNothingOutsideOfTheRootCanBeReached(t *testing.T) {
	outside := t.TempDir()
	secret := filepath.Join(outside, "secret.txt")
	if err := os.WriteFile(secret, []byte("s3cret"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := open(t, filepath.Join(outside, "root"))
	for link, target := range map[string]string{"abs": secret, "rel": "../secret.txt", "dir": outside, "up": "..", "new": "../created"} {
		if err := os.Symlink(target, filepath.Join(s.path, link)); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{
		"../secret.txt", "../../../../etc/passwd", "a/../../secret.txt", "..", "../", "/../secret.txt", "//../secret.txt",
		"sub/../..", "../root2/x", "a\x00b",
	} {
		for _, op := range s.Operations() {
			wantCode(t, s, op, name, fault.InvalidArgument)
		}
	}
	for _, name := range []string{"abs", "rel", "dir/secret.txt", "up/secret.txt", "new/x", "dir/new.txt"} {
		data, err := invoke(t, s, "get", name, "")
		if err == nil || strings.Contains(data+err.Error(), "s3cret") {
			t.Errorf("get through link %q = %q, %v", name, data, err)
		}
	}
	for _, name := range []string{"dir/created.txt", "up/created.txt", "new/created.txt"} {
		if _, err := invoke(t, s, "create", name, "some text"); err == nil {
			t.Errorf("create through link %q succeeded", name)
		}
		if _, err := invoke(t, s, "delete", strings.Replace(name, "created", "secret", 1), ""); err == nil {
			t.Errorf("delete through link %q succeeded", name)
		}
	}
	// A link in the place of a file is replaced, not followed.
	must(t, s, "create", "abs", "some text")
	if got, err := os.ReadFile(secret); err != nil || string(got) != "s3cret" {
		t.Errorf("the file outside is now %q, %v", got, err)
	}
	entries, err := os.ReadDir(outside)
	if err != nil || len(entries) != 2 {
		t.Errorf("the folder outside holds %v, %v", entries, err)
	}
	for _, link := range []string{"dir", "up"} {
		if data, err := invoke(t, s, "list", link, ""); err == nil {
			t.Errorf("list through link %q = %s", link, data)
		}
	}
}

func TestMistakesAreNamed(t *testing.T) {
	s := open(t, t.TempDir())
	must(t, s, "create", "folder/file", "some text")
	for _, c := range []struct {
		operation, name string
		want            fault.Code
	}{
		{"get", "", fault.InvalidArgument},
		{"delete", "", fault.InvalidArgument},
		{"delete", "/", fault.InvalidArgument},
		{"get", "folder", fault.FailedPrecondition},
		{"create", "folder", fault.FailedPrecondition},
		{"create", "folder/file/x", fault.FailedPrecondition},
		{"delete", "folder", fault.FailedPrecondition},
		{"list", "folder/file", fault.FailedPrecondition},
		{"list", "none", fault.NotFound},
		{"get", "folder/none", fault.NotFound},
		{"create", strings.Repeat("x", 300), fault.InvalidArgument},
	} {
		wantCode(t, s, c.operation, c.name, c.want)
	}
	if got, want := must(t, s, "list", "", ""), `["`+filepath.Join(s.path, "folder/file")+`"]`; got != want {
		t.Errorf("the mistakes left %s, want %s", got, want)
	}
}

func TestReadersSeeWholeFiles(t *testing.T) {
	s := open(t, t.TempDir())
	long := strings.Repeat("0123456789 ", 100_000)
	must(t, s, "create", "f", long)
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := range 20 {
			if _, err := invoke(t, s, "create", "f", fmt.Sprint(i, " ", long)); err != nil {
				t.Errorf("create: %v", err)
			}
		}
	})
	for range 100 {
		if data, err := invoke(t, s, "get", "f", ""); err != nil || len(data) < len(long) {
			t.Errorf("get = %d bytes, %v", len(data), err)
		}
	}
	wg.Wait()
	if got := must(t, s, "list", "", ""); strings.Count(got, `"`) != 2 {
		t.Errorf("list = %s, want one file", got)
	}
}

func TestForbiddenRootsAreRefused(t *testing.T) {
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink("/proc", link); err != nil {
		t.Fatal(err)
	}
	for _, root := range []string{"/proc", "/proc/self", "/sys/x/y", "/boot/new", "/var/run/secrets/kubernetes.io", "/tmp/../proc", link, link + "/new"} {
		_, err := Open(t.Context(), Config{RootPath: root}, component.Env{})
		if !fault.Is(err, fault.PermissionDenied) {
			t.Errorf("rootPath %q: error %v, want permission_denied", root, err)
		}
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), Config{RootPath: file}, component.Env{}); !fault.Is(err, fault.FailedPrecondition) {
		t.Errorf("rootPath that is a file: error %v", err)
	}
	for _, settings := range []component.Settings{nil, {{Name: "rootPath"}}} {
		if err := Specs()[0].Check(settings); err == nil || !strings.Contains(err.Error(), `"rootPath": `) {
			t.Errorf("settings %v: error %v", settings, err)
		}
	}
}

func open(t testing.TB, root string) *Store {
	t.Helper()
	s, err := Open(t.Context(), Config{RootPath: root, DecodeBase64: true}, component.Env{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func invoke(t *testing.T, s *Store, operation, name, data string) (string, error) {
	r := binding.Request{Operation: operation, Data: []byte(data), Metadata: map[string]string{"fileName": name}}
	resp, err := s.Invoke(t.Context(), r)
	return string(resp.Data), err
}

func must(t *testing.T, s *Store, operation, name, data string) string {
	t.Helper()
	out, err := invoke(t, s, operation, name, data)
	if err != nil {
		t.Fatalf("%s %q: %v", operation, name, err)
	}
	return out
}

func wantCode(t *testing.T, s *Store, operation, name string, want fault.Code) {
	t.Helper()
	if data, err := invoke(t, s, operation, name, ""); !fault.Is(err, want) {
		t.Errorf("%s %q = %q, %v; want %v", operation, name, data, err, want)
	}
}
