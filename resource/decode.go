package resource

import (
	"encoding"
	"encoding/json"
	"fmt"
	"reflect"
	"strconv"
	"strings"

	"github.com/proa-io/proa/component"
	"go.yaml.in/yaml/v3"
)

// maxDepth bounds the nesting of a document, aliases included.
const maxDepth = 64

// maxNodes bounds the values of one document after aliases are followed, so
// that a few lines of aliases to aliases cannot grow into gigabytes.
const maxNodes = 200_000

// decoder turns YAML nodes into structs, strictly: unknown fields, duplicate
// fields and values of the wrong form are problems with a position.
type decoder struct {
	file     string
	resource string
	problems *problems
	nodes    int
}

func (d *decoder) pos(n *yaml.Node) component.Position {
	return component.Position{File: d.file, Line: n.Line, Column: n.Column}
}

func (d *decoder) addf(n *yaml.Node, path, format string, args ...any) {
	d.problems.addf(d.pos(n), d.resource, path, format, args...)
}

// nodeDecoder is implemented by types that read a node themselves.
type nodeDecoder interface {
	decodeNode(d *decoder, n *yaml.Node, path string)
}

// value stores n into v. It reports problems instead of returning them.
func (d *decoder) value(n *yaml.Node, v reflect.Value, path string, depth int) {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	d.nodes++
	if depth > maxDepth || d.nodes > maxNodes {
		if d.nodes <= maxNodes+1 {
			d.addf(n, path, "is nested too deeply or refers to too much; at most %d levels and %d values are read", maxDepth, maxNodes)
			d.nodes = maxNodes + 1
		}
		return
	}
	if nd, ok := v.Addr().Interface().(nodeDecoder); ok {
		nd.decodeNode(d, n, path)
		return
	}
	if n.Kind == yaml.ScalarNode && n.Tag == "!!null" {
		return // an empty value keeps the default
	}
	if u, ok := v.Addr().Interface().(encoding.TextUnmarshaler); ok {
		d.text(n, u, path)
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		d.mapping(n, v, path, depth)
	case reflect.Slice:
		d.sequence(n, v, path, depth)
	case reflect.Map:
		d.dictionary(n, v, path, depth)
	case reflect.Pointer:
		p := reflect.New(v.Type().Elem())
		d.value(n, p.Elem(), path, depth)
		v.Set(p)
	default:
		d.scalar(n, v, path)
	}
}

func (d *decoder) text(n *yaml.Node, u encoding.TextUnmarshaler, path string) {
	if n.Kind != yaml.ScalarNode {
		d.addf(n, path, "wants a single value, not %s", kindName(n))
		return
	}
	if err := u.UnmarshalText([]byte(n.Value)); err != nil {
		d.addf(n, path, "%v, not %q", err, n.Value)
	}
}

func (d *decoder) mapping(n *yaml.Node, v reflect.Value, path string, depth int) {
	if n.Kind != yaml.MappingNode {
		d.addf(n, path, "wants fields (name: value), not %s", kindName(n))
		return
	}
	fields, names := structFields(v)
	if pos := v.FieldByName("Pos"); pos.IsValid() && pos.Type() == reflect.TypeFor[component.Position]() {
		pos.Set(reflect.ValueOf(d.pos(n)))
	}
	seen := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, val := n.Content[i], n.Content[i+1]
		at := join(path, key.Value)
		if line, dup := seen[key.Value]; dup {
			d.addf(key, at, "is given twice; first in line %d", line)
			continue
		}
		seen[key.Value] = key.Line
		f, ok := fields[key.Value]
		if !ok {
			d.addf(key, at, "there is no such field%s", suggest(key.Value, names))
			continue
		}
		d.value(val, f, at, depth+1)
	}
}

func (d *decoder) sequence(n *yaml.Node, v reflect.Value, path string, depth int) {
	if n.Kind != yaml.SequenceNode {
		d.addf(n, path, "wants a list (- item), not %s", kindName(n))
		return
	}
	out := reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content))
	for i, item := range n.Content {
		d.value(item, out.Index(i), fmt.Sprintf("%s[%d]", path, i), depth+1)
	}
	v.Set(out)
}

func (d *decoder) dictionary(n *yaml.Node, v reflect.Value, path string, depth int) {
	if n.Kind != yaml.MappingNode {
		d.addf(n, path, "wants names with values (name: value), not %s", kindName(n))
		return
	}
	out := reflect.MakeMapWithSize(v.Type(), len(n.Content)/2)
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, val := n.Content[i], n.Content[i+1]
		item := reflect.New(v.Type().Elem()).Elem()
		d.value(val, item, join(path, key.Value), depth+1)
		k := reflect.ValueOf(key.Value).Convert(v.Type().Key())
		if out.MapIndex(k).IsValid() {
			d.addf(key, join(path, key.Value), "is given twice")
			continue
		}
		out.SetMapIndex(k, item)
	}
	v.Set(out)
}

func (d *decoder) scalar(n *yaml.Node, v reflect.Value, path string) {
	if n.Kind != yaml.ScalarNode {
		d.addf(n, path, "wants %s, not %s", typeName(v), kindName(n))
		return
	}
	text := n.Value
	switch v.Kind() {
	case reflect.String:
		v.SetString(text)
		return
	case reflect.Bool:
		if b, err := strconv.ParseBool(strings.ToLower(text)); err == nil {
			v.SetBool(b)
			return
		}
	case reflect.Int, reflect.Int32, reflect.Int64:
		if i, err := strconv.ParseInt(text, 10, v.Type().Bits()); err == nil {
			v.SetInt(i)
			return
		}
	case reflect.Uint32, reflect.Uint64:
		if i, err := strconv.ParseUint(text, 10, v.Type().Bits()); err == nil {
			v.SetUint(i)
			return
		}
	case reflect.Float64:
		if f, err := strconv.ParseFloat(text, 64); err == nil {
			v.SetFloat(f)
			return
		}
	}
	d.addf(n, path, "wants %s, not %q", typeName(v), text)
}

// structFields maps the yaml name of each field of v, embedded ones included,
// to the field.
func structFields(v reflect.Value) (map[string]reflect.Value, []string) {
	out := map[string]reflect.Value{}
	var names []string
	for i := range v.NumField() {
		sf := v.Type().Field(i)
		tag := sf.Tag.Get("yaml")
		switch {
		case tag == ",inline": // of an unexported type, perhaps
			inner, innerNames := structFields(v.Field(i))
			for k, f := range inner {
				out[k] = f
			}
			names = append(names, innerNames...)
		case tag != "" && tag != "-":
			out[tag] = v.Field(i)
			names = append(names, tag)
		}
	}
	return out, names
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

func kindName(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a group of fields"
	case yaml.SequenceNode:
		return "a list"
	}
	if n.Value == "" {
		return "nothing"
	}
	return strconv.Quote(n.Value)
}

func typeName(v reflect.Value) string {
	switch v.Kind() {
	case reflect.String:
		return "a text"
	case reflect.Bool:
		return "true or false"
	case reflect.Float64:
		return "a number"
	case reflect.Uint32, reflect.Uint64:
		return "a whole number that is not negative"
	}
	return "a whole number"
}

// Value is any YAML value, kept as the text that components take it as: a
// scalar as it is written, a list or an object as JSON.
type Value struct {
	Text string
	Set  bool
}

// String returns the text.
func (v Value) String() string { return v.Text }

func (v *Value) decodeNode(d *decoder, n *yaml.Node, path string) {
	v.Set = true
	if n.Kind == yaml.ScalarNode {
		if n.Tag != "!!null" {
			v.Text = n.Value
		}
		return
	}
	var tree any
	if err := d.tree(n, &tree, 0); err != nil {
		d.addf(n, path, "%v", err)
		return
	}
	text, err := json.Marshal(tree)
	if err != nil {
		d.addf(n, path, "cannot be written as JSON: %v", err)
		return
	}
	v.Text = string(text)
}

// tree decodes n into plain maps, slices and scalars, counting what it visits.
func (d *decoder) tree(n *yaml.Node, out *any, depth int) error {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	d.nodes++
	if depth > maxDepth || d.nodes > maxNodes {
		return fmt.Errorf("is nested too deeply or refers to too much; at most %d levels and %d values are read", maxDepth, maxNodes)
	}
	switch n.Kind {
	case yaml.MappingNode:
		m := map[string]any{}
		for i := 0; i+1 < len(n.Content); i += 2 {
			var item any
			if err := d.tree(n.Content[i+1], &item, depth+1); err != nil {
				return err
			}
			m[n.Content[i].Value] = item
		}
		*out = m
	case yaml.SequenceNode:
		s := make([]any, len(n.Content))
		for i, c := range n.Content {
			if err := d.tree(c, &s[i], depth+1); err != nil {
				return err
			}
		}
		*out = s
	default:
		return n.Decode(out)
	}
	return nil
}
