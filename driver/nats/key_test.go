package nats

import (
	"strings"
	"testing"
)

func TestKeysReadLikeTheirNames(t *testing.T) {
	for name, want := range map[string]string{
		"orderId1": "orderId1", "app.colour": "app.colour", "a/b-c_d": "a/b-c_d", "": "=",
		"lock||shop||1": "lock=7C=7Cshop=7C=7C1", ".a": "=2Ea", "a.": "a=2E", "a..b": "a.=2Eb", ".": "=2E", "a=b": "a=3Db", "é": "=C3=A9",
		"*": "=2A", ">": "=3E", " ": "=20",
	} {
		got := encodeKey(name)
		if got != want {
			t.Errorf("encodeKey(%q) = %q, want %q", name, got, want)
		}
		if back, ok := decodeKey(got); !ok || back != name {
			t.Errorf("decodeKey(%q) = %q, %v; want %q", got, back, ok, name)
		}
	}
	for _, bad := range []string{"a=b", "=", "==", "=2", "=zz", "=2e", "a=2Eb", clockKey, "a=41"} {
		if name, ok := decodeKey(bad); ok && bad != "=" {
			t.Errorf("decodeKey(%q) = %q, but encodeKey(%q) = %q", bad, name, name, encodeKey(name))
		}
	}
}

func FuzzKey(f *testing.F) {
	for _, name := range []string{"", ".", "a..b", "lock||a||b", "\xff\x00", "=41", "a=2E"} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		key := encodeKey(name)
		if back, ok := decodeKey(key); !ok || back != name {
			t.Errorf("decodeKey(encodeKey(%q)) = %q, %v", name, back, ok)
		}
		if key[0] == '.' || key[len(key)-1] == '.' || strings.Contains(key, "..") || strings.ContainsAny(key, " *>\x00") {
			t.Errorf("encodeKey(%q) = %q is no key", name, key)
		}
		if got, ok := decodeKey(name); ok && encodeKey(got) != name {
			t.Errorf("decodeKey(%q) = %q, which is %q", name, got, encodeKey(got))
		}
	})
}

func TestEveryNamespaceHasABucketOfItsOwn(t *testing.T) {
	seen := map[string]string{}
	for _, ns := range []string{"default", "shop", "a.b", "a_b", "a_2Eb", "A", "a", "é"} {
		name := bucketName("locks", ns)
		if checkBucket(name) != nil {
			t.Errorf("namespace %q: bucket %q", ns, name)
		}
		if other, dup := seen[name]; dup {
			t.Errorf("namespaces %q and %q share bucket %q", ns, other, name)
		}
		seen[name] = ns
	}
	if bucketName("locks", "") != "proa_locks_default" {
		t.Errorf("without a namespace: %q", bucketName("locks", ""))
	}
	for _, bad := range []string{"a.b", "a b", "é", strings.Repeat("x", 129)} {
		if checkBucket(bad) == nil {
			t.Errorf("bucket name %q is accepted", bad)
		}
	}
}
