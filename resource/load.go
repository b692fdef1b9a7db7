package resource

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/proa-io/proa/component"
	"go.yaml.in/yaml/v3"
)

// maxFileSize bounds one resource file.
const maxFileSize = 16 << 20

// Options say what to read, and for whom.
type Options struct {
	// Paths are files and folders of resources. A folder stands for the
	// .yaml and .yml files in it, not for those of its own folders.
	Paths []string
	// ConfigPaths are files of kind Configuration, read after Paths.
	ConfigPaths []string
	// AppID leaves out resources whose scopes do not name it; "" keeps all.
	AppID string
	// Namespace leaves out resources of another namespace; "" keeps all.
	Namespace string
}

// Load reads all resources. The error joins every *Error there is; the Set is
// complete only when it is nil.
func Load(o Options) (*Set, error) {
	l := &loader{options: o, set: &Set{files: map[string]fileInfo{}}, names: map[string]component.Position{}}
	for _, path := range slices.Concat(o.Paths, o.ConfigPaths) {
		l.path(path)
	}
	if !l.torn {
		checkPolicies(l.resiliencies, &l.problems)
		checkTraffic(l.set.TrafficPolicies, &l.problems)
	}
	return l.set, l.problems.err()
}

type loader struct {
	options  Options
	set      *Set
	problems problems
	names    map[string]component.Position // kind/block/name → first place
	files    []string                      // read so far

	resiliencies []Resiliency // for the application, with or without problems
	torn         bool         // some document could not be decoded whole
}

func (l *loader) path(path string) {
	info, err := os.Stat(path)
	if err != nil {
		l.problems.addf(component.Position{File: path}, "", "", "%s", readProblem(err))
		return
	}
	if !info.IsDir() {
		l.file(path)
		return
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		l.problems.addf(component.Position{File: path}, "", "", "%s", readProblem(err))
		return
	}
	for _, e := range entries {
		full := filepath.Join(path, e.Name())
		if !isResourceFile(full) {
			continue
		}
		if info, err := os.Stat(full); err == nil && info.IsDir() {
			continue
		}
		l.file(full)
	}
}

func (l *loader) file(path string) {
	if abs, err := filepath.Abs(path); err == nil {
		if slices.Contains(l.files, abs) {
			return // named twice, by a folder and by itself
		}
		l.files = append(l.files, abs)
	}
	f, err := os.Open(path)
	if err != nil {
		l.problems.addf(component.Position{File: path}, "", "", "%s", readProblem(err))
		return
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxFileSize+1))
	if err != nil {
		l.problems.addf(component.Position{File: path}, "", "", "%s", readProblem(err))
		return
	}
	if len(text) > maxFileSize {
		l.problems.addf(component.Position{File: path}, "", "", "is larger than %d MiB, the most that is read", maxFileSize>>20)
		return
	}
	l.set.files[path] = fileInfo{bytes: len(text), documents: l.documents(path, text)}
}

// documents decodes each document of a file and returns how many there are.
// After a syntax error nothing more of the file can be read.
func (l *loader) documents(path string, text []byte) (n int) {
	dec := yaml.NewDecoder(bytes.NewReader(text))
	for {
		var doc yaml.Node
		err := dec.Decode(&doc)
		if errors.Is(err, io.EOF) {
			return n
		}
		if err != nil {
			l.problems.add(syntaxError(path, err))
			return n
		}
		if len(doc.Content) == 0 || doc.Content[0].Kind == yaml.ScalarNode && doc.Content[0].Tag == "!!null" {
			continue // an empty document, such as a comment between two ---
		}
		n++
		l.document(path, doc.Content[0])
	}
}

var yamlLine = regexp.MustCompile(`^yaml: line (\d+): (.*)$`)

// syntaxError moves the line that the YAML reader puts into its text to where
// all other errors have it.
func syntaxError(path string, err error) error {
	e := &Error{Pos: component.Position{File: path}, Problem: strings.TrimPrefix(err.Error(), "yaml: ")}
	if m := yamlLine.FindStringSubmatch(err.Error()); m != nil {
		e.Pos.Line, _ = strconv.Atoi(m[1])
		e.Problem = m[2]
	}
	e.Problem = "is not valid YAML: " + e.Problem
	if strings.Contains(e.Problem, "cannot start any token") {
		e.Problem += " (YAML is indented with spaces, not tabs)"
	}
	return e
}

// kinds of dapr.io that this program reads.
func kinds() []string {
	return []string{"Component", "Configuration", "Subscription", "Resiliency", "HTTPEndpoint"}
}

// laterKinds exist in the API group and are passed over.
func laterKinds() []string { return []string{"MCPServer", "WorkflowAccessPolicy"} }

func (l *loader) document(path string, n *yaml.Node) {
	pos := component.Position{File: path, Line: n.Line, Column: n.Column}
	if n.Kind != yaml.MappingNode {
		l.problems.addf(pos, "", "", "wants a resource (apiVersion, kind, metadata, spec), not %s", kindName(n))
		return
	}
	apiVersion, kind := scalarField(n, "apiVersion"), scalarField(n, "kind")
	switch {
	case apiVersion == "" && kind == "":
		l.problems.addf(pos, "", "", "is not a resource: apiVersion and kind are missing")
		return
	case kind == "":
		l.problems.addf(pos, "", "kind", "is required%s", suggest("", kinds()))
		return
	case apiVersion == "" && slices.Contains(kinds(), kind):
		l.problems.addf(pos, kind, "apiVersion", `is required: "dapr.io/v1alpha1"`)
		return
	}
	group, version, _ := strings.Cut(apiVersion, "/")
	if k, ok := otherGroup(group); ok {
		l.other(path, n, k, apiVersion)
		return
	}
	if group != "dapr.io" {
		l.foreign(n, pos, apiVersion, kind)
		return
	}
	if slices.Contains(laterKinds(), kind) {
		l.ignore(n, pos, apiVersion, kind)
		return
	}
	if !slices.Contains(kinds(), kind) {
		l.problems.addf(pos, "", "kind", "%q is not a kind of dapr.io%s", kind, suggest(kind, kinds()))
		return
	}
	if version != "v1alpha1" && (kind != "Subscription" || version != "v2alpha1") {
		l.problems.addf(pos, kind, "apiVersion", `%q is not known for this kind; there is "dapr.io/v1alpha1"`, apiVersion)
		return
	}
	l.decode(path, n, kind)
}

// foreign passes over a document of another API group, unless the group is
// probably a slip of the pen.
func (l *loader) foreign(n *yaml.Node, pos component.Position, apiVersion, kind string) {
	if slices.Contains(kinds(), kind) && component.Nearest(apiVersion, []string{"dapr.io/v1alpha1", "dapr.io/v2alpha1"}) != "" {
		l.problems.addf(pos, kind, "apiVersion", `%q is not known; did you mean "dapr.io/v1alpha1"?`, apiVersion)
		return
	}
	l.ignore(n, pos, apiVersion, kind)
}

func (l *loader) ignore(n *yaml.Node, pos component.Position, apiVersion, kind string) {
	ig := Ignored{Pos: pos, APIVersion: apiVersion, Kind: kind}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == "metadata" && n.Content[i+1].Kind == yaml.MappingNode {
			ig.Name = scalarField(n.Content[i+1], "name")
		}
	}
	l.set.Ignored = append(l.set.Ignored, ig)
}

func (l *loader) decode(path string, n *yaml.Node, kind string) {
	switch kind {
	case "Component":
		if c, ok := read[Component](l, path, n); ok && l.unique(kind+"/"+c.Block(), &c.header) {
			l.set.Components = append(l.set.Components, c)
		}
	case "Configuration":
		if c, ok := read[Configuration](l, path, n); ok {
			c.sections = sectionsOf(n)
			l.set.Configuration.merge(c)
		}
	case "Subscription":
		if s, ok := read[Subscription](l, path, n); ok && l.unique(kind, &s.header) {
			l.set.Subscriptions = append(l.set.Subscriptions, s)
		}
	case "Resiliency":
		r, ok := read[Resiliency](l, path, n)
		if l.concerns(&r.header) {
			l.resiliencies = append(l.resiliencies, r)
		}
		if ok && l.unique(kind, &r.header) {
			l.set.Resiliencies = append(l.set.Resiliencies, r)
		}
	case "HTTPEndpoint":
		if e, ok := read[HTTPEndpoint](l, path, n); ok && l.unique(kind, &e.header) {
			l.set.HTTPEndpoints = append(l.set.HTTPEndpoints, e)
		}
	default:
		l.decodeOther(path, n, kind)
	}
}

// checker is implemented by the pointer to each kind.
type checker[T any] interface {
	*T
	check(*problems)
	head() *header
}

func (h *header) head() *header { return h }

// read decodes and checks one document. ok is false when the document has
// problems or does not concern the application.
func read[T any, P checker[T]](l *loader, path string, n *yaml.Node) (out T, ok bool) {
	before := len(l.problems.errs)
	d := &decoder{file: path, resource: describeNode(n), problems: &l.problems}
	d.value(n, reflect.ValueOf(&out).Elem(), "", 0)
	if len(l.problems.errs) == before { // else follow-on errors would only confuse
		P(&out).check(&l.problems)
	} else {
		l.torn = true
	}
	h := P(&out).head()
	if len(l.problems.errs) == before {
		h.digest = digestOf(n)
	}
	ok = l.concerns(h) && len(l.problems.errs) == before
	if ok {
		l.set.prints = append(l.set.prints, h.identity()+" "+h.digest)
	}
	return out, ok
}

// concerns reports whether a resource is for the application.
func (l *loader) concerns(h *header) bool {
	return inScope(h.Scopes, l.options.AppID) &&
		(l.options.Namespace == "" || h.everywhere() || h.Metadata.Namespace == "" || h.Metadata.Namespace == l.options.Namespace)
}

// unique reports a second resource of the same kind and name.
func (l *loader) unique(kind string, h *header) bool {
	key := kind + "/" + h.Metadata.Name
	if h.everywhere() {
		key += "/" + h.Metadata.Namespace
	}
	if first, dup := l.names[key]; dup {
		l.problems.addf(h.Pos, h.describe(), "metadata.name", "is taken: the same name is at %s", first)
		return false
	}
	l.names[key] = h.Pos
	return true
}

func describeNode(n *yaml.Node) string {
	kind := scalarField(n, "kind")
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == "metadata" && n.Content[i+1].Kind == yaml.MappingNode {
			if name := scalarField(n.Content[i+1], "name"); name != "" {
				return kind + " " + name
			}
		}
	}
	return kind
}

func scalarField(n *yaml.Node, name string) string {
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == name && n.Content[i+1].Kind == yaml.ScalarNode {
			return n.Content[i+1].Value
		}
	}
	return ""
}

func readProblem(err error) string {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "does not exist"
	case errors.Is(err, fs.ErrPermission):
		return "may not be read: permission denied"
	}
	var pe *fs.PathError
	if errors.As(err, &pe) {
		err = pe.Err
	}
	return fmt.Sprintf("cannot be read: %v", err)
}
