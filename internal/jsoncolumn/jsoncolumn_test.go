package jsoncolumn

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
)

func TestFits(t *testing.T) {
	for text, want := range map[string]bool{
		`{}`: true, `[]`: true, `null`: true, `true`: true, `""`: true, ` {"a" : [1, -2.5e3, "x"]} `: true,
		`"grüße 日本 🛶"`: true, `"\u00e9 \ud83d\udef6 \n\"\\"`: true, `"\\u0000"`: true, `12345678901234567890`: true,
		`1e299`: true, `1E-300`: true, `-0`: true, `0.5`: true,
		``: false, ` `: false, `{`: false, `nul`: false, `{"a":1}x`: false, "\x00": false, "\"\x00\"": false, "\"\xff\"": false,
		`"\u0000"`: false, `"a\u0000b"`: false, `"\ud800"`: false, `"\ud800\n"`: false, `"\ud800\u0041"`: false, `"\udc00"`: false,
		`"\ud83d"`: false, `{"\u0000":1}`: false, `1e400`: false, `1e-301`: false, `12345e298`: false, `1e99999999999999999999`: false,
		strings.Repeat("9", 300): true, strings.Repeat("9", 301): false,
		strings.Repeat("[", 100) + strings.Repeat("]", 100): true, strings.Repeat("[", 101) + strings.Repeat("]", 101): false,
		`[[],[],[]]`: true, `"[[[["`: true,
	} {
		if got := Fits([]byte(text)); got != want {
			t.Errorf("Fits(%.60q) = %v, want %v", text, got, want)
		}
	}
}

func TestQuotedValuesComeBack(t *testing.T) {
	for _, v := range []string{"", "\x00\xff", "hello", strings.Repeat("\x01", 1000)} {
		q := Quote([]byte(v))
		if !json.Valid(q) {
			t.Errorf("Quote(%q) = %s, which is no JSON", v, q)
		}
		if got, err := Unquote(q); err != nil || string(got) != v {
			t.Errorf("Unquote(%s) = %q, %v; want %q", q, got, err, v)
		}
	}
	for _, text := range []string{``, `1`, `"confidential!"`, `{"confidential":1}`, `"Zm9v!"`} {
		if _, err := Unquote([]byte(text)); err == nil || strings.Contains(err.Error(), "confidential") {
			t.Errorf("Unquote(%s): %v", text, err)
		}
	}
}

func TestSame(t *testing.T) {
	for _, tc := range []struct {
		a, b string
		want bool
	}{
		{`{"a":1,"b":[true,null,"x"]}`, `{"b": [true, null, "x"], "a": 1.0}`, true},
		{`100`, `1e2`, true}, {`"\u0061"`, `"a"`, true}, {`{"a":1,"a":2}`, `{"a":2}`, true},
		{`9007199254740993`, `9007199254740993`, true},
		{`9007199254740993`, `9007199254740992`, false}, {`1`, `"1"`, false}, {`1`, `2`, false}, {`[1]`, `[1,2]`, false}, {`{"a":1}`, `{"b":1}`, false}, {`{"a":1}`, `[1]`, false},
		{`null`, `false`, false}, {`{`, `{`, false}, {`1`, ``, false}, {`[1]`, `1`, false}, {`{}`, `1`, false},
	} {
		if got := Same([]byte(tc.a), []byte(tc.b)); got != tc.want {
			t.Errorf("Same(%s, %s) = %v, want %v", tc.a, tc.b, got, tc.want)
		}
		if got := Same([]byte(tc.b), []byte(tc.a)); got != tc.want {
			t.Errorf("Same(%s, %s) = %v, want %v", tc.b, tc.a, got, tc.want)
		}
	}
}

func FuzzFits(f *testing.F) {
	for _, s := range []string{`{"a":[1,"\ud83d\udef6"]}`, `"\ud800`, `1e5`, `[[`, `"\u12`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, value []byte) {
		if Fits(value) && (!json.Valid(value) || bytes.Contains(value, []byte{0})) {
			t.Errorf("%q does not fit", value)
		}
	})
}
