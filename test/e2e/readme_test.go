package e2e_test

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestTheCommandsOfTheReadmeWork runs the blocks of README.md that stand after
// the marker <!-- test -->, in a copy of the repository and with an empty home.
// `make test` is left out: it is what runs this test.
func TestTheCommandsOfTheReadmeWork(t *testing.T) {
	long(t)
	t.Parallel()
	proa(t) // has filled the cache of the compiler
	text, err := os.ReadFile(filepath.Join(root, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	commands := marked(string(text))
	commands = slices.DeleteFunc(commands, func(c string) bool { return c == "make test" })
	if len(commands) == 0 {
		t.Fatal("README.md has no commands after the marker <!-- test -->")
	}
	dir := filepath.Join(t.TempDir(), "proa")
	if err := copyRepository(root, dir); err != nil {
		t.Fatal(err)
	}
	for _, command := range commands {
		cmd := exec.CommandContext(t.Context(), "bash", "-c", command)
		cmd.Dir, cmd.Env = dir, emptyHome(t)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", command, err, out)
		}
		if command == "make demo" && !strings.Contains(string(out), "▶ Done.") {
			t.Errorf("%s printed:\n%s", command, out)
		}
	}
}

// marked returns the commands in the fenced blocks after the marker, without
// their comments.
func marked(text string) []string {
	const marker = "<!-- test -->\n"
	var out []string
	for {
		_, rest, ok := strings.Cut(text, marker)
		if !ok {
			return out
		}
		_, rest, _ = strings.Cut(rest, "\n") // the fence
		block, rest, _ := strings.Cut(rest, "```")
		for line := range strings.Lines(block) {
			line, _, _ = strings.Cut(line, " # ")
			if line = strings.TrimSpace(line); line != "" {
				out = append(out, line)
			}
		}
		text = rest
	}
}

// emptyHome is the environment of somebody who has nothing but Go. What Go has
// downloaded and compiled already is kept, for the sake of time.
func emptyHome(t *testing.T) []string {
	t.Helper()
	env := append(os.Environ(), "HOME="+t.TempDir(), "PROA_HOME=", "XDG_DATA_HOME=")
	for _, name := range []string{"GOCACHE", "GOMODCACHE", "GOPATH", "GOFLAGS", "GOPROXY", "GONOSUMDB", "GOSUMDB", "GOTOOLCHAIN"} {
		value, err := exec.Command("go", "env", name).Output()
		if err != nil {
			t.Fatal(err)
		}
		env = append(env, name+"="+strings.TrimSpace(string(value)))
	}
	return env
}

// copyRepository copies what is not made by building or testing.
func copyRepository(from, to string) error {
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && slices.Contains([]string{".git", "bin", "dist", "node_modules", "__pycache__", ".venv"}, d.Name()) {
			return filepath.SkipDir
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		target := filepath.Join(to, rel)
		if d.IsDir() {
			return os.MkdirAll(target, 0o750)
		}
		info, err := d.Info()
		if err != nil || !info.Mode().IsRegular() {
			return err
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(target, content, info.Mode())
	})
}
