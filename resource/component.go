package resource

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/proa-io/proa/component"
)

// Component is a resource of kind Component: a named driver with settings.
type Component struct {
	header `yaml:",inline"`
	Spec   ComponentSpec `yaml:"spec"`
	Auth   Auth          `yaml:"auth"`
}

// ComponentSpec is the spec of a Component.
type ComponentSpec struct {
	// Pos is where the specification starts.
	Pos component.Position `yaml:"-"`
	// Type is block and driver, "state.redis".
	Type    string `yaml:"type"`
	Version string `yaml:"version"`
	// IgnoreErrors is read for compatibility: a component that cannot be
	// opened never stops the process here.
	IgnoreErrors bool `yaml:"ignoreErrors"`
	// InitTimeout bounds one attempt to open the component; 5s by default.
	InitTimeout component.Duration `yaml:"initTimeout"`
	Metadata    []NameValue        `yaml:"metadata"`
}

// Name returns the component's name.
func (c *Component) Name() string { return c.Metadata.Name }

// Scopes returns the applications the component is for; empty for all.
func (c *Component) Scopes() []string { return c.header.Scopes }

// Position returns where the document starts.
func (c *Component) Position() component.Position { return c.Pos }

// typePosition returns where the type is, or should be.
func (c *Component) typePosition() component.Position {
	if c.Spec.Pos.Line == 0 {
		return c.Pos
	}
	return c.Spec.Pos
}

// TypeError returns an error about the component's type.
func (c *Component) TypeError(format string, args ...any) error {
	return &Error{c.typePosition(), "Component " + c.Name(), "spec.type", fmt.Sprintf(format, args...)}
}

// Block returns the first part of the type, "state".
func (c *Component) Block() string {
	block, _, _ := strings.Cut(c.Spec.Type, ".")
	return block
}

func (c *Component) check(p *problems) {
	res := c.describe()
	c.requireName(p)
	switch {
	case c.Spec.Type == "":
		p.add(c.TypeError(`is required, for instance "state.redis"`))
	case !strings.Contains(c.Spec.Type, "."):
		p.add(c.TypeError(`wants a block and a driver such as "state.redis", not %q`, c.Spec.Type))
	}
	checkNameValues(p, res, "spec.metadata", c.Spec.Metadata)
}

func itoa(i int) string { return strconv.Itoa(i) }

// describe returns "Component statestore" for error texts.
func (h *header) describe() string {
	if h.Metadata.Name == "" {
		return h.Kind
	}
	return h.Kind + " " + h.Metadata.Name
}

func (h *header) requireName(p *problems) {
	if h.Metadata.Name == "" {
		p.addf(h.Pos, h.describe(), "metadata.name", "is required")
	}
}
