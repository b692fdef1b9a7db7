package localstorage

import (
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/proa-io/proa/block/crypto"
	"github.com/proa-io/proa/block/crypto/cryptotest"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
)

// keyText returns key material as the text of a file.
func keyText(t testing.TB, material any) []byte {
	t.Helper()
	if secret, ok := material.([]byte); ok {
		return secret
	}
	der, err := x509.MarshalPKCS8PrivateKey(material)
	kind := "PRIVATE KEY"
	if err != nil {
		kind = "PUBLIC KEY"
		if der, err = x509.MarshalPKIXPublicKey(material); err != nil {
			t.Fatal(err)
		}
	}
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

func openKeys(t testing.TB, files map[string][]byte) *Keys {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	k, err := OpenKeys(t.Context(), KeysConfig{Path: dir}, component.Env{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := k.Close(); err != nil {
			t.Error(err)
		}
	})
	return k
}

func TestKeys(t *testing.T) {
	cryptotest.Run(t, cryptotest.Harness{
		Symmetric: true,
		Open: func(t testing.TB, keys map[string]any) crypto.Driver {
			files := map[string][]byte{}
			for name, material := range keys {
				files[name] = keyText(t, material)
			}
			return openKeys(t, files)
		},
	})
}

func TestTheEndingOfAFileSaysWhatItHolds(t *testing.T) {
	k := openKeys(t, map[string][]byte{
		"sub/key.json": []byte(`{"kty":"oct","k":"AAECAwQFBgcICQoLDA0ODw"}`),
		"bad.json":     []byte("0123456789abcdef"),
		"bad.pem":      []byte("0123456789abcdef"),
		"base64":       []byte("AAECAwQFBgcICQoLDA0ODw==\n"),
	})
	for _, name := range []string{"sub/key.json", "base64"} {
		key, err := k.Key(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := key.Wrap(t.Context(), "A128KW", make([]byte, 16), crypto.Params{}); err != nil {
			t.Errorf("Wrap with %s: %v", name, err)
		}
	}
	for _, name := range []string{"bad.json", "bad.pem"} {
		if _, err := k.Key(t.Context(), name); !fault.Is(err, fault.FailedPrecondition) || strings.Contains(err.Error(), "0123456789abcdef") {
			t.Errorf("Key(%s): %v", name, err)
		}
	}
	if _, err := k.Key(t.Context(), "sub"); !fault.Is(err, fault.NotFound) {
		t.Errorf("Key of a folder: %v; want not_found", err)
	}
}

func TestKeysOutsideOfTheFolderCannotBeReached(t *testing.T) {
	k := openKeys(t, map[string][]byte{"inside": []byte("0123456789abcdef")})
	outside := filepath.Join(t.TempDir(), "outside")
	if err := os.WriteFile(outside, []byte("0123456789abcdef"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, filepath.Join(k.root.Name(), "link")); err != nil {
		t.Fatal(err)
	}
	if _, err := k.Key(t.Context(), "link"); err == nil {
		t.Error("a symbolic link leads out of the folder")
	}
}

func TestAFolderOfKeysMustExist(t *testing.T) {
	_, err := OpenKeys(t.Context(), KeysConfig{Path: filepath.Join(t.TempDir(), "none")}, component.Env{})
	if !fault.Is(err, fault.NotFound) || !strings.Contains(err.Error(), "none") {
		t.Errorf("OpenKeys of a folder that does not exist: %v", err)
	}
}
