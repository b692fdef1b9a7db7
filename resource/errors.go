package resource

import (
	"errors"
	"fmt"
	"strings"

	"github.com/proa-io/proa/component"
)

// Error says what is wrong in a resource file, where, and what would be right.
type Error struct {
	Pos component.Position
	// Resource is "Component statestore", or "" before the name is known.
	Resource string
	// Field is the path of the field, "spec.metadata[2].value", or "".
	Field string
	// Problem says what is wrong and what would be right.
	Problem string
}

// Error returns "file:line: resource: field: problem", leaving out what is not
// known.
func (e *Error) Error() string {
	var b strings.Builder
	for _, part := range []string{e.Pos.String(), e.Resource, e.Field} {
		if part != "" {
			b.WriteString(part)
			b.WriteString(": ")
		}
	}
	b.WriteString(e.Problem)
	return b.String()
}

// problems collects errors while going on, so that one look at a folder shows
// all that is wrong with it.
type problems struct{ errs []error }

func (p *problems) add(err error) {
	if err != nil {
		p.errs = append(p.errs, err)
	}
}

func (p *problems) addf(pos component.Position, resource, field, format string, args ...any) {
	p.errs = append(p.errs, &Error{pos, resource, field, fmt.Sprintf(format, args...)})
}

func (p *problems) err() error { return errors.Join(p.errs...) }

// suggest appends "; did you mean ...?" when a candidate is near, or the list
// of candidates when they are few.
func suggest(name string, candidates []string) string {
	if near := component.Nearest(name, candidates); near != "" {
		return fmt.Sprintf("; did you mean %q?", near)
	}
	if len(candidates) > 0 && len(candidates) <= 12 {
		return "; there is " + strings.Join(candidates, ", ")
	}
	return ""
}
