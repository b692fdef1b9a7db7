package component

import (
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// Position is where in a file something was written. Line and Column count
// from 1; a zero Line means that the place is not known.
type Position struct {
	File   string
	Line   int
	Column int
}

// String returns "file:line" or as much of it as is known.
func (p Position) String() string {
	switch {
	case p.File == "" && p.Line == 0:
		return ""
	case p.Line == 0:
		return p.File
	}
	return p.File + ":" + strconv.Itoa(p.Line)
}

// Setting is one name and value of a component's metadata, with references to
// secrets and environment already resolved.
type Setting struct {
	Name  string
	Value string
	Pos   Position
	// Secret tells that the value came from a secret store or the environment
	// and must not be quoted.
	Secret bool
	// SecretName is the name of the secret that the value came from; empty for
	// a value that came from elsewhere.
	SecretName string
	// Unresolved tells that there will be a value which is not known yet.
	// Decode then checks only that there is such a setting, and leaves out
	// Validate.
	Unresolved bool
}

// Settings is the metadata of one component.
type Settings []Setting

// Get returns the value of the named setting, ignoring the case of its name.
func (s Settings) Get(name string) (string, bool) {
	x, ok := s.Find(name)
	return x.Value, ok
}

// Find returns the named setting, ignoring the case of its name.
func (s Settings) Find(name string) (Setting, bool) {
	for _, x := range s {
		if strings.EqualFold(x.Name, name) {
			return x, true
		}
	}
	return Setting{}, false
}

// FieldError says which setting is wrong, where it stands, and why.
type FieldError struct {
	Pos     Position
	Field   string
	Problem string
}

// Error returns "file:line: field: problem".
func (e *FieldError) Error() string {
	out := e.Problem
	if e.Field != "" {
		out = fmt.Sprintf("%q: %s", e.Field, out)
	}
	if p := e.Pos.String(); p != "" {
		out = p + ": " + out
	}
	return out
}

// Decode stores the settings into the structs that targets point to. A field
// takes the setting named by its `setting:"name"` tag; further names after a
// comma are aliases, and the option "required" demands a value. Names are
// compared without regard to case. Fields keep the value they had when no
// setting names them, so a target should hold the defaults.
//
// A field tagged `setting:"*"`, a map from strings to strings, takes every setting
// under the name it was written with, but for those that a Secret field of
// another target takes. One tagged `setting:"header:*"`, a map from strings to
// Secret, takes every setting whose name begins with "header:", under the rest of
// its name.
//
// Decoding is strict: a name that no target has, a name given twice and a
// value of the wrong form are errors, all of them reported together as
// *FieldError values. A field may implement encoding.TextUnmarshaler; a target
// may implement Validate() error, called last.
func (s Settings) Decode(targets ...any) error {
	fields := map[string]*field{}
	var names []string
	var all []*field
	var rest map[string]string // nil when no field takes every setting
	var families []*field      // those that take all of a prefix
	for _, t := range targets {
		for _, f := range fieldsOf(reflect.ValueOf(t).Elem()) {
			if f.names[0] == "*" {
				rest = map[string]string{}
				f.value.Set(reflect.ValueOf(rest))
				continue
			}
			if strings.HasSuffix(f.names[0], "*") {
				f.value.Set(reflect.ValueOf(map[string]Secret{}))
				families, names = append(families, f), append(names, f.names[0])
				continue
			}
			all = append(all, f)
			for _, n := range f.names {
				key := strings.ToLower(n)
				if _, dup := fields[key]; !dup { // block and driver may both want one
					fields[key] = f
				} else {
					fields[key].also = append(fields[key].also, f)
				}
				names = append(names, n)
			}
		}
	}
	var errs []error
	unresolved := false
	seen := map[string]Position{}
	for _, x := range s {
		key := strings.ToLower(x.Name)
		if first, dup := seen[key]; dup {
			problem := "is set twice"
			if p := first.String(); p != "" {
				problem += "; first at " + p
			}
			errs = append(errs, &FieldError{x.Pos, x.Name, problem})
			continue
		}
		seen[key] = x.Pos
		f, ok := fields[key]
		if rest != nil && !x.Unresolved && !(ok && f.value.Type() == reflect.TypeFor[Secret]()) {
			rest[x.Name] = x.Value
		}
		if !ok && takenByFamily(families, x) {
			unresolved = unresolved || x.Unresolved
			continue
		}
		if !ok && rest != nil {
			unresolved = unresolved || x.Unresolved
			continue
		}
		if !ok {
			problem := "there is no such setting"
			if near := Nearest(x.Name, names); near != "" {
				problem += fmt.Sprintf("; did you mean %q?", near)
			} else if len(names) > 0 {
				slices.Sort(names)
				problem += "; there is " + strings.Join(slices.Compact(names), ", ")
			} else {
				problem += "; this component takes none"
			}
			errs = append(errs, &FieldError{x.Pos, x.Name, problem})
			continue
		}
		unresolved = unresolved || x.Unresolved
		for _, f := range append([]*field{f}, f.also...) {
			f.set = true
			if x.Unresolved {
				continue
			}
			if err := setValue(f.value, x.Value); err != nil {
				got := fmt.Sprintf(", not %q", x.Value)
				if x.Secret || f.value.Type() == reflect.TypeFor[Secret]() {
					got = ""
				}
				errs = append(errs, &FieldError{x.Pos, x.Name, err.Error() + got})
			}
		}
	}
	for _, f := range all {
		if f.required && !f.set {
			var pos Position
			if len(s) > 0 {
				pos = Position{File: s[0].Pos.File}
			}
			errs = append(errs, &FieldError{pos, f.names[0], "is required"})
		}
	}
	if len(errs) > 0 {
		return errors.Join(errs...)
	}
	if unresolved {
		return nil
	}
	for _, t := range targets {
		if v, ok := t.(interface{ Validate() error }); ok {
			if err := v.Validate(); err != nil {
				return s.locate(err)
			}
		}
	}
	return nil
}

// takenByFamily gives a setting to the field that takes all of its prefix, and
// reports whether there is one.
func takenByFamily(families []*field, x Setting) bool {
	for _, f := range families {
		prefix := strings.TrimSuffix(f.names[0], "*")
		if len(x.Name) <= len(prefix) || !strings.EqualFold(x.Name[:len(prefix)], prefix) {
			continue
		}
		if !x.Unresolved {
			f.value.Interface().(map[string]Secret)[x.Name[len(prefix):]] = NewSecret(x.Value)
		}
		return true
	}
	return false
}

// locate adds the position of the setting that a Validate error names.
func (s Settings) locate(err error) error {
	var fe *FieldError
	if !errors.As(err, &fe) || fe.Pos.Line != 0 {
		return err
	}
	for _, x := range s {
		if strings.EqualFold(x.Name, fe.Field) {
			return &FieldError{x.Pos, fe.Field, fe.Problem}
		}
	}
	return err
}

// Invalid returns an error for Validate to say that a setting's value can
// never work. Decode adds where the setting stands.
func Invalid(setting, format string, args ...any) error {
	return &FieldError{Field: setting, Problem: fmt.Sprintf(format, args...)}
}

type field struct {
	names    []string
	required bool
	set      bool
	value    reflect.Value
	also     []*field
}

func fieldsOf(v reflect.Value) []*field {
	var out []*field
	for i := range v.NumField() {
		sf := v.Type().Field(i)
		if sf.Anonymous && sf.Type.Kind() == reflect.Struct {
			out = append(out, fieldsOf(v.Field(i))...)
			continue
		}
		tag, ok := sf.Tag.Lookup("setting")
		if !ok {
			continue
		}
		f := &field{value: v.Field(i)}
		for part := range strings.SplitSeq(tag, ",") {
			if part == "required" {
				f.required = true
			} else {
				f.names = append(f.names, part)
			}
		}
		out = append(out, f)
	}
	return out
}

func setValue(v reflect.Value, text string) error {
	if u, ok := v.Addr().Interface().(encoding.TextUnmarshaler); ok {
		return u.UnmarshalText([]byte(text))
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(text)
	case reflect.Bool:
		b, err := parseBool(text)
		if err != nil {
			return err
		}
		v.SetBool(b)
	case reflect.Int, reflect.Int32, reflect.Int64:
		n, err := strconv.ParseInt(strings.TrimSpace(text), 10, v.Type().Bits())
		if err != nil {
			return errors.New("wants a whole number")
		}
		v.SetInt(n)
	case reflect.Uint, reflect.Uint32, reflect.Uint64:
		n, err := strconv.ParseUint(strings.TrimSpace(text), 10, v.Type().Bits())
		if err != nil {
			return errors.New("wants a whole number that is not negative")
		}
		v.SetUint(n)
	case reflect.Float64:
		n, err := strconv.ParseFloat(strings.TrimSpace(text), 64)
		if err != nil {
			return errors.New("wants a number")
		}
		v.SetFloat(n)
	case reflect.Slice:
		if v.Type().Elem().Kind() != reflect.String {
			return fmt.Errorf("has the unsupported type %s", v.Type())
		}
		v.Set(reflect.ValueOf(splitList(text)).Convert(v.Type()))
	case reflect.Map:
		m := reflect.New(v.Type())
		if err := json.Unmarshal([]byte(text), m.Interface()); err != nil {
			return errors.New("wants a JSON object of strings")
		}
		v.Set(m.Elem())
	case reflect.Pointer:
		p := reflect.New(v.Type().Elem())
		if err := setValue(p.Elem(), text); err != nil {
			return err
		}
		v.Set(p)
	default:
		return fmt.Errorf("has the unsupported type %s", v.Type())
	}
	return nil
}

// parseBool accepts what existing component files hold for true and false.
func parseBool(text string) (bool, error) {
	switch strings.ToLower(strings.TrimSpace(text)) {
	case "1", "t", "true", "y", "yes", "on":
		return true, nil
	case "0", "f", "false", "n", "no", "off", "":
		return false, nil
	}
	return false, errors.New("wants true or false")
}

func splitList(text string) []string {
	out := []string{}
	for part := range strings.SplitSeq(text, ",") {
		if p := strings.TrimSpace(part); p != "" {
			out = append(out, p)
		}
	}
	return out
}
