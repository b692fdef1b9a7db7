package proa_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// source is one parsed Go file of the repository. Files are read by the test
// itself and not by a `go list` it runs, because the test cache sees only what
// the test itself has read.
type source struct {
	path      string // from the root, with slashes
	dir       string
	test      bool // ends in _test.go
	generated bool
	lines     int
	fset      *token.FileSet
	file      *ast.File
}

// line returns the line of a node.
func (s source) line(n ast.Node) int { return s.fset.Position(n.Pos()).Line }

type imported struct {
	path string
	line int
}

func (s source) imports() []imported {
	var all []imported
	for _, spec := range s.file.Imports {
		p, err := strconv.Unquote(spec.Path.Value)
		if err == nil {
			all = append(all, imported{p, s.line(spec)})
		}
	}
	return all
}

// parse makes a source of a file's text.
func parse(fset *token.FileSet, name string, text []byte) (source, error) {
	file, err := parser.ParseFile(fset, name, text, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return source{}, err
	}
	return source{
		path: name, dir: path.Dir(name), test: strings.HasSuffix(name, "_test.go"),
		generated: ast.IsGenerated(file), lines: strings.Count(string(text), "\n"),
		fset: fset, file: file,
	}, nil
}

// repository is everything in the working tree that is ours: no ignored files,
// no test data, no other modules.
type repository struct {
	files []string // all
	goes  []source // the Go files of this module outside testdata
	err   error
}

var loadRepository = sync.OnceValue(func() (r repository) {
	ignored, err := readIgnore(".gitignore")
	if err != nil {
		return repository{err: err}
	}
	fset := token.NewFileSet()
	other := "" // the nested module we are in
	r.err = fs.WalkDir(os.DirFS("."), ".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case name == ".":
			return nil
		case ignored(name, d.IsDir()) || name == ".git":
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		case d.IsDir():
			if _, err := os.Stat(path.Join(name, "go.mod")); err == nil && (other == "" || !within(name, other)) {
				other = name
			}
			return nil
		case !d.Type().IsRegular():
			return nil
		}
		r.files = append(r.files, name)
		inOther := other != "" && within(name, other)
		if path.Ext(name) != ".go" || inOther || strings.Contains("/"+name, "/testdata/") {
			return nil
		}
		text, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		s, err := parse(fset, name, text)
		r.goes = append(r.goes, s)
		return err
	})
	return r
})

func sources(t *testing.T) []source {
	t.Helper()
	r := loadRepository()
	if r.err != nil {
		t.Fatal(r.err)
	}
	if len(r.goes) < 20 {
		t.Fatalf("found only %d Go files: is this the root of the repository?", len(r.goes))
	}
	return r.goes
}

// readIgnore reads the simple patterns that our .gitignore holds: a name or a
// glob, "/" in front for the root only, "/" behind for folders only.
func readIgnore(file string) (func(name string, dir bool) bool, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	return func(name string, dir bool) bool {
		for pattern := range strings.Lines(string(text)) {
			pattern = strings.TrimSpace(pattern)
			if pattern == "" || pattern[0] == '#' {
				continue
			}
			pattern, dirOnly := strings.CutSuffix(pattern, "/")
			pattern, rooted := strings.CutPrefix(pattern, "/")
			target := path.Base(name)
			if rooted || strings.Contains(pattern, "/") {
				target = name
			}
			if match, _ := path.Match(pattern, target); match && (dir || !dirOnly) {
				return true
			}
		}
		return false
	}, nil
}

// byPackage groups the files that make up each folder's package; test files
// make up none.
func byPackage(files []source) map[string][]source {
	packages := map[string][]source{}
	for _, f := range files {
		if !f.test {
			packages[f.dir] = append(packages[f.dir], f)
		}
	}
	return packages
}
