package nats

import (
	"strings"
	"testing"
)

func TestStateKeysReadWell(t *testing.T) {
	for key, want := range map[string]string{
		"k":                "k",
		"shop||k":          "shop.k",
		"shop||a/b-c_D":    "shop.a/b-c_D",
		"shop||cart||7":    "shop.cart.7",
		"shop||a.b":        "shop.a=2Eb",
		"v1.shop||k":       "v1=2Eshop.k",
		"||":               "=.=",
		"a||":              "a.=",
		"|":                "=7C",
		"a|||b":            "a.=7Cb",
		"a=b":              "a=3Db",
		"ü *>":             "=C3=BC=20=2A=3E",
		"=h":               "=3Dh",
		"shop||\x00\r\n.k": "shop.=00=0D=0A=2Ek",
	} {
		got, hashed := encodeStateKey(key)
		if got != want || hashed {
			t.Errorf("%q is written %q, want %q", key, got, want)
		}
		if back, ok := decodeStateKey(got, ""); !ok || back != key {
			t.Errorf("%q is read as %q, %v; want %q", got, back, ok, key)
		}
	}
}

func TestLongStateKeysAreHashedUnderTheirApplication(t *testing.T) {
	long := strings.Repeat("ü", 400)
	for _, key := range []string{"shop||" + long, long, long + "||k", "shop||cart||" + long} {
		got, hashed := encodeStateKey(key)
		if !hashed || len(got) > maxStateKey {
			t.Errorf("%.20q is written %q", key, got)
		}
		if strings.HasPrefix(key, "shop||") && !strings.HasPrefix(got, "shop.=h") {
			t.Errorf("%.20q is written %q, want it under its application", key, got)
		}
		if back, ok := decodeStateKey(got, spellStateKey(key)); !ok || back != key {
			t.Errorf("%q is read as %.20q, %v", got, back, ok)
		}
		if _, ok := decodeStateKey(got, spellStateKey(key+"x")); ok {
			t.Errorf("%q is read with the header of another key", got)
		}
	}
}

func TestPatternsFindTheirKeys(t *testing.T) {
	for prefix, want := range map[string]string{
		"": ">", "k": ">", "shop||": "shop.>", "shop||a": "shop.>", "a.b||": "a=2Eb.>", "shop||cart||7": "shop.>",
		strings.Repeat("ü", 400) + "||": ">",
	} {
		if got := patternOf(prefix); got != want {
			t.Errorf("pattern of %.20q is %q, want %q", prefix, got, want)
		}
	}
}

func FuzzStateKeys(f *testing.F) {
	for _, key := range []string{"k", "shop||k", "a.b||.c.", "||||", "|||", "=h", "\x00", "ü", strings.Repeat("ü||", 400)} {
		f.Add(key, key)
	}
	f.Fuzz(func(t *testing.T, key, other string) {
		written, hashed := encodeStateKey(key)
		header := ""
		if hashed {
			header = spellStateKey(key)
		}
		if back, ok := decodeStateKey(written, header); !ok || back != key {
			t.Errorf("%q is written %q and read %q, %v", key, written, back, ok)
		}
		if w, _ := encodeStateKey(other); w == written && other != key {
			t.Errorf("%q and %q are both written %q", key, other, w)
		}
		if len(written) > maxStateKey || strings.ContainsAny(written, " *>\r\n\t") || strings.Contains("."+written+".", "..") {
			t.Errorf("%q is written %q, which is no subject", key, written)
		}
		// What nobody wrote is refused, or is how it would be written.
		if back, ok := decodeStateKey(other, ""); ok {
			if again, _ := encodeStateKey(back); again != other {
				t.Errorf("%q is read as %q, which is written %q", other, back, again)
			}
		}
	})
}
