// Package component describes drivers to the rest of the program: what a
// driver is called, which settings it takes, what it can do, and how to open
// one.
//
// A driver is listed as a [Spec], a plain value; nothing registers itself. A
// [Catalog] finds specs by the type string of a resource ("state.redis"). A
// [Handle] opens a driver in the background and lets callers wait for it.
package component

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
)

// Env is what a driver may know of its surroundings when it is opened.
type Env struct {
	// Name is the component's name in the configuration, "statestore".
	Name string
	// AppID identifies the application this process serves. It is the default
	// consumer group of subscriptions.
	AppID string
	// Namespace groups applications; "default" unless set.
	Namespace string
	// InternalPort is where this sidecar takes calls from others; 0 when it picks
	// a port as it starts.
	InternalPort int
	// Dir is the directory of the file that declares the component; empty when
	// there is none.
	Dir string
	// StrictSandbox tells that code which a driver runs for somebody else, such
	// as WebAssembly, is to see neither clocks nor random numbers.
	StrictSandbox bool
	// Log carries block, component and driver already. Drivers log only what
	// no returned error can say, such as a reconnect.
	Log *slog.Logger
}

// Locate resolves the path of a file that a setting names: a relative one is
// relative to the working directory or, when there is no such file, to Dir. The
// empty path stays empty.
func (e Env) Locate(path string) string {
	if path == "" || filepath.IsAbs(path) || e.Dir == "" {
		return path
	}
	if exists(path) {
		return path
	}
	if beside := filepath.Join(e.Dir, path); exists(beside) {
		return beside
	}
	return path
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// Spec describes one driver of one block.
type Spec struct {
	// Block is the first part of the type string: "state", "pubsub",
	// "bindings", "secretstores", "configuration", "lock".
	Block string
	// Name is the rest of the type string: "redis", "local.env".
	Name string
	// Aliases are other names the same driver answers to.
	Aliases []string
	// Version is the version a resource may name; "v1" when empty.
	Version string
	// Summary says in one sentence what the driver keeps its promises with.
	Summary string
	// Config holds the default settings; its type's field comments are the
	// manual.
	Config any
	// BlockConfig holds the default settings that the block itself reads from
	// the same component (keyPrefix, publishingScopes, ...); nil for none.
	BlockConfig any
	// Capabilities names the optional interfaces of the block that the driver
	// implements, derived from its type.
	Capabilities []string

	open func(ctx context.Context, settings Settings, env Env) (any, error)
}

// Type returns the full type string, "state.redis".
func (s Spec) Type() string { return s.Block + "." + s.Name }

// VersionOrDefault returns Version, or "v1".
func (s Spec) VersionOrDefault() string {
	if s.Version == "" {
		return "v1"
	}
	return s.Version
}

// Check decodes settings as Open would, and reports every problem, without
// opening anything.
func (s Spec) Check(settings Settings) error {
	targets := []any{newLike(s.Config)}
	if s.BlockConfig != nil {
		targets = append(targets, newLike(s.BlockConfig))
	}
	return settings.Decode(targets...)
}

// DecodeBlock decodes settings as Open would, and returns what the block itself
// reads from them: a value of the type of BlockConfig, or nil if that is nil.
func (s Spec) DecodeBlock(settings Settings) (any, error) {
	if s.BlockConfig == nil {
		return nil, s.Check(settings)
	}
	cfg := newLike(s.BlockConfig)
	if err := settings.Decode(newLike(s.Config), cfg); err != nil {
		return nil, err
	}
	return reflect.ValueOf(cfg).Elem().Interface(), nil
}

// Open decodes settings strictly over the defaults and opens the driver. It
// may block on I/O until ctx ends.
func (s Spec) Open(ctx context.Context, settings Settings, env Env) (any, error) {
	return s.open(ctx, settings, env)
}

// Grouped reports whether there are settings "name.*" of the driver. Case does
// not count.
func (s Spec) Grouped(name string) bool {
	for _, f := range fieldsOf(reflect.ValueOf(newLike(s.Config)).Elem()) {
		for _, n := range f.names {
			if len(n) > len(name) && n[len(name)] == '.' && strings.EqualFold(n[:len(name)], name) {
				return true
			}
		}
	}
	return false
}

func newLike(defaults any) any {
	p := reflect.New(reflect.TypeOf(defaults))
	p.Elem().Set(reflect.ValueOf(defaults))
	return p.Interface()
}

// Description is the part of a Spec that a driver writes by hand.
type Description struct {
	Name    string   // "redis"
	Aliases []string // other names
	Version string   // "" for v1
	Summary string   // one sentence
}

// NewSpec describes a driver D configured by C. Each block wraps it in a
// function of its own (state.Spec, pubsub.Spec, ...) so that the compiler
// checks D against the block's interface and so that caps and blockConfig are
// the same for all drivers of the block.
func NewSpec[C any, D io.Closer](block string, d Description, defaults C, blockConfig any, caps []Capability,
	open func(ctx context.Context, cfg C, env Env) (D, error)) Spec {
	return Spec{
		Block: block, Name: d.Name, Aliases: d.Aliases, Version: d.Version, Summary: d.Summary,
		Config: defaults, BlockConfig: blockConfig,
		Capabilities: capabilitiesOf(reflect.TypeFor[D](), caps),
		open: func(ctx context.Context, settings Settings, env Env) (any, error) {
			cfg := defaults
			targets := []any{&cfg}
			if blockConfig != nil {
				targets = append(targets, newLike(blockConfig))
			}
			if err := settings.Decode(targets...); err != nil {
				return nil, err
			}
			return open(ctx, cfg, env)
		},
	}
}

// A Capability pairs a name with the optional interface that provides it.
type Capability struct {
	Name string
	Type reflect.Type
}

// Can names the optional interface I.
func Can[I any](name string) Capability { return Capability{name, reflect.TypeFor[I]()} }

func capabilitiesOf(t reflect.Type, caps []Capability) []string {
	var has []string
	for _, c := range caps {
		if t.Implements(c.Type) {
			has = append(has, c.Name)
		}
	}
	return has
}

// Capable is implemented by drivers whose capabilities are known only when they
// are open.
type Capable interface {
	// Capabilities takes the place of Spec.Capabilities. It does not change.
	Capabilities() []string
}

// Catalog finds specs by type string.
type Catalog struct {
	specs    []Spec
	byType   map[string][]int // lower-cased "block.name", aliases included
	discover Discoverer       // nil for none
}

// A Discoverer knows drivers that cannot be listed, because they come and go. It
// returns the spec of the driver called name, of block, in a version ("" for
// any), and true; or false, and in words why there is none, to be added to the
// text of an error: it may be empty.
type Discoverer func(block, name, version string) (spec Spec, ok bool, why string)

// WithDiscoverer returns a Catalog of the same specs that asks d about the types
// of which it has none.
func (c *Catalog) WithDiscoverer(d Discoverer) *Catalog {
	return &Catalog{specs: c.specs, byType: c.byType, discover: d}
}

// NewCatalog returns the specs as a Catalog. It refuses two specs that answer
// to the same type and version.
func NewCatalog(specs ...Spec) (*Catalog, error) {
	c := &Catalog{specs: specs, byType: map[string][]int{}}
	for i, s := range specs {
		for _, name := range append([]string{s.Name}, s.Aliases...) {
			key := strings.ToLower(s.Block + "." + name)
			for _, j := range c.byType[key] {
				if specs[j].VersionOrDefault() == s.VersionOrDefault() {
					return nil, fmt.Errorf("component: %s/%s is listed twice", key, s.VersionOrDefault())
				}
			}
			c.byType[key] = append(c.byType[key], i)
		}
	}
	return c, nil
}

// Specs returns all specs in the order they were listed.
func (c *Catalog) Specs() []Spec { return slices.Clone(c.specs) }

// Lookup returns the spec for a type string ("state.redis") and version
// ("v1"; "" means the first listed). The error names the nearest type there
// is.
func (c *Catalog) Lookup(typ, version string) (Spec, error) {
	found := c.byType[strings.ToLower(typ)]
	if len(found) == 0 {
		return c.lookFurther(typ, version)
	}
	var versions []string
	for _, i := range found {
		v := c.specs[i].VersionOrDefault()
		if version == "" || strings.EqualFold(v, version) {
			return c.specs[i], nil
		}
		versions = append(versions, v)
	}
	return Spec{}, fmt.Errorf("type %q has no version %q; there is %s", typ, version, strings.Join(versions, ", "))
}

// lookFurther is Lookup for a type that no spec has.
func (c *Catalog) lookFurther(typ, version string) (Spec, error) {
	why := ""
	if block, name, ok := strings.Cut(typ, "."); ok && name != "" && c.discover != nil {
		var spec Spec
		if spec, ok, why = c.discover(block, name, version); ok {
			return spec, nil
		}
	}
	msg := fmt.Sprintf("no driver for type %q", typ)
	if near := c.Nearest(typ); near != "" {
		msg += fmt.Sprintf("; did you mean %q?", near)
	}
	if why != "" {
		msg += "; " + why
	}
	return Spec{}, fmt.Errorf("%s (`proa components list` shows them all)", msg)
}

// Nearest returns the type, of those listed, that resembles typ most; "" when
// none does.
func (c *Catalog) Nearest(typ string) string {
	var types []string
	for t := range c.byType {
		types = append(types, t)
	}
	return Nearest(typ, types)
}
