package httpapi

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/proa-io/proa/internal/surface"
)

// Every documented route has, for each of its methods, a transcript in which it
// succeeds, or, when this version does not have it, says so; and the router
// knows it by that method.
func TestEveryRouteHasATranscript(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil {
		t.Fatal(err)
	}
	well := map[string]bool{}
	request := regexp.MustCompile(`(?m)^> ([A-Z]+) (\S+)$`)
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for exchange := range strings.SplitSeq(string(text), "-----") {
			found := request.FindStringSubmatch(exchange)
			if found != nil && regexp.MustCompile(`(?m)^< (2\d\d |501 )`).MatchString(exchange) {
				well[surface.Find(found[1], found[2])] = true
			}
		}
	}
	for _, r := range surface.Routes() {
		for _, name := range r.Names() {
			if !well[name] {
				t.Errorf("no transcript shows %s at work", name)
			}
		}
	}
}
