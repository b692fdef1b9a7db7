// Package secrettest is the contract of secret.Driver as tests.
package secrettest

import (
	"context"
	"maps"
	"strings"
	"sync"
	"testing"

	"github.com/proa-io/proa/block/secret"
	"github.com/proa-io/proa/fault"
)

// Harness makes the drivers under test.
type Harness struct {
	// Open returns a driver that holds exactly the given secrets: values by
	// key by name of the secret. Use t.Cleanup for what must be undone.
	Open func(t testing.TB, secrets map[string]map[string]string) secret.Driver
	// MultiValued tells that a secret of the driver can have several values.
	MultiValued bool
}

// Run proves that a driver keeps the contract.
func Run(t *testing.T, h Harness) {
	for _, p := range []struct {
		name string
		test func(*testing.T, Harness)
	}{
		{"GetReturnsTheValue", getReturnsTheValue},
		{"SeveralValuesOfOneSecretAreReturned", severalValues},
		{"EmptyValueIsNotMissing", emptyValue},
		{"ValuesAreReturnedAsTheyAre", oddValues},
		{"MissingSecretIsNotFound", missing},
		{"NamesAreNotPatterns", namesAreNotPatterns},
		{"UnknownMetadataIsIgnored", unknownMetadata},
		{"WhatIsReturnedBelongsToTheCaller", returnedIsACopy},
		{"ListReturnsWhatIsWanted", listWanted},
		{"ListOfNothingIsEmpty", listNothing},
		{"CanceledContextReturnsCanceled", canceled},
		{"ConcurrentReadsAgree", concurrent},
	} {
		t.Run(p.name, func(t *testing.T) { p.test(t, h) })
	}
}

// single is a secret with one value, whose key is its name.
func single(name, value string) map[string]map[string]string {
	return map[string]map[string]string{name: {name: value}}
}

func getReturnsTheValue(t *testing.T, h Harness) {
	d := h.Open(t, map[string]map[string]string{
		"db-password": {"db-password": "pa55-W0RD"},
		"API_KEY":     {"API_KEY": "k-123"},
	})
	wantSecret(t, d, "db-password", map[string]string{"db-password": "pa55-W0RD"})
	wantSecret(t, d, "API_KEY", map[string]string{"API_KEY": "k-123"})
}

func severalValues(t *testing.T, h Harness) {
	if !h.MultiValued {
		t.Skip("the driver keeps one value per secret")
	}
	values := map[string]string{"username": "scott", "password": "tiger"}
	d := h.Open(t, map[string]map[string]string{"db": values, "other": {"other": "x"}})
	wantSecret(t, d, "db", values)
}

func emptyValue(t *testing.T, h Harness) {
	wantSecret(t, h.Open(t, single("EMPTY", "")), "EMPTY", map[string]string{"EMPTY": ""})
}

func oddValues(t *testing.T, h Harness) {
	for _, v := range []string{
		"=", "a=b=c", " leading and trailing ", "line one\nline two\n", "\ttab", `"quoted" \ and 'single'`,
		"grüße 世界 🔑", "${HOME} %s {{x}}", `{"json": true}`, "-----BEGIN KEY-----\nabc\n-----END KEY-----\n",
		strings.Repeat("long", 4096),
	} {
		wantSecret(t, h.Open(t, single("ODD", v)), "ODD", map[string]string{"ODD": v})
	}
}

func missing(t *testing.T, h Harness) {
	d := h.Open(t, single("PRESENT", "the-value-of-it"))
	for _, name := range []string{"ABSENT", "PRESENT2", "PRESEN", "present", "PRESENT ", ""} {
		v, err := d.Get(t.Context(), name, nil)
		if !fault.Is(err, fault.NotFound) {
			t.Errorf("Get(%q) = %d values, error %v; want not_found", name, len(v), err)
			continue
		}
		if strings.Contains(err.Error(), "the-value-of-it") {
			t.Errorf("Get(%q): the error holds the value of another secret: %v", name, err)
		}
	}
}

func namesAreNotPatterns(t *testing.T, h Harness) {
	d := h.Open(t, single("SECRET", "v"))
	for _, name := range []string{"*", "SECRE?", ".*", "SECRET*", "S%", "../SECRET", "/SECRET", "SECRET/", "SECRET\x00"} {
		if v, err := d.Get(t.Context(), name, nil); !fault.Is(err, fault.NotFound) {
			t.Errorf("Get(%q) = %d values, error %v; want not_found", name, len(v), err)
		}
	}
}

func unknownMetadata(t *testing.T, h Harness) {
	d := h.Open(t, single("S", "v"))
	v, err := d.Get(t.Context(), "S", map[string]string{"no_such_hint": "1"})
	if err != nil || v["S"] != "v" {
		t.Fatalf("Get with unknown metadata: %d values, error %v", len(v), err)
	}
}

func returnedIsACopy(t *testing.T, h Harness) {
	d := h.Open(t, single("S", "v"))
	v, err := d.Get(t.Context(), "S", nil)
	if err != nil {
		t.Fatal(err)
	}
	v["S"] = "changed by the caller"
	v["another"] = "added by the caller"
	wantSecret(t, d, "S", map[string]string{"S": "v"})
	l, ok := d.(secret.Lister)
	if !ok {
		return
	}
	all, err := l.List(t.Context(), nil, func(name string) bool { return name == "S" })
	if err != nil {
		t.Fatal(err)
	}
	all["S"]["S"] = "changed by the caller"
	wantSecret(t, d, "S", map[string]string{"S": "v"})
}

func listWanted(t *testing.T, h Harness) {
	d := h.Open(t, map[string]map[string]string{"A": {"A": "1"}, "B": {"B": "2"}, "C": {"C": "3"}})
	l := lister(t, d)
	got, err := l.List(t.Context(), nil, func(name string) bool { return name == "A" || name == "C" })
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 2 || !maps.Equal(got["A"], map[string]string{"A": "1"}) || !maps.Equal(got["C"], map[string]string{"C": "3"}) {
		t.Fatalf("List of A and C = %v", got)
	}
}

func listNothing(t *testing.T, h Harness) {
	l := lister(t, h.Open(t, single("A", "1")))
	got, err := l.List(t.Context(), nil, func(string) bool { return false })
	if err != nil || len(got) != 0 {
		t.Fatalf("List of nothing = %v, %v", got, err)
	}
}

func canceled(t *testing.T, h Harness) {
	d := h.Open(t, single("S", "v"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := d.Get(ctx, "S", nil); !fault.Is(err, fault.Canceled) {
		t.Errorf("Get: error %v, want canceled", err)
	}
	if l, ok := d.(secret.Lister); ok {
		if _, err := l.List(ctx, nil, func(string) bool { return true }); !fault.Is(err, fault.Canceled) {
			t.Errorf("List: error %v, want canceled", err)
		}
	}
}

func concurrent(t *testing.T, h Harness) {
	d := h.Open(t, single("S", "v"))
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 50 {
				v, err := d.Get(t.Context(), "S", nil)
				if err != nil || v["S"] != "v" {
					t.Errorf("Get: %d values, error %v", len(v), err)
					return
				}
			}
		})
	}
	wg.Wait()
}

func lister(t *testing.T, d secret.Driver) secret.Lister {
	t.Helper()
	l, ok := d.(secret.Lister)
	if !ok {
		t.Skip("the driver is no secret.Lister")
	}
	return l
}

func wantSecret(t *testing.T, d secret.Driver, name string, want map[string]string) {
	t.Helper()
	got, err := d.Get(t.Context(), name, nil)
	if err != nil {
		t.Fatalf("Get(%q): %v", name, err)
	}
	if !maps.Equal(got, want) {
		t.Fatalf("Get(%q) = %q, want %q", name, got, want)
	}
}
