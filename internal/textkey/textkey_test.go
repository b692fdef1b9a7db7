package textkey

import (
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

var samples = []string{
	"k", "K", " ", "a||b", "grüße", "日本", "🛶", "\x01", "\x7f", "\u0080", "\ud7ff", "\ue000", "\uffff", "\U00010000", "\U0010ffff",
	"\x00", "a\x00", "a\x00b", "\xff", "a\xff", "a\xffb", "\xc3", "\xc3\x28", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xf0\x9f\x9b",
	"\U0010ffff\xff", "~hex:", "~hex:00", "~hex", "~hey", "~", "a\U0010ffff\U0010ffff\xff", "\xef\xbf\xbe", "\xef\xbf\xbd",
}

func TestKeysComeBackAsTheyWere(t *testing.T) {
	seen := map[string]string{}
	for _, key := range samples {
		text := Encode(key)
		if !utf8.ValidString(text) || strings.Contains(text, "\x00") {
			t.Errorf("Encode(%q) = %q, which is no text", key, text)
		}
		if other, dup := seen[text]; dup {
			t.Errorf("%q and %q are both %q", key, other, text)
		}
		seen[text] = key
		if got, err := Decode(text); err != nil || got != key {
			t.Errorf("Decode(%q) = %q, %v; want %q", text, got, err, key)
		}
	}
	if Encode("app||grüße") != "app||grüße" {
		t.Error("a key that is text does not stay as it is")
	}
}

func TestDecodeRefusesWhatEncodeNeverReturns(t *testing.T) {
	for _, text := range []string{"~hex:0", "~hex:zz", "~hex: 00"} {
		if got, err := Decode(text); err == nil {
			t.Errorf("Decode(%q) = %q", text, got)
		}
	}
}

func within(r Range, s string) bool {
	return !r.Empty && s >= r.First && (r.End == "" || s < r.End)
}

// inRanges is what a query with Ranges does.
func inRanges(prefix, after, key string) bool {
	plain, marked := Ranges(prefix, after)
	text := Encode(key)
	if strings.HasPrefix(text, Marker) {
		return within(marked, text)
	}
	return within(plain, text) && !within(Marked(), text)
}

func check(t *testing.T, prefix, after, key string) {
	t.Helper()
	if want, got := strings.HasPrefix(key, prefix) && key > after, inRanges(prefix, after, key); got != want {
		plain, marked := Ranges(prefix, after)
		t.Errorf("Ranges(%q, %q) = %+v, %+v: has %q is %v, want %v", prefix, after, plain, marked, key, got, want)
	}
}

func TestRangesHoldTheKeysWithThePrefixAfterTheKey(t *testing.T) {
	prefixes := append([]string{""}, samples...)
	for _, prefix := range prefixes {
		for _, after := range prefixes {
			for _, key := range samples {
				check(t, prefix, after, key)
				check(t, prefix, after, prefix+key)
				check(t, prefix, prefix+after, prefix+key)
			}
		}
	}
}

func TestBoundsOfRangesAreText(t *testing.T) {
	for _, prefix := range samples {
		plain, marked := Ranges(prefix, "")
		for _, s := range []string{plain.First, plain.End, marked.First, marked.End} {
			if !utf8.ValidString(s) || strings.Contains(s, "\x00") {
				t.Errorf("Ranges(%q) has the bound %q", prefix, s)
			}
		}
	}
}

func TestOrderIsKeptWithinEachKind(t *testing.T) {
	keys := slices.Clone(samples)
	slices.Sort(keys)
	var plain, marked []string
	for _, k := range keys {
		if text := Encode(k); strings.HasPrefix(text, Marker) {
			marked = append(marked, text)
		} else {
			plain = append(plain, text)
		}
	}
	if !slices.IsSorted(plain) || !slices.IsSorted(marked) {
		t.Errorf("the texts of sorted keys are not sorted: %q, %q", plain, marked)
	}
}

func FuzzRanges(f *testing.F) {
	for i, s := range samples {
		f.Add(s, samples[(i+7)%len(samples)], samples[(i+13)%len(samples)])
	}
	f.Fuzz(func(t *testing.T, prefix, after, key string) {
		if key == "" {
			return
		}
		check(t, prefix, after, key)
		check(t, prefix, after, prefix+key)
		if got, err := Decode(Encode(key)); err != nil || got != key {
			t.Errorf("Decode(Encode(%q)) = %q, %v", key, got, err)
		}
	})
}
