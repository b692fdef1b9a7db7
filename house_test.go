package proa_test

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/build/constraint"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// maxLines and maxTestLines bound a file that a person has written.
const (
	maxLines     = 600
	maxTestLines = 1000
)

// junk are names that say nothing about what is inside.
var junk = []string{
	"base", "common", "helper", "helpers", "manager", "managers", "misc", "shared", "types", "util", "utils",
}

// platforms are the build constraints a file may have: what runs where.
// Components are chosen by configuration, never by building.
var platforms = []string{
	"darwin", "freebsd", "linux", "unix", "windows", "amd64", "arm64", "race", "ignore",
}

// foreign are traces of one machine or one workplace. Lock files are exempt:
// a package manager writes what it likes into them.
var foreign = regexp.MustCompile(`(^|[^\w.-])/(work|root)/\w` +
	`|proxy\.golang\.org|registry\.npmjs|repo1?\.maven|files\.pythonhosted|deb\.debian\.org`)

func TestFilesAreShort(t *testing.T) {
	for _, f := range sources(t) {
		most := maxLines
		if f.test {
			most = maxTestLines
		}
		if !f.generated && f.lines > most {
			t.Errorf("%s:%d: the file has %d lines; %d is the most", f.path, most, f.lines, most)
		}
	}
}

func TestPackagesAreNamedAfterWhatIsInside(t *testing.T) {
	for dir, files := range byPackage(sources(t)) {
		if name := files[0].file.Name.Name; slices.Contains(junk, name) || slices.Contains(junk, path.Base(dir)) {
			t.Errorf("%s:1: package %s: the name says nothing about what is inside", files[0].path, name)
		}
	}
}

func TestNothingRunsBeforeMain(t *testing.T) {
	fail(t, initViolations(sources(t)))
}

func TestContextsAreNotKept(t *testing.T) {
	fail(t, contextViolations(sources(t)))
}

func TestBuildConstraintsNameOnlyPlatforms(t *testing.T) {
	fail(t, constraintViolations(sources(t)))
}

func TestPackagesSayWhatTheyAreFor(t *testing.T) {
	fail(t, packageCommentViolations(sources(t)))
}

func TestExportedNamesAreDocumented(t *testing.T) {
	fail(t, docViolations(sources(t)))
}

func TestNoFileKnowsTheMachineItWasWrittenOn(t *testing.T) {
	r := loadRepository()
	if r.err != nil {
		t.Fatal(r.err)
	}
	for _, name := range r.files {
		switch path.Base(name) {
		case "go.sum", "package-lock.json", "house_test.go":
			continue
		}
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.IndexByte(text, 0) < 0 {
			fail(t, foreignWords(name, text))
		}
	}
}

// initViolations finds func init, the way a package acts without being asked.
func initViolations(files []source) []string {
	var bad []string
	for _, f := range files {
		if f.generated {
			continue
		}
		for _, decl := range f.file.Decls {
			if fn, ok := decl.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "init" {
				bad = append(bad, fmt.Sprintf("%s:%d: func init: nothing registers or prepares itself; the composition root calls it",
					f.path, f.line(fn)))
			}
		}
	}
	return bad
}

// contextViolations finds contexts in struct fields, where they outlive the
// call they belong to. An embedded one is a type's way to be a context. A field
// of something that is itself a call says so: //nolint:containedctx // why.
func contextViolations(files []source) []string {
	var bad []string
	for _, f := range files {
		if f.test || f.generated {
			continue
		}
		ast.Inspect(f.file, func(n ast.Node) bool {
			s, ok := n.(*ast.StructType)
			if !ok {
				return true
			}
			for _, field := range s.Fields.List {
				if len(field.Names) > 0 && !excused(field.Comment, "containedctx") && isSelector(field.Type, "context", "Context") {
					bad = append(bad, fmt.Sprintf("%s:%d: field %s: a context is the first argument, never a field",
						f.path, f.line(field), field.Names[0].Name))
				}
			}
			return true
		})
	}
	return bad
}

// excused reports whether a comment makes an exception from a rule and says why.
func excused(c *ast.CommentGroup, rule string) bool {
	if c == nil {
		return false
	}
	_, why, _ := strings.Cut(c.List[0].Text, "//nolint:"+rule+" // ")
	return why != ""
}

func isSelector(e ast.Expr, pkg, name string) bool {
	sel, ok := e.(*ast.SelectorExpr)
	if !ok || sel.Sel.Name != name {
		return false
	}
	id, ok := sel.X.(*ast.Ident)
	return ok && id.Name == pkg
}

// constraintViolations finds build tags that choose what is built in.
func constraintViolations(files []source) []string {
	var bad []string
	for _, f := range files {
		for _, group := range f.file.Comments {
			for _, c := range group.List {
				if c.Pos() > f.file.Package || !constraint.IsGoBuild(c.Text) {
					continue
				}
				expr, err := constraint.Parse(c.Text)
				if err != nil {
					bad = append(bad, fmt.Sprintf("%s:%d: %v", f.path, f.line(c), err))
					continue
				}
				expr.Eval(func(tag string) bool {
					if !slices.Contains(platforms, tag) {
						bad = append(bad, fmt.Sprintf("%s:%d: build tag %s: components are chosen by configuration, not by building",
							f.path, f.line(c), tag))
					}
					return true
				})
			}
		}
	}
	return bad
}

// packageCommentViolations finds packages without a comment.
func packageCommentViolations(files []source) []string {
	var bad []string
	for _, files := range byPackage(files) {
		if !slices.ContainsFunc(files, func(f source) bool { return !f.generated }) {
			continue
		}
		if !slices.ContainsFunc(files, func(f source) bool { return f.file.Doc.Text() != "" }) {
			bad = append(bad, fmt.Sprintf("%s:%d: package %s has no package comment",
				files[0].path, files[0].line(files[0].file.Name), files[0].file.Name.Name))
		}
	}
	return bad
}

// docViolations finds exported names without a doc comment in the packages that
// others can import.
func docViolations(files []source) []string {
	var bad []string
	for _, f := range files {
		if f.test || f.generated || f.file.Name.Name == "main" || within(f.dir, "internal") {
			continue
		}
		undocumented := func(n *ast.Ident, docs ...*ast.CommentGroup) {
			if n.IsExported() && !slices.ContainsFunc(docs, func(d *ast.CommentGroup) bool { return d.Text() != "" }) {
				bad = append(bad, fmt.Sprintf("%s:%d: %s is exported and has no doc comment", f.path, f.line(n), n.Name))
			}
		}
		for _, decl := range f.file.Decls {
			switch d := decl.(type) {
			case *ast.FuncDecl:
				if d.Recv == nil || ast.IsExported(receiver(d)) {
					undocumented(d.Name, d.Doc)
				}
			case *ast.GenDecl:
				inGenDecl(d, undocumented)
			}
		}
	}
	return bad
}

// inGenDecl visits the names that a declaration of constants, variables or
// types declares, with the comments that may document them. The methods of an
// interface are names too; the comment of the interface may speak for them.
func inGenDecl(d *ast.GenDecl, visit func(n *ast.Ident, docs ...*ast.CommentGroup)) {
	for _, spec := range d.Specs {
		switch s := spec.(type) {
		case *ast.ValueSpec:
			for _, n := range s.Names {
				visit(n, d.Doc, s.Doc, s.Comment)
			}
		case *ast.TypeSpec:
			doc := d.Doc
			if d.Lparen.IsValid() {
				doc = nil // it is about the group
			}
			visit(s.Name, doc, s.Doc, s.Comment)
			iface, ok := s.Type.(*ast.InterfaceType)
			if !ok || !s.Name.IsExported() {
				continue
			}
			for _, m := range iface.Methods.List {
				for _, n := range m.Names {
					visit(n, m.Doc, m.Comment, s.Doc, d.Doc)
				}
			}
		}
	}
}

// receiver returns the name of the type a method belongs to.
func receiver(d *ast.FuncDecl) string {
	e := d.Recv.List[0].Type
	for {
		switch t := e.(type) {
		case *ast.StarExpr:
			e = t.X
		case *ast.IndexExpr:
			e = t.X
		case *ast.IndexListExpr:
			e = t.X
		case *ast.Ident:
			return t.Name
		default:
			return ""
		}
	}
}

// foreignWords finds what foreign matches in a text.
func foreignWords(name string, text []byte) []string {
	var bad []string
	for i, line := range bytes.Split(text, []byte("\n")) {
		if word := foreign.Find(line); word != nil {
			bad = append(bad, fmt.Sprintf("%s:%d: %q belongs to one machine or workplace, not to the project",
				name, i+1, strings.TrimSpace(string(word))))
		}
	}
	return bad
}
