package kubernetes

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"strings"
	"testing"

	"github.com/proa-io/proa/block/crypto"
	"github.com/proa-io/proa/block/crypto/cryptotest"
	"github.com/proa-io/proa/component"
	"github.com/proa-io/proa/fault"
	"github.com/proa-io/proa/internal/testserver"
)

// keyText returns key material as the text of an entry.
func keyText(t testing.TB, material any) string {
	t.Helper()
	if secret, ok := material.([]byte); ok {
		return string(secret)
	}
	der, err := x509.MarshalPKCS8PrivateKey(material)
	kind := "PRIVATE KEY"
	if err != nil {
		kind = "PUBLIC KEY"
		if der, err = x509.MarshalPKIXPublicKey(material); err != nil {
			t.Fatal(err)
		}
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

func openKeys(t testing.TB, k *testserver.KubernetesStandIn, cfg KeysConfig) *Keys {
	t.Helper()
	keys, err := pod(t, k, k.Addr()).openKeys(t.Context(), cfg, component.Env{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = keys.Close() })
	return keys
}

// in finds keys in one secret.
type in struct {
	*Keys
	secret string
}

func (i in) Key(ctx context.Context, name string) (crypto.Key, error) {
	return i.Keys.Key(ctx, i.secret+"/"+name)
}

func TestKeys(t *testing.T) {
	for _, secret := range []string{"keys", "shop/keys"} {
		t.Run(secret, func(t *testing.T) {
			cryptotest.Run(t, cryptotest.Harness{
				Symmetric: true,
				Open: func(t testing.TB, keys map[string]any) crypto.Driver {
					k := testserver.Kubernetes(t, token)
					entries := map[string]string{}
					for name, material := range keys {
						entries[name] = keyText(t, material)
					}
					k.Set("shop", "keys", entries)
					k.Set("elsewhere", "keys", map[string]string{"never": "this"})
					return in{openKeys(t, k, KeysConfig{}), secret}
				},
			})
		})
	}
}

func TestWhereKeysAre(t *testing.T) {
	k := testserver.Kubernetes(t, token)
	k.Set("vaults", "keys", map[string]string{"jwk": `{"kty":"oct","k":"AAECAwQFBgcICQoLDA0ODw"}`, "base64": "AAECAwQFBgcICQoLDA0ODw==\n", "broken": "-----BEGIN"})
	keys := openKeys(t, k, KeysConfig{Config{DefaultNamespace: "vaults"}})
	for _, name := range []string{"keys/jwk", "vaults/keys/base64"} {
		key, err := keys.Key(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := key.Wrap(t.Context(), "A128KW", make([]byte, 16), crypto.Params{}); err != nil {
			t.Errorf("Wrap with %s: %v", name, err)
		}
	}
	for name, want := range map[string]fault.Code{
		"jwk": fault.NotFound, "a/b/c/d": fault.NotFound, "/keys/jwk": fault.NotFound, "": fault.NotFound,
		"BAD/keys/jwk": fault.InvalidArgument, "keys/none": fault.NotFound, "none/jwk": fault.NotFound, "../jwk": fault.NotFound,
		"shop/keys/jwk": fault.NotFound, "keys/broken": fault.FailedPrecondition,
	} {
		if _, err := keys.Key(t.Context(), name); !fault.Is(err, want) || strings.Contains(err.Error(), "BEGIN") {
			t.Errorf("Key(%q): %v, want %v", name, err, want)
		}
	}
}
