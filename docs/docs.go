// Package docs holds the generated reference, so that the program can show it
// without a network.
package docs

import (
	"embed"
	"fmt"
)

//go:embed reference/components/*.md
var components embed.FS

// Component returns the page of a component, in Markdown.
func Component(typ, version string) ([]byte, error) {
	name := typ
	if version != "v1" {
		name += "-" + version
	}
	page, err := components.ReadFile("reference/components/" + name + ".md")
	if err != nil {
		return nil, fmt.Errorf("there is no page about %s/%s", typ, version)
	}
	return page, nil
}
