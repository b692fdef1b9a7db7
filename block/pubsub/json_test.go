package pubsub

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"
)

func jsonSeeds() []string {
	return []string{
		``, ` `, `{}`, `{ }`, `[]`, `[ ]`, `null`, `true`, `false`, `nul`, `truex`, `0`, `-0`, `-`, `01`, `1.`, `1.5`, `.5`, `1e5`, `1E+5`, `1e`, `1e+`,
		`"a"`, `"a`, `"\n"`, `"\u00e4"`, `"\u00e"`, `"\x"`, "\"\n\"", "\"\xff\"", `"a\"b"`, `{"a":1}`, `{"a":1,}`, `{"a" : [1, {"b": null}] }`,
		`{"a"}`, `{"a":}`, `{a:1}`, `{,}`, `[1,]`, `[,]`, `[1 2]`, `{"a":1 "b":2}`, `{"a":1}x`, " \t\r\n{} ", `{"a":1,"a":2}`, `[[[[[[]]]]]]`, `{"":""}`,
		`12345678901234567890123.5e-400`, strings.Repeat("[", 10001) + strings.Repeat("]", 10001), strings.Repeat("[", 9000) + strings.Repeat("]", 9000),
	}
}

func TestScannerAgreesWithTheStandardLibrary(t *testing.T) {
	for _, s := range jsonSeeds() {
		checkScanner(t, []byte(s))
	}
}

func FuzzScanner(f *testing.F) {
	for _, s := range jsonSeeds() {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) { checkScanner(t, data) })
}

func checkScanner(t *testing.T, data []byte) {
	t.Helper()
	valid := json.Valid(data)
	if got, want := isJSON(data), valid && utf8.Valid(data); got != want {
		t.Fatalf("isJSON(%.60q) = %v, want %v", data, got, want)
	}
	e := Event{JSON: data}
	ok := e.parse()
	var members map[string]json.RawMessage
	isObject := json.Unmarshal(data, &members) == nil && members != nil
	if ok != isObject {
		t.Fatalf("parse(%.60q) = %v, want %v", data, ok, isObject)
	}
	if !ok {
		return
	}
	got := map[string]string{}
	for name, value := range e.Attributes() {
		got[name] = string(value)
	}
	for name, value := range members {
		if utf8.ValidString(name) && utf8.Valid(data) && got[name] != string(value) {
			t.Fatalf("in %.60q member %q is %q, want %q", data, name, got[name], value)
		}
	}
}

func FuzzAppendString(f *testing.F) {
	for _, s := range []string{"", "a", "\x00\x1f\x7f", `"\`, "ä€😀", "\xff\xc3", "\u2028", "a\xf0\x9f"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		quoted := appendString(nil, s)
		var back string
		if err := json.Unmarshal(quoted, &back); err != nil {
			t.Fatalf("%q is written as %q: %v", s, quoted, err)
		}
		if want := strings.ToValidUTF8(s, "\ufffd"); utf8.ValidString(s) && back != want {
			t.Fatalf("%q comes back as %q", s, back)
		}
		if text, ok := unquote(quoted); !ok || text != back {
			t.Fatalf("unquote(%q) = %q, %v", quoted, text, ok)
		}
	})
}
