package dapr

import (
	"net/url"
	"path"
	"strings"

	"github.com/proa-io/proa/fault"
)

// CleanMethod turns the path to call, still escaped, into one that names what
// it seems to name: empty and dot segments are resolved, also those that are
// escaped, and never lead out of the root; a slash at the end stays. A path
// with control characters, or with escaped slashes that hide dot segments, is
// refused, since an access rule and an application might read it differently.
func CleanMethod(method string) (string, error) {
	if strings.IndexByte(method, '%') < 0 && !strings.HasPrefix(method, "/") && !strings.Contains(method, "//") && !hasDotSegment(method) {
		return "/" + method, nil
	}
	segments := strings.Split(method, "/")
	for i, s := range segments {
		if strings.IndexByte(s, '%') < 0 {
			continue
		}
		plain, err := url.PathUnescape(s)
		switch {
		case err != nil:
			return "", fault.New(fault.InvalidArgument, "path segment %q: invalid escape", s)
		case strings.ContainsFunc(plain, func(r rune) bool { return r < ' ' || r == 0x7f }):
			return "", fault.New(fault.InvalidArgument, "path segment %q holds a control character", s)
		case plain == "." || plain == "..":
			segments[i] = plain
		case strings.ContainsAny(plain, `/\`) && hasDotSegment(strings.ReplaceAll(plain, `\`, "/")):
			return "", fault.New(fault.InvalidArgument, "path segment %q hides a dot segment", s)
		}
	}
	joined := "/" + strings.Join(segments, "/")
	cleaned := path.Clean(joined)
	if cleaned != "/" && (strings.HasSuffix(joined, "/") || strings.HasSuffix(joined, "/.") || strings.HasSuffix(joined, "/..")) {
		cleaned += "/" // RFC 3986, section 5.2.4
	}
	return cleaned, nil
}

// hasDotSegment reports whether a segment of p is "." or "..".
func hasDotSegment(p string) bool {
	for s := range strings.SplitSeq(p, "/") {
		if s == "." || s == ".." {
			return true
		}
	}
	return false
}
