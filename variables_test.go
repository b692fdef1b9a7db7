package proa_test

import (
	"fmt"
	"go/ast"
	"go/token"
	"go/types"
	"slices"
	"strings"
	"testing"
)

// TestPackageVariablesAreConstants holds what a variable at package level may
// be: an error, or a table that nobody changes. All else is state, belongs to a
// value that somebody owns, and comes in as an argument. The rules, which can
// be read off the source:
//
//   - `var _ I = T{}` and embedded files are fine;
//   - an exported variable is an error: its name begins with Err;
//   - every other one has a value where it is declared: a literal, an
//     expression over constants, or the result of a function that makes
//     unchanging things (see makers), or of one of the package itself;
//   - no value is a map or channel just made, or of package sync or
//     sync/atomic, but for a sync.Pool, which holds nothing that counts;
//   - nobody assigns to it or to a part of it, or takes its address.
func TestPackageVariablesAreConstants(t *testing.T) {
	fail(t, variableViolations(sources(t)))
}

// makers are functions of other packages whose results nobody changes: the
// import path, and the beginning of the names, "" for all.
var makers = map[string][]string{
	"bytes": {""}, "cmp": {""}, "crypto/x509": {"NewCertPool"}, "encoding/base32": {""}, "encoding/base64": {""},
	"encoding/binary": {""}, "encoding/hex": {""}, "errors": {"New", "Join"}, "fmt": {"Errorf", "Sprint"},
	"hash/crc32": {"MakeTable"}, "hash/crc64": {"MakeTable"}, "hash/maphash": {"MakeSeed"}, "html/template": {"Must"},
	"maps": {""}, "math": {""}, "math/big": {"NewInt"}, "math/bits": {""}, "net": {"ParseIP", "IPv4"},
	"net/netip": {""}, "reflect": {"TypeFor", "TypeOf"}, "regexp": {"MustCompile"}, "slices": {""}, "strconv": {""},
	"strings": {""}, "sync": {"OnceFunc", "OnceValue"}, "text/template": {"Must"}, "time": {""}, "unicode": {""},
	"github.com/prometheus/client_golang/prometheus": {"NewDesc"},
	"go.opentelemetry.io/otel/attribute":             {""},
	"google.golang.org/grpc/status":                  {"New", "Error"},
	module + "/component":                            {"Can", "NewSecret"},
	module + "/fault":                                {"New", "Wrap"},
}

// variableViolations finds package variables that are state.
func variableViolations(files []source) []string {
	var bad []string
	for _, files := range byPackage(files) {
		files = slices.DeleteFunc(files, func(f source) bool { return f.generated })
		if len(files) == 0 {
			continue
		}
		for _, f := range files {
			bad = append(bad, declaredState(f)...)
		}
		bad = append(bad, changedVariables(files)...)
	}
	return bad
}

// declaredState checks how package variables are declared.
func declaredState(f source) []string {
	var bad []string
	for _, decl := range f.file.Decls {
		d, ok := decl.(*ast.GenDecl)
		if !ok || d.Tok != token.VAR {
			continue
		}
		for _, spec := range d.Specs {
			s := spec.(*ast.ValueSpec)
			if isEmbed(d, s) {
				continue
			}
			for i, n := range s.Names {
				var value ast.Expr
				if len(s.Values) > 0 {
					value = s.Values[min(i, len(s.Values)-1)]
				}
				if why := f.state(n.Name, value); why != "" {
					bad = append(bad, fmt.Sprintf("%s:%d: package variable %s: %s", f.path, f.line(n), n.Name, why))
				}
			}
		}
	}
	return bad
}

func isEmbed(d *ast.GenDecl, s *ast.ValueSpec) bool {
	for _, group := range []*ast.CommentGroup{d.Doc, s.Doc} {
		if group != nil && slices.ContainsFunc(group.List, func(c *ast.Comment) bool {
			return strings.HasPrefix(c.Text, "//go:embed ")
		}) {
			return true
		}
	}
	return false
}

// state says why a variable with this name and first value is state, or "".
func (s source) state(name string, value ast.Expr) string {
	switch {
	case name == "_":
		return ""
	case ast.IsExported(name) && !strings.HasPrefix(name, "Err"):
		return "others could change it; export a function or a constant"
	case value == nil:
		return "without a value it can only be state; give it to a value that somebody owns"
	}
	why := ""
	ast.Inspect(value, func(n ast.Node) bool {
		if _, ok := n.(*ast.FuncLit); ok || why != "" {
			return false // what a function does when called is its own affair
		}
		switch x := n.(type) {
		case *ast.CallExpr:
			if _, ok := x.Fun.(*ast.FuncLit); ok {
				return false // a table, computed
			}
			why = s.madeByCall(x)
		case *ast.CompositeLit:
			if sel, ok := x.Type.(*ast.SelectorExpr); ok {
				pkg := s.packageOf(sel)
				if pkg == "sync" && sel.Sel.Name != "Pool" || pkg == "sync/atomic" {
					why = "it can only be state; give it to a value that somebody owns"
				}
			}
		}
		return true
	})
	return why
}

// madeByCall says why the result of a call is state, or "".
func (s source) madeByCall(call *ast.CallExpr) string {
	fun := call.Fun
	if index, ok := fun.(*ast.IndexExpr); ok {
		fun = index.X
	}
	switch f := fun.(type) {
	case *ast.Ident:
		if f.Name == "make" || f.Name == "new" {
			return "what is made empty is filled later; give it to a value that somebody owns"
		}
	case *ast.SelectorExpr:
		pkg := s.packageOf(f)
		if pkg == "" {
			return "" // a method of something that is fine itself
		}
		made := func(prefix string) bool { return strings.HasPrefix(f.Sel.Name, prefix) }
		if !slices.ContainsFunc(makers[pkg], made) {
			return fmt.Sprintf("%s.%s is not known to make something that nobody changes (makers, in variables_test.go)", pkg, f.Sel.Name)
		}
	}
	return ""
}

// packageOf returns the import path of the package that a selector's left side
// names, or "" if it names none.
func (s source) packageOf(sel *ast.SelectorExpr) string {
	id, ok := sel.X.(*ast.Ident)
	if !ok {
		return ""
	}
	for i, imp := range s.imports() {
		name := ""
		if alias := s.file.Imports[i].Name; alias != nil {
			name = alias.Name
		} else {
			name = packageName(imp.path)
		}
		if name == id.Name {
			return imp.path
		}
	}
	return ""
}

// packageName guesses a package's name from its import path.
func packageName(p string) string {
	parts := strings.Split(p, "/")
	last := parts[len(parts)-1]
	if len(parts) > 1 && len(last) > 1 && last[0] == 'v' && strings.Trim(last[1:], "0123456789") == "" {
		last = parts[len(parts)-2]
	}
	return last
}

// changedVariables finds the places where package variables are changed.
func changedVariables(files []source) []string {
	uses := resolve(files)
	var bad []string
	for _, f := range files {
		changed := func(e ast.Expr, how string) {
			id := root(e)
			if id == nil || id.Name == "_" {
				return
			}
			v, ok := uses[id].(*types.Var)
			if ok && v.Pkg() != nil && v.Parent() == v.Pkg().Scope() {
				bad = append(bad, fmt.Sprintf("%s:%d: package variable %s is %s: it is state and belongs to a value that somebody owns",
					f.path, f.line(id), id.Name, how))
			}
		}
		ast.Inspect(f.file, func(n ast.Node) bool {
			switch s := n.(type) {
			case *ast.AssignStmt:
				for _, e := range s.Lhs {
					changed(e, "assigned to")
				}
			case *ast.IncDecStmt:
				changed(s.X, "counted")
			case *ast.RangeStmt:
				if s.Tok == token.ASSIGN {
					changed(s.Key, "assigned to")
					changed(s.Value, "assigned to")
				}
			case *ast.UnaryExpr:
				if id, ok := s.X.(*ast.Ident); ok && s.Op == token.AND {
					changed(id, "handed out by its address")
				}
			case *ast.CallExpr:
				if id, ok := s.Fun.(*ast.Ident); ok && (id.Name == "delete" || id.Name == "clear") && len(s.Args) > 0 {
					changed(s.Args[0], "emptied")
				}
			}
			return true
		})
	}
	return bad
}

// resolve tells which variable each identifier of a package means, without
// looking at other packages: their absence leaves types unknown, not names.
func resolve(files []source) map[*ast.Ident]types.Object {
	var parsed []*ast.File
	for _, f := range files {
		parsed = append(parsed, f.file)
	}
	uses := map[*ast.Ident]types.Object{}
	conf := types.Config{Importer: noPackages{}, Error: func(error) {}}
	_, _ = conf.Check(files[0].dir, files[0].fset, parsed, &types.Info{Uses: uses}) // its errors are unknown types
	return uses
}

// noPackages is an importer that finds nothing.
type noPackages struct{}

func (noPackages) Import(path string) (*types.Package, error) {
	return nil, fmt.Errorf("%s is not looked at", path)
}

// root returns the variable that an expression is a part of.
func root(e ast.Expr) *ast.Ident {
	for {
		switch x := e.(type) {
		case *ast.Ident:
			return x
		case *ast.IndexExpr:
			e = x.X
		case *ast.SliceExpr:
			e = x.X
		case *ast.SelectorExpr:
			e = x.X
		case *ast.StarExpr:
			e = x.X
		case *ast.ParenExpr:
			e = x.X
		default:
			return nil
		}
	}
}
