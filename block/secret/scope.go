package secret

import (
	"fmt"
	"slices"
	"strings"
)

// Scope limits which secrets of one store the application may read. It is
// an entry of `secrets.scopes` of the Configuration resource.
type Scope struct {
	// DefaultAccess is "allow" or "deny", in any case; empty means allow. It
	// decides about secrets that neither list names.
	DefaultAccess string
	// Allowed, when not empty, names the only secrets that may be read.
	Allowed []string
	// Denied names secrets that may not be read. It wins over Allowed.
	Denied []string
}

// Validate reports a DefaultAccess that is neither "allow" nor "deny".
func (s Scope) Validate() error {
	switch strings.ToLower(s.DefaultAccess) {
	case "", "allow", "deny":
		return nil
	}
	return fmt.Errorf(`defaultAccess wants "allow" or "deny", not %q`, s.DefaultAccess)
}

// Allows reports whether the application may read the named secret. A
// DefaultAccess that Validate refuses counts as deny.
func (s Scope) Allows(name string) bool {
	if slices.Contains(s.Denied, name) {
		return false
	}
	if len(s.Allowed) > 0 {
		return slices.Contains(s.Allowed, name)
	}
	return s.DefaultAccess == "" || strings.EqualFold(s.DefaultAccess, "allow")
}
