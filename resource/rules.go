package resource

import (
	"fmt"
	"net/netip"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/proa-io/proa/component"
)

// The rule tag of a field says what values it may have, as the schemas of the
// Gateway API do. It is a list of:
//
//	required     it must be given
//	default=x    what it is when it is not given
//	enum=a;b     the texts or numbers that it may be
//	is=form      a form that a text must have, see forms
//	min, max     the least and the most characters of a text
//	from, to     the least and the greatest number
//	minitems, maxitems of a list or a map; the other rules are for its items
type rules struct {
	required           bool
	fallback, form     string
	enum               []string
	min, max           int
	from, to           *float64
	minItems, maxItems int
}

// parseRules reads a tag. A tag that makes no sense is a mistake in this package,
// which its tests find.
func parseRules(tag string) (rules, error) {
	r := rules{max: -1, maxItems: -1}
	for part := range strings.SplitSeq(tag, ",") {
		name, value, _ := strings.Cut(part, "=")
		var err error
		switch name {
		case "":
		case "required":
			r.required = true
		case "default":
			r.fallback = value
		case "enum":
			r.enum = strings.Split(value, ";")
		case "is":
			r.form = value
			if forms()[value].re == nil {
				err = fmt.Errorf("no such form")
			}
		case "min":
			r.min, err = strconv.Atoi(value)
		case "max":
			r.max, err = strconv.Atoi(value)
		case "minitems":
			r.minItems, err = strconv.Atoi(value)
		case "maxitems":
			r.maxItems, err = strconv.Atoi(value)
		case "from", "to":
			var f float64
			f, err = strconv.ParseFloat(value, 64)
			if name == "from" {
				r.from = &f
			} else {
				r.to = &f
			}
		default:
			err = fmt.Errorf("no such rule")
		}
		if err != nil {
			return r, fmt.Errorf("rule %q: %w", part, err)
		}
	}
	return r, nil
}

// form is what a text must look like.
type form struct {
	re    *regexp.Regexp
	wants string
}

const dnsName = `[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*`

// The forms, by name. They are those of the Gateway API.
var (
	formGroup     = form{regexp.MustCompile(`^$|^` + dnsName + `$`), `an API group such as "gateway.networking.k8s.io", or "" for the core group`}
	formHostname  = form{regexp.MustCompile(`^(\*\.)?` + dnsName + `$`), `a host name in lower case such as "shop.example.com" or "*.example.com"`}
	formPrecise   = form{regexp.MustCompile(`^` + dnsName + `$`), `a host name in lower case without "*", such as "shop.example.com"`}
	formName      = form{regexp.MustCompile(`^` + dnsName + `$`), `a name of lower case letters, digits, "-" and "."`}
	formNamespace = form{regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`), `a namespace: lower case letters, digits and "-"`}
	formKind      = form{regexp.MustCompile(`^[a-zA-Z]([-a-zA-Z0-9]*[a-zA-Z0-9])?$`), `a kind such as "Service"`}
	formHeader    = form{regexp.MustCompile("^[A-Za-z0-9!#$%&'*+\\-.^_`|~]+$"), "a name of a header field (RFC 9110)"}
	formOrigin    = form{regexp.MustCompile(`(^\*$)|(^(http(s)?):\/\/(((\*\.)?([a-zA-Z0-9\-]+\.)*[a-zA-Z0-9-]+|\*)(:([0-9]{1,5}))?)$)`),
		`an origin such as "https://shop.example.com" or "https://*.example.com", or "*"`}
	formURI      = form{regexp.MustCompile(`^(([^:/?#]+):)(//([^/?#]*))([^?#]*)(\?([^#]*))?(#(.*))?`), `an absolute URI such as "spiffe://example.com/shop"`}
	formProtocol = form{regexp.MustCompile(`^[a-zA-Z0-9]([-a-zA-Z0-9]*[a-zA-Z0-9])?$|` + dnsName + `\/[A-Za-z0-9]+$`), `a protocol: HTTP, HTTPS, TLS, TCP or UDP`}
)

func forms() map[string]form {
	return map[string]form{
		"group": formGroup, "hostname": formHostname, "precise": formPrecise, "name": formName, "namespace": formNamespace, "kind": formKind,
		"header": formHeader, "origin": formOrigin, "uri": formURI, "protocol": formProtocol,
	}
}

// ruleChecker applies the rule tags of a document.
type ruleChecker struct {
	problems *problems
	resource string
}

// walk checks what a struct at a path holds. Problems are at the position of the
// innermost struct that has one.
func (c *ruleChecker) walk(v reflect.Value, path string, pos component.Position) {
	if p := v.FieldByName("Pos"); p.IsValid() && p.Type() == reflect.TypeFor[component.Position]() {
		if own := p.Interface().(component.Position); own.Line != 0 { //nolint:forcetypeassert // as its type says
			pos = own
		}
	}
	for i := range v.NumField() {
		sf := v.Type().Field(i)
		name := sf.Tag.Get("yaml")
		switch {
		case name == ",inline":
			c.walk(v.Field(i), path, pos)
		case name == "" || name == "-":
		default:
			c.field(v.Field(i), sf.Tag.Get("rule"), join(path, name), pos)
		}
	}
}

func (c *ruleChecker) field(v reflect.Value, tag, path string, pos component.Position) {
	r, err := parseRules(tag)
	if err != nil {
		c.problems.addf(pos, c.resource, path, "%v", err)
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		switch {
		case v.IsNil():
		case v.Elem().CanInt() || v.Elem().CanFloat():
			c.number(v.Elem(), r, path, pos) // it is given, also when it is 0
		default:
			c.field(v.Elem(), tag, path, pos)
		}
	case reflect.Slice, reflect.Map:
		c.items(v, r, tag, path, pos)
	case reflect.Struct:
		if _, plain := v.Interface().(Value); !plain {
			c.walk(v, path, pos)
		}
	default:
		c.scalar(v, r, path, pos)
	}
}

func (c *ruleChecker) items(v reflect.Value, r rules, tag, path string, pos component.Position) {
	switch n := v.Len(); {
	case n < r.minItems:
		c.problems.addf(pos, c.resource, path, "is required: at least %d", r.minItems)
	case r.maxItems >= 0 && n > r.maxItems:
		c.problems.addf(pos, c.resource, path, "has %d entries; at most %d are allowed", n, r.maxItems)
	}
	if v.Kind() == reflect.Map {
		return
	}
	for i := range v.Len() {
		at := path + "[" + itoa(i) + "]"
		item := v.Index(i)
		if item.Kind() == reflect.Struct {
			c.walk(item, at, pos)
			continue
		}
		c.field(item, tag, at, pos)
		if item.Kind() == reflect.String && item.String() == "" && r.min > 0 {
			c.problems.addf(pos, c.resource, at, "is empty")
		}
	}
}

func (c *ruleChecker) scalar(v reflect.Value, r rules, path string, pos component.Position) {
	if v.IsZero() {
		switch {
		case r.fallback != "" && v.Kind() == reflect.String:
			v.SetString(r.fallback)
		case r.fallback != "" && v.CanInt():
			n, _ := strconv.ParseInt(r.fallback, 10, 64) // of a tag
			v.SetInt(n)
		case r.required:
			c.problems.addf(pos, c.resource, path, "is required")
		}
		return
	}
	if v.Kind() == reflect.String {
		c.text(v.String(), r, path, pos)
		return
	}
	c.number(v, r, path, pos)
}

func (c *ruleChecker) number(v reflect.Value, r rules, path string, pos component.Position) {
	if len(r.enum) > 0 && !slices.Contains(r.enum, fmt.Sprint(v.Interface())) {
		c.problems.addf(pos, c.resource, path, "wants one of %s, not %v", strings.Join(r.enum, ", "), v.Interface())
		return
	}
	var f float64
	switch {
	case v.CanInt():
		f = float64(v.Int())
	case v.CanFloat():
		f = v.Float()
	default:
		return
	}
	switch {
	case r.from != nil && r.to != nil && (f < *r.from || f > *r.to):
		c.problems.addf(pos, c.resource, path, "wants a number from %v to %v, not %v", *r.from, *r.to, f)
	case r.from != nil && f < *r.from:
		c.problems.addf(pos, c.resource, path, "wants %v or more, not %v", *r.from, f)
	}
}

func (c *ruleChecker) text(text string, r rules, path string, pos component.Position) {
	switch {
	case len(r.enum) > 0 && !slices.Contains(r.enum, text):
		c.problems.addf(pos, c.resource, path, "wants one of %s, not %q%s", strings.Join(r.enum, ", "), text, nearest(text, r.enum))
	case r.max >= 0 && len(text) > r.max:
		c.problems.addf(pos, c.resource, path, "has %d characters; at most %d are allowed", len(text), r.max)
	case r.form != "" && !forms()[r.form].re.MatchString(text):
		c.problems.addf(pos, c.resource, path, "wants %s, not %q", forms()[r.form].wants, text)
	case (r.form == "hostname" || r.form == "precise") && isIP(text):
		c.problems.addf(pos, c.resource, path, "wants a host name, not the address %s", text)
	}
}

// nearest is suggest without the list of all.
func nearest(name string, candidates []string) string {
	if near := component.Nearest(name, candidates); near != "" {
		return fmt.Sprintf("; did you mean %q?", near)
	}
	return ""
}

func isIP(text string) bool {
	_, err := netip.ParseAddr(text)
	return err == nil
}
