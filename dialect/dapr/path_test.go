package dapr

import (
	"net/url"
	"strings"
	"testing"
)

func TestMethodsAreCleaned(t *testing.T) {
	for method, want := range map[string]string{
		"": "/", "a": "/a", "a/": "/a/", "/a": "/a", "a//b": "/a/b", "a/./b": "/a/b", "a/..": "/", "a/../": "/", "../../a": "/a",
		"a/%2e%2e/b": "/b", "a/%2E": "/a/", "a%2Fb": "/a%2Fb", "a%20b": "/a%20b", "a/...": "/a/...", "%252e%252e/a": "/%252e%252e/a",
		"caf%C3%A9": "/caf%C3%A9",
		"a%00b":     "", "a%7f": "", "a%": "", "a%zz": "", "..%2fa": "", "a%2f..": "", "a%5c..%5cb": "",
	} {
		got, err := CleanMethod(method)
		if got != want || (err != nil) != (want == "") {
			t.Errorf("%q: got %q (%v), want %q", method, got, err, want)
		}
	}
}

// FuzzCleanMethod makes sure that no path leads out of the root.
func FuzzCleanMethod(f *testing.F) {
	for _, seed := range []string{"a/b", "../a", "%2e%2e/a", "a//b/", ".%2E/..", "a%2fb", "..%5c", "/"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, method string) {
		got, err := CleanMethod(method)
		if err != nil {
			return
		}
		plain, err := url.PathUnescape(got)
		if err != nil || got[0] != '/' || strings.Contains(got, "//") || hasDotSegment(plain) || hasDotSegment(got) {
			t.Errorf("%q became %q", method, got)
		}
		if again, err := CleanMethod(got[1:]); err != nil || again != got {
			t.Errorf("%q became %q, and that %q (%v)", method, got, again, err)
		}
	})
}
