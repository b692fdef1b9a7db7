package resource

import (
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/proa-io/proa/component"
)

// Object is a group of fields of any names, each with its place.
type Object struct {
	Fields []ObjectField
}

// ObjectField is one field of an Object.
type ObjectField struct {
	Name  string
	Pos   component.Position
	Value Value
	// Inner is the value as an Object, if it is one.
	Inner *Object
	// plain are the values of a list of single ones.
	plain []string
}

func (o *Object) decodeNode(d *decoder, n *yaml.Node, path string) {
	if n.Kind == yaml.ScalarNode && n.Tag == "!!null" {
		return
	}
	o.fields(d, n, path, 0)
}

func (o *Object) fields(d *decoder, n *yaml.Node, path string, depth int) {
	if n.Kind != yaml.MappingNode || depth > maxDepth {
		d.addf(n, path, "wants names with values (name: value), not %s", kindName(n))
		return
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, val := n.Content[i], n.Content[i+1]
		if val.Kind == yaml.AliasNode {
			val = val.Alias
		}
		f := ObjectField{Name: key.Value, Pos: d.pos(key)}
		f.Value.decodeNode(d, val, join(path, key.Value))
		switch {
		case d.nodes > maxNodes:
			return
		case val.Kind == yaml.MappingNode:
			f.Inner = &Object{}
			f.Inner.fields(d, val, join(path, key.Value), depth+1)
		case val.Kind == yaml.SequenceNode:
			f.plain = plainValues(val)
		}
		o.Fields = append(o.Fields, f)
	}
}

// plainValues returns the values of a list of scalars, none of which has a
// comma; nil for any other list.
func plainValues(n *yaml.Node) []string {
	out := make([]string, 0, len(n.Content))
	for _, item := range n.Content {
		if item.Kind != yaml.ScalarNode || strings.Contains(item.Value, ",") {
			return nil
		}
		out = append(out, item.Value)
	}
	return out
}

// Settings returns the fields as the settings of a component. group tells
// whether there are settings "name.*", so that the object in a field of that name
// is a group of settings; any other value that is not a single one is JSON, but
// for lists of single values, which are separated by commas.
func (o Object) Settings(group func(name string) bool) component.Settings {
	return o.settings(nil, "", group)
}

func (o Object) settings(out component.Settings, prefix string, group func(string) bool) component.Settings {
	for _, f := range o.Fields {
		name := prefix + f.Name
		s := component.Setting{Name: name, Value: f.Value.Text, Pos: f.Pos}
		switch {
		case f.Inner != nil && group(name):
			out = f.Inner.settings(out, name+".", group)
			continue
		case f.plain != nil:
			s.Value = strings.Join(f.plain, ",")
		}
		out = append(out, s)
	}
	return out
}
